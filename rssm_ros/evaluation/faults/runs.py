"""Streams of messages through the filter, as filter_node feeds it, and through what others do instead.

`play` is the filter. `latest_frame_wins` is the same model on the same stream without an idea of time: at
each tick the last message that has come of each modality counts as one of now, whatever its stamp, and
nothing is ever put right afterwards. It is treated kindly: it refuses what is broken, waits as long for a
tick as the filter does, knows which command acts when, and draws the same noise. With nothing late and
nothing missing the two say the same.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract
from rssm_ros.evaluation.faults.streams import Stream, in_order
from rssm_ros.evaluation.playing.collected import CollectedRecording
from rssm_ros.online import noise
from rssm_ros.online.belief import NEVER, Belief, Floats, TargetBelief
from rssm_ros.online.errors import FilterError
from rssm_ros.online.filter import Filter
from rssm_ros.online.grid import stamp_of, tick_of
from rssm_ros.online.limits import Limits
from rssm_ros.online.preprocess import prepare
from rssm_ros.online.ring import ACCEPTED, digest_of
from rssm_ros.online.steps import Steps, initial_state
from rssm_ros.recordings.recording import APPLIED, Observation

Array = npt.NDArray[Any]
FROZEN = "frozen"  # as a cause, and among the counters
Threshold = Callable[[list[str]], float]  # names of what was seen -> nats


@dataclass(frozen=True)
class Episode:
    """T ticks of messages, each received at its stamp, and the truth."""

    contract: Contract
    stream: Stream
    begin: int  # the tick of row 0
    ticks: int  # T
    truth: Mapping[str, Array]  # target -> [T, d] SI; NaN: none
    visibility: Mapping[str, Array]  # target -> [T] 0..1; NaN: unknown

    def row(self, tick: int) -> int | None:
        """The row of a tick, where it is one of the episode's."""
        return tick - self.begin if 0 <= tick - self.begin < self.ticks else None


def episode_of(arrays: Mapping[str, Array], contract: Contract, complete: bool = False) -> Episode:
    """One file of `rssm collect` as messages and the truth of every row; see `CollectedRecording`, also for
    `complete` and what is raised.
    """
    recording = CollectedRecording(arrays, contract, complete=complete)
    begin, ticks = tick_of(recording.start_ns, contract.rate), len(arrays["action"])
    truth, visibility = {}, {}
    for target in contract.targets:
        truth[target.name] = np.asarray(
            arrays.get(f"target_{target.name}", np.full((ticks, target.dim), np.nan)), np.float64
        )
        visibility[target.name] = np.asarray(arrays.get(f"visibility_{target.name}", np.full(ticks, np.nan)))
    return Episode(contract, in_order(recording.observations()), begin, ticks, truth, visibility)


@dataclass(frozen=True)
class Told:
    """What was said about each of an episode's T ticks; NaN where nothing was."""

    points: dict[str, Array]  # target -> [T, d] the mixture's mean
    surprise: Array  # [T] nats; NaN also where nothing was seen
    threshold: Array  # [T] nats, of what was seen
    age: Array  # [T] ticks between the newest trigger observation in it and the tick; NEVER: none
    lost: Array  # [T]
    when: Array  # [T] ns, when it was said; 0: never

    @staticmethod
    def nothing(episode: Episode) -> "Told":
        """To be filled in by `say`."""
        T = episode.ticks
        return Told(
            points={target.name: np.full((T, target.dim), np.nan) for target in episode.contract.targets},
            surprise=np.full(T, np.nan),
            threshold=np.full(T, np.nan),
            age=np.full(T, NEVER),
            lost=np.zeros(T, bool),
            when=np.zeros(T, np.int64),
        )

    def say(
        self,
        row: int,
        now_ns: int,
        targets: Mapping[str, TargetBelief],
        surprise: float,
        threshold: float,
        age: int,
        lost: bool = False,
    ) -> None:
        """About one row."""
        for name, target in targets.items():
            self.points[name][row] = target.point()
        self.surprise[row], self.threshold[row] = surprise, threshold
        self.age[row], self.lost[row], self.when[row] = age, lost, now_ns


@dataclass(frozen=True)
class Played:
    """What came of a stream in the filter."""

    online: Told  # as published, each tick once
    final: Told  # when the tick left the window, or at the end
    bits: dict[int, bytes]  # row -> SHA-256 over all of the final belief
    counters: Counter[str]
    counted: dict[str, int]  # cause -> ns, when it was counted first; what is wrong or late only
    missed: int | None  # ns, when a published belief first said that something had not been seen


class RememberedTokens:
    """Steps that encode the same content once, however many runs it is part of."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._tokens: dict[tuple[str, bytes], Floats] = {}
        self.latent, self.fingerprint = steps.latent, steps.fingerprint
        self.step, self.predict = steps.step, steps.predict

    def encode(self, name: str, value: Array) -> Floats:
        """One observation in the contract's form -> tokens [1, E_m]."""
        key = (name, digest_of(value))
        if key not in self._tokens:
            self._tokens[key] = self._steps.encode(name, value)
        return self._tokens[key]


