"""Recordings -> training episodes, tick by tick as the online filter would see them.

The very classes of the filter decide which message counts for which tick and which command was in force, and
its rules decide what is too late, where a gap tears the belief and where an episode begins. What was not seen
stays unseen: `present_NAME` is false there, vectors are NaN, and of an image nothing is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract
from rssm_ros.online.clock import RecordingClock
from rssm_ros.online.errors import FilterError
from rssm_ros.online.filter import FUTURE_NS, WAITING_LIMIT
from rssm_ros.online.frozen import FrozenPictures, Watch
from rssm_ros.online.grid import nearest_by_tick, stamp_of, tick_of
from rssm_ros.online.limits import Limits
from rssm_ros.online.preprocess import prepare
from rssm_ros.online.ring import AppliedLog, ObservationRing, Seen
from rssm_ros.recordings import APPLIED, RESET, TERMINAL, Observation, Recording, Truth
from rssm_ros.training.collect import Arrays

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One tick of an episode."""

    tick: int
    seen: Mapping[str, Seen]
    action: Array  # normalised [A], applied over [tick - 1, tick)
    assumed: bool  # nobody knows what was applied: `safe`
    terminal: bool


class Grid:
    """Messages in log order in, rows in tick order out, each once and final."""

    def __init__(self, contract: Contract, resets_ns: list[int], terminals: set[int]) -> None:
        self.contract, self.counters = contract, Counter[str]()
        self.limits = Limits(contract)
        self._specs = {spec.name: spec for spec in contract.observations}
        self._ring = ObservationRing(contract.rate)
        self._log = AppliedLog(self.limits.safe(None, np.zeros(contract.action_dim)))
        for stamp in resets_ns:
            self._log.restart(stamp)
        self._begins = [tick_of(stamp, contract.rate) for stamp in resets_ns]
        self._terminals = terminals
        self._cameras, self._watch = FrozenPictures(contract), Watch()
        self._looked = -(2**62)  # the last tick of which it is known what counts
        self._history = contract.window_ticks
        self._now: int | None = None
        self._early: deque[Observation] = deque(maxlen=WAITING_LIMIT)
        self._done: int | None = None  # the last tick that was given out

    def tell(self, now_ns: int | None, message: Observation) -> Iterator[Row]:
        """One message at a time `now`; what can no longer change comes out."""
        if now_ns is None:
            self._early.append(message)
            return
        self._now = now_ns
        while self._early:
            self._accept(self._early.popleft())
        self._accept(message)
        yield from self._until(tick_of(now_ns, self.contract.rate) - self._history)

    def finish(self) -> Iterator[Row]:
        """All that is left."""
        if self._now is None and self._early:  # too few stamps to confirm one another: the latest is now
            self._now = max(message.stamp_ns for message in self._early)
            while self._early:
                self._accept(self._early.popleft())
        if self._now is not None:
            yield from self._until(tick_of(self._now + FUTURE_NS, self.contract.rate) + 1)

    def _accept(self, message: Observation) -> None:
        assert self._now is not None
        name, stamp, rate = message.name, message.stamp_ns, self.contract.rate
        tick = tick_of(stamp, rate)
        if stamp <= 0:
            self._count(name, "unset")
        elif tick <= tick_of(self._now, rate) - self._history:
            self._count(name, "too_old")
        elif stamp > self._now + FUTURE_NS:
            self._count(name, "future")
        elif name == APPLIED:
            if not message.stamped:
                self._count(name, "unstamped")
            command = np.array(message.value, np.float64)
            if np.isinf(command).any() or np.isnan(command).all():
                self._count(name, "non_finite")
            else:
                self._count(name, self._log.add(stamp, command))
        else:
            try:
                value = prepare(self._specs[name], message.value)
            except FilterError as error:
                self._count(name, error.cause)
            else:
                self._count(name, self._ring.add(tick, name, stamp, value)[0])

    def _count(self, name: str, cause: str) -> None:
        self.counters[f"{name}/{cause}"] += 1

    def _until(self, last: int) -> Iterator[Row]:
        """Rows up to a tick; of stretches in which nothing was seen, those that the filter bridges."""
        rate, gap = self.contract.rate, self.contract.max_gap_ticks
        while (seen := self._ring.first_from(self._looked + 1)) is not None and seen <= last:
            counts = self._look(seen)
            if not counts:
                continue
            begin = seen if self._done is None or seen - self._done > gap else self._done + 1
            for tick in range(begin, seen + 1):
                si, known = self._log.at(stamp_of(tick - 1, rate))
                action = self.limits.normalise(si).astype(np.float32)
                yield Row(tick, counts if tick == seen else {}, action, not known, tick in self._terminals)
            self._done = seen
        self._ring.forget(last)
        # A tick that is bridged later still asks for the command before it.
        held = last if self._done is None else max(self._done, last - gap)
        self._log.forget(stamp_of(held, rate))

    def _look(self, tick: int) -> dict[str, Seen]:
        """What counts at a tick: all that was heard, but for pictures of a camera that is frozen."""
        if any(self._looked < begin <= tick for begin in self._begins):
            self._watch = Watch()
        heard, self._looked = self._ring.at(tick), tick
        self._watch = watch = self._cameras.look(self._watch, tick, heard)
        for name in watch.repeated:
            self._count(name, "frozen" if name in watch.frozen else "repeated")
        return {name: item for name, item in heard.items() if name not in watch.frozen}


