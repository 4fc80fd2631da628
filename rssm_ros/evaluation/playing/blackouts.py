"""What prediction alone is worth on a recording without any truth: its own frames, hidden from the filter.

The recording goes through the filter twice with the same noise: as it is, and with frames taken out for a few
ticks at a time. The hidden frames are what the picture decoded from the belief is compared with, and the
belief of the undisturbed run is what the other's belief is compared with. How both errors grow with the ticks
since the last frame, and how fast they are gone once there is one again, is the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.imposed import DROP, ImposedRecording, Imposition
from rssm_ros.evaluation.playing.replaying import Replay
from rssm_ros.online.belief import Belief
from rssm_ros.online.session import Session
from rssm_ros.online.steps import State
from rssm_ros.recordings import Recording

Array = npt.NDArray[Any]
AFTER = 5  # ticks with frames that are measured after a black-out
SETTLED = 20  # ticks after a restart that say nothing about tracking
BACK = 1.2  # of the undisturbed error: what counts as back
FRESH = 400  # ticks of the undisturbed run among which beliefs are compared to scale the distance


@dataclass(frozen=True)
class Moment:
    """One tick in or right after a black-out. Errors are RMSE over all pixels, in grey levels (0..255)."""

    tick: int
    hidden: int  # ticks since the last frame: 1, 2, ...; 0: there is one
    back: int  # frames since the black-out ended: 1, 2, ...; 0: it goes on
    length: int  # of the black-out, so far
    picture: float  # decoded from the belief, against the frame
    undisturbed: float  # decoded from the belief of the run that saw everything
    held: float  # the last frame seen before, against the frame
    apart: float  # between the two decoded pictures
    # Between the two deterministic states; 1: as far as between unrelated moments. They are what the tick was
    # entered with: what a frame corrects shows one tick later.
    distance: float


@dataclass(frozen=True)
class Blackouts:
    """The result."""

    moments: tuple[Moment, ...]
    ticks: int
    restarts: int  # of the belief: at the start, and after gaps of the recording that tore it
    lost: int  # ticks in such gaps
    unseen: int  # ticks that the recording itself has no frame for
    counters: dict[str, int]
    strip: tuple[Array, ...]  # frames, decoded undisturbed, decoded hidden: [n, H, W, 3] of one black-out


def measure(
    session: Session,
    recording: Recording,
    imposed: Sequence[Imposition],
    particles: int,
    seed: int,
) -> Blackouts:
    """Both runs over one recording whose contract has a camera. Raises EvaluationError where it has none, and
    where no black-out could be measured.
    """
    if any(item.kind != DROP for item in imposed):
        raise EvaluationError("black-outs are measured with frames taken out: --impose drop:4-8@0.15")
    covered = ImposedRecording(recording, imposed, seed)
    camera = next(spec.name for spec in recording.contract.observations if spec.kind == "image")
    open_run = _Run(session, recording, particles, seed, camera)
    hidden_run = _Run(session, covered, particles, seed, camera)
    scale = _scale(session, recording, particles, seed)
    moments: list[Moment] = []
    strip: list[tuple[Array, Array, Array]] = []
    best: list[tuple[Array, Array, Array]] = []
    ticks = restarts = lost = unseen = 0
    last: Array | None = None  # the last frame that was seen
    length, back, since = 0, AFTER, 0
    for (belief, frame), (other, seen) in _paired(open_run, hidden_run):
        ticks += 1
        unseen += frame is None
        restarts += belief.first and frame is not None
        lost += belief.lost
        if belief.first or other.first:
            since, back, length = 0, AFTER, 0
        since += 1
        hidden = covered.cover(belief.tick) is not None
        if hidden:
            length, back = (1 if back else length + 1), 0
        elif seen is not None and back < AFTER:
            back += 1
        interesting = frame is not None and (hidden or back < AFTER) and last is not None
        if interesting and frame is not None and last is not None and since > SETTLED and length:
            own, theirs = _decoded(session, other, camera), _decoded(session, belief, camera)
            moments.append(
                Moment(
                    belief.tick,
                    other.age[camera],
                    back,
                    length,
                    _rmse(own, frame),
                    _rmse(theirs, frame),
                    _rmse(last, frame),
                    _rmse(own, theirs),
                    float(np.linalg.norm(_features(session, other) - _features(session, belief)) / scale),
                )
            )
            strip = [*(strip if hidden and length > 1 else []), (frame, theirs, own)]
            if len(strip) > len(best):
                best = strip
        last = seen if seen is not None else last
    if not moments:
        raise EvaluationError(f"no black-out could be measured in {ticks} ticks; give a longer part")
    pictures = tuple(np.stack(column) for column in zip(*best, strict=True))
    return Blackouts(tuple(moments), ticks, restarts, lost, unseen, hidden_run.counters, pictures)


class _Run:
    """(belief, frame that was seen or None) per tick of one run."""

    def __init__(
        self, session: Session, recording: Recording, particles: int, seed: int, camera: str
    ) -> None:
        self._replay = Replay(session, recording.contract, recording, particles, seed)
        self._camera = camera

    def __iter__(self) -> Iterator[tuple[Belief, Array | None]]:
        for belief, taken in self._replay:
            yield belief, taken.values.get(self._camera)

    @property
    def counters(self) -> dict[str, int]:
        """Of the filter, complete at the end."""
        return self._replay.counters


def _paired(one: _Run, other: _Run) -> Iterator[tuple[Any, Any]]:
    """The ticks that both runs computed: of a long silence each leaves out what leads nowhere."""
    right = iter(other)
    theirs = next(right, None)
    for ours in one:
        while theirs is not None and theirs[0].tick < ours[0].tick:
            theirs = next(right, None)
        if theirs is None:
            return
        if theirs[0].tick == ours[0].tick:
            yield ours, theirs
    for _ in right:
        pass  # a run's counters are complete at its end


def _scale(session: Session, recording: Recording, particles: int, seed: int) -> float:
    """The typical distance between two beliefs of unrelated moments."""
    features = []
    for belief, _ in Replay(session, recording.contract, recording, particles, seed):
        features.append(_features(session, belief))
        if len(features) == FRESH:
            break
    table = np.stack(features)
    order = np.random.default_rng(seed).permutation(len(table))
    return float(np.sqrt(np.square(table - table[order]).sum(-1).mean())) or 1.0


def _features(session: Session, belief: Belief) -> Array:
    """The model's own deterministic state, mean over particles: [D]. A tracker's doubt grows by design."""
    size = session.latent.deter - session.latent.track
    return np.asarray(np.mean(belief.deter[:, :size], axis=0, dtype=np.float64))


def _decoded(session: Session, belief: Belief, camera: str) -> Array:
    """The picture that the belief stands for, mean over particles: [H, W, C] in grey levels."""
    return np.asarray(session.decode(State(belief.deter, belief.stoch))[camera].mean(axis=0) * 255.0)


def _rmse(one: Array, other: Array) -> float:
    return float(np.sqrt(np.square(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean()))


def curve(moments: Sequence[Moment], of: str, field: str) -> dict[int, dict[str, float]]:
    """Mean, 95 % interval and number of a field by `hidden` or `back`, from 1 up."""
    table: dict[int, dict[str, float]] = {}
    for step in sorted({getattr(moment, of) for moment in moments} - {0, -1}):
        values = np.array([getattr(m, field) for m in moments if getattr(m, of) == step])
        half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        table[int(step)] = {"mean": float(values.mean()), "half": float(half), "count": len(values)}
    return table


def summary(found: Blackouts) -> dict[str, Any]:
    """The curves and what follows from them, as JSON. Errors in grey levels, distances without a unit."""
    fields = ("picture", "undisturbed", "held", "apart", "distance")
    hidden = {field: curve(found.moments, "hidden", field) for field in fields}
    back = {field: curve(found.moments, "back", field) for field in fields}
    excess = [
        hidden["picture"][step]["mean"] - hidden["undisturbed"][step]["mean"] for step in hidden["picture"]
    ]
    recovered = [
        step
        for step in back["picture"]
        if back["picture"][step]["mean"] <= BACK * back["undisturbed"][step]["mean"]
    ]
    apart, distance = ([hidden[f][step]["mean"] for step in hidden[f]] for f in ("apart", "distance"))
    return {
        "ticks": found.ticks,
        "restarts": found.restarts,
        "ticks_lost": found.lost,
        "ticks_without_frame": found.unseen,
        "blackouts": sum(moment.hidden == 1 for moment in found.moments),
        "hidden": hidden,
        "back": back,
        "largest_rise_share": {
            "picture": _largest_rise(excess),
            "apart": _largest_rise(apart),
            "distance": _largest_rise(distance),
        },
        "ticks_until_back": min(recovered, default=None),
        "counters": found.counters,
    }


def _largest_rise(values: Sequence[float]) -> float:
    """The largest step from one tick to the next, as a share of the whole way up from 0: 1 is a cliff."""
    path = np.array([0.0, *values])
    whole = float(path.max())
    return float(np.diff(path).max() / whole) if whole > 0 else 0.0
