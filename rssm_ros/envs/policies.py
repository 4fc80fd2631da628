"""Reference policies: the privileged expert, random ones, and the expert acting on what a tracker believes.

The trackers are privileged where that makes them stronger (true robot pose, exact position whenever any of
the package is seen), so that beating them says something.
"""

from collections import deque
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN, find_contract
from rssm_ros.envs.cell import BELT_END, Truth
from rssm_ros.envs.expert import expert_command
from rssm_ros.online.limits import Limits

Action = npt.NDArray[np.float32]
CONTRACT = "manipulator"
PADDLE_REACH = 0.12  # m: a package this near in x is pushed by the paddle
CONTACT = 0.047  # m from the paddle's face to the centre of what it pushes
GONE = 0.20  # m: a believed package this far across has left the belt
TOP = 0.39  # m: height of the centre of a package on the belt


class Policy(Protocol):
    """Anything that can drive the cell."""

    def reset(self, seed: int) -> None:
        """Forget the last episode."""

    def act(self, observation: dict[str, npt.NDArray[Any]], info: dict[str, Any]) -> Action:
        """The normalised command [6] decided on this observation."""


class ExpertPolicy:
    """The scripted expert on the true state."""

    def reset(self, seed: int) -> None:
        """Nothing to forget: the expert has no memory."""

    def act(self, observation: dict[str, npt.NDArray[Any]], info: dict[str, Any]) -> Action:
        """What `info` says the expert does."""
        return np.asarray(info["expert_action"], np.float32)


class RandomPolicy:
    """Uniform noise, smoothed over `smooth` seconds (0: independent draws)."""

    def __init__(self, smooth: float = 0.0) -> None:
        contract = find_contract(CONTRACT)
        self._keep = float(np.exp(-contract.dt / smooth)) if smooth > 0 else 0.0
        self._dim = contract.action_dim

    def reset(self, seed: int) -> None:
        """Seed the noise."""
        self._rng = np.random.default_rng([seed, 11])
        self._value = self._rng.normal(size=self._dim)

    def act(self, observation: dict[str, npt.NDArray[Any]], info: dict[str, Any]) -> Action:
        """The next draw."""
        if self._keep == 0.0:
            return self._rng.uniform(-1, 1, self._dim).astype(np.float32)
        fresh = self._rng.normal(size=self._dim)
        self._value = self._keep * self._value + np.sqrt(1 - self._keep**2) * fresh
        return np.clip(0.7 * self._value, -1, 1).astype(np.float32)


class Tracker(Protocol):
    """What is believed while a package is hidden."""

    def reset(self) -> None:
        """Forget everything."""

    def update(self, truth: Truth, visibility: float) -> Truth:
        """The believed state after this tick: the truth where it is seen, else what is remembered."""


class Memoryless:
    """What is not seen is not there."""

    def reset(self) -> None:
        """Nothing to forget."""

    def update(self, truth: Truth, visibility: float) -> Truth:
        """The package when seen."""
        return truth if truth.package is None or visibility > HIDDEN else replace(truth, package=None)


class DeadReckoning:
    """Keeps the last seen package and carries it on; it knows that its own paddle pushes it.

    belt=True integrates the belt's true motion (what a belief can learn to read from stripes and lamp);
    belt=False assumes that the velocity seen over the last `window` ticks stays; window=0 holds the last
    place.
    """

    def __init__(self, belt: bool, window: int = 5) -> None:
        self._belt, self._window, self._dt = belt, window, find_contract(CONTRACT).dt
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._place: tuple[float, float] | None = None
        self._bin, self._serial = 0, -1
        self._speed = 0.0
        self._trail: deque[float] = deque(maxlen=self._window + 1)

    def update(self, truth: Truth, visibility: float) -> Truth:
        """See the class."""
        if truth.package is not None and visibility > HIDDEN:
            self._look(truth, truth.package)
            return truth
        self._trail.clear()
        if self._place is None:
            return replace(truth, package=None)
        speed = truth.belt_velocity if self._belt else self._speed
        x, y = self._place[0] + speed * self._dt, self._place[1]
        paddle_x, paddle_y, _ = truth.paddle
        if abs(x - paddle_x) < PADDLE_REACH and y - 0.06 < paddle_y:
            y = max(y, min(paddle_y + CONTACT, y + 0.08))
        self._place = (x, y) if y < GONE and x < BELT_END + 0.09 else None
        place = None if self._place is None else (x, y, TOP)
        return replace(truth, package=place, bin=self._bin, belt_velocity=speed)

    def _look(self, truth: Truth, package: tuple[float, float, float]) -> None:
        if truth.serial != self._serial:
            self._trail.clear()
            self._speed = 0.0
        self._serial, self._bin, self._place = truth.serial, truth.bin, package[:2]
        self._trail.append(package[0])
        if len(self._trail) > 1:
            self._speed = (self._trail[-1] - self._trail[0]) / ((len(self._trail) - 1) * self._dt)


class TrackerPolicy:
    """The expert's law applied to a tracker's belief instead of the truth."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._limits = Limits(find_contract(CONTRACT))

    def reset(self, seed: int) -> None:
        """Forget the last episode."""
        self._tracker.reset()

    def act(self, observation: dict[str, npt.NDArray[Any]], info: dict[str, Any]) -> Action:
        """The expert's command for the believed state."""
        believed = self._tracker.update(info["truth"], float(info["visibility"]))
        return np.clip(self._limits.normalise(expert_command(believed)), -1, 1).astype(np.float32)


def trackers() -> dict[str, Tracker]:
    """The classical trackers of the acceptance table, by name."""
    return {
        "belt_informed": DeadReckoning(belt=True),
        "constant_velocity": DeadReckoning(belt=False),
        "hold_last": DeadReckoning(belt=False, window=0),
    }


def reference_policies() -> dict[str, Policy]:
    """Every reference of the acceptance table, by name."""
    tracked: dict[str, Policy] = {name: TrackerPolicy(tracker) for name, tracker in trackers().items()}
    return {
        "expert": ExpertPolicy(),
        **tracked,
        "memoryless": TrackerPolicy(Memoryless()),
        "random": RandomPolicy(),
        "random_smooth": RandomPolicy(smooth=0.4),
    }