class Episodes:
    """Rows in, arrays of whole episodes out: torn at gaps, resets and ends, and cut where they get long."""

    def __init__(self, recording: Recording, shortest: int, longest: int) -> None:
        self.contract, self.counters = recording.contract, Counter[str]()
        self.shortest, self.longest = shortest, longest
        rate = self.contract.rate
        self._resets = sorted(tick_of(e.stamp_ns, rate) for e in recording.events if e.kind == RESET)
        self._labels = {name: _by_tick(truth, self.contract) for name, truth in recording.truth.items()}
        self._rewards = _sums(recording.reward, self.contract)
        self._rows: list[Row] = []

    def tell(self, row: Row) -> Arrays | None:
        """One more row; the arrays of an episode when this row begins the next one."""
        whole = None
        if self._rows and self._begins(self._rows[-1], row):
            whole = self.finish()
        if self._rows or row.seen:  # an episode begins with something seen
            self._rows.append(row)
        return whole

    def finish(self) -> Arrays | None:
        """The arrays of the rows so far; None where they are too few, which is counted."""
        rows, self._rows = self._rows, []
        while rows and not rows[-1].seen and not rows[-1].terminal:
            rows.pop()
        if len(rows) < self.shortest:
            self.counters["ticks_of_short_episodes"] += len(rows)
            return None
        self.counters["episodes"] += 1
        self.counters["ticks"] += len(rows)
        self.counters["ticks_unseen"] += sum(not row.seen for row in rows)
        self.counters["safe_assumed"] += sum(row.assumed for row in rows[1:])
        return self._arrays(rows)

    def _begins(self, before: Row, row: Row) -> bool:
        if row.tick - before.tick > 1:
            self.counters["gaps"] += 1
            return True
        reset = bisect_right(self._resets, row.tick) > bisect_right(self._resets, before.tick)
        if not reset and not before.terminal and len(self._rows) >= self.longest:
            self.counters["cuts"] += 1
            return True
        return reset or before.terminal

    def _arrays(self, rows: list[Row]) -> Arrays:
        arrays: Arrays = {}
        for spec in self.contract.observations:
            present = np.array([spec.name in row.seen for row in rows])
            empty: Any = 0 if spec.kind == "image" else np.nan
            column = np.full((len(rows), *spec.shape), empty, np.uint8 if empty == 0 else np.float32)
            for index in np.flatnonzero(present):
                column[index] = rows[index].seen[spec.name].value
            arrays[spec.name], arrays[f"present_{spec.name}"] = column, present
        flags = np.zeros((2, len(rows)), bool)
        flags[0, 0], flags[1, -1] = True, True
        arrays["action"] = np.stack([row.action for row in rows])
        arrays["reward"] = np.array([self._rewards.get(row.tick, 0.0) for row in rows], np.float32)
        arrays["is_first"], arrays["is_last"] = flags
        arrays["is_terminal"] = np.array([row.terminal for row in rows])
        for target in self.contract.targets:
            values = np.full((len(rows), target.dim), np.nan, np.float32)
            visibility = np.full(len(rows), np.nan, np.float32)
            for at, row in enumerate(rows):
                label = self._labels[target.name].get(row.tick)
                if label is not None:
                    values[at], visibility[at] = label
            arrays[f"target_{target.name}"], arrays[f"visibility_{target.name}"] = values, visibility
        return arrays


def _by_tick(truth: Truth, contract: Contract) -> dict[int, tuple[Array, float]]:
    """The label nearest to each tick."""
    rows = nearest_by_tick(truth.stamp_ns.tolist(), contract.rate)
    return {tick: (truth.value[row], float(truth.visibility[row])) for tick, row in rows.items()}


def _sums(reward: Truth, contract: Contract) -> dict[int, float]:
    """What was earned in each tick; what is not a finite number earns nothing."""
    sums: dict[int, float] = {}
    for stamp, value in zip(reward.stamp_ns.tolist(), reward.value[:, 0].tolist(), strict=True):
        if np.isfinite(value):
            tick = tick_of(stamp, contract.rate)
            sums[tick] = sums.get(tick, 0.0) + value
    return sums


def episodes_of(
    recording: Recording, shortest: int, longest: int, counters: Counter[str]
) -> Iterator[tuple[int, Arrays | None]]:
    """(log time, arrays of an episode or None) for each message of a recording, and once more at its end.

    shortest, longest: ticks of an episode; shorter ones are dropped, longer ones cut. counters: gets what
    became of the messages (`NAME/accepted` ...) and of the ticks. Memory: an episode and the filter's window.
    """
    contract = recording.contract
    # By what was observed, as replays do: commands may be stamped by another machine.
    dated = (m for m in recording.observations() if m.stamped and m.name != APPLIED)
    clock = RecordingClock.of((m.received_ns, m.stamp_ns) for m in dated)
    events, rate = recording.events, contract.rate
    resets = [event.stamp_ns for event in events if event.kind == RESET]
    grid = Grid(contract, resets, {tick_of(e.stamp_ns, rate) for e in events if e.kind == TERMINAL})
    episodes = Episodes(recording, shortest, longest)
    for message in recording.observations():
        now = clock.tell(message.received_ns, message.stamp_ns if message.stamped else None)
        for row in grid.tell(now, _on_header_clock(message, clock)):
            yield message.received_ns, episodes.tell(row)
        yield message.received_ns, None
    for row in grid.finish():
        yield recording.end_ns, episodes.tell(row)
    yield recording.end_ns, episodes.finish()
    counters.update(grid.counters + episodes.counters)
    counters.update({f"clock/{cause}": count for cause, count in clock.counters.items()})


def _on_header_clock(message: Observation, clock: RecordingClock) -> Observation:
    """A stamp that is log time, moved to the headers' clock where that is another one."""
    if message.stamped or not clock.offset_ns:
        return message
    stamp = message.stamp_ns + clock.offset_ns
    return Observation(message.name, stamp, message.received_ns, message.value, stamped=False)
