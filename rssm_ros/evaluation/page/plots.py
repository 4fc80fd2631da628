"""The report's plots: matplotlib figures as SVG that takes its colours and its font from the page.

Each colour is drawn as a marker and then replaced by the page's own (`var(--accent)`), so that one drawing
serves light and dark. The belief is the accent, everybody else grey, and shaded is what was hidden.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.scoring.scorecard import Grouped, TargetScore
from rssm_ros.evaluation.statistics import Estimate
from rssm_ros.evaluation.units import Scale

Array = npt.NDArray[Any]
# marker drawn -> colour of the page's style sheet
ACCENT, INK, MUTED, RULE, SHADE, ALARM = "#0000f1", "#0000f2", "#0000f3", "#0000f4", "#0000f5", "#0000f6"
COLOURS = {
    ACCENT: "--accent", INK: "--ink", MUTED: "--muted", RULE: "--rule", SHADE: "--shade", ALARM: "--alarm",
}  # fmt: skip
GROUPS = ("visible", "partly", "hidden")
STYLES = ("-", "--", ":", "-.")  # of baselines' lines, told apart without colour
FRACTIONS = 10  # classes of visible fraction in the confidence plot
DOTS = 300  # single ticks shown behind the classes
RC = {
    "font.size": 12.0, "axes.titlesize": 12.0, "axes.labelsize": 12.0, "svg.fonttype": "none",
    "axes.edgecolor": RULE, "axes.labelcolor": MUTED, "xtick.color": RULE, "ytick.color": RULE,
    "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "text.color": INK, "axes.titlecolor": INK,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none", "grid.color": RULE,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.linewidth": 0.6, "xtick.major.size": 0.0, "ytick.major.size": 0.0, "legend.frameon": False,
    "lines.linewidth": 1.6, "axes.titlelocation": "left",
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """One drawing for the page."""

    svg: str
    width: int  # its natural size, pixels
    spans: tuple[float, float, float, float] | None = None  # x in pixels of both ends of time, and their s


@contextmanager
def figure(width: int, height: int, **grid: Any) -> Iterator[tuple[Any, Any]]:
    """A figure of so many pixels and its axes. Raises EvaluationError without matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise EvaluationError(
            "no report: matplotlib is not installed (pip install 'rssm_ros[viz]'); the figures are in "
            "scorecard.json"
        ) from error
    with matplotlib.rc_context(RC):
        figure = Figure((width / 72, height / 72), dpi=72, layout="constrained")
        yield figure, figure.subplots(**grid)


