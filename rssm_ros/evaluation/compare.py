"""Scorecards side by side: which run is better, and is the difference more than chance?

The first run is what the others are compared with. Where two runs saw the same episodes (equal ids), errors,
coverage and likelihood are differences of pairs: one resampling of episodes (or of the stretches in them)
serves both, so what made a stretch hard for both drops out. Without common episodes both are resampled by
themselves. Figures that a scorecard does not keep by episode are compared by their intervals, as if
independent, which is careful where they are not. Clear is a difference whose 95 % interval does not hold 0.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.scoring.scorecard import Episode, Scorecard, TargetScore, read_scorecard
from rssm_ros.evaluation.statistics import DRAWS, Estimate, Vector, ratio, root_ratio
from rssm_ros.evaluation.units import NATS, PERCENT, RATIO, TICKS, Scale

# Stretches below which a difference has no interval: of five, all point the same way by chance in 6 % of
# cases, and resampling them would never show the other.
FEWEST = 6
GROUPS = ("visible", "partly", "hidden")
UNKNOWN = Estimate(math.nan, math.nan, math.nan)
PAIRED, APART, INTERVALS = "paired", "apart", "intervals"  # how a difference's interval was made
Sums = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # numerator and ticks, one per episode


@dataclass(frozen=True)
class Difference:
    """A run's figure less the first run's."""

    figure: Estimate
    how: str  # PAIRED, APART or INTERVALS
    episodes: int  # common ones, if paired
    better: bool | None  # than the first run; None: that cannot be told

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.figure.to_dict(), "how": self.how, "episodes": self.episodes, "better": self.better}


@dataclass(frozen=True)
class Row:
    """One measure over all runs."""

    target: str
    measure: str
    scale: Scale
    goal: float  # the best value: of errors 0, of coverage the level, inf or -inf where there is no end
    figures: tuple[Estimate, ...]  # by run
    differences: tuple[Difference, ...]  # by run from the second

    def to_dict(self) -> dict[str, Any]:
        """Plain data; figures as the scorecards have them."""
        return {
            "target": self.target,
            "measure": self.measure,
            "figures": [item.to_dict() for item in self.figures],
            "differences": [item.to_dict() for item in self.differences],
        }


@dataclass(frozen=True)
class Run:
    """One scorecard and what it is called here."""

    name: str
    card: Scorecard


@dataclass(frozen=True)
class Comparison:
    """Runs side by side."""

    runs: tuple[Run, ...]
    common: tuple[int, ...]  # episodes in common with the first run, by run from the second
    rows: tuple[Row, ...]

    @property
    def worse(self) -> list[str]:
        """What is clearly worse than in the first run, in words."""
        return [
            f"{self.runs[1 + at].name}: {row.target}, {row.measure}"
            for row in self.rows
            for at, item in enumerate(row.differences)
            if item.better is False
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for other programs."""
        names = ("bundle", "bundle_sha256", "contract", "bags", "impose", "particles", "status", "created")
        runs = [{"name": run.name, **{key: getattr(run.card, key) for key in names}} for run in self.runs]
        rows = [row.to_dict() for row in self.rows]
        whole = {"runs": runs, "common_episodes": self.common, "rows": rows, "worse": self.worse}
        plain: dict[str, Any] = json.loads(json.dumps(whole))
        return plain


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Scorecards by files or folders, named by what tells them apart. Raises EvaluationError."""
    cards = [read_scorecard(path) for path in paths]
    folders = [(path if path.is_dir() else path.parent).resolve() for path in paths]
    names = [path.stem if path.stem != "scorecard" and path.is_file() else folder.name
             for path, folder in zip(paths, folders)]  # fmt: skip
    if len(set(names)) < len(names):  # A/out and B/out, or one twice
        names = [f"{folder.parent.name}/{name}" for folder, name in zip(folders, names)]
    if len(set(names)) < len(names):
        names = [f"{name} ({at + 1})" for at, name in enumerate(names)]
    return [Run(name, card) for name, card in zip(names, cards)]


def compare(runs: Sequence[Run]) -> Comparison:
    """Everything that all runs measured. Raises EvaluationError where they have nothing in common."""
    if len(runs) < 2:
        raise EvaluationError("one scorecard cannot be compared; give two or more")
    cards = [run.card for run in runs]
    targets = [name for name in cards[0].targets if all(name in card.targets for card in cards)]
    if not targets and any(card.targets for card in cards):
        told = "; ".join(f"{run.name} has {', '.join(run.card.targets) or 'none'}" for run in runs)
        raise EvaluationError(f"the runs have no target in common: {told}")
    rows: list[Row] = []
    for target in targets:
        scores = [card.targets[target] for card in cards]
        if len({score.unit for score in scores}) > 1:
            told = ", ".join(f"{run.name} {score.unit}" for run, score in zip(runs, scores))
            raise EvaluationError(f"target {target!r} is measured in different units: {told}")
        rows += _by_episode(target, cards, scores)
        rows += _by_interval(target, scores)
    rows += _whole(cards)
    ids = [[item.id for item in card.episodes] for card in cards]
    common = tuple(len(_common(ids[0], other)) for other in ids[1:])
    return Comparison(tuple(runs), common, tuple(row for row in rows if _known(row)))


def _known(row: Row) -> bool:
    return any(math.isfinite(item.value) for item in row.figures)


# -- measures kept by episode --------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A figure that is a function of two sums over episodes."""

    name: str
    scale: Scale
    goal: float
    statistic: Callable[[Vector, Vector], Vector]
    sums: Callable[[Mapping[str, Any]], tuple[float, float] | None]  # of one episode's target
    figure: Callable[[TargetScore], Estimate | None]


