"""From ticks to figures: one target's score, and the sums by which two evaluations are paired."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.calibration import Depths, thresholds_of
from rssm_ros.evaluation.playing.rows import LEAST_STD
from rssm_ros.evaluation.scoring import measures
from rssm_ros.evaluation.scoring.judged import Judged
from rssm_ros.evaluation.scoring.measures import Runs
from rssm_ros.evaluation.scoring.scorecard import Baseline, Errors, FirstAppearances, TargetScore
from rssm_ros.evaluation.scoring.trackers import EXACT_BAYES, PRIVILEGED, Tracked
from rssm_ros.evaluation.statistics import Estimate, chi_squared
from rssm_ros.evaluation.ticks import Ticks
from rssm_ros.online.regions import LEVELS, RegionMap, age_class, log_density

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
# Ticks of an episode that the ratio to the exact filter leaves out, as `rssm evaluate-dot` does: before
# anything was seen nobody knows anything, and two ignorances compare well.
SETTLING = 8


def errors_of(item: Judged, mean: Floats) -> Errors:
    """Of anybody's positions [T, d]."""
    square, known = np.square(mean - item.data.truth).sum(-1), np.isfinite(item.data.truth).all(-1)
    lengths = measures.length_masks(item.hidden_for)
    fractions = {n: m & known for n, m in measures.fraction_masks(item.data.visibility).items()}
    hidden = item.masks["hidden"]
    history = {"seen_before": hidden & item.before, "never_seen": hidden & ~item.before}
    kinds = (item.masks, lengths, fractions, history)
    return Errors(*(measures.by_group(square, item.blocks, masks) for masks in kinds))


def baseline_of(item: Judged, other: Tracked) -> Baseline:
    """What somebody else scores; regions are those of the normal distribution that it claims."""
    errors = errors_of(item, other.mean)
    if other.std is None:
        return Baseline(errors, other.kind, other.about)
    std = np.maximum(other.std, LEAST_STD)
    nll = -log_density(other.mean[:, None], std[:, None], item.data.truth)
    square = np.square((item.data.truth - other.mean) / std).sum(-1)
    limits = {f"{100 * level:g}": chi_squared(item.spec.dim, level) for level in LEVELS}
    known = np.isfinite(square)
    inside = {level: np.where(known, square <= limit, np.nan) for level, limit in limits.items()}

    def grouped(values: Floats) -> dict[str, Estimate]:
        return {name: measures.average(values, item.blocks, mask) for name, mask in item.masks.items()}

    coverage = {level: grouped(hits) for level, hits in inside.items()}
    return Baseline(errors, other.kind, other.about, grouped(nll), coverage)


def first_appearances(item: Judged, runs: Runs) -> FirstAppearances:
    """What there is to tell of hidden runs at whose end something appears for the first time."""
    visible = item.masks["visible"]
    curve, median, never = measures.ticks_to_reacquire(
        item.square, runs, item.blocks, visible, patience(item.dt)
    )
    return FirstAppearances(
        count=len(runs.back),
        rmse=measures.rmse(item.square, item.blocks, at_ticks(runs.back, len(visible))),
        rmse_after=measures.after_reappearance(item.square, runs, item.blocks, visible),
        ticks_to_acquire=curve,
        ticks_to_acquire_median=median,
        never_acquired=never,
    )


def patience(dt: float) -> int:
    """Ticks in view after which what was not found is lost."""
    return max(1, round(measures.LOST_AFTER_S / dt))


def settled(episode: Array) -> Array:
    """[T] false in the first ticks of every episode; `episode` [T] numbers them in order."""
    first = np.searchsorted(episode, episode)
    return np.asarray(np.arange(len(episode)) - first >= SETTLING)


def at_ticks(rows: Array, count: int) -> Array:
    """[T] true at these ticks."""
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask


def score_target(
    item: Judged, table: Mapping[str, Tracked], inside: Mapping[str, Floats], reference: str
) -> TargetScore:
    """Everything about one target. inside: see `inside_of`; reference: what counts as true."""
    square, blocks, masks = item.square, item.blocks, item.masks
    visible, hidden = masks["visible"], masks["hidden"]
    count, runs = measures.hidden_runs(hidden, visible, item.episode, item.identity)
    before = item.before[runs.begin]
    first, again = runs.only(~before), runs.only(before)
    most = patience(item.dt)
    curve, median, lost = measures.ticks_to_reacquire(square, again, blocks, visible, most)
    back = at_ticks(again.back, len(square))
    baselines = {name: baseline_of(item, other) for name, other in table.items()}
    best = best_classical(baselines)

    def against(name: str | None, mask: Array = hidden) -> Estimate | None:
        if name is None or name not in table:
            return None
        other = np.square(table[name].mean - item.data.truth).sum(-1)
        return measures.rmse_ratio(square, other, blocks, mask)

    mean = item.rest.to_rest(item.data.mean) if item.data.mean.shape[1] == 2 else item.data.mean
    return TargetScore(
        unit=item.spec.unit,
        reference=reference,
        ticks={name: int(mask.sum()) for name, mask in masks.items()},
        hidden_runs=count,
        reappearances=len(again.back),
        errors=errors_of(item, item.data.mean),
        rmse_at_reappearance=measures.rmse(square, blocks, back),
        rmse_after_reappearance=measures.after_reappearance(square, again, blocks, visible),
        ticks_to_reacquire=curve,
        ticks_to_reacquire_median=median,
        nll={name: measures.average(item.data.nll, blocks, mask) for name, mask in masks.items()},
        coverage=coverage(item, inside),
        **correlations(item),
        tracks_lost=lost,
        identity_swaps=measures.identity_swaps(mean, item.place, item.identity, visible, most),
        open_loop=open_loop(item),
        baselines=baselines,
        best_classical=best,
        ratio_to_best_classical=against(best),
        ratio_to_privileged=against(next((name for name in PRIVILEGED if name in table), None)),
        ratio_to_bayes=against(EXACT_BAYES, hidden & settled(item.episode)),
        first_appearances=first_appearances(item, first),
    )


