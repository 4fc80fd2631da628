"""Reference policies: the privileged expert, random ones, and the expert acting on what a tracker believes.

The trackers are privileged where that makes them stronger (true robot pose, exact position whenever any of the
package is seen), so that beating them says something.
"""

from collections import deque
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import find_contract
from rssm_ros.envs.cell import Truth
from rssm_ros.envs.expert import expert_command
from rssm_ros.online.limits import Limits

Action = npt.NDArray[np.float32]
SEEN = 0.05  # visible share above which a package counts as seen
PADDLE_REACH = 0.12  # m: a package this near in x is pushed by the paddle
CONTACT = 0.047  # m from the paddle's face to the centre of what it pushes
GONE = 0.20  # m: a believed package this far across has left the belt


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

    def __init__(self, smooth: float = 0.0, dim: int = 6) -> None:
        self._keep, self._dim = (float(np.exp(-0.05 / smooth)) if smooth > 0 else 0.0), dim

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
    """Where a package is believed to be while nobody sees it."""

    def reset(self) -> None:
        """Forget everything."""

    def update(self, truth: Truth, visibility: float) -> tuple[float, float] | None:
        """Believed world x, y of the package after this tick; None when none is believed to be there."""


class Memoryless:
    """What is not seen is not there."""

    def reset(self) -> None:
        """Nothing to forget."""

    def update(self, truth: Truth, visibility: float) -> tuple[float, float] | None:
        """The package when seen."""
        return truth.package[:2] if truth.package is not None and visibility > SEEN else None


class DeadReckoning:
    """Keeps the last seen package and carries it on; it knows that its own paddle pushes it.

    belt=True integrates the belt's true motion (what a belief can learn to read from stripes and lamp);
    belt=False assumes the velocity seen over the last `window` ticks stays; window=0 holds the last position.
    """

    def __init__(self, belt: bool, window: int = 5, dt: float = 0.05) -> None:
        self._belt, self._window, self._dt = belt, window, dt
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._place: tuple[float, float] | None = None
        self._bin, self._serial = 0, -1
        self._speed = 0.0
        self._trail: deque[float] = deque(maxlen=self._window + 1)

    @property
    def bin(self) -> int:
        """Where the believed package belongs, as last seen."""
        return self._bin

    def update(self, truth: Truth, visibility: float) -> tuple[float, float] | None:
        """See above."""
        if truth.package is not None and visibility > SEEN:
            if truth.serial != self._serial:
                self._trail.clear()
            self._serial, self._bin = truth.serial, truth.bin
            self._place = truth.package[:2]
            self._trail.append(truth.package[0])
            if len(self._trail) > 1:
                self._speed = (self._trail[-1] - self._trail[0]) / ((len(self._trail) - 1) * self._dt)
            return self._place
        if self._place is None:
            return None
        self._trail.clear()
        x, y = self._place
        x += (truth.belt_velocity if self._belt else self._speed) * self._dt
        paddle_x, paddle_y, _ = truth.paddle
        if abs(x - paddle_x) < PADDLE_REACH and y - 0.06 < paddle_y:
            y = max(y, min(paddle_y + CONTACT, y + 0.08))
        self._place = (x, y) if y < GONE and x < 0.95 else None
        return self._place


class TrackerPolicy:
    """The expert's law applied to a tracker's belief instead of the truth; errors are kept per hidden tick."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._limits = Limits(find_contract("manipulator"))

    def reset(self, seed: int) -> None:
        """Forget the last episode; `hidden_errors` starts empty."""
        self._tracker.reset()
        self.hidden_errors: list[float] = []  # m, one per hidden tick

    def act(self, observation: dict[str, npt.NDArray[Any]], info: dict[str, Any]) -> Action:
        """The expert's command for the believed state."""
        truth: Truth = info["truth"]
        visibility = float(info["visibility"])
        place = self._tracker.update(truth, visibility)
        if truth.package is not None and visibility <= SEEN and place is not None:
            error = np.hypot(place[0] - truth.package[0], place[1] - truth.package[1])
            self.hidden_errors.append(float(error))
        if place is None:
            believed = replace(truth, package=None)
        else:
            home = getattr(self._tracker, "bin", truth.bin)
            believed = replace(truth, package=(place[0], place[1], 0.39), bin=home)
            if isinstance(self._tracker, DeadReckoning) and not self._tracker._belt and visibility <= SEEN:
                believed = replace(believed, belt_velocity=self._tracker._speed)
        command = self._limits.normalise(expert_command(believed))
        return np.clip(command, -1, 1).astype(np.float32)


def reference_policies() -> dict[str, Policy]:
    """Every reference of the acceptance table, by name."""
    return {
        "expert": ExpertPolicy(),
        "belt_informed": TrackerPolicy(DeadReckoning(belt=True)),
        "constant_velocity": TrackerPolicy(DeadReckoning(belt=False)),
        "hold_last": TrackerPolicy(DeadReckoning(belt=False, window=0)),
        "memoryless": TrackerPolicy(Memoryless()),
        "random": RandomPolicy(),
    }