class Inbox:
    """A stream that is taken out as time goes on."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._next = stream, 0

    def until(self, now_ns: int) -> Iterator[Observation]:
        """What was received by now and not taken yet."""
        while self._next < len(self._stream) and self._stream[self._next].received_ns <= now_ns:
            self._next += 1
            yield self._stream[self._next - 1]


def _trigger_age(ages: Mapping[str, int], contract: Contract) -> int:
    """Ticks since the oldest of the triggers was seen; NEVER where one never was."""
    found = [ages[spec.name] for spec in contract.observations if spec.trigger]
    return NEVER if NEVER in found else max(found)


def play(
    steps: Steps, episode: Episode, stream: Stream, particles: int, seed: int, threshold: Threshold
) -> Played:
    """A stream through a fresh filter, as filter_node does it: messages go in as they are received, and time
    goes on with them and at every quarter of a tick.
    """
    contract = episode.contract
    filter_ = Filter(steps, contract, particles, seed)
    online, final = Told.nothing(episode), Told.nothing(episode)
    bits: dict[int, bytes] = {}
    counted: dict[str, int] = {}
    missed: int | None = None

    def hear(told: Told, belief: Belief, now_ns: int) -> None:
        row = episode.row(belief.tick)
        if row is None:
            return
        seen = [name for name, present in belief.presence.items() if present]
        limit, age = threshold(seen), _trigger_age(belief.age, contract)
        told.say(row, now_ns, belief.targets, belief.surprise, limit, age, belief.lost)
        if told is final:
            bits[row] = belief.digest()

    filter_.on_final = lambda belief: hear(final, belief, filter_.now_ns or 0)
    inbox = Inbox(stream)
    for now in _times(episode, stream):
        for message in inbox.until(now):
            for cause in _tell(filter_, message):
                counted.setdefault(cause, now)
        for belief in filter_.advance(now):
            hear(online, belief, now)
            here = episode.row(belief.tick) is not None
            if missed is None and here and not all(belief.presence.values()):
                missed = now
        if filter_.frozen_cameras:
            counted.setdefault(FROZEN, now)
    for belief in filter_.revised():
        hear(final, belief, filter_.now_ns or 0)
    return Played(online, final, bits, filter_.counters, counted, missed)


def _tell(filter_: Filter, message: Observation) -> list[str]:
    """One message into the filter; what it was counted as, apart from `accepted`."""
    late = filter_.counters["late"]
    if message.name == APPLIED:
        verdict = filter_.applied(message.stamp_ns, message.value, message.stamped)
    else:
        verdict = filter_.observe(message.name, message.stamp_ns, message.value)
    causes = [] if verdict in (ACCEPTED, "waiting") else [verdict]
    return causes + ["late"] * (filter_.counters["late"] > late)


def _times(episode: Episode, stream: Stream) -> list[int]:
    """When filter_node would look: at each message and every quarter of a tick, until all of it is in."""
    rate = episode.contract.rate
    end = stamp_of(episode.begin + episode.ticks - 1, rate) + episode.contract.patience_ns
    end = max(end, stream[-1].received_ns if stream else 0)
    first = 4 * (episode.begin - 1)
    quarters = range(first, 4 * (tick_of(end, rate) + 1))
    return sorted({m.received_ns for m in stream} | {stamp_of(quarter, 4 * rate) for quarter in quarters})


def latest_frame_wins(
    steps: Steps, episode: Episode, stream: Stream, particles: int, seed: int, threshold: Threshold
) -> Told:
    """A stream through the model alone: tick k `patience` after t_k, from the last message of each kind."""
    contract, limits = episode.contract, Limits(episode.contract)
    specs = {spec.name: spec for spec in contract.observations}
    commands = Inbox(tuple(m for m in stream if m.name == APPLIED))
    observed = Inbox(tuple(m for m in stream if m.name != APPLIED))
    command = limits.safe(None, np.zeros(contract.action_dim))
    latest: dict[str, tuple[int, Floats]] = {}  # modality -> tick of its stamp, tokens
    state, told = initial_state(steps.latent, particles), Told.nothing(episode)
    for row in range(episode.ticks):
        tick = episode.begin + row
        due = stamp_of(tick, contract.rate)
        for message in commands.until(due - 1):
            command = np.where(np.isfinite(message.value), message.value, command)
        for message in observed.until(due + contract.patience_ns):
            with suppress(FilterError):  # the last good one goes on counting
                value = prepare(specs[message.name], message.value)
                stamped = tick_of(message.stamp_ns, contract.rate)
                latest[message.name] = stamped, steps.encode(message.name, value)
        if not latest:
            continue
        action = limits.normalise(command).astype(np.float32)
        tokens = {name: found for name, (_, found) in latest.items()}
        first = not told.when.any()
        step = steps.step(state, action, tokens, first, noise.draw(steps.latent, seed, tick, particles))
        state = step.state
        ages = {name: tick - latest[name][0] if name in latest else NEVER for name in specs}
        told.say(
            row,
            now_ns=due + contract.patience_ns,
            targets=step.targets,
            surprise=float("nan") if step.surprise is None else float(step.surprise.mean()),
            threshold=threshold(sorted(tokens)),
            age=_trigger_age(ages, contract),
        )
    return told
