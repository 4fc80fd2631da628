"""`rssm evaluate`: bags and collected episodes to a scorecard and a trace, on all cores."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros import provenance
from rssm_ros.bundle import Bundle
from rssm_ros.contract import Contract
from rssm_ros.evaluation.baselines.detecting import Detector, calibrated
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.imposed import ImposedRecording
from rssm_ros.evaluation.playing.play import UNOCCLUDED, How, Played
from rssm_ros.evaluation.playing.sources import Source, Unusable, Watch, play_all
from rssm_ros.evaluation.scoring import measures, trackers
from rssm_ros.evaluation.scoring import targets as scoring
from rssm_ros.evaluation.scoring.judged import Judged, judged
from rssm_ros.evaluation.scoring.notes import notes_of
from rssm_ros.evaluation.scoring.scorecard import (
    TRACE_FILE,
    Episode,
    ImagePrediction,
    Scorecard,
    TargetScore,
    read_scorecard,
    weakest_correlation,
)
from rssm_ros.evaluation.scoring.surprises import surprise_of
from rssm_ros.evaluation.scoring.trackers import Tracked
from rssm_ros.evaluation.statistics import Estimate
from rssm_ros.evaluation.ticks import Ticks
from rssm_ros.online.regions import regions_of
from rssm_ros.online.session import Session
from rssm_ros.recordings import Recording, RecordingError

Array = npt.NDArray[Any]
Summing = Callable[[slice], dict[str, Any]]  # of some ticks: sums by which runs are compared
# What a shipped bundle must reach.
BAYES_RATIO = (0.0, 1.15)
HIDDEN_RATIO, REACQUIRED, COVERED_90 = (0.0, 0.5), (0.0, 2.0), (0.88, 0.92)
LEFT_OUT = "left out: "  # begins the note on a recording that could not be used
UNJUDGED = "nothing was both seen and hidden: no bound of a shipped bundle was asked for"


# -- the scorecard -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """A scorecard and the run behind it."""

    scorecard: Scorecard
    trace: Mapping[str, Array]
    unusable: tuple[Unusable, ...] = ()  # recordings of which nothing came

    def write(self, folder: Path) -> None:
        """scorecard.json and trace.npz in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{TRACE_FILE}.part.npz"
        np.savez_compressed(temporary, allow_pickle=False, **self.trace)
        temporary.replace(folder / TRACE_FILE)
        self.scorecard.write(folder)


def evaluate(
    session: Session,
    found: Sequence[Source],
    how: How,
    workers: int = 1,
    validation: Sequence[Source] = (),
    watch: Watch | None = None,
    check: bool = True,
    ray: str = "",
) -> Evaluation:
    """Plays everything and scores it. Raises EvaluationError, RecordingError.

    A recording that cannot be used does not take the others with it: the scorecard is of those, names it in
    its notes, and has a check that fails.
    validation: data on which the classical trackers are tuned; without it they are tuned in hindsight.
    check: whether the bounds of a shipped bundle are asked for. ray: the address of a cluster to work on.
    """
    if not found:
        raise EvaluationError("there is nothing to evaluate; give bags or folders of collected episodes")
    priors: dict[str, trackers.Priors] = {}
    unused: list[Unusable] = []
    about = _about(how.models, session.bundle)  # refuses before anything is played
    if validation:
        how = replace(how, detectors=_detectors(session.bundle.contract, validation))
        priors, unused = _priors(session, validation, how, workers, ray)
    begun = time.monotonic()
    good, unusable = play_all(session, found, how, workers, watch, ray)
    wall_s = time.monotonic() - begun
    return summarise(session, good, how, priors, wall_s, check, [*unusable, *unused], about)


def _about(models: Mapping[str, str], bundle: Bundle) -> dict[str, str]:
    """What is to be said of each baseline model; torch is loaded only where there is any."""
    taken = [name for name in models if name in trackers.NAMES]
    if taken:
        raise EvaluationError(f"--baseline-model {taken[0]}=...: another baseline has that name")
    if not models:
        return {}
    from rssm_ros.evaluation.baselines.networks import about

    return about(models, bundle)


