"""A tick as it comes out of the filter, and what an evaluation keeps of it: small arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rssm_ros.online.belief import Belief, Floats
from rssm_ros.online.grid import nearest_by_tick
from rssm_ros.recordings import Truth

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Taken:
    """What went into one tick."""

    action: Floats  # [A] normalised, over [k - 1, k)
    values: dict[str, Array]  # per modality that was seen, as the encoder got it
    tokens: dict[str, Floats]  # the same, encoded
    seconds: float  # of computing: encode and step


class Row(NamedTuple):
    """One tick."""

    belief: Belief
    taken: Taken
    episode: int
    imposed: bool  # the picture was covered on purpose
    clear: float  # share of the picture that was there: 0 without one
    blind: bool  # no picture, and none covered


@dataclass(frozen=True)
class TargetTicks:
    """One target over T ticks; d numbers, H ticks of open loop. NaN: not known."""

    truth: Array  # [T, d]
    visibility: Array  # [T] of what the filter was given: 0 where no picture came
    mean: Array  # [T, d] of the mixture
    covariance: Array  # [T, d, d] of the mixture
    nll: Array  # [T] nats, of the truth
    depth: Array  # [T] nats, of the truth (online.regions)
    log_std: Array  # [T]
    memoryless: Array  # [T, d] the mean that the latest picture alone gives; NaN: not computed
    velocity: Array  # [T, d] true velocity of what carries it, in the robot's frame; NaN: unknown
    privileged: Array  # [T, d] where a privileged tracker has it; NaN: there is none
    exact: Array  # [T, d + 1] where the exact Bayes filter has it, and its deviation; NaN: nobody knows
    detected: Array  # [T, d + 1] where a detector has it, and how far it stands out (nats a pixel); NaN: none
    open_loop: Array  # [T, H, d] predicted without looking from here on; NaN: not predicted from here
    models: Array  # [T, M, 2, d] mean and std that each baseline model claims


@dataclass(frozen=True)
class Ticks:
    """T ticks of one or more episodes in a row, lost ones left out. M modalities in the contract's order."""

    episode: Array  # [T] index
    t_ns: Array  # [T]
    tick: Array  # [T]
    surprise: Array  # [T] nats; NaN where nothing was seen
    pattern: Array  # [T] name of the presence pattern
    ages: Array  # [T, M] ticks since each was seen, -1 before
    imposed: Array  # [T] covered on purpose
    twist: Array  # [T, 2] odometry: forward m/s, turn rad/s; NaN: none came
    seconds: Array  # [T] of computing
    targets: dict[str, TargetTicks]

    def __len__(self) -> int:
        return len(self.t_ns)

    @staticmethod
    def joined(parts: Sequence["Ticks"]) -> "Ticks":
        """One after the other; a single part as it is."""
        if len(parts) == 1:
            return parts[0]
        names = [item.name for item in fields(Ticks) if item.name != "targets"]
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        targets = {}
        for target in parts[0].targets:
            targets[target] = TargetTicks(
                *(
                    np.concatenate([getattr(part.targets[target], item.name) for part in parts])
                    for item in fields(TargetTicks)
                )
            )
        return Ticks(targets=targets, **columns)


class TruthByTick:
    """A truth by the tick that it is nearest to; of several in a tick the nearest one."""

    def __init__(self, truth: Truth, rate: Any) -> None:
        self._truth, self._row = truth, nearest_by_tick(truth.stamp_ns.tolist(), rate)
        self._nothing = np.full(truth.value.shape[1], np.nan)

    def __len__(self) -> int:
        return len(self._row)

    def visibilities(self) -> Array:
        """[N] as recorded."""
        return self._truth.visibility

    def of(self, ticks: Sequence[int]) -> tuple[Array, Array]:
        """(values [T, d], visibilities [T]) of ticks, NaN where there are none."""
        rows = np.array([self._row.get(tick, -1) for tick in ticks], np.int64)
        if not len(self._row):
            return np.tile(self._nothing, (len(rows), 1)), np.full(len(rows), np.nan)
        there = rows >= 0
        values = np.where(there[:, None], self._truth.value[rows], np.nan)
        return values, np.where(there, self._truth.visibility[rows], np.nan)

    def at(self, tick: int) -> tuple[Array, float]:
        """(value [d], visibility) of a tick, NaN where there is none."""
        row = self._row.get(tick)
        if row is None:
            return self._nothing, np.nan
        return self._truth.value[row], float(self._truth.visibility[row])