def _measures(unit: str) -> list[Measure]:
    made = [
        Measure(
            f"RMSE {group}, {Scale.of(unit).unit}", Scale.of(unit), 0.0, root_ratio,
            _picked(group, "squared_error_sum"), _grouped(lambda score: score.errors.by_group, group),
        )
        for group in GROUPS
    ]  # fmt: skip
    made += [
        Measure(
            f"inside {level} % region, {group}, %", PERCENT, int(level) / 100, ratio,
            _picked(group, "inside", level), _grouped(_covered(level), group),
        )
        for level in ("50", "90", "95")
        for group in ("visible", "hidden")
    ]  # fmt: skip
    return made + [
        Measure(
            f"negative log likelihood {group}, nats", NATS, -math.inf, ratio,
            _picked(group, "nll_sum"), _grouped(lambda score: score.nll, group),
        )
        for group in GROUPS
    ]  # fmt: skip


def _covered(level: str) -> Callable[[TargetScore], Mapping[str, Estimate]]:
    return lambda score: score.coverage.get(level, {})


def _picked(group: str, *path: str) -> Callable[[Mapping[str, Any]], tuple[float, float] | None]:
    def pick(sums: Mapping[str, Any]) -> tuple[float, float] | None:
        found: Any = sums
        for key in (*path, group):
            found = found.get(key) if isinstance(found, Mapping) else None
        ticks = sums.get("ticks", {}).get(group)
        return None if found is None or ticks is None else (float(found), float(ticks))

    return pick


def _grouped(
    groups: Callable[[TargetScore], Mapping[str, Estimate]], group: str
) -> Callable[[TargetScore], Estimate | None]:
    return lambda score: groups(score).get(group)


def _by_episode(target: str, cards: Sequence[Scorecard], scores: Sequence[TargetScore]) -> list[Row]:
    rows = []
    for measure in _measures(scores[0].unit):
        figures = tuple(measure.figure(score) or UNKNOWN for score in scores)
        differences = [
            _difference(measure, target, cards[0], card, figures[0], figure)
            for card, figure in zip(cards[1:], figures[1:])
        ]
        rows.append(Row(target, measure.name, measure.scale, measure.goal, figures, tuple(differences)))
    return rows