def _detectors(contract: Contract, validation: Sequence[Source]) -> dict[str, Detector]:
    """By target; none of one whose place in the picture nobody knows."""

    def opened() -> Iterator[Recording]:
        for source in validation:
            with suppress(RecordingError, EvaluationError):  # told when it is played
                yield source.open(contract)

    found = {spec.name: calibrated(contract, spec.name, opened()) for spec in contract.targets}
    return {name: detector for name, detector in found.items() if detector is not None}


def _priors(
    session: Session, validation: Sequence[Source], how: How, workers: int, ray: str
) -> tuple[dict[str, trackers.Priors], list[Unusable]]:
    quick = How(how.particles, how.seed, memoryless=False, open_loop_every=0, detectors=how.detectors)
    good, bad = play_all(session, validation, quick, workers, ray=ray)
    ticks, contract = joined([item for _, item in good]), session.bundle.contract
    targets = contract.targets
    return {spec.name: trackers.priors_of(judged(contract, spec, ticks)) for spec in targets}, bad


def joined(played: Sequence[Played]) -> Ticks:
    """All ticks, with episodes numbered over all recordings."""
    parts, offset = [], 0
    for item in played:
        values = {**vars(item.ticks), "episode": item.ticks.episode + offset}
        parts.append(Ticks(**values))
        offset = int(parts[-1].episode.max()) + 1
    return Ticks.joined(parts)