def inline(drawn: Any, name: str, label: str) -> Plot:
    """The figure as inline SVG. name: unique in the page; label: what a screen reader says."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({**RC, "svg.hashsalt": name}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)  # the family is the page's
    used = set(
        re.findall(r'(?:url\(#|href="#)([^")]+)', text)
    )  # other ids would only meet those of other plots
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    for marker, colour in COLOURS.items():
        text = text.replace(marker, f"var({colour})")
    width, height = (round(72 * inches) for inches in drawn.get_size_inches())
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{_escaped(label)}" class="plot">'
    return Plot(re.sub(r"<svg[^>]*>", lambda _: head, text, count=1), width)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


# -- errors --------------------------------------------------------------------------------------------


def errors(target: TargetScore, scale: Scale, name: str) -> Plot:
    """Who is how far off while it is visible, partly and fully hidden: dots with their intervals."""
    from matplotlib.ticker import MaxNLocator

    rows = [("belief", target.errors.by_group), *_by_hidden_error(target)]
    with figure(1080, 70 + 24 * len(rows), ncols=3, sharey=True) as (drawn, axes):
        for axis, group in zip(axes, GROUPS):
            for height, (who, found) in enumerate(rows):
                _whisker(axis, found.get(group), height, scale, ACCENT if who == "belief" else MUTED)
            axis.set(title=_WORDS[group], xlim=(0, None), ylim=(len(rows) - 0.5, -0.5))
            axis.grid(axis="y", visible=False)
            axis.xaxis.set_major_locator(MaxNLocator(5, prune="upper"))
        axes[0].set_yticks(range(len(rows)), [spoken(who) for who, _ in rows])
        axes[0].get_yticklabels()[0].set(color=ACCENT, fontweight="bold")
        axes[1].set_xlabel(f"root mean square error, {scale.unit}")
        return inline(drawn, name, "Errors of belief and baselines while visible, partly and fully hidden")


_WORDS = {"visible": "Visible", "partly": "Partly hidden", "hidden": "Fully hidden"}


def _by_hidden_error(target: TargetScore) -> list[tuple[str, Grouped]]:
    """Baselines, the best while hidden first."""

    def key(item: tuple[str, Grouped]) -> float:
        value = item[1]["hidden"].value if "hidden" in item[1] else math.nan
        return value if math.isfinite(value) else math.inf

    return sorted(((who, item.errors.by_group) for who, item in target.baselines.items()), key=key)


def _whisker(axis: Any, found: Estimate | None, height: float, scale: Scale, colour: str) -> None:
    if found is None or not math.isfinite(found.value):
        return
    value, low, high = (scale.factor * number for number in (found.value, found.low, found.high))
    if math.isfinite(low) and math.isfinite(high):
        axis.plot([low, high], [height, height], color=colour, linewidth=2.5, alpha=0.55)
    axis.plot(value, height, "o", color=colour, markersize=7)


def by_length(target: TargetScore, scale: Scale, name: str) -> Plot:
    """Error by how long it has been hidden."""
    lines = {who: item.errors.by_hidden_ticks for who, item in target.baselines.items()}
    return _lines(
        {**lines, "belief": target.errors.by_hidden_ticks},
        scale,
        name,
        "ticks hidden in a row so far",
        "Error by how long the target has been hidden",
    )


def by_fraction(target: TargetScore, scale: Scale, name: str) -> Plot:
    """Error by the share that can be seen."""
    lines = {who: item.errors.by_visible_fraction for who, item in target.baselines.items()}
    return _lines(
        {**lines, "belief": target.errors.by_visible_fraction},
        scale,
        name,
        "share of it that can be seen",
        "Error by visible fraction",
    )


def open_loop(target: TargetScore, scale: Scale, name: str) -> Plot:
    """Error of predictions without looking, by ticks ahead."""
    return _lines(
        {"belief": target.open_loop},
        scale,
        name,
        "ticks predicted without looking",
        "Open-loop error by horizon",
    )


def recovery(target: TargetScore, scale: Scale, name: str) -> Plot:
    """Error after it is visible again, beside 1.2 x the error while visible."""
    return _lines(
        {"belief": target.rmse_after_reappearance},
        scale,
        name,
        "ticks since it can be seen again",
        "Error after re-appearance",
        limit=1.2 * target.errors.by_group["visible"].value if "visible" in target.errors.by_group else None,
    )


def _lines(
    lines: Mapping[str, Grouped], scale: Scale, name: str, x: str, label: str, limit: float | None = None
) -> Plot:
    """One line per somebody over the same groups; baselines grey and named at their ends."""
    groups = list(dict.fromkeys(group for found in lines.values() for group in found))
    with figure(530, 320) as (drawn, axis):
        others = [who for who in lines if who != "belief"]
        ends = []
        for who, found in lines.items():
            mine = who == "belief"
            points = [found.get(group, Estimate(math.nan, math.nan, math.nan)) for group in groups]
            values = [scale.factor * point.value for point in points]
            style = {} if mine else {"linestyle": STYLES[others.index(who) % len(STYLES)]}
            colour = ACCENT if mine else MUTED
            axis.plot(
                values, color=colour, linewidth=2.4 if mine else 1.3, marker="o" if mine else "", **style
            )
            if mine:
                band = [[scale.factor * getattr(point, end) for point in points] for end in ("low", "high")]
                axis.fill_between(range(len(groups)), *band, color=ACCENT, alpha=0.16, linewidth=0)
            known = [index for index, value in enumerate(values) if math.isfinite(value)]
            if known and len(lines) > 1:
                ends.append((known[-1], values[known[-1]], who))
        if limit is not None and math.isfinite(limit):
            axis.axhline(scale.factor * limit, color=MUTED, linestyle="--", linewidth=1.2)
            axis.annotate(
                "1.2 x visible", (1, scale.factor * limit), (-2, 4), xycoords=("axes fraction", "data"),
                textcoords="offset points", color=MUTED, ha="right",
            )  # fmt: skip
        axis.set_xticks(range(len(groups)), groups)
        axis.set(xlabel=x, ylabel=f"RMSE, {scale.unit}", ylim=(0, _ceiling(lines, scale)))
        _name_ends(axis, ends, len(groups))
        return inline(drawn, name, label)


def _ceiling(lines: Mapping[str, Grouped], scale: Scale) -> float | None:
    """Where the axis ends: a baseline that runs away must not press everybody else to the ground."""

    def largest(found: Grouped, part: str) -> float:
        known = [getattr(point, part) for point in found.values() if math.isfinite(getattr(point, part))]
        return scale.factor * max(known, default=0.0)

    mine = max(largest(lines["belief"], "value"), largest(lines["belief"], "high"))
    others = [largest(found, "value") for who, found in lines.items() if who != "belief"]
    if not others or max(others) <= 3 * mine:
        return None
    return 1.1 * min(max(others), max(3 * mine, float(np.median(others))))


def _name_ends(axis: Any, ends: Sequence[tuple[int, float, str]], count: int) -> None:
    """The lines' names to the right of their last points, moved apart where they would touch."""
    if not ends:
        return
    top = axis.get_ylim()[1]
    apart, placed = 0.062 * top, -math.inf
    for _, value, who in sorted(ends, key=lambda end: end[1]):
        placed = max(min(value, top), placed + apart)
        colour, weight = (ACCENT, "bold") if who == "belief" else (MUTED, "normal")
        axis.annotate(
            spoken(who) + (" ↑" if value > top else ""), (count - 1, placed), (8, 0),
            textcoords="offset points", color=colour, fontweight=weight, va="center", annotation_clip=False,
        )  # fmt: skip
    axis.set_ylim(0, max(top, placed + apart / 2))


