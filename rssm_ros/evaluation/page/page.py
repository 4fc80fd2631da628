"""The scorecard as one page: self-contained HTML that opens in a browser without a server."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.page import plots, plots_time, tables
from rssm_ros.evaluation.page.plots import Plot
from rssm_ros.evaluation.page.words import (
    BAND,
    GOOD_RATIO,
    Verdict,
    headline,
    pictures,
    shortfall,
    standing,
    verdict,
)
from rssm_ros.evaluation.scoring.scorecard import Grouped, Scorecard, TargetScore, weakest_correlation
from rssm_ros.evaluation.statistics import Estimate
from rssm_ros.evaluation.units import NONE, PERCENT, RATIO, TICKS, Scale
from rssm_ros.paths import share_path

Trace = Mapping[str, npt.NDArray[Any]]
EMBEDDED = 8_000_000  # bytes of film that still go into the page


@dataclass(frozen=True)
class Tile:
    """One figure large enough to be read from afar."""

    label: str
    value: str
    aside: str
    good: bool | None


@dataclass(frozen=True)
class Section:
    """All about one target."""

    name: str
    verdict: Verdict
    tiles: tuple[Tile, ...]
    errors: tables.Table
    about: tuple[tuple[str, str], ...]  # baseline, what it is told
    confidence: tables.Table
    others: tables.Table
    timeline: Plot | None
    drawings: Mapping[str, Plot]


@dataclass(frozen=True)
class Film:
    """The overlay video, and the stretch of the trace that it shows."""

    source: str  # data URI, or a path beside the page
    target: str | None
    window: slice


def render_page(card: Scorecard, trace: Trace | None, film: Film | None, window: slice | None) -> str:
    """The whole page. window: the stretch of the trace drawn over time. Raises EvaluationError."""
    sections = [section(name, score, card, trace, window) for name, score in card.targets.items()]
    alone = not any(item.timeline for item in sections)
    return render(
        "scorecard.html.j2",
        card=card,
        headline=headline(card),
        standing=standing(card),
        shortfall=shortfall(card),
        seen=pictures(card),
        sections=sections,
        film=film,
        checks=tables.checks(card),
        images=tables.images(card),
        messages=tables.messages(card),
        events=tables.events(card),
        surprise=plots_time.surprise(trace, window, "surprise") if alone and trace and window else None,
        provenance=provenance(card),
    )


def render(template: str, **context: Any) -> str:
    """A template of config/report with the style and script that every page has. Raises EvaluationError."""
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise EvaluationError(
            "no page: jinja2 is not installed (pip install 'rssm_ros[viz]'); the figures are in the JSON"
        ) from error
    folder = share_path("config", "report")
    loader = jinja2.FileSystemLoader(folder)
    settings = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=loader, autoescape=True, **settings)  # type: ignore[arg-type]
    style, script = ((folder / name).read_text() for name in ("style.css", "script.js"))
    return environment.get_template(template).render(style=style, script=script, inf=math.inf, **context)


def section(
    name: str, score: TargetScore, card: Scorecard, trace: Trace | None, window: slice | None
) -> Section:
    """One target's part of the page."""
    scale, prefix = Scale.of(score.unit), f"{name}-"
    drawings = {"errors": plots.errors(score, scale, prefix + "errors")}
    if _known(score.errors.by_hidden_ticks):
        drawings["by_length"] = plots.by_length(score, scale, prefix + "length")
    if _known(score.errors.by_visible_fraction):
        drawings["by_fraction"] = plots.by_fraction(score, scale, prefix + "fraction")
    if _known(score.rmse_after_reappearance):
        drawings["recovery"] = plots.recovery(score, scale, prefix + "recovery")
    if _known(score.open_loop):
        drawings["open_loop"] = plots.open_loop(score, scale, prefix + "open")
    if any(_known(groups) for groups in score.coverage.values()):
        drawings["reliability"] = plots.reliability(score, prefix + "reliability")
    timeline = None
    if trace is not None and f"{name}/truth" in trace:
        if np.isfinite(trace[f"{name}/visibility"]).any():
            drawings["confidence"] = plots.confidence(trace, name, scale, prefix + "confidence")
        if window is not None:
            best = score.best_classical
            timeline = plots_time.timeline(trace, name, best, scale, window, prefix + "timeline")
    return Section(
        name,
        verdict(name, score),
        tiles(score),
        tables.errors(score),
        tuple((plots.spoken(who), item.about) for who, item in score.baselines.items() if item.about),
        tables.confidence(score),
        tables.others(score),
        timeline,
        drawings,
    )


def _known(groups: Grouped) -> bool:
    return any(np.isfinite(item.value) for item in groups.values())


def tiles(score: TargetScore) -> tuple[Tile, ...]:
    """The figures that decide, as tiles."""
    scale, made = Scale.of(score.unit), []

    def add(label: str, found: Estimate | None, how: Scale, low: float, high: float) -> None:
        """Coloured by whether the figure is within the bounds, and shown with the digits that tell."""
        if found is not None and np.isfinite(found.value):
            fine = how.telling(found.value, low, high)
            good = None if math.isinf(low) and math.isinf(high) else low <= found.value <= high
            made.append(Tile(label, fine.with_unit(found.value), how.interval(found), good))

    add("error while hidden", score.errors.by_group.get("hidden"), scale, -math.inf, math.inf)
    add("of the best classical", score.ratio_to_best_classical, RATIO, -math.inf, GOOD_RATIO)
    add("of the exact filter", score.ratio_to_bayes, RATIO, -math.inf, 1.15)
    add("inside 90 %, hidden", score.coverage.get("90", {}).get("hidden"), PERCENT, *BAND)
    add("until found again", score.ticks_to_reacquire, TICKS, -math.inf, 2)
    weakest = weakest_correlation(score)
    high = math.inf if weakest is None else weakest
    add("log std and visibility", score.log_std_visibility_corr, RATIO, -math.inf, high)
    return tuple(made)


def provenance(card: Scorecard) -> list[tuple[str, str]]:
    """What would be needed to get the same figures again."""
    machine = ", ".join(f"{key} {value}" for key, value in card.machine.items())
    rows = {
        "bundle": card.bundle,
        "bundle SHA-256": card.bundle_sha256,
        "contract": f"{card.contract}, {card.rate:g} ticks per second",
        "recordings": ", ".join(card.bags),
        "truth": _truth(card),
        "imposed occlusion": card.impose or "none",
        "episodes": f"{len(card.episodes)}, {sum(item.ticks for item in card.episodes):,} ticks",
        "seeds": ", ".join(f"{key} {value}" for key, value in card.seeds.items()),
        "particles": str(card.particles),
        "speed": f"{card.recorded_s:,.1f} s of recording in {card.wall_s:,.1f} s, "
        f"{card.realtime_factor:,.1f} x real time",
        "latency of a tick": " · ".join(_latency(name, value) for name, value in card.latency_ms.items()),
        "versions": ", ".join(f"{key} {value}" for key, value in card.versions.items()),
        "machine": machine,
        "written": card.created,
    }
    return [(label, text) for label, text in rows.items() if text]


def _truth(card: Scorecard) -> str:
    """Where it comes from; nothing of a contract without targets."""
    if not card.targets:
        return ""
    return "ground-truth topics" if card.truth == "topics" else "the un-occluded run"


def _latency(name: str, value: float | None) -> str:
    return f"{name} {NONE if value is None else f'{value:.2f} ms'}"


def film_source(path: Path) -> str:
    """The film as a data URI where it is small, else its name: it lies beside the page."""
    if path.stat().st_size >= EMBEDDED:
        return path.name
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
