"""What a bag says beside observations and commands: truths, how much could be seen, rewards, episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract
from rssm_ros.recordings.recording import Event, Truth

RESET, TERMINAL = "reset", "terminal"


@dataclass
class Series:
    """Messages of one label topic, in log order."""

    stamp_ns: list[int] = field(default_factory=list)
    received_ns: list[int] = field(default_factory=list)
    value: list[npt.NDArray[np.float64]] = field(default_factory=list)
    stamped: bool = True

    def add(self, stamp_ns: int, received_ns: int, value: npt.NDArray[np.float64], stamped: bool) -> None:
        """One more message."""
        self.stamp_ns.append(stamp_ns)
        self.received_ns.append(received_ns)
        self.value.append(value)
        self.stamped = stamped


@dataclass(frozen=True)
class Labels:
    """What a filter is scored by, and where its episodes begin and end."""

    truth: Mapping[str, Truth]
    events: Sequence[Event]


def make_labels(contract: Contract, series: Mapping[str, Series], events: Sequence[Event]) -> Labels:
    """Labels out of what `TopicTable.labels` names. A target without a topic has the truth of nobody."""
    truth = {
        target.name: _truth(
            series.get(target.name), series.get(f"{target.name}/visibility"), target.dim, contract.dt
        )
        for target in contract.targets
    }
    return Labels(truth, sorted(events, key=lambda event: (event.stamp_ns, event.received_ns)))


def make_reward(series: Series, contract: Contract) -> Truth:
    """Rewards by stamp; nobody's where there are none."""
    return _truth(series, None, 1, contract.dt)


def _truth(values: Series | None, seen: Series | None, dim: int, dt: float) -> Truth:
    """Sorted by stamp; of several with one stamp the last that was logged."""
    if values is None or not values.stamp_ns:
        return Truth.none(dim)
    stamps = np.array(values.stamp_ns, np.int64)
    table = np.stack(values.value).astype(np.float64)
    visibility = _nearest(values, seen, dt)
    # Of equal stamps the last one: `unique` gives the first of the reversed order.
    unique, at = np.unique(stamps[::-1], return_index=True)
    rows = len(stamps) - 1 - at
    return Truth(unique, table[rows], visibility[rows])


def _nearest(values: Series, seen: Series | None, dt: float) -> npt.NDArray[np.float64]:
    """The visibility that goes with each value: the nearest within half a tick, by stamp where both have one.

    A Float64 has none: it is published right behind its pose, so log time tells which one is meant.
    """
    count = len(values.stamp_ns)
    if seen is None or not seen.stamp_ns:
        return np.full(count, np.nan)
    stamped = values.stamped and seen.stamped
    own = np.array(values.stamp_ns if stamped else values.received_ns, np.int64)
    theirs = np.array(seen.stamp_ns if stamped else seen.received_ns, np.int64)
    order = np.argsort(theirs, kind="stable")
    theirs, share = theirs[order], np.stack(seen.value)[order, 0].astype(np.float64)
    after = np.searchsorted(theirs, own).clip(0, len(theirs) - 1)
    before = (after - 1).clip(0)
    near = np.where(np.abs(theirs[before] - own) < np.abs(theirs[after] - own), before, after)
    close = np.abs(theirs[near] - own) < int(dt / 2 * 1e9)
    return np.where(close, share[near], np.nan)
