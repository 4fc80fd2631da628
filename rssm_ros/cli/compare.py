"""`rssm compare`: scorecards side by side, with intervals, paired where the episodes are the same."""

import argparse
import json
import sys
from pathlib import Path

from rssm_ros.evaluation.compare import INTERVALS, Comparison, compare, read_runs
from rssm_ros.files import write_whole


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = subparsers.add_parser("compare", help="scorecards side by side", description=__doc__)
    parser.add_argument(
        "scorecards",
        type=Path,
        nargs="+",
        metavar="A.json B.json ...",
        help="files or folders of `rssm evaluate`; the first is what the others are compared with",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a self-contained page")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")
    parser.add_argument(
        "--fail-if-worse",
        action="store_true",
        help="exit 1 where a run is clearly worse than the first in any measure",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0: compared. 1: asked to fail, and something is clearly worse. EvaluationError: not comparable."""
    if len(arguments.scorecards) < 2:
        print("rssm compare: give two scorecards or more", file=sys.stderr)
        return 2
    found = compare(read_runs(arguments.scorecards))
    if arguments.html:
        from rssm_ros.evaluation.page.comparison import render_comparison

        write_whole(arguments.html, render_comparison(found))
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        _print(found)
    if not arguments.fail_if_worse or not found.worse:
        return 0
    for told in found.worse:
        print(f"rssm compare: clearly worse: {told}", file=sys.stderr)
    return 1


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rssm_ros.evaluation.page.comparison import about, headline

    console = Console()
    for name in dict.fromkeys(row.target for row in found.rows):
        table = Table(title=name or "whole run", title_justify="left")
        table.add_column("measure")
        names = [escape(each.name) for each in found.runs]
        for title in (*names, *(f"{each} less {names[0]}" for each in names[1:])):
            table.add_column(title, justify="right")
        for row in found.rows:
            if row.target != name:
                continue
            figures = [_told(row.scale.value(one.value), row.scale.interval(one)) for one in row.figures]
            for item in row.differences:
                text = _told(row.scale.value(item.figure.value), row.scale.interval(item.figure))
                begin, end = {None: ("", ""), True: ("[green]", "[/]"), False: ("[red]", "[/]")}[item.better]
                figures.append(f"{begin}{text}{end}" + ("" if item.how == INTERVALS else f" {item.how}"))
            table.add_row(row.measure, *figures)
        console.print(table)
    console.print(about(found), markup=False)
    console.print(headline(found), markup=False)


def _told(value: str, between: str) -> str:
    return f"{value} ({between})" if between else value
