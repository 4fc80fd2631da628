"""What a command may be: range, slew and the safe value.

Shared by gate, environment and planner, so that what is planned is what will be applied.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract

Vector = npt.NDArray[np.float64]


class Limits:
    """The limits of a contract's A channels, in SI units. Vectors are [A] in contract order."""

    def __init__(self, contract: Contract) -> None:
        self.low, self.high, self.slew = contract.low, contract.high, contract.slew
        self._span = self.high - self.low
        self._actions = contract.actions
        self._slices = contract.action_slices()

    def scale(self, normalised: npt.ArrayLike) -> Vector:
        """[-1, 1] -> SI. Values outside [-1, 1] are clipped."""
        unit = np.clip(np.asarray(normalised, np.float64), -1.0, 1.0)
        return self.low + (unit + 1.0) * 0.5 * self._span

    def normalise(self, si: npt.ArrayLike) -> Vector:
        """SI -> [-1, 1]; the inverse of `scale` inside the range."""
        return 2.0 * (np.asarray(si, np.float64) - self.low) / self._span - 1.0

    def step(self, previous: npt.ArrayLike, wanted: npt.ArrayLike, dt: float) -> Vector:
        """The command nearest to `wanted` (SI) that may follow `previous` (SI) within dt seconds.

        Range first, slew last: a robot found outside its range is led back at slew speed, never jumped.
        """
        before = np.asarray(previous, np.float64)
        inside = np.clip(np.asarray(wanted, np.float64), self.low, self.high)
        if not np.isfinite(inside).all():
            raise ValueError(f"a command must be finite, got {np.asarray(wanted)!r}")
        return before + np.clip(inside - before, -self.slew * dt, self.slew * dt)

    def safe(self, measured: Mapping[str, npt.ArrayLike] | None, last_applied: npt.ArrayLike) -> Vector:
        """The safe command, SI.

        measured: per action name the robot's own channel values (joint positions), where known: what `hold`
        holds; otherwise it holds what was last applied.
        """
        command = np.array(last_applied, np.float64)
        for action in self._actions:
            part = self._slices[action.name]
            if action.safe == "zero":
                command[part] = 0.0
            elif action.safe == "hold":
                if measured is not None and action.name in measured:
                    command[part] = np.asarray(measured[action.name], np.float64)
            else:
                command[part] = action.safe
        return np.asarray(np.clip(command, self.low, self.high), np.float64)
