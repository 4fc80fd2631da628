"""Collected episodes (`rssm collect`) as recordings: every observation at its tick's own stamp."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.filtering import read_episode
from rssm_ros.online.grid import SECOND, stamp_of, tick_of
from rssm_ros.online.limits import Limits
from rssm_ros.recordings import APPLIED, Event, Observation, Truth

Array = npt.NDArray[Any]
# + target: what only a simulator knows, in the robot's frame.
VELOCITY = "velocity_"  # m/s, of what carries it
EXACT = "exact_"  # the target's unit, where the exact Bayes filter has it
EXACT_STD = "exact_std_"  # the root of its covariance's trace
PRIVILEGED = "privileged_"  # m, where a tracker has it that knows more than any observation tells


class CollectedRecording:
    """An episode's arrays [T, ...] as messages: row k is observed at t_k = 1 s + k dt, and what was applied
    over [k-1, k) is stamped t_{k-1}; each is received at its stamp.

    source: what an error calls it. complete: with the messages that the collection lost on purpose (it keeps
    what they said). Raises EvaluationError where the arrays are of another contract.
    """

    counts: Counter[str]

    def __init__(
        self,
        arrays: Mapping[str, Array],
        contract: Contract,
        source: str = "an episode",
        complete: bool = False,
    ) -> None:
        names = [spec.name for spec in contract.observations]
        missing = {"action", *names} - set(arrays)
        if not complete:
            missing |= {f"present_{name}" for name in names} - set(arrays)
        if missing:
            raise EvaluationError(
                f"{source} lacks {sorted(missing)}; was it collected under another contract?"
            )
        self.contract, self.counts, self._complete = contract, Counter[str](), complete
        self._arrays = arrays
        # What the filter waits for comes last, so that nothing counts as late.
        self._names = sorted(names, key=lambda name: contract.observation(name).trigger)
        first = tick_of(SECOND, contract.rate)
        ticks = range(first, first + len(self._arrays["action"]))
        self._stamps = np.array([stamp_of(tick, contract.rate) for tick in ticks], np.int64)
        self._before = stamp_of(first - 1, contract.rate)

    @staticmethod
    def read(path: Path, contract: Contract, begin: int = 0, end: int | None = None) -> "CollectedRecording":
        """Rows `begin` to `end` of an episode file."""
        rows = slice(begin, end)
        arrays = {name: values[rows] for name, values in read_episode(path).items()}
        return CollectedRecording(arrays, contract, str(path))

    @property
    def truth(self) -> Mapping[str, Truth]:
        """Target name -> its truth."""
        return {spec.name: self._truth(spec.name, spec.dim) for spec in self.contract.targets}

    def _truth(self, name: str, dim: int) -> Truth:
        value = self._arrays.get(f"target_{name}")
        if value is None:
            return Truth.none(dim)
        unknown = np.full(len(value), np.nan)
        visibility = np.asarray(self._arrays.get(f"visibility_{name}", unknown), np.float64)
        return Truth(self._stamps, np.asarray(value, np.float64).reshape(len(value), dim), visibility)

    @property
    def velocity(self) -> Mapping[str, Truth]:
        """Target name -> the true velocity of what carries it, m/s in the robot's frame, where recorded."""
        return self._extra(VELOCITY)

    @property
    def privileged(self) -> Mapping[str, Truth]:
        """Target name -> where a privileged tracker has it, where recorded."""
        return self._extra(PRIVILEGED)

    @property
    def exact(self) -> Mapping[str, Truth]:
        """Target name -> where the exact Bayes filter has it and the deviation that it claims [T, d + 1],
        where recorded; NaN where the deviation was not.
        """
        found = {}
        for name, truth in self._extra(EXACT).items():
            std = self._arrays.get(EXACT_STD + name, np.full(len(truth.value), np.nan))
            found[name] = replace(truth, value=np.column_stack([truth.value, std]))
        return found

    def _extra(self, prefix: str) -> dict[str, Truth]:
        values = {spec.name: self._arrays.get(prefix + spec.name) for spec in self.contract.targets}
        return {
            name: Truth(self._stamps, np.asarray(value, np.float64), np.full(len(value), np.nan))
            for name, value in values.items()
            if value is not None
        }

    @property
    def reward(self) -> Truth:
        """Rewards."""
        value = self._arrays.get("reward")
        if value is None:
            return Truth.none(1)
        return Truth(self._stamps, np.asarray(value, np.float64)[:, None], np.full(len(value), np.nan))

    @property
    def events(self) -> Sequence[Event]:
        """None: the rows are one episode."""
        return ()

    @property
    def start_ns(self) -> int:
        """Time of the first row."""
        return int(self._stamps[0])

    @property
    def end_ns(self) -> int:
        """Time of the last row."""
        return int(self._stamps[-1])

    def observations(self) -> Iterator[Observation]:
        """What was applied, then what was seen, row by row."""
        limits, before = Limits(self.contract), self._before
        si = limits.scale(self._arrays["action"])
        for row, stamp in enumerate(self._stamps.tolist()):
            yield Observation(APPLIED, before, before, si[row])
            for name in self._names:
                if self._complete or self._arrays[f"present_{name}"][row]:
                    yield Observation(name, stamp, stamp, self._arrays[name][row])
            before = stamp