def _common(first: Iterable[str], other: Iterable[str]) -> list[str]:
    """Ids of episodes that both runs saw, in one order whoever is first."""
    return sorted(set(first) & set(other))


def _difference(
    measure: Measure, target: str, first: Scorecard, other: Scorecard, a: Estimate, b: Estimate
) -> Difference:
    common = _chosen(target, first, other)
    one = _sums(measure, target, first, common or _chosen(target, first))
    two = _sums(measure, target, other, common or _chosen(target, other))
    if one is None or two is None:
        return _from_intervals(a, b, measure.goal)
    if common:
        draws = np.random.default_rng(0).integers(len(one[0]), size=(DRAWS, len(one[0])))
        parts = [_resampled(measure, sums, draws) for sums in (one, two)]
    else:
        pairs = ((one, first), (two, other))
        parts = [_resampled(measure, sums, _own_draws(card, len(sums[0]))) for sums, card in pairs]
    value = parts[1][0] - parts[0][0]
    spread = parts[1][1:] - parts[0][1:]
    spread = spread[np.isfinite(spread)]
    few = min(len(one[0]), len(two[0])) < FEWEST or not len(spread)
    low, high = (math.nan, math.nan) if few else np.percentile(spread, [2.5, 97.5])
    figure = Estimate(float(value), float(low), float(high))
    levels = (float(parts[0][0]), float(parts[1][0]))
    return Difference(figure, PAIRED if common else APART, len(common), _better(figure, levels, measure.goal))


def _sums(measure: Measure, target: str, card: Scorecard, chosen: Mapping[str, int]) -> Sums | None:
    """Numerator and ticks per stretch, [S] each; None where the scorecard does not have them.

    chosen: {id of an episode: stretches that it is to be counted as}.
    """
    episodes: dict[str, Episode] = {item.id: item for item in card.episodes}
    stretches = [part for name, count in chosen.items() for part in _stretches(episodes[name], target, count)]
    picked = [measure.sums(part) for part in stretches]
    if not picked or any(item is None for item in picked):
        return None
    numerator, ticks = np.array(picked, np.float64).T
    return (numerator, ticks) if ticks.sum() else None


def _stretches(episode: Episode, target: str, count: int) -> Sequence[Mapping[str, Any]]:
    """The sums of an episode's stretches; of the whole where it is to be one."""
    whole = episode.targets.get(target, {})
    return whole["blocks"] if count > 1 else [whole]


def _count_of(episode: Episode, target: str) -> int:
    return max(1, len(episode.targets.get(target, {}).get("blocks", ())))


def _chosen(target: str, card: Scorecard, other: Scorecard | None = None) -> dict[str, int]:
    """{id: stretches}, of the episodes that both saw in an order that is the same whoever is first; of the
    one alone, of all. An episode that two runs cut differently is one stretch.
    """
    here, there = ({item.id: item for item in run.episodes} for run in (card, other or card))
    counts = {
        name: (_count_of(here[name], target), _count_of(there[name], target)) for name in _common(here, there)
    }
    return {name: one if one == two else 1 for name, (one, two) in counts.items()}


def _own_draws(card: Scorecard, stretches: int) -> npt.NDArray[np.int64]:
    """Resampled stretches of one run, by what it saw: the same whichever run it is compared with, and
    others than those of a run that saw something else.
    """
    seed = [ord(letter) for name in sorted(item.id for item in card.episodes) for letter in name]
    return np.random.default_rng(seed).integers(stretches, size=(DRAWS, stretches))