def correlations(item: Judged) -> dict[str, Any]:
    """How deviations follow what can be seen, and errors; keys as in `TargetScore`."""
    square, blocks = item.square, item.blocks
    known = np.isfinite(item.data.truth).all(-1)
    visibility = np.where(known, item.data.visibility, np.nan)
    log_std = item.data.log_std
    exact_std = np.maximum(item.data.exact[:, -1], LEAST_STD)
    group = measures.doubts(visibility, item.hidden_for, item.before)
    variance = np.where(np.isfinite(square), np.exp(2 * log_std), np.nan)
    log_error = np.log(square, out=np.full(len(square), np.nan), where=square > 0) / 2
    return {
        "std_visibility_corr": measures.correlation(np.exp(log_std), visibility, blocks),
        "log_std_visibility_corr": measures.correlation(log_std, visibility, blocks),
        "exact_log_std_visibility_corr": (
            measures.correlation(np.log(exact_std), visibility, blocks)
            if np.isfinite(exact_std).any()
            else None
        ),
        "log_std_visibility_corr_by_group": {
            "claimed": measures.correlation_by_group(variance, visibility, group, blocks),
            "honest": measures.correlation_by_group(square, visibility, group, blocks),
        },
        "log_std_log_error_corr": measures.correlation(log_std, log_error, blocks),
    }


def best_classical(baselines: Mapping[str, Baseline]) -> str | None:
    """The classical one with the least hidden error; None where nothing was hidden."""
    errors = {
        name: item.errors.by_group["hidden"].value
        for name, item in baselines.items()
        if item.kind == "classical" and math.isfinite(item.errors.by_group["hidden"].value)
    }
    return min(errors, key=lambda name: errors[name]) if errors else None


def inside_of(
    item: Judged, region: RegionMap | None, modalities: Sequence[str], ticks: Ticks
) -> dict[str, Floats]:
    """{"50": [T] 1 where the region of that level holds the truth, 0 where not, ...}; none uncalibrated."""
    if region is None or not len(ticks):
        return {}
    classes = np.vectorize(age_class, otypes=[np.int64])(ticks.ages)
    data, masks = item.data, item.masks
    depths = Depths(data.depth, data.log_std, classes, item.episode, masks["visible"], masks["hidden"])
    return {
        f"{100 * level:g}": (data.depth <= thresholds_of(region, depths, modalities, level)).astype(float)
        for level in region.levels
    }


def coverage(item: Judged, inside: Mapping[str, Floats]) -> dict[str, dict[str, Estimate]]:
    """How often the calibrated regions hold the truth; nothing of a bundle without calibration."""
    return {
        level: {name: measures.average(hits, item.blocks, mask) for name, mask in item.masks.items()}
        for level, hits in inside.items()
    }


def open_loop(item: Judged) -> dict[str, Estimate]:
    """RMSE by ticks predicted, from beliefs about something that was not hidden, while it is the same."""
    paths, found = item.data.open_loop, {}
    ticks, whole = len(item.episode), np.isfinite(paths).all((1, 2))
    starts = np.flatnonzero(whole & item.seen) if paths.shape[1] else np.zeros(0, int)
    for ahead in range(1, paths.shape[1] + 1):
        at = np.minimum(starts + ahead, ticks - 1)
        same = (item.identity[at] == item.identity[starts]) & (item.identity[starts] >= 0)
        good = same & (starts + ahead < ticks) & (item.episode[at] == item.episode[starts])
        square = np.square(paths[starts, ahead - 1] - item.data.truth[at]).sum(-1)
        found[str(ahead)] = measures.rmse(square, item.blocks[starts], good)
    return found


def episode_sums(
    item: Judged,
    table: Mapping[str, Tracked],
    inside: Mapping[str, Floats],
    rows: slice,
) -> dict[str, Any]:
    """One target in one episode (its rows of the ticks): the sums by which evaluations are paired.

    "blocks": the same by stretch, where the episode is more than one; without baselines.
    """
    blocks = item.blocks[rows] - item.blocks[rows].min()

    def sums(values: Array) -> dict[str, Floats]:  # per group [stretches]
        masks = item.masks.items()
        return {name: measures.per_block(values[rows], blocks, mask[rows])[0] for name, mask in masks}

    count = int(blocks.max()) + 1
    told = {
        "ticks": sums(np.ones(len(item.episode), np.int64)),
        "squared_error_sum": sums(item.square),
        "nll_sum": sums(item.data.nll),
    }
    levels = {level: sums(hits) for level, hits in inside.items()}

    def picked(pick: Callable[[Floats], float]) -> dict[str, Any]:
        plain = {key: {name: pick(part) for name, part in groups.items()} for key, groups in told.items()}
        plain["ticks"] = {name: int(number) for name, number in plain["ticks"].items()}
        within = {level: {name: pick(part) for name, part in of.items()} for level, of in levels.items()}
        return {**plain, "inside": within}

    whole = picked(lambda part: float(part.sum()))
    stretches = [picked(lambda part, at=at: float(part[at])) for at in range(count)]  # type: ignore[misc]
    others = {name: sums(np.square(other.mean - item.data.truth).sum(-1)) for name, other in table.items()}
    baselines = {
        name: {"squared_error_sum": {group: float(part.sum()) for group, part in of.items()}}
        for name, of in others.items()
    }
    return {**whole, "baselines": baselines, "blocks": stretches if count > 1 else []}