def summarise(
    session: Session,
    good: Sequence[tuple[Source, Played]],
    how: How,
    priors: Mapping[str, trackers.Priors],
    wall_s: float,
    check: bool,
    unusable: Sequence[Unusable] = (),
    about: Mapping[str, str] | None = None,
) -> Evaluation:
    """The scorecard of what was played. about: of every baseline model, in the order of `how.models`."""
    bundle, contract = session.bundle, session.bundle.contract
    found, played = [source for source, _ in good], [item for _, item in good]
    ticks = joined(played)
    regions, modalities = regions_of(bundle), [spec.name for spec in contract.observations]
    surprise, limits, begins = surprise_of(ticks, bundle)
    trace = _trace(ticks, limits, begins)
    targets: dict[str, TargetScore] = {}
    sums: dict[str, Summing] = {}
    for spec in contract.targets:
        reference = {item.references[spec.name] for item in played if spec.name in item.references}
        if not reference:
            continue
        item = judged(contract, spec, ticks)
        table = trackers.trackers(item, priors.get(spec.name), about or {})
        inside = scoring.inside_of(item, regions.get(spec.name), modalities, ticks)
        targets[spec.name] = scoring.score_target(item, table, inside, " and ".join(sorted(reference)))
        sums[spec.name] = _summing(item, table, inside)
        trace |= _target_trace(item, table)
    checks, notes = _judged(session, how, played, targets, unusable, check)
    recorded_s = sum(item.recorded_s for item in played)
    references = {value for item in played for value in item.references.values()}
    seconds = np.sort(ticks.seconds) * 1e3
    scorecard = Scorecard(
        status="pass" if all(item["pass"] for item in checks) else "fail",
        checks=tuple(checks),
        bundle=bundle.name,
        bundle_sha256=bundle.sha256,
        contract=contract.name,
        rate=float(contract.rate),
        bags=tuple(dict.fromkeys(source.bag for source in found)),
        episodes=_episodes(found, how, played, ticks, sums),
        truth="imposed" if references == {UNOCCLUDED} else "topics",
        impose="+".join(str(item) for item in how.imposed) or None,
        seeds={"filter": how.seed, "impose": how.impose_seed, "bootstrap": 0},
        particles=how.particles,
        targets=targets,
        image_prediction=_pictures(played, ticks, contract, bool(how.imposed)),
        surprise=surprise,
        messages=messages_of(played, contract),
        latency_ms={p: float(np.percentile(seconds, int(p[1:]))) for p in ("p50", "p99")},
        wall_s=wall_s,
        recorded_s=recorded_s,
        realtime_factor=recorded_s / wall_s,
        versions=provenance.versions("numpy", "onnxruntime", "rosbags"),
        machine=provenance.machine(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        notes=tuple(notes),
    )
    return Evaluation(scorecard, trace, tuple(unusable))


def _judged(
    session: Session,
    how: How,
    played: Sequence[Played],
    targets: Mapping[str, TargetScore],
    unusable: Sequence[Unusable],
    check: bool,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Checks, and what a reader has to know."""
    checks = _checks(targets) if check else []
    notes = [*notes_of(session, how, played), *([UNJUDGED] if check and not checks else [])]
    if unusable:
        checks.append(_check("recordings_left_out", Estimate(len(unusable), math.nan, math.nan), (0.0, 0.0)))
        notes[:0] = [f"{LEFT_OUT}{item}" for item in unusable]
    return checks, notes


def _summing(item: Judged, table: Mapping[str, Tracked], inside: Mapping[str, Array]) -> Summing:
    return lambda rows: scoring.episode_sums(item, table, inside, rows)


def _episodes(
    found: Sequence[Source],
    how: How,
    played: Sequence[Played],
    ticks: Ticks,
    sums: Mapping[str, Summing],
) -> tuple[Episode, ...]:
    made, number = [], 0
    imposed = "+".join(str(item) for item in how.imposed)
    suffix = f" {imposed} {how.impose_seed}" if imposed else ""
    for source, item in zip(found, played, strict=True):
        for within in range(int(item.ticks.episode.max()) + 1):
            begin, end = np.searchsorted(ticks.episode, [number, number + 1]).tolist()
            t0 = int(ticks.t_ns[begin])
            name = source.name if within == 0 else f"{source.name} ({within + 1})"
            targets = {target: of(slice(begin, end)) for target, of in sums.items()}
            made.append(Episode(f"{source.id}@{t0}{suffix}", name, t0, end - begin, targets))
            number += 1
    return tuple(made)


def _trace(ticks: Ticks, limits: Array, begins: Array) -> dict[str, Array]:
    return {
        "episode": ticks.episode,
        "t_ns": ticks.t_ns,
        "surprise": ticks.surprise.astype(np.float32),
        "threshold": limits.astype(np.float32),
        "review": begins,
        "imposed": ticks.imposed,
    }


def _target_trace(item: Judged, table: Mapping[str, Tracked]) -> dict[str, Array]:
    name, data = item.spec.name, item.data
    columns: dict[str, Array] = {
        "truth": data.truth,
        "mean": data.mean,
        "covariance": data.covariance,
        "visibility": data.visibility,
    }
    columns |= {f"baseline/{name}": other.mean for name, other in table.items()}
    trace = {f"{name}/{column}": values.astype(np.float32) for column, values in columns.items()}
    return trace | {f"{name}/hidden_for": item.hidden_for, f"{name}/identity": item.identity}


def messages_of(played: Sequence[Played], contract: Contract) -> dict[str, Any]:
    """What became of the messages: totals by cause, and by topic. `dropped`: never reached the filter."""
    topics = {spec.name: spec.topic for spec in contract.observations}
    total: Counter[str] = Counter()
    by_topic: dict[str, Counter[str]] = {}
    for item in played:
        for key, count in item.counters.items():
            if key.startswith("skipped/"):
                _, topic, cause = key.split("/", 1)[0], *key.removeprefix("skipped/").rsplit("/", 1)
                by_topic.setdefault(topic, Counter()).update({cause: count, "dropped": count})
                total.update({cause: count, "dropped": count})
            elif "/" in key:
                source, cause = key.rsplit("/", 1)
                by_topic.setdefault(topics.get(source, source), Counter())[cause] += count
            else:
                total[key] += count
        total["lost_ticks"] += item.lost_ticks
    for counts in by_topic.values():
        for cause in _REFUSED:
            counts["dropped"] += counts[cause]
            total["dropped"] += counts[cause]
    named = {name: int(total[name]) for name in ("late", "dropped", "duplicate", "out_of_order")}
    rest = {name: int(count) for name, count in sorted(total.items()) if name not in named}
    return {**named, **rest, "by_topic": {k: _counts(v) for k, v in sorted(by_topic.items())}}


_REFUSED = ("too_old", "future", "unset", "shape", "encoding", "non_finite", "before_episode")


def _counts(counts: Counter[str]) -> dict[str, int]:
    return {name: int(count) for name, count in sorted(counts.items())}


def _pictures(
    played: Sequence[Played], ticks: Ticks, contract: Contract, imposed: bool
) -> dict[str, ImagePrediction]:
    blocks = measures.blocks_of(ticks.episode, contract.dt)
    found: dict[str, ImagePrediction] = {}
    for camera in played[0].pictures:
        rows, offset = [], 0
        for item in played:
            rows.append(item.pictures[camera] + np.array([offset, 0, 0, 0, 0, 0, 0]))
            offset += len(item.ticks)
        table = np.concatenate(rows)
        if not len(table):
            continue
        block = blocks[table[:, 0].astype(int)]
        ones = np.ones(len(table), bool)
        figures = [measures.average(table[:, column], block, ones) for column in range(1, 7)]
        baselines = {"last picture": dict(zip(("psnr_db", "ssim"), figures[2:4]))}
        if math.isfinite(figures[4].value):
            baselines["unoccluded run"] = dict(zip(("psnr_db", "ssim"), figures[4:6]))
        found[camera] = ImagePrediction(
            figures[0],
            figures[1],
            len(table),
            "covered" if imposed else "first re-appearance",
            baselines,
        )
    return found


def _checks(targets: Mapping[str, TargetScore]) -> list[dict[str, Any]]:
    """What a shipped bundle must reach, for the first target that was both seen and hidden."""
    for name, score in targets.items():
        if score.ticks["hidden"] and score.ticks["visible"]:
            held = score.coverage.get("90", {})
            figures: list[tuple[str, Estimate | None, tuple[float, float]]] = [
                ("hidden_to_best_classical", score.ratio_to_best_classical, HIDDEN_RATIO),
                ("ticks_to_reacquire", score.ticks_to_reacquire, REACQUIRED),
                ("coverage_90_visible", held.get("visible"), COVERED_90),
                ("coverage_90_hidden", held.get("hidden"), COVERED_90),
            ]
            weakest = weakest_correlation(score)
            if weakest is not None:
                found = score.log_std_visibility_corr
                figures.append(("log_std_visibility_corr", found, (-1.0, weakest)))
            if score.ratio_to_bayes is not None:  # what is possible is known: that is the measure
                figures[0] = ("hidden_to_exact_bayes", score.ratio_to_bayes, BAYES_RATIO)
            return [_check(f"{name} {what}", figure, bounds) for what, figure, bounds in figures]
    return []


def _check(name: str, figure: Estimate | None, bounds: tuple[float, float]) -> dict[str, Any]:
    value = None if figure is None or not math.isfinite(figure.value) else figure.value
    low, high = bounds
    bound = f"{low:g} to {high:g}" if low > 0 else f"<= {high:g}"
    return {"name": name, "value": value, "bound": bound, "pass": value is not None and low <= value <= high}


def recording_of(
    session: Session, found: Sequence[Source], how: How, folder: Path
) -> Callable[[int], Recording | None]:
    """Index into a written scorecard's episodes -> the recording as the filter was given it."""
    card = read_scorecard(folder)
    contract = session.bundle.contract

    def open_one(index: int) -> Recording | None:
        wanted = card.episodes[index].id.split("@")[0]
        source = next((item for item in found if item.id == wanted), None)
        if source is None:
            return None
        recording = source.open(contract)
        return ImposedRecording(recording, how.imposed, how.impose_seed) if how.imposed else recording

    return open_one