def spoken(name: str) -> str:
    """A baseline's name as people say it: `hold_last` is hold last."""
    return name.replace("_", " ")


# -- confidence ----------------------------------------------------------------------------------------


def reliability(target: TargetScore, name: str) -> Plot:
    """How often the truth lies in the regions that claim to hold it."""
    levels = sorted(target.coverage, key=float)
    with figure(530, 320) as (drawn, axis):
        axis.plot([0, 100], [0, 100], color=MUTED, linewidth=1.2, linestyle="--")
        axis.fill_between([85, 95], 88, 92, color=SHADE, linewidth=0)
        styles = {"visible": ("o", "none"), "partly": ("D", "none"), "hidden": ("o", ACCENT)}
        shift = {"visible": -0.9, "partly": 0.0, "hidden": 0.9}
        for group, (mark, face) in styles.items():
            found = [(float(level), target.coverage[level].get(group)) for level in levels]
            known = [(level, item) for level, item in found if item is not None and math.isfinite(item.value)]
            colour = MUTED if group == "partly" else ACCENT
            for level, item in known:
                ends = [100 * item.low, 100 * item.high]
                axis.plot([level + shift[group]] * 2, ends, color=colour, alpha=0.55, linewidth=2)
            axis.plot(
                [level + shift[group] for level, _ in known],
                [100 * item.value for _, item in known],
                mark, color=colour, markerfacecolor=face, markersize=7, label=_WORDS[group].lower(),
            )  # fmt: skip
        axis.set_xticks([float(level) for level in levels], [f"{level} %" for level in levels])
        axis.set(xlim=(44, 101), ylim=(_floor(target), 102), xlabel="claimed by the region")
        axis.set_ylabel("truth inside, %")
        axis.legend(loc="upper left", labelcolor=INK, handletextpad=0.2)
        axis.annotate(
            "goal", (85, 90), (-4, 0), textcoords="offset points", color=MUTED, va="center", ha="right"
        )
        return inline(drawn, name, "Share of truths inside regions of 50, 90 and 95 percent")


def _floor(target: TargetScore) -> float:
    found = [item.value for groups in target.coverage.values() for item in groups.values()]
    known = [100 * value for value in found if math.isfinite(value)]
    return min([40.0, *(value - 5 for value in known)])


def confidence(trace: Mapping[str, Array], target: str, scale: Scale, name: str) -> Plot:
    """Claimed deviation over the share that can be seen: classes with their middle four fifths."""
    seen, std = trace[f"{target}/visibility"], deviation(trace[f"{target}/covariance"])
    known = np.isfinite(seen) & np.isfinite(std) & (std > 0)
    seen, std = seen[known], scale.factor * std[known]
    with figure(530, 320) as (drawn, axis):
        chosen = np.random.default_rng(0).permutation(len(seen))[:DOTS]
        axis.plot(seen[chosen], std[chosen], ".", color=MUTED, alpha=0.35, markersize=4, markeredgewidth=0)
        classes = np.clip((seen * FRACTIONS).astype(int), 0, FRACTIONS - 1)
        rows = [
            (seen[classes == k].mean(), *np.percentile(std[classes == k], [10, 50, 90]))
            for k in range(FRACTIONS)
            if (classes == k).sum() >= 5
        ]
        if rows:
            x, low, middle, high = np.array(rows).T
            axis.fill_between(x, low, high, color=ACCENT, alpha=0.16, linewidth=0)
            axis.plot(x, middle, "o-", color=ACCENT)
        axis.set_yscale("log")
        _plain_log(axis)
        axis.set(xlabel="share of it that can be seen", ylabel=f"claimed deviation, {scale.unit} (log)")
        axis.set_xlim(-0.03, 1.03)
        return inline(drawn, name, "Claimed standard deviation over visible fraction")


def deviation(covariance: Array) -> Array:
    """One standard deviation for all axes, [T, d, d] -> [T]: the root of the mean variance."""
    return np.asarray(np.sqrt(np.trace(covariance, axis1=1, axis2=2) / covariance.shape[-1]))


def _plain_log(axis: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers, 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_minor_locator(LogLocator(subs=()))
