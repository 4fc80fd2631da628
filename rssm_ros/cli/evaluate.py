"""`rssm evaluate`: the occlusion scorecard. How well are hidden things tracked, how honest is the belief?"""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  rssm evaluate bags/run1 bags/run2 --bundle models/manipulator --out out/scorecard
  rssm evaluate bags/drive --bundle models/car --impose blackout:4-8@0.1   # no ground truth needed
  rssm collect manipulator --held-out --out data/held-out --ticks 100000
  rssm evaluate data/held-out --bundle models/manipulator --baseline-model gru=runs/recurrent"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "evaluate",
        help="the occlusion scorecard of a bundle on recordings",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bags", type=Path, nargs="+", metavar="BAG", help="a rosbag, or a folder of collected episodes"
    )
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle's folder")
    parser.add_argument(
        "--out", type=Path, default=Path("out/scorecard"), help="folder to write (default out/scorecard)"
    )
    parser.add_argument(
        "--impose",
        metavar="SCHEDULE",
        help="cover pictures on purpose: KIND:TICKS-TICKS@SHARE with blackout, drop or patch, joined by +",
    )
    parser.add_argument("--impose-seed", type=int, default=0, help="of that schedule (default 0)")
    parser.add_argument(
        "--validation",
        type=Path,
        nargs="+",
        default=[],
        metavar="BAG",
        help="data on which the classical trackers are tuned (default: in hindsight, on BAG itself)",
    )
    parser.add_argument(
        "--baseline-model",
        action="append",
        metavar="NAME=RUN",
        help="a network of `rssm train-baseline` beside the bundle; may be given several times",
    )
    parser.add_argument(
        "--particles",
        type=int,
        help="of the filter (default: as many as the bundle is calibrated for, else 1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the filter's noise (default 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: all cores)")
    parser.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="as Ray tasks: HOST:PORT, ray://HOST:PORT or auto; local: on --workers processes here",
    )
    parser.add_argument("--namespace", default="", help="of the contract's topics in the bags")
    parser.add_argument(
        "--stamps", choices=("header", "log"), default="header", help="log: where drivers did not stamp"
    )
    parser.add_argument("--no-memoryless", action="store_true", help="without that baseline: a third faster")
    parser.add_argument(
        "--no-checks", action="store_true", help="measure only: exit 0, unless a recording was left out"
    )
    parser.add_argument("--no-report", action="store_true", help="only scorecard.json and trace.npz")
    parser.add_argument("--json", action="store_true", help="print scorecard.json; no progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 when the bundle meets the bounds of a shipped one and no recording was left out, else 1."""
    from rssm_ros.evaluation.errors import EvaluationError
    from rssm_ros.evaluation.playing.imposed import parse_imposed
    from rssm_ros.evaluation.playing.play import How
    from rssm_ros.evaluation.playing.sources import sources
    from rssm_ros.online.session import Session

    if min(1 if n is None else n for n in (args.particles, args.workers)) < 1:
        raise EvaluationError("--particles and --workers: 1 or more")
    if min(args.seed, args.impose_seed) < 0:
        raise EvaluationError("--seed and --impose-seed: 0 or more")
    imposed = parse_imposed(args.impose) if args.impose else ()
    found = sources(args.bags, args.namespace, args.stamps)
    validation = sources(args.validation, args.namespace, args.stamps)
    session = Session(args.bundle)
    particles = args.particles or int(session.bundle.calibration.get("particles", 1))
    models = _models(args.baseline_model or ())
    how = How(particles, args.seed, imposed, args.impose_seed, not args.no_memoryless, models=models)
    evaluation = _watched(args, session, found, validation, how)
    evaluation.write(args.out)
    if not args.no_report:
        _report(args.out, session, found, how)
    plain = evaluation.scorecard.to_dict()
    print(json.dumps(plain, indent=1)) if args.json else _print(evaluation.scorecard, args.out)
    for item in evaluation.unusable:
        print(f"rssm evaluate: left out: {item.error}", file=sys.stderr)
    return 0 if plain["status"] == "pass" else 1


def _models(said: Sequence[str]) -> dict[str, str]:
    """NAME=RUN, ... by name. Raises EvaluationError for what cannot be read so."""
    from rssm_ros.evaluation.errors import EvaluationError

    found: dict[str, str] = {}
    for text in said:
        name, _, folder = text.partition("=")
        if not (re.fullmatch(r"[a-z0-9_]+", name) and folder):
            raise EvaluationError(
                f"--baseline-model {text}: expected NAME=RUN, a name of small letters, digits and _ and the "
                "folder of `rssm train-baseline`"
            )
        if name in found:
            raise EvaluationError(f"--baseline-model {text}: there are two of that name")
        found[name] = os.path.abspath(folder)
    return found


def _watched(args: argparse.Namespace, session: Any, found: Any, validation: Any, how: Any) -> Any:
    """Runs under a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from rssm_ros.evaluation.evaluate import evaluate

    workers, check = args.workers or 1, not args.no_checks
    if args.json:
        return evaluate(session, found, how, workers, validation, check=check, ray=args.ray)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # Drawn twice a second: ten times, as by default, takes 3 % of a core.
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as progress:
        what = f"{len(found)} recordings" if len(found) > 1 else found[0].name
        bar = progress.add_task(what, total=1.0)

        def watch(share: float) -> None:
            progress.update(bar, completed=share)

        return evaluate(session, found, how, workers, validation, watch, check, args.ray)


def _report(out: Path, session: Any, found: Any, how: Any) -> None:
    """The page and the film, where what draws them is installed; without, the figures stand on their own."""
    from rssm_ros.evaluation.errors import EvaluationError
    from rssm_ros.evaluation.evaluate import recording_of

    try:
        from rssm_ros.evaluation.page import report

        report.write(out, recording_of(session, found, how, out))
    except (EvaluationError, ModuleNotFoundError) as error:
        print(f"rssm evaluate: no page was drawn: {error}", file=sys.stderr)


def _print(card: Any, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from rssm_ros.evaluation.evaluate import LEFT_OUT
    from rssm_ros.evaluation.units import checked

    console = Console()
    console.print(
        f"{card.bundle} on {len(card.episodes)} episodes, {card.recorded_s:.0f} s, "
        f"{card.realtime_factor:.0f} x real time"
    )
    for name, score in card.targets.items():
        title = f"{name}: RMSE in {score.unit}, 95 % intervals; {score.hidden_runs} hidden runs"
        table = Table(title=title, title_justify="left")
        for column in ("", "visible", "partly", "hidden"):
            table.add_column(column, justify="right" if column else "left")
        rows = {"belief": score.errors} | {k: v.errors for k, v in score.baselines.items()}
        for who, errors in rows.items():
            table.add_row(who, *(_text(errors.by_group[group]) for group in ("visible", "partly", "hidden")))
        console.print(table)
        held = score.coverage.get("90", {})
        told = ", ".join(f"{group} {_text(figure)}" for group, figure in held.items())
        console.print(f"90 % regions hold: {told or 'not calibrated'}")
        asked = score.log_std_visibility_corr_by_group.get("honest")
        console.print(
            f"correlation of log std with visibility {_text(score.log_std_visibility_corr)}"
            f"{f', honest by group of ticks {_text(asked)}' if asked else ''}"
        )
        first = score.first_appearances
        console.print(
            f"ticks until found again {_text(score.ticks_to_reacquire)}; lost {score.tracks_lost}; "
            f"until first found {_text(first.ticks_to_acquire)}"
        )
    for note in card.notes:
        if note.startswith(LEFT_OUT):
            continue  # told on stderr, whatever else is printed
        console.print(f"note: {note}", highlight=False)
    for check in card.checks:
        mark = "[green]pass" if check["pass"] else "[red]FAIL"
        value = "-" if check["value"] is None else checked(check["value"], check["bound"])
        console.print(f"{mark}[/] {check['name']} {value} ({check['bound']})")
    console.print(f"{out}/scorecard.json")


def _text(figure: Any) -> str:
    """0.123 (0.100..0.150); "-" where there is no figure."""
    plain = figure.to_dict()
    value, (low, high) = plain["value"], plain["ci95"]
    if value is None:
        return "-"
    value, low, high = (None if v is None else v if abs(v) > 1e-9 else 0.0 for v in (value, low, high))
    return f"{value:.3g}" if low is None else f"{value:.3g} ({low:.3g}..{high:.3g})"
