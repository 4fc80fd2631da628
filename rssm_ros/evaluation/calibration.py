"""Calibration: what surprise is normal, and how far a target's regions must reach to keep their promise.

Fitted on held-out episodes, checked on others. Thresholds and maps read only what a robot knows; the true
positions and their visibility serve to fit and to check.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN, VISIBLE, Contract
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.filtering import Filtered
from rssm_ros.evaluation.statistics import ENOUGH_RUNS, estimate, ratio
from rssm_ros.online.regions import LEVELS, RegionMap, age_class, depth, spread
from rssm_ros.online.surprise import Review

Array = npt.NDArray[Any]
ENOUGH = 1000  # ticks of a presence pattern: the fewest of which a high percentile says anything
KNOTS = 12  # of the map along std: bins with equally many ticks
FEW = 300  # ticks of an age class below which its gain stays that of the class before
ROUNDS = 4  # of the alternating fit of the gains
GROUPS = ("visible", "hidden")
CHECKED, BOUNDS = 0.9, (0.88, 0.92)  # the level whose coverage is judged, and what is good enough


def surprise_thresholds(recorded: Filtered, thinned: Filtered, percentile: float) -> dict[str, float]:
    """Presence pattern -> the surprise (nats) that `percentile` of its normal ticks stay below.

    A pattern that is too rare as recorded is judged by the thinned run, too; with fewer than 1,000 ticks in
    both it is left out, and raises no alarm. Ticks with nothing seen have no surprise, and a first tick,
    where everything is new, says nothing.
    """
    both, thresholds = Filtered.joined([recorded, thinned]), {}
    for name in sorted(set(both.patterns.tolist()) - {""}):
        values = _normal(recorded, name)
        values = values if len(values) >= ENOUGH else _normal(both, name)
        if len(values) >= ENOUGH:
            thresholds[str(name)] = round(float(np.percentile(values, percentile)), 3)
    return thresholds


def _normal(filtered: Filtered, name: str) -> Array:
    counts = (filtered.patterns == name) & np.isfinite(filtered.surprise) & ~filtered.first
    return np.asarray(filtered.surprise[counts])


def reviews(filtered: Filtered, thresholds: Mapping[str, float], after: int) -> list[int]:
    """The ticks (indices) at which the surprise has been above its threshold for `after` in a row."""
    found, watch, episode = [], Review(after), -1
    for tick, surprise in enumerate(filtered.surprise):
        if filtered.episode[tick] != episode:
            watch, episode = Review(after), filtered.episode[tick]
        if watch.tell(float(surprise), thresholds.get(str(filtered.patterns[tick]), np.nan)):
            found.append(tick)
    return found


@dataclass(frozen=True)
class Depths:
    """One target's labelled ticks as the map sees them, with what only the check may know."""

    depth: Array  # [T] nats
    log_std: Array  # [T]
    classes: Array  # [T, M] age classes
    episode: Array  # [T]
    visible: Array  # [T]
    hidden: Array  # [T]

    @staticmethod
    def of(filtered: Filtered, target: str) -> "Depths":
        """The ticks of a run that have a label for this target."""
        track = filtered.tracks[target]
        known = np.isfinite(track.truth).all(-1)
        mean, std = track.mean[known], track.std[known]
        classes = np.vectorize(age_class, otypes=[np.int64])(filtered.ages[known])
        return Depths(
            depth=depth(mean, std, track.truth[known]),
            log_std=np.log(spread(mean, std)),
            classes=classes.reshape(len(mean), -1),
            episode=filtered.episode[known],
            visible=track.visibility[known] >= VISIBLE,
            hidden=track.visibility[known] <= HIDDEN,
        )

    def hidden_runs(self) -> int:
        """How often the target went out of sight, or an episode began with it hidden."""
        before = np.r_[False, self.hidden[:-1] & (self.episode[1:] == self.episode[:-1])]
        return int((self.hidden & ~before).sum())


def fit_regions(filtered: Filtered, modalities: Sequence[str], target: str) -> RegionMap:
    """The calibration map of one target from a run over validation data.

    base: per level the quantile of the depth of the truth, in bins of std, of ticks where everything is seen
    now. gain: per modality and class of age the factor by which that quantile grows, the other modalities'
    gains taken out. Raises EvaluationError where there are too few labelled ticks.
    """
    data = Depths.of(filtered, target)
    fresh = (data.classes == 0).all(-1)
    if fresh.sum() < KNOTS * ENOUGH // 10:
        raise EvaluationError(
            f"target {target!r} has {int(fresh.sum())} labelled ticks with everything seen; collect more"
        )
    edges = np.quantile(data.log_std[fresh], np.linspace(0.0, 1.0, KNOTS + 1))
    bins = np.clip(np.searchsorted(edges, data.log_std, side="right") - 1, 0, KNOTS - 1)
    knots = np.array([np.median(data.log_std[fresh & (bins == b)]) for b in range(KNOTS)])
    base, gains = [], []
    for level in LEVELS:
        row = np.array([np.quantile(data.depth[fresh & (bins == b)], level) for b in range(KNOTS)])
        base.append(_rounded(row))
        gains.append(_fit_gains(data.depth / np.interp(data.log_std, knots, row), data.classes, level))
    gain = {name: tuple(_rounded(rows[at]) for rows in gains) for at, name in enumerate(modalities)}
    return RegionMap(LEVELS, _rounded(knots), tuple(base), gain)


