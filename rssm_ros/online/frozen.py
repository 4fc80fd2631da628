"""A camera that hangs: the same picture again and again, under new stamps, while the robot moves.

Headers do not show it, and the model believes what it sees: nothing moves any more, and it is sure of it.
No real camera says the same twice, bit for bit; a simulated one without noise does so whenever nothing moves.
So a repetition alone is only told (`repeated`); together with odometry that says that the robot has gone
further than a picture could hide, it is a fault (`frozen`), and such a picture is not looked at.

What is known by a tick follows from what was known by the one before and from what counts at the tick, like
the belief itself and beside it: a function of the set of accepted messages, whatever order they came in.

Other modalities are not judged: a robot at rest, or at constant speed, rightly says the same for long.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rssm_ros.contract import Contract
from rssm_ros.online.ring import Seen

FORWARD, TURN = "twist.linear.x", "twist.angular.z"  # how odometry's fields end: m/s, rad/s
# A twentieth of the way to something 1 m ahead, and 3 degrees: two columns of a picture that is 64 wide.
FAR, ROUND = 0.05, 0.05  # m, rad
REST = 0.02  # m/s, rad/s: no faster, and it may be a robot at rest whose odometry drifts
AFTER = 5  # pictures in a row
GAP = 0.5  # s without odometry, of which nobody knows how far it led


@dataclass(frozen=True)
class Shown:
    """What a camera has shown since its picture last changed."""

    digest: bytes
    repeats: int = 0
    way: float = 0.0  # m; signed, so that the noise of a robot at rest does not add up to a journey
    turned: float = 0.0  # rad
    moved: bool = False  # further than a picture could hide


@dataclass(frozen=True)
class Watch:
    """What is known of the cameras by a tick."""

    shown: Mapping[str, Shown] = field(default_factory=dict)
    odometry: int | None = None  # the last tick with odometry
    frozen: frozenset[str] = frozenset()  # cameras that are: their pictures do not count
    repeated: frozenset[str] = frozenset()  # cameras that showed the picture before again, at this very tick

    def to_dict(self) -> dict[str, Any]:
        """As plain data; what it says of its own tick alone is left out."""
        shown = {name: asdict(item) | {"digest": item.digest.hex()} for name, item in self.shown.items()}
        return {"shown": shown, "odometry": self.odometry, "frozen": sorted(self.frozen)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Watch":
        """The inverse of `to_dict`."""
        shown = {
            name: Shown(**{**item, "digest": bytes.fromhex(item["digest"])})
            for name, item in data["shown"].items()
        }
        return Watch(shown, data["odometry"], frozenset(data["frozen"]))


class FrozenPictures:
    """The rule for a contract's cameras. Without odometry nothing is concluded."""

    def __init__(self, contract: Contract, after: int = AFTER) -> None:
        """after: repetitions in a row that are a fault; 0: never, and nothing is looked at."""
        self._after, self._dt = after, contract.dt
        self._cameras = [spec.name for spec in contract.observations if spec.kind == "image" and after]
        self._odometry, self._twist = "", dict[str, int]()  # the first that tells of motion, and where
        for spec in reversed(contract.observations):
            places = {
                end: i for i, path in enumerate(spec.fields) for end in (FORWARD, TURN) if path.endswith(end)
            }
            if places:
                self._odometry, self._twist = spec.name, places

    def look(self, before: Watch, tick: int, seen: Mapping[str, Seen]) -> Watch:
        """before: of an earlier tick, with nothing observed between. seen: what counts at this tick, in the
        contract's form, pictures of cameras that are frozen among it.
        """
        if not self._cameras:
            return before
        way, turned = self._moved(before, tick, seen)
        shown: dict[str, Shown] = {}
        repeated, frozen = [], []
        for name in self._cameras:
            new, old = seen.get(name), before.shown.get(name)
            if new is not None and (old is None or new.digest != old.digest):
                shown[name] = Shown(new.digest)
            elif old is not None:
                shown[name] = found = _go_on(old, way, turned, new is not None)
                repeated += [name] * (new is not None)
                frozen += [name] * (found.moved and found.repeats >= self._after)
        odometry = tick if self._odometry in seen else before.odometry
        return Watch(shown, odometry, frozenset(frozen), frozenset(repeated))

    def _moved(self, before: Watch, tick: int, seen: Mapping[str, Seen]) -> tuple[float, float]:
        """m and rad since odometry was last heard; nothing where that is too long ago."""
        told = seen.get(self._odometry)
        if told is None or before.odometry is None:
            return 0.0, 0.0
        elapsed = (tick - before.odometry) * self._dt
        if elapsed > GAP:
            return 0.0, 0.0
        return self._way(told, FORWARD, elapsed), self._way(told, TURN, elapsed)

    def _way(self, told: Seen, end: str, elapsed: float) -> float:
        speed = float(told.value[self._twist[end]]) if end in self._twist else 0.0
        return speed * elapsed if abs(speed) > REST else 0.0


def _go_on(shown: Shown, way: float, turned: float, again: bool) -> Shown:
    """The robot has gone on; again: and the picture came once more."""
    way, turned = shown.way + way, shown.turned + turned
    moved = shown.moved or abs(way) >= FAR or abs(turned) >= ROUND
    return Shown(shown.digest, shown.repeats + again, way, turned, moved)
