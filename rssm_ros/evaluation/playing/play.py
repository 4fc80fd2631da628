"""One recording through the filter and everything that has to be asked of the model on the way: `play`.

The truth is what the recording holds; with imposed occlusion and no truth, what the same filter believes of
the same recording when nothing is covered.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN, Contract
from rssm_ros.evaluation.baselines.classical import odometry_of
from rssm_ros.evaluation.baselines.detecting import Detector
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.imposed import ImposedRecording, Imposition
from rssm_ros.evaluation.playing.open_loop import OpenLoop
from rssm_ros.evaluation.playing.pictures import WINDOW, psnr, ssim
from rssm_ros.evaluation.playing.replaying import Replay
from rssm_ros.evaluation.playing.rows import Arrays, Known, Model
from rssm_ros.evaluation.ticks import Row, Taken, Ticks, TruthByTick
from rssm_ros.online import noise
from rssm_ros.online.belief import Belief
from rssm_ros.online.preprocess import prepare
from rssm_ros.online.session import Session
from rssm_ros.online.steps import State
from rssm_ros.recordings import Recording, Truth

Array = npt.NDArray[Any]
Watch = Callable[[float], None]  # the share that is done
RECORDED, UNOCCLUDED = "recorded", "unoccluded run"
CHUNK = 256  # ticks after which rows become arrays, so that memory hardly grows with the length


@dataclass(frozen=True)
class How:
    """What to do with every recording alike."""

    particles: int = 1
    seed: int = 0
    imposed: tuple[Imposition, ...] = ()
    impose_seed: int = 0
    memoryless: bool = True
    open_loop_every: int = 10  # ticks from one start to the next; 0: never
    detectors: Mapping[str, Detector] = field(default_factory=dict)  # by target
    models: Mapping[str, str] = field(default_factory=dict)  # baseline models: name -> run or checkpoint


@dataclass(frozen=True)
class Played:
    """What came of one recording."""

    ticks: Ticks
    references: Mapping[str, str]  # target -> where its truth comes from; without those that have none
    unlabelled: tuple[str, ...]  # targets whose visible fraction nobody recorded
    # Camera -> [F, 7]: row of `ticks`; PSNR and SSIM of what was expected, of the last picture, and of what
    # is decoded when nothing is covered (NaN: not asked).
    pictures: Mapping[str, Array]
    lost_ticks: int  # left out: nothing had been seen for `max_gap`
    counters: Counter[str]
    recorded_s: float
    name: str = ""


def play(
    session: Session, recording: Recording, how: How, watch: Watch | None = None, name: str = ""
) -> Played:
    """The whole recording. Raises EvaluationError where there is nothing to score it by."""
    session.warm_up(how.particles)
    contract = session.bundle.contract
    truths = {spec.name: recording.truth[spec.name] for spec in contract.targets}
    known = {target: len(truth.stamp_ns) > 0 for target, truth in truths.items()}
    references = {target: RECORDED for target in truths if known[target]}
    given: Recording = recording
    passes = 2 if how.imposed and not (known and all(known.values())) else 1
    clear: dict[tuple[str, int], tuple[float, float]] = {}
    if how.imposed:
        given = ImposedRecording(recording, how.imposed, how.impose_seed)
        if passes == 2:
            found, clear = _unoccluded(session, given, how, _part(watch, 0, 2))
            truths |= {target: truth for target, truth in found.items() if not known[target]}
            references |= {target: UNOCCLUDED for target in found if not known[target]}
    elif truths and not any(known.values()):
        raise EvaluationError(
            f"{name or 'the recording'} holds no truth about {', '.join(truths)}; "
            "cover its pictures on purpose instead: --impose blackout:4-8@0.1"
        )
    by_tick = {name: TruthByTick(truth, contract.rate) for name, truth in truths.items()}
    unoccluded = {target for target, source in references.items() if source == UNOCCLUDED}
    player = _Player(session, given, how, by_tick, clear, unoccluded)
    replay = Replay(session, contract, given, how.particles, how.seed)
    span = max(recording.end_ns - recording.start_ns, 1)
    told = _part(watch, passes - 1, passes)
    for count, (belief, taken) in enumerate(replay):
        player.tell(belief, taken)
        if count % 100 == 0:
            told(min((belief.stamp_ns - recording.start_ns) / span, 1.0))
    ticks = player.finish()
    if not len(ticks):
        raise EvaluationError(f"{name or 'the recording'} holds nothing that the filter accepts")
    counters = Counter(replay.counters) + Counter(recording.counts)
    counters.update({f"{source}/out_of_order": count for source, count in replay.backward.items()})
    counters["out_of_order"] += sum(replay.backward.values())
    unlabelled = tuple(target for target in references if target in player.unlabelled)
    seconds = 1e-9 * span
    return Played(ticks, references, unlabelled, player.pictures(), player.lost, counters, seconds, name)


def _part(watch: Watch | None, at: int, of: int) -> Watch:
    return lambda share: watch((at + share) / of) if watch is not None else None


def _unoccluded(
    session: Session, covered: ImposedRecording, how: How, watch: Watch
) -> tuple[dict[str, Truth], dict[tuple[str, int], tuple[float, float]]]:
    """What the filter believes of every target when nothing is covered, as the truth; all of it visible.

    And (camera, tick) -> PSNR and SSIM of what it then decodes, at the ticks that will be covered.
    """
    recording = covered.recording
    contract, stamps = session.bundle.contract, list[int]()
    pictures: dict[tuple[str, int], tuple[float, float]] = {}
    means: dict[str, list[Array]] = {spec.name: [] for spec in contract.targets}
    span = max(recording.end_ns - recording.start_ns, 1)
    for count, (belief, taken) in enumerate(Replay(session, contract, recording, how.particles, how.seed)):
        if belief.lost:
            continue
        if covered.cover(belief.tick) is not None:
            pictures |= _decoded(session, belief, taken)
        stamps.append(belief.stamp_ns)
        for name, rows in means.items():
            rows.append(belief.targets[name].point())
        if count % 100 == 0:
            watch(min((belief.stamp_ns - recording.start_ns) / span, 1.0))
    at, ones = np.array(stamps, np.int64), np.ones(len(stamps))
    truths = {
        spec.name: Truth(at, np.reshape(means[spec.name], (len(at), spec.dim)), ones)
        for spec in contract.targets
    }
    return truths, pictures


def _decoded(session: Session, belief: Belief, taken: Taken) -> dict[tuple[str, int], tuple[float, float]]:
    expected, found = session.decode(State(belief.deter, belief.stoch)), {}
    for name, picture in expected.items():
        if name in taken.values and min(picture.shape[1:3]) >= WINDOW:
            guess, real = np.clip(picture.mean(0), 0.0, 1.0), taken.values[name] / 255.0
            found[name, belief.tick] = (psnr(guess, real), ssim(guess, real))
    return found


def _followers(models: Mapping[str, str], contract: Contract) -> Sequence[Model]:
    """One of each, at the beginning of a recording; torch is loaded only where there is any."""
    if not models:
        return ()
    from rssm_ros.evaluation.baselines.networks import Follower

    return [Follower.of(Path(path), contract) for path in models.values()]


class _Player:
    """Turns beliefs into rows, one tick after the other."""

    def __init__(
        self,
        session: Session,
        recording: Recording,
        how: How,
        truths: Mapping[str, TruthByTick],
        clear: Mapping[tuple[str, int], tuple[float, float]] | None = None,
        unoccluded: Collection[str] = (),
    ) -> None:
        """unoccluded: targets whose truth is the un-occluded run."""
        self._session, self._how, self._clear = session, how, clear or {}
        self._contract: Contract = session.bundle.contract
        self._recording = recording
        self._images = [spec for spec in self._contract.observations if spec.kind == "image"]
        every = how.open_loop_every
        self._open_loop = OpenLoop(session, how.particles, how.seed, every) if every else None
        self._known = self._all_known(truths, frozenset(unoccluded))
        odometry = next(
            (found for spec in self._contract.targets if (found := odometry_of(self._contract, spec))), None
        )
        models = _followers(how.models, self._contract)
        self._arrays = Arrays(session, self._known, how.seed, odometry, how.memoryless, how.detectors, models)
        self._rows: list[Row] = []
        self._parts: list[Ticks] = []
        self._row, self._episode, self.lost = 0, -1, 0
        self._before: Belief | None = None
        self._was_hidden = False
        self._last: dict[str, Array] = {}
        self._compared: dict[str, list[tuple[float, ...]]] = {spec.name: [] for spec in self._images}

    def _all_known(self, truths: Mapping[str, TruthByTick], unoccluded: Collection[str]) -> Known:
        recording, rate = self._recording, self._contract.rate
        # What only a simulator knows: beside a Recording's interface, where there is any.
        inner = recording.recording if isinstance(recording, ImposedRecording) else recording
        velocity, privileged, exact = (
            getattr(inner, name, {}) for name in ("velocity", "privileged", "exact")
        )
        if inner is not recording:  # those trackers were told of pictures that are covered now
            privileged, exact = {}, {}
        # Nobody says how much of it can be seen: whenever a picture comes, all of it.
        unlabelled = {
            spec.name
            for spec in self._contract.targets
            if spec.visibility is None and not np.isfinite(truths[spec.name].visibilities()).any()
        }
        moved, tracked, filtered = (
            {name: TruthByTick(truth, rate) for name, truth in kind.items()}
            for kind in (velocity, privileged, exact)
        )
        return Known(truths, moved, tracked, filtered, unlabelled, unoccluded)

    @property
    def unlabelled(self) -> Collection[str]:
        """Targets of which nobody says how much can be seen."""
        return self._known.unlabelled

    def tell(self, belief: Belief, taken: Taken) -> None:
        """The next tick."""
        if belief.lost:
            self.lost += 1
            self._before = None
            return
        if belief.first or self._episode < 0:
            self._episode += 1
            self._was_hidden, self._before = False, None
        cover = self._recording.cover(belief.tick) if isinstance(self._recording, ImposedRecording) else None
        looked = any(belief.presence[spec.name] for spec in self._images) or not self._images
        clear = float(looked) * (1.0 - (cover.share if cover else 0.0))
        blind = not looked and cover is None
        row = Row(belief, taken, self._episode, cover is not None, clear, blind)
        self._rows.append(row)
        hidden = False
        if self._images and self._contract.targets:
            first = self._contract.targets[0].name
            hidden = self._known.visibility(first, row) <= HIDDEN
        if self._open_loop is not None:
            self._open_loop.tell(belief, taken.action)
        self._look(belief, taken, hidden, cover)
        self._before, self._was_hidden = belief, hidden
        self._row += 1
        if len(self._rows) == CHUNK:
            self._compact()

    # Pictures ---------------------------------------------------------------------------------------------

    def _look(self, belief: Belief, taken: Taken, hidden: bool, cover: Any) -> None:
        """Compares pictures where that says something: at a re-appearance, or behind a cover."""
        before, row = self._before, self._row
        seen = {spec.name: taken.values[spec.name] for spec in self._images if spec.name in taken.values}
        if isinstance(self._recording, ImposedRecording):
            if cover is not None and self._last:
                expected = self._session.decode(State(belief.deter, belief.stoch))
                for name, raw in self._recording.uncovered(belief.tick).items():
                    spec = self._contract.observation(name)
                    seen_at = self._clear.get((name, belief.tick), (math.nan, math.nan))
                    self._compare(row, name, expected[name].mean(0), prepare(spec, raw), seen_at)
        elif before is not None and self._was_hidden and not hidden and seen and self._last:
            how = self._how
            drawn = noise.draw(self._session.latent, how.seed, belief.tick, how.particles)
            state = State(before.deter, before.stoch)
            expected = self._session.decode(self._session.predict(state, taken.action, False, drawn).state)
            for name, value in seen.items():
                self._compare(row, name, expected[name].mean(0), value)
        if cover is None:
            self._last |= seen

    def _compare(
        self,
        row: int,
        name: str,
        expected: Array,
        picture: Array,
        seen: tuple[float, float] = (math.nan, math.nan),
    ) -> None:
        real, last = picture / 255.0, self._last.get(name)
        if last is None or min(real.shape[:2]) < WINDOW:
            return
        guess = np.clip(expected, 0.0, 1.0)
        scores = (psnr(guess, real), ssim(guess, real), psnr(last / 255.0, real), ssim(last / 255.0, real))
        self._compared[name].append((row, *scores, *seen))

    def pictures(self) -> dict[str, Array]:
        """Camera -> [F, 7], see `Played`."""
        return {name: np.array(rows, np.float64).reshape(-1, 7) for name, rows in self._compared.items()}

    # The end ----------------------------------------------------------------------------------------------

    def finish(self) -> Ticks:
        """Everything as arrays."""
        self._compact()
        whole, self._parts = Ticks.joined(self._parts), []
        paths = self._open_loop.finish(len(whole)) if self._open_loop is not None else {}
        targets = {name: replace(whole.targets[name], open_loop=path) for name, path in paths.items()}
        return replace(whole, targets={**whole.targets, **targets})

    def _compact(self) -> None:
        self._parts.append(self._arrays.of(self._rows))
        self._rows = []