def _fit_gains(relative: Array, classes: Array, level: float) -> Array:
    """[M, classes]: factors whose product makes `level` of each class of ages lie within."""
    modalities, many = classes.shape[1], 1 + max(int(classes.max(initial=0)), age_class(-1))
    gain = np.ones((modalities, many))
    for _ in range(ROUNDS):
        for m in range(modalities):
            others = np.prod([gain[o][classes[:, o]] for o in range(modalities) if o != m], axis=0)
            for c in range(1, many):
                chosen = classes[:, m] == c
                enough = int(chosen.sum()) >= FEW
                gain[m, c] = np.quantile((relative / others)[chosen], level) if enough else gain[m, c - 1]
    return gain


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)


def thresholds_of(region: RegionMap, data: Depths, modalities: Sequence[str], level: float) -> Array:
    """`RegionMap.threshold` for every tick at once, [T]."""
    row = region.levels.index(level)
    c = np.interp(data.log_std, region.log_std, region.base[row])
    for at, name in enumerate(modalities):
        c = c * np.asarray(region.gain[name][row])[data.classes[:, at]]
    return np.asarray(c)


def coverage(
    filtered: Filtered, regions: Mapping[str, RegionMap], modalities: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Per target how often its regions hold the truth: {"0.9": {"visible": {value, ci95}, "hidden": ...}}.

    Intervals come from resampling episodes. Also the ticks of each kind and the number of hidden runs.
    """
    report: dict[str, dict[str, Any]] = {}
    for target, region in regions.items():
        data = Depths.of(filtered, target)
        groups = dict(zip(GROUPS, (data.visible, data.hidden), strict=True))
        entry: dict[str, Any] = {"hidden_runs": data.hidden_runs()}
        entry["ticks"] = {name: int(mask.sum()) for name, mask in groups.items()}
        for level in region.levels:
            inside = data.depth <= thresholds_of(region, data, modalities, level)
            entry[str(level)] = {
                name: _share(inside[mask], data.episode[mask]) for name, mask in groups.items() if mask.any()
            }
        report[target] = entry
    return report


def _share(inside: Array, episode: Array) -> dict[str, Any]:
    _, index = np.unique(episode, return_inverse=True)
    hits, ticks = np.bincount(index, inside.astype(float)), np.bincount(index)
    return estimate(ratio, hits, ticks).to_dict()


def false_alarms(
    filtered: Filtered, thresholds: Mapping[str, float], after: int, dt: float
) -> dict[str, float]:
    """Reviews on data without a fault: `reviews`, `hours`, `per_hour`, and `above`, the share of single
    ticks."""
    limits = np.array([thresholds.get(str(name), np.nan) for name in filtered.patterns])
    judged = np.isfinite(filtered.surprise) & np.isfinite(limits)
    hours, found = len(filtered.surprise) * dt / 3600, len(reviews(filtered, thresholds, after))
    above = float((filtered.surprise > limits)[judged].mean()) if judged.any() else float("nan")
    return {"reviews": found, "hours": round(hours, 3), "per_hour": round(found / hours, 2), "above": above}


@dataclass(frozen=True)
class Calibration:
    """What `rssm calibrate` found: for bundle.json, and how it did on data it had not seen."""

    surprise: dict[str, float]  # presence pattern -> nats
    regions: dict[str, RegionMap]
    report: dict[str, Any]


def calibrate(
    fitted: Sequence[Filtered], held_out: Filtered, contract: Contract, percentile: float, after: int
) -> Calibration:
    """Fits on a run over validation data, (as recorded, thinned), and checks on another one, as recorded.

    The report's checks, per target: 90 % regions hold the truth in 88 to 92 % of the ticks, visible and
    hidden, and enough hidden runs to say so. What cannot be checked fails.
    """
    recorded, thin = fitted
    names = [spec.name for spec in contract.observations]
    surprise = surprise_thresholds(recorded, thin, percentile)
    both = Filtered.joined([recorded, thin])
    regions = {target.name: fit_regions(both, names, target.name) for target in contract.targets}
    found = coverage(held_out, regions, names)
    ticks = len(held_out.surprise)
    checks = [check for target, entry in found.items() for check in _checks(target, entry, ticks)]
    report = {
        "coverage": found,
        "false_alarms": {"after": after, **false_alarms(held_out, surprise, after, contract.dt)},
        "checks": checks,
        "status": "pass" if all(check["pass"] for check in checks) else "fail",
    }
    return Calibration(surprise, regions, report)


def _checks(target: str, entry: Mapping[str, Any], ticks: int) -> list[dict[str, Any]]:
    """One target's checks, from its entry of `coverage` over so many ticks. One that fails for lack of data
    says in `advice` how much is needed."""
    checks = []
    for group in GROUPS:
        figure = entry[str(CHECKED)].get(group)
        value = None if figure is None else figure["value"]
        good = value is not None and BOUNDS[0] <= value <= BOUNDS[1]
        check = {"name": f"{target} {group}", "value": value, "bound": f"{BOUNDS[0]:g} to {BOUNDS[1]:g}"}
        advice = f"none of the {ticks} ticks is labelled {group}; check on data with visibility labels"
        checks.append(check | {"pass": good} | ({"advice": advice} if value is None else {}))
    runs = entry["hidden_runs"]
    check = {"name": f"{target} hidden_runs", "value": runs, "bound": f">= {ENOUGH_RUNS}"}
    check["pass"] = runs >= ENOUGH_RUNS
    if not check["pass"]:
        needed = f"it takes about {-(-ticks * ENOUGH_RUNS // runs)} like these" if runs else "none is in them"
        check["advice"] = f"{ticks} ticks to check on are too few: {needed}; give more with --check"
    return [*checks, check]
