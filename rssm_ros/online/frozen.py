"""A camera that hangs: the same picture again and again, under new stamps, while the robot moves.

Headers do not show it, and the model believes what it sees: nothing moves any more, and it is sure of it.
No real camera says the same twice, bit for bit; a simulated one without noise does so whenever nothing moves.
So a repetition alone is only counted (`repeated`); together with odometry that says that the robot has gone
further than a picture could hide, it is a fault (`frozen`).

Other modalities are not judged: a robot at rest, or at constant speed, rightly says the same for long.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract
from rssm_ros.online.grid import SECOND

FORWARD, TURN = "twist.linear.x", "twist.angular.z"  # how odometry's fields end: m/s, rad/s
# A twentieth of the way to something 1 m ahead, and 3 degrees: two columns of a picture that is 64 wide.
FAR, ROUND = 0.05, 0.05  # m, rad
AFTER = 5  # pictures in a row
GAP = 0.5  # s without odometry, of which nobody knows how far it led


@dataclass
class _Shown:
    """What a camera showed last."""

    stamp_ns: int
    picture: npt.NDArray[np.generic]
    repeats: int = 0
    moved: bool = False  # far enough, since the picture changed
    way: float = 0.0  # m
    turned: float = 0.0  # rad


class FrozenPictures:
    """Watches what is observed, in the order in which it comes."""

    def __init__(self, contract: Contract, after: int = AFTER) -> None:
        """after: repetitions in a row that are a fault; 0: never, and nothing is looked at."""
        self._after, self._history_ns = after, round(contract.history * SECOND)
        self._cameras = {spec.name for spec in contract.observations if spec.kind == "image"}
        self._odometry, self._twist = "", dict[str, int]()  # the first that tells of motion, and where
        for spec in reversed(contract.observations):
            places = {
                end: i for i, path in enumerate(spec.fields) for end in (FORWARD, TURN) if path.endswith(end)
            }
            if places:
                self._odometry, self._twist = spec.name, places
        self.counters: Counter[str] = Counter()
        self.forget()

    def forget(self) -> None:
        """Nothing is compared with what was before."""
        self._shown: dict[str, _Shown] = {}
        self._odometry_ns = 0

    def observe(self, name: str, stamp_ns: int, value: npt.NDArray[np.generic]) -> bool:
        """One message of a modality, in its own size. True: it is a picture of a camera that is frozen.

        Its array is kept, and must not change. A stamp that is not new (late, or a copy) says nothing; one
        that is older than anything still of use is of a clock that has begun anew.
        """
        if not self._after or stamp_ns <= 0:  # 0 means unset
            return False
        if name == self._odometry:
            self._move(stamp_ns, value)
        return name in self._cameras and self._look(name, stamp_ns, value)

    def frozen(self) -> list[str]:
        """The cameras that are, by now."""
        return [name for name, shown in self._shown.items() if self._is_frozen(shown)]

    def _is_frozen(self, shown: _Shown) -> bool:
        return shown.moved and shown.repeats >= self._after

    def _look(self, name: str, stamp_ns: int, picture: npt.NDArray[np.generic]) -> bool:
        shown = self._shown.get(name)
        if shown is not None and stamp_ns < shown.stamp_ns - self._history_ns:
            shown = None
        if shown is not None and stamp_ns <= shown.stamp_ns:
            return False
        if shown is None or not _same(shown.picture, picture):
            self._shown[name] = _Shown(stamp_ns, picture)
            return False
        shown.stamp_ns, shown.repeats = stamp_ns, shown.repeats + 1
        self.counters[f"{name}/repeated"] += 1
        if not self._is_frozen(shown):
            return False
        self.counters[f"{name}/frozen"] += 1
        self.counters["frozen"] += 1
        return True

    def _move(self, stamp_ns: int, value: npt.NDArray[np.generic]) -> None:
        """Signed, so that the noise of a robot at rest does not add up to a journey."""
        elapsed = (stamp_ns - self._odometry_ns) / SECOND
        if -self._history_ns <= elapsed * SECOND <= 0:
            return
        self._odometry_ns = stamp_ns
        if not 0.0 < elapsed <= GAP:
            return
        way, turned = (self._speed(value, end) * elapsed for end in (FORWARD, TURN))
        for shown in self._shown.values():
            shown.way, shown.turned = shown.way + way, shown.turned + turned
            shown.moved = shown.moved or abs(shown.way) >= FAR or abs(shown.turned) >= ROUND

    def _speed(self, value: npt.NDArray[np.generic], end: str) -> float:
        speed = float(value[self._twist[end]]) if end in self._twist else 0.0
        return speed if np.isfinite(speed) else 0.0


def _same(left: npt.NDArray[np.generic], right: npt.NDArray[np.generic]) -> bool:
    """Bit for bit. Other pictures of a real camera differ in the first row already, so this costs nothing."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return bool(np.array_equal(left[:1], right[:1]) and np.array_equal(left, right))
