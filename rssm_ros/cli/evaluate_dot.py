"""`rssm evaluate-dot`: how well is the moving dot tracked while it is hidden, beside the exact filter?"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rssm_ros.evaluation.dot.evaluate import EPISODES, evaluate
from rssm_ros.files import write_whole


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "evaluate-dot", help="hidden error of a bundle on the moving dot", description=__doc__
    )
    parser.add_argument("bundle", type=Path, help="the bundle's folder, for example models/dot")
    parser.add_argument("--setting", default="hard", help="published or hard (default hard)")
    parser.add_argument(
        "--episodes", type=int, default=EPISODES, help=f"held-out episodes (default {EPISODES})"
    )
    parser.add_argument("--particles", type=int, default=32, help="particles of the filter (default 32)")
    parser.add_argument(
        "--exact",
        type=Path,
        metavar="FILE",
        help="keep the exact filter's tracks in this .npz, and reuse them",
    )
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 when the bundle meets the bounds of a shipped one, else 1."""
    if min(arguments.episodes, arguments.particles) < 1:
        print("rssm evaluate-dot: episodes and particles: 1 or more", file=sys.stderr)
        return 2
    report = _watched(arguments)
    if arguments.out:
        write_whole(arguments.out, json.dumps(report, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0 if report["status"] == "pass" else 1


def _watched(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs under a progress bar on stderr, so that --json stays clean."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars: dict[str, Any] = {}

        def watch(what: str, done: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=arguments.episodes)
            progress.update(bars[what], completed=done)

        return evaluate(
            arguments.bundle,
            arguments.setting,
            arguments.episodes,
            arguments.particles,
            arguments.exact,
            watch,
        )


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = f"{report['runs']} hidden runs in {report['episodes']} episodes: RMSE in px, 95 % intervals"
    table = Table(title=title)
    for column in ("filter", "hidden", "visible", "bundle's hidden error to its"):
        table.add_column(column, justify="left" if column == "filter" else "right")
    for name, row in report["rmse_px"].items():
        share = report["ratio"].get(name)
        table.add_row(name, _text(row["hidden"]), _text(row["visible"]), _text(share) if share else "")
    console.print(table)
    for name, row in report["visibility_correlation"].items():
        console.print(
            f"{name}: correlation with visibility {row['std']:.2f} (std), {row['log_std']:.2f} (log)"
        )
    for check in report["checks"]:
        mark = "[green]pass" if check["pass"] else "[red]FAIL"
        console.print(f"{mark}[/] {check['name']} {check['value']:.3f} ({check['bound']})")


def _text(figure: dict[str, Any]) -> str:
    """0.123 (0.100..0.150); "-" where there is no figure."""
    value, interval = figure["value"], figure["ci95"]
    if value is None:
        return "-"
    if None in interval:
        return f"{value:.3f}"
    return f"{value:.3f} ({interval[0]:.3f}..{interval[1]:.3f})"
