"""The report's tables, as rows of cells that know what they sort by."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rssm_ros.evaluation.page.plots import GROUPS, spoken
from rssm_ros.evaluation.scoring.scorecard import Scorecard, TargetScore
from rssm_ros.evaluation.statistics import Estimate
from rssm_ros.evaluation.units import NATS, NONE, PERCENT, RATIO, TICKS, Scale, checked

SHOWN_EVENTS = 200  # review events listed; the rest are in scorecard.json


@dataclass(frozen=True)
class Bar:
    """A difference and its interval, drawn 200 wide about 0 at 100."""

    low: float
    value: float
    high: float
    colour: str


@dataclass(frozen=True)
class Cell:
    """One cell: what is read, what it is sorted by, and a quieter word beside it."""

    text: str
    key: float | str
    aside: str = ""
    kind: str = ""  # "number", "pass", "fail" or ""
    bar: Bar | None = None


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by each of its columns."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: int | None = None  # the belief's row


def words(text: Any, kind: str = "") -> Cell:
    """A cell of words."""
    return Cell(str(text), str(text).lower(), kind=kind)


def number(value: float | int | None, scale: Scale | None = None) -> Cell:
    """A cell of one number; what is missing sorts last."""
    if value is None or not math.isfinite(value):
        return Cell(NONE, math.inf, kind="number")
    return Cell(f"{value:,}" if scale is None else scale.value(value), float(value), kind="number")


def figure(found: Estimate | None, scale: Scale) -> Cell:
    """A cell of a figure with its interval beside it."""
    cell = number(None if found is None else found.value, scale)
    return Cell(cell.text, cell.key, scale.interval(found), "number")


def checks(card: Scorecard) -> Table:
    """What was asked of the run, and whether it was met."""
    rows = []
    for item in card.checks:
        value = item.get("value")
        known = isinstance(value, float | int) and not isinstance(value, bool)
        shown = checked(float(value), item["bound"]) if known and value is not None else NONE
        key = float(value) if shown != NONE and value is not None else math.inf
        result = "pass" if item["pass"] else "fail"
        cells = (words(item["name"].replace("_", " ")), Cell(shown, key, kind="number"), words(item["bound"]))
        rows.append((*cells, words(result, result)))
    return Table("", ("check", "value", "asked for", "result"), tuple(rows))


def errors(score: TargetScore) -> Table:
    """RMSE of everybody on the same ticks."""
    scale = Scale.of(score.unit)
    everybody = {"belief": (score.errors.by_group, "the bundle's filter")}
    everybody |= {name: (item.errors.by_group, item.kind) for name, item in score.baselines.items()}
    mine = score.errors.by_group.get("hidden")
    rows = []
    for name, (found, kind) in everybody.items():
        cells = [words(spoken(name)), words(kind)]
        cells += [figure(found.get(group), scale) for group in GROUPS]
        other = found.get("hidden")
        known = mine is not None and other is not None and other.value > 0
        cells.append(number(mine.value / other.value if known and mine and other else None, RATIO))
        rows.append(tuple(cells))
    unit = f"RMSE, {scale.unit}, with 95 % intervals over episodes"
    head = ("who", "kind", "visible", "partly hidden", "fully hidden", "belief's hidden error to its")
    return Table(unit, head, tuple(rows), marked=0)


def confidence(score: TargetScore) -> Table:
    """Coverage, likelihood and correlation."""
    rows = [
        (words(f"truth inside the {level} % region"), *(figure(groups.get(g), PERCENT) for g in GROUPS))
        for level, groups in sorted(score.coverage.items(), key=lambda item: float(item[0]))
    ]
    rows.append((words("negative log likelihood, nats"), *(figure(score.nll.get(g), NATS) for g in GROUPS)))
    for name, item in score.baselines.items():
        for level, groups in item.coverage.items():
            if level == "90":
                told = words(f"{spoken(name)}: truth inside the 90 % region that it claims itself")
                rows.append((told, *(figure(groups.get(g), PERCENT) for g in GROUPS)))
        if item.nll:
            told = words(f"{spoken(name)}: negative log likelihood, nats")
            rows.append((told, *(figure(item.nll.get(g), NATS) for g in GROUPS)))
    caption = "Confidence; regions in % of ticks, 95 % intervals over episodes"
    return Table(caption, ("measure", "visible", "partly hidden", "fully hidden"), tuple(rows))


def others(score: TargetScore) -> Table:
    """Single figures: re-appearance, correlation, lost tracks."""
    scale = Scale.of(score.unit)
    history = {"seen_before": "it had been seen before", "never_seen": "it was never seen yet"}
    rows: list[tuple[Cell, Cell]] = [
        (words(f"hidden error where {told}, {scale.unit}"), figure(score.errors.by_history.get(group), scale))
        for group, told in history.items()
    ]
    rows += [
        (words(f"error at re-appearance, {scale.unit}"), figure(score.rmse_at_reappearance, scale)),
        (
            words("ticks from visible again until within 1.2 x the visible error"),
            figure(score.ticks_to_reacquire, TICKS),
        ),
        (words("the same, median over hidden runs"), figure(score.ticks_to_reacquire_median, TICKS)),
        *_first(score, scale),
        (
            words("correlation of log deviation and visible fraction"),
            figure(score.log_std_visibility_corr, RATIO),
        ),
        (
            words("the same of the exact Bayes filter's deviation"),
            figure(score.exact_log_std_visibility_corr, RATIO),
        ),
        (
            words("correlation of claims by group of ticks and visible fraction"),
            figure(score.log_std_visibility_corr_by_group.get("claimed"), RATIO),
        ),
        (
            words("correlation of errors by group of ticks and visible fraction: what this scene asks for"),
            figure(score.log_std_visibility_corr_by_group.get("honest"), RATIO),
        ),
        (words("correlation of log deviation and log error"), figure(score.log_std_log_error_corr, RATIO)),
        (words("correlation of deviation and visible fraction"), figure(score.std_visibility_corr, RATIO)),
        (
            words("hidden error to the best classical baseline's"),
            figure(score.ratio_to_best_classical, RATIO),
        ),
        (words("hidden error to the privileged filter's"), figure(score.ratio_to_privileged, RATIO)),
        (words("hidden error to the exact Bayes filter's"), figure(score.ratio_to_bayes, RATIO)),
        (words("hidden runs"), number(score.hidden_runs)),
        (words("re-appearances of what had been seen before"), number(score.reappearances)),
        (words("tracks lost"), number(score.tracks_lost)),
        (words("identity swaps"), number(score.identity_swaps)),
    ]
    return Table("Single figures", ("measure", "value"), tuple(row for row in rows if row[1].text != NONE))


def _first(score: TargetScore, scale: Scale) -> list[tuple[Cell, Cell]]:
    """What was hidden before it was ever seen, apart: nothing of it could be remembered."""
    first = score.first_appearances
    if first is None or not first.count:
        return []
    return [
        (words(f"error at first appearance, {scale.unit}"), figure(first.rmse, scale)),
        (
            words("ticks from first visible until within 1.2 x the visible error"),
            figure(first.ticks_to_acquire, TICKS),
        ),
        (
            words("the same, median over hidden runs (first appearances)"),
            figure(first.ticks_to_acquire_median, TICKS),
        ),
        (words("first appearances after a hidden run"), number(first.count)),
    ]


def images(card: Scorecard) -> Table | None:
    """Pictures as the prior expects them."""
    rows = []
    for camera, found in card.image_prediction.items():
        everybody = {"belief": {"psnr_db": found.psnr_db, "ssim": found.ssim}, **found.baselines}
        for name, item in everybody.items():
            cells = (words(camera), words(spoken(name)), figure(item.get("psnr_db"), Scale(1.0, "dB", 1)))
            rows.append((*cells, figure(item.get("ssim"), RATIO), number(found.frames), words(found.when)))
    head = ("camera", "predicted by", "PSNR, dB", "SSIM", "frames", "when")
    return Table("Pictures predicted before they came", head, tuple(rows)) if rows else None


def messages(card: Scorecard) -> Table | None:
    """Every message accounted for, by topic."""
    by_topic: Mapping[str, Mapping[str, int]] = card.messages.get("by_topic", {})
    totals = {k: v for k, v in card.messages.items() if isinstance(v, int) and not isinstance(v, bool)}
    everything = {**{topic: dict(found) for topic, found in by_topic.items()}, "all topics": totals}
    causes = _columns(everything.values())
    if not causes:
        return None
    rows = [
        (words(topic), *(number(found.get(cause, 0)) for cause in causes))
        for topic, found in everything.items()
    ]
    return Table("Messages by topic", ("topic", *(cause.replace("_", " ") for cause in causes)), tuple(rows))


def _columns(rows: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    """Causes that were counted, those that never occurred too, in the order met; accepted first."""
    met = dict.fromkeys(name for row in rows for name, count in row.items() if isinstance(count, int))
    return sorted(met, key=lambda name: name not in ("read", "accepted"))


def events(card: Scorecard) -> Table | None:
    """Where the filter was surprised for long enough to be looked at."""
    rows = []
    for event in card.surprise.events[:SHOWN_EVENTS]:
        episode = card.episodes[event["episode"]]
        after = 1e-9 * (event["t_ns"] - episode.t0_ns)
        cells = (words(episode.name), number(after, Scale(1.0, "s", 2)))
        figures = (event["value"], event["threshold"], event["ticks"])
        rows.append((*cells, *(number(value, scale) for value, scale in zip(figures, (NATS, NATS, None)))))
    head = ("episode", "after, s", "surprise, nats", "threshold, nats", "ticks")
    return Table("Review events", head, tuple(rows)) if rows else None
