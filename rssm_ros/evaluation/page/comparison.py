"""A comparison as a page, in the scorecard's own style."""

import math

from rssm_ros.evaluation.compare import Comparison, Difference, Row
from rssm_ros.evaluation.page.page import render
from rssm_ros.evaluation.page.plots import spoken
from rssm_ros.evaluation.page.tables import Bar, Cell, Table, figure, number, words

GENERAL = "Whole run"


def render_comparison(found: Comparison) -> str:
    """The whole page, self-contained. Raises EvaluationError without jinja2."""
    groups = list(dict.fromkeys(row.target for row in found.rows))
    by_group = [
        (spoken(name) if name else GENERAL, _table(found, [row for row in found.rows if row.target == name]))
        for name in groups
    ]
    return render(
        "compare.html.j2",
        names=[run.name for run in found.runs],
        headline=headline(found),
        about=about(found),
        runs=_runs(found),
        tables=by_group,
    )


def headline(found: Comparison) -> str:
    """How many measures are clearly better or worse than in the first run."""
    told = []
    for at, run in enumerate(found.runs[1:]):
        better, worse = (
            sum(row.differences[at].better is wanted for row in found.rows) for wanted in (True, False)
        )
        told.append(
            f"{run.name} is clearly better than {found.runs[0].name} in {better} measures, "
            f"clearly worse in {worse}"
        )
    return "; ".join(told) + "."


def about(found: Comparison) -> str:
    """Which episodes the runs share."""
    first = len(found.runs[0].card.episodes)
    told = []
    for run, common in zip(found.runs[1:], found.common):
        mine = len(run.card.episodes)
        if common == first == mine:
            told.append(f"{run.name}: the same {common} episodes, so differences are paired.")
        elif common:
            told.append(
                f"{run.name}: {common} episodes in common of {first} and {mine}; paired differences are of "
                "those alone, the figures beside them of all."
            )
        else:
            told.append(f"{run.name}: no episode in common, so each run is resampled by itself.")
    return " ".join(told)


def _runs(found: Comparison) -> Table:
    rows = [
        (
            words(run.name), words(run.card.bundle), words(run.card.bundle_sha256[:12]),
            words(run.card.impose or "none"), number(len(run.card.episodes)), number(run.card.particles),
            words(run.card.status, run.card.status), words(run.card.created),
        )
        for run in found.runs
    ]  # fmt: skip
    head = ("run", "bundle", "SHA-256", "imposed occlusion", "episodes", "particles", "checks", "written")
    return Table("The first is what the others are compared with", head, tuple(rows))


def _table(found: Comparison, rows: list[Row]) -> Table:
    head = ["measure", *(run.name for run in found.runs)]
    for run in found.runs[1:]:
        head += [f"{run.name} less {found.runs[0].name}", "drawn"]
    made = []
    for row in rows:
        cells = [words(row.measure), *(figure(item, row.scale) for item in row.figures)]
        for item in row.differences:
            cells += [_difference(row, item), _drawn(item)]
        made.append(tuple(cells))
    return Table("Figures with 95 % intervals", tuple(head), tuple(made))


def _difference(row: Row, item: Difference) -> Cell:
    cell = figure(item.figure, row.scale)
    text = cell.text if cell.text.startswith("-") or cell.key in (0, math.inf) else f"+{cell.text}"
    kind = "number" if item.better is None else "number pass" if item.better else "number fail"
    return Cell(text, cell.key, cell.aside, kind)


def _drawn(item: Difference) -> Cell:
    figure_ = item.figure
    ends = (figure_.low, figure_.value, figure_.high)
    if not all(math.isfinite(end) for end in ends):
        return Cell("", math.inf, item.how, "number")
    reach = 1.15 * max(abs(end) for end in ends) or 1.0
    low, value, high = (round(100 + 100 * end / reach, 1) for end in ends)
    colour = "--muted" if item.better is None else "--good" if item.better else "--bad"
    return Cell(
        "", figure_.value / reach, aside=item.how, kind="number", bar=Bar(low, value, high, f"var({colour})")
    )