def _resampled(measure: Measure, sums: Sums, draws: npt.NDArray[np.int64]) -> Vector:
    """The figure, then the figure of each draw: [1 + DRAWS]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = measure.statistic(*(part[draws] for part in sums))
        return np.concatenate([[measure.statistic(*sums)], drawn])


# -- everything else -----------------------------------------------------------------------------------


def _by_interval(target: str, scores: Sequence[TargetScore]) -> list[Row]:
    scale = Scale.of(scores[0].unit)
    picked: list[tuple[str, Scale, float, Callable[[TargetScore], Estimate | None]]] = [
        ("hidden error to the best classical", RATIO, 0.0, lambda score: score.ratio_to_best_classical),
        ("hidden error to the exact filter", RATIO, 0.0, lambda score: score.ratio_to_bayes),
        (f"error at re-appearance, {scale.unit}", scale, 0.0, lambda score: score.rmse_at_reappearance),
        ("ticks until found again", TICKS, 0.0, lambda score: score.ticks_to_reacquire),
        ("ticks until first found", TICKS, 0.0, _first_found),
        (
            "log deviation to visibility, correlation",
            RATIO,
            -1.0,
            lambda score: score.log_std_visibility_corr,
        ),
        (
            "errors by group of ticks to visibility, correlation",
            RATIO,
            math.nan,
            lambda score: score.log_std_visibility_corr_by_group.get("honest"),
        ),
        ("log deviation to log error, correlation", RATIO, 1.0, lambda score: score.log_std_log_error_corr),
        ("tracks lost", Scale(1.0, "", 0), 0.0, lambda score: _count(score.tracks_lost)),
        ("identity swaps", Scale(1.0, "", 0), 0.0, lambda score: _count(score.identity_swaps)),
    ]
    rows = []
    for name, how, goal, pick in picked:
        figures = tuple(pick(score) or UNKNOWN for score in scores)
        differences = tuple(_from_intervals(figures[0], other, goal) for other in figures[1:])
        rows.append(Row(target, name, how, goal, figures, differences))
    return rows


def _first_found(score: TargetScore) -> Estimate | None:
    return None if score.first_appearances is None else score.first_appearances.ticks_to_acquire


def _whole(cards: Sequence[Scorecard]) -> list[Row]:
    """What a run has once, not by target. Speed depends on the machine, so no run is called better by it."""
    surprise = tuple(_count(card.surprise.p99) for card in cards)
    speed = tuple(_count(card.realtime_factor) for card in cards)
    made = [
        ("surprise, 99th percentile, nats", NATS, math.nan, surprise),
        ("x real time", Scale(1.0, "", 1), math.nan, speed),
    ]
    for camera in cards[0].image_prediction:
        seen = [card.image_prediction[camera] for card in cards if camera in card.image_prediction]
        if len(seen) == len(cards):
            psnr, ssim = tuple(item.psnr_db for item in seen), tuple(item.ssim for item in seen)
            made.append((f"{camera} foreseen, PSNR, dB", Scale(1.0, "dB", 1), math.inf, psnr))
            made.append((f"{camera} foreseen, SSIM", RATIO, math.inf, ssim))
    return [
        Row("", name, scale, goal, figures, tuple(_from_intervals(figures[0], b, goal) for b in figures[1:]))
        for name, scale, goal, figures in made
    ]


def _count(value: float | None) -> Estimate:
    """A figure without an interval."""
    return UNKNOWN if value is None else Estimate(float(value), math.nan, math.nan)


def _from_intervals(a: Estimate, b: Estimate, goal: float) -> Difference:
    """b - a; its interval is as wide as those of two independent figures make it."""
    value = b.value - a.value
    low = value - math.hypot(b.value - b.low, a.high - a.value)
    high = value + math.hypot(b.high - b.value, a.value - a.low)
    figure = Estimate(value, low, high)
    return Difference(figure, INTERVALS, 0, _better(figure, (a.value, b.value), goal))


def _better(figure: Estimate, levels: tuple[float, float], goal: float) -> bool | None:
    """Is the second nearer to the goal than the first? None where the interval holds 0, or both are alike."""
    if math.isnan(goal) or not (figure.low > 0 or figure.high < 0):  # an interval of NaN is none
        return None
    if math.isinf(goal):
        return (figure.value < 0) is (goal < 0)
    first, second = (abs(level - goal) for level in levels)
    return None if first == second else second < first
