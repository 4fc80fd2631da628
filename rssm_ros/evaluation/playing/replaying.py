"""A recording through the online filter, as fast as it goes: the `final` belief of every tick.

A belief is final once its tick has left the window: nothing that is accepted later can change it. Live, a
tick is computed as soon as it is due, and again whenever something late revises it; offline only the last of
these counts, so it is computed once, at the end of its window. Same code, same calls, same batch shape:
bitwise the beliefs that the robot's filter ends up with.

Nobody waits for a belief here, so `TOGETHER` final ticks are computed in a row, and what was seen at them
before, one modality after the other. It takes two thirds of the time of the same calls with the reading of
messages between them, which leaves nothing of a model in the caches.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy.typing as npt

from rssm_ros.contract import Contract
from rssm_ros.evaluation.ticks import Taken
from rssm_ros.online.belief import Belief, Floats
from rssm_ros.online.clock import SAMPLE, RecordingClock
from rssm_ros.online.errors import FilterError
from rssm_ros.online.filter import Filter
from rssm_ros.online.grid import SECOND, stamp_of, tick_of
from rssm_ros.online.memory import Snapshot
from rssm_ros.online.preprocess import prepare
from rssm_ros.online.steps import Steps
from rssm_ros.recordings import APPLIED, RESET, Observation, Recording

Array = npt.NDArray[Any]
TOGETHER = 64  # ticks computed one after the other


class FinalFilter(Filter):
    """The online filter, which computes each tick once, when nothing can change it any more.

    `advance` returns final beliefs, of `together` ticks at once, and `rest` those that are still held back.
    Counters are the online filter's (`late`: came when its tick would have been computed already), but for
    `replayed`. `taken`: what went into the beliefs returned last.
    """

    def __init__(
        self,
        session: Steps,
        contract: Contract,
        particles: int = 1,
        seed: int = 0,
        together: int = TOGETHER,
    ) -> None:
        self._online: int | None = None  # the last tick that the online filter would have computed
        self._next_ns = 0  # before that the window stays where it is
        self._moves: list[int] = []  # when it moved, and what is final since then is not computed
        self._together = together
        self._half_ns = int(SECOND / contract.rate / 2)
        self._frozen_at = (-1, -1)  # of what time, and what it was
        super().__init__(session, contract, particles, seed)
        self.taken: dict[int, Taken] = {}
        self._spent: dict[int, float] = {}  # tick -> s of encoding what was seen at it
        self._action: tuple[Floats, bool]

    def advance(self, now_ns: int) -> list[Belief]:
        """See `Filter.advance`; of ticks that have left the window."""
        memory = self._memory
        if memory.now_ns is None or self._early or now_ns < memory.now_ns:
            beliefs = self.rest()  # a step back forgets everything
            beliefs += super().advance(now_ns)
            self._next_ns = self._leaves_ns(now_ns)
            return beliefs
        memory.now_ns = now_ns
        self._online = super()._last_due(now_ns) or self._online
        if now_ns >= self._next_ns:
            self._moves.append(now_ns)
            self._next_ns = self._leaves_ns(now_ns)
        return self.rest() if len(self._moves) >= self._together else []

    def rest(self) -> list[Belief]:
        """What is final and was not returned yet.

        Each move of the window as if it were computed when it took place: nothing that came since then can
        matter to a tick that had left the window.
        """
        self.taken, self._spent = {}, {}
        (moves, self._moves), memory, online = (self._moves, []), self._memory, self._online
        if not moves:
            return []
        now_ns, beliefs = memory.now_ns, list[Belief]()
        self._encode(self._frozen(moves[-1]))
        for moved_ns in moves:
            memory.now_ns = moved_ns
            beliefs += super().advance(moved_ns)
        memory.now_ns, self._online = now_ns, online
        return beliefs

    def _leaves_ns(self, now_ns: int) -> int:
        """When the next tick leaves the window."""
        return stamp_of(tick_of(now_ns, self.contract.rate) + 1, self.contract.rate) - self._half_ns - 1

    def _encode(self, last: int) -> None:
        """What was seen up to a tick, one modality after the other: each keeps the caches to itself."""
        waiting = [item for item in self._memory.observations.items() if item[0] <= last]
        for tick, name, seen in sorted(waiting, key=lambda item: item[1]):
            begun = time.perf_counter()
            self._tokens(name, seen)
            self._spent[tick] = self._spent.get(tick, 0.0) + time.perf_counter() - begun

    def _frozen(self, now_ns: int) -> int:
        if self._frozen_at[0] != now_ns:  # asked for every message, of the same time again and again
            self._frozen_at = (now_ns, super()._frozen(now_ns))
        return self._frozen_at[1]

    def _clear(self) -> None:
        super()._clear()
        self._online, self._next_ns, self._moves = None, 0, []

    def _last_due(self, now_ns: int) -> int | None:
        online = super()._last_due(now_ns)
        if online is None:
            return None
        self._online = online
        start, due = self._memory.start, min(online, self._frozen(now_ns))
        return due if start is not None and due >= start else None

    def _action_into(self, tick: int) -> tuple[Floats, bool]:
        self._action = super()._action_into(tick)
        return self._action

    def _revise(self, source: str, tick: int) -> None:
        computed = self._memory.computed
        assert computed is None or tick > computed, "what was accepted cannot change a final tick"
        if self._online is not None and tick <= self._online:
            self._count(source, "late")

    def _tick(self, tick: int, before: Snapshot | None) -> Snapshot:
        begun = time.perf_counter()
        snapshot = super()._tick(tick, before)
        spent = time.perf_counter() - begun + self._spent.get(tick, 0.0)
        heard = self._memory.observations.at(tick)
        seen = {name: item for name, item in heard.items() if name in snapshot.presence}
        tokens = {name: item.tokens for name, item in seen.items() if item.tokens is not None}
        values = {name: item.value for name, item in seen.items()}
        self.taken[tick] = Taken(self._action[0], values, tokens, spent)
        return snapshot


@dataclass
class Replay:
    """One recording on its way through a filter; `counters` and `backward` are complete at its end.

    contract: as the bundle has it. Nothing here grows with the recording's length.
    """

    session: Steps
    contract: Contract
    recording: Recording
    particles: int = 1
    seed: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    backward: dict[str, int] = field(default_factory=dict)  # per modality: stamps before an earlier one's
    now_ns: int | None = None  # how far it is

    def __iter__(self) -> Iterator[tuple[Belief, Taken]]:
        """Final beliefs in the order of their ticks, each with what went into it.

        As live, where the clock is told before the message: time goes on to the recording's `now`, then the
        filter gets the message, which after a silence would seem to come from the future otherwise. After the
        last one time goes on until its tick is final, too; what was only predicted after it is left out.
        """
        filter_ = FinalFilter(self.session, self.contract, self.particles, self.seed)
        messages = self.recording.observations()
        first = _first(messages, self.contract)  # read once: decoding costs as much as filtering
        clock = RecordingClock.of((item.received_ns, item.stamp_ns) for item in first if _dated(item))
        events = sorted(self.recording.events, key=lambda event: event.received_ns)[::-1]  # the next one last
        newest: dict[str, int] = {}
        last_ns = 0
        for item in chain(first, messages):
            while events and events[-1].received_ns <= item.received_ns:
                event = events.pop()
                yield from self._until(filter_, clock.tell(event.received_ns, event.stamp_ns))
                if event.kind == RESET:
                    filter_.begin_episode(event.stamp_ns)
            now = clock.tell(item.received_ns, item.stamp_ns if item.stamped else None)
            if now is not None and item.name != APPLIED:
                last_ns = max(last_ns, min(item.stamp_ns, now))
            yield from self._until(filter_, now)
            if item.name == APPLIED:
                stamp = item.stamp_ns if item.stamped else item.stamp_ns + clock.offset_ns
                filter_.applied(stamp, item.value, item.stamped)
            else:
                filter_.observe(item.name, item.stamp_ns, item.value)
            if item.stamp_ns < newest.get(item.name, 0):
                self.backward[item.name] = self.backward.get(item.name, 0) + 1
            newest[item.name] = max(item.stamp_ns, newest.get(item.name, 0))
        yield from self._rest(filter_, last_ns)
        self.counters = dict(filter_.counters)

    def _until(self, filter_: FinalFilter, now_ns: int | None) -> Iterator[tuple[Belief, Taken]]:
        """What becomes final when time goes on to now (None: it is not known yet)."""
        if now_ns is not None:
            self.now_ns = now_ns
            for belief in filter_.advance(now_ns):
                yield belief, filter_.taken[belief.tick]

    def _rest(self, filter_: FinalFilter, last_ns: int) -> Iterator[tuple[Belief, Taken]]:
        if self.now_ns is None:
            return
        step_ns = int(SECOND / self.contract.rate)
        end = (
            max(self.now_ns, last_ns) + (self.contract.window_ticks + 2) * step_ns + self.contract.patience_ns
        )
        for now in (*range(self.now_ns + step_ns, end + step_ns, step_ns), None):
            for belief in filter_.rest() if now is None else filter_.advance(now):
                if belief.stamp_ns <= last_ns + step_ns // 2:
                    yield belief, filter_.taken[belief.tick]


def _first(messages: Iterator[Observation], contract: Contract) -> list[Observation]:
    """As many messages as the recording's clock looks at; they are gone from `messages`.

    As the filter will prepare them: hundreds of pictures in a camera's own size are gigabytes.
    """
    taken, dated = [], 0
    for item in messages:
        taken.append(_prepared(item, contract))
        dated += _dated(item)
        if dated == SAMPLE:
            break
    return taken


def _prepared(item: Observation, contract: Contract) -> Observation:
    if item.name == APPLIED:
        return item
    try:
        return replace(item, value=prepare(contract.observation(item.name), item.value))
    except FilterError:  # the filter refuses and counts it
        return item


def _dated(item: Observation) -> bool:
    return item.stamped and item.name != APPLIED


def final_beliefs(
    session: Steps, recording: Recording, particles: int = 1, seed: int = 0
) -> Iterator[Belief]:
    """The final belief of every tick of a recording, under the recording's contract."""
    return (belief for belief, _ in Replay(session, recording.contract, recording, particles, seed))
