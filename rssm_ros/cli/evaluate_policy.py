"""`rssm evaluate-policy`: does the learned belief sort packages, and how well does it know?"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rssm_ros.evaluation.runs.policy import BUNDLE, FIRST_SEED, REFERENCES, Episode, evaluate, tasks
from rssm_ros.files import write_whole


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = subparsers.add_parser("evaluate-policy", help="sorted packages of a bundle", description=__doc__)
    parser.add_argument("bundle", type=Path, help="the bundle's folder, for example models/manipulator")
    parser.add_argument("--seeds", type=int, default=10, help="number of held-out seeds (default 10)")
    parser.add_argument(
        "--first-seed", type=int, default=FIRST_SEED, help=f"the first of them (default {FIRST_SEED})"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated seconds a seed (default 60)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--particles", type=int, default=8, help="particles of the filter (default 8)")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0 when the bundle meets the bounds of a shipped one, else 1."""
    if min(arguments.seeds, arguments.workers, arguments.particles) < 1 or arguments.seconds < 1:
        print("rssm evaluate-policy: seeds, seconds, workers and particles: 1 or more", file=sys.stderr)
        return 2
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    work = tasks(arguments.bundle, seeds, arguments.seconds, arguments.particles)
    report = _watched(work, arguments.workers)
    if arguments.out:
        write_whole(arguments.out, json.dumps(report, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0 if report["status"] == "pass" else 1


def _watched(work: Any, workers: int) -> dict[str, Any]:
    """Runs the episodes under a progress bar on stderr, so that --json stays clean."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("episodes", total=len(work))

        def watch(episode: Episode) -> None:
            done = f"{episode.policy} {episode.seed}: {episode.sorted} sorted"
            progress.update(bar, advance=1, description=done)

        return evaluate(work, workers, watch)


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{len(report['seeds'])} seeds x {report['seconds']:g} s, 95 % intervals over seeds")
    for column in ("policy", "packages", "sorted", "wrong", "missed", "sorted a seed", "of the expert's"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name in (BUNDLE, *REFERENCES):
        row = report["policies"].get(name)
        if row is None:
            continue
        counts = [str(row[key]) for key in ("packages", "sorted", "wrong", "missed")]
        share = report.get("sorted_of_expert", {}).get(name)
        of_expert = _text(share) if share else "1"
        table.add_row(name, *counts, _text(row["sorted_a_seed"]), of_expert)
    console.print(table)
    if "belief" in report:
        _print_belief(console, report["belief"])
    for check in report["checks"]:
        mark = "[green]pass" if check["pass"] else "[red]FAIL"
        value = "none" if check["value"] is None else f"{check['value']:.3f}"
        console.print(f"{mark}[/] {check['name']} {value} ({check['bound']})")


def _print_belief(console: Any, belief: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title="where the package is: RMSE in metres on the same ticks")
    for column in ("package", "ticks", "belief", "hold last", "best constant", "to hold last", "to constant"):
        table.add_column(column, justify="left" if column == "package" else "right")
    errors, ratios = ("error_m", "hold_last_error_m", "climatology_error_m"), ("hold_last", "climatology")
    keys = (*errors, *(f"ratio_to_{name}" for name in ratios))
    for name in ("visible", "hidden"):
        table.add_row(name, str(belief[name]["ticks"]), *(_text(belief[name][key]) for key in keys))
    console.print(table)


def _text(figure: dict[str, Any]) -> str:
    """0.123 (0.100..0.150); "-" where there is no figure."""
    value, interval = figure["value"], figure["ci95"]
    if value is None:
        return "-"
    if None in interval:
        return f"{value:.3f}"
    return f"{value:.3f} ({interval[0]:.3f}..{interval[1]:.3f})"
