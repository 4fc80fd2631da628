"""`rssm faults`: what losses, delays, disorder and nonsense cost the belief, beside "latest frame wins"."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EPISODES = 6
SEED = 950_000  # the first of the recorded episodes: nothing is trained or calibrated on seeds from here on
SECONDS = 30.0
MIX = {"expert": 0.6, "perturbed": 0.2, "random": 0.2}
VERSIONS = ("numpy", "onnxruntime", "mujoco")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = subparsers.add_parser("faults", help="the fault table of a bundle", description=__doc__)
    parser.add_argument("bundle", type=Path, help="the bundle's folder, for example models/manipulator")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/faults"),
        metavar="DIR",
        help="episodes from `rssm collect`; where there are none, held-out ones of the sorting robot are "
        "recorded there first (default data/faults)",
    )
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"how many (default {EPISODES})")
    parser.add_argument("--particles", type=int, default=8, help="as deployed (default 8)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the faults and of the filter's noise (default 0)"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="also write it as Markdown, with ../images/faults.png"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 when final beliefs are untouched by what comes late, nothing broken gets in, and the online error
    under a delay of 200 ms stays inside its bounds; 1 where a check fails."""
    from rssm_ros.evaluation.errors import EvaluationError
    from rssm_ros.online.session import Session

    if min(args.episodes, args.particles) < 1:
        raise EvaluationError("--episodes and --particles are 1 or more")
    start, session = time.monotonic(), Session(args.bundle)
    files, own = _files(args, session.bundle.contract.name)
    report = _watched(session, files, own, args)
    report["wall_s"] = round(time.monotonic() - start, 1)
    report["cpu_s"] = round(time.process_time(), 1)
    if args.page:
        from rssm_ros.evaluation.faults.page import PICTURE, draw, page
        from rssm_ros.files import write_whole

        picture = args.page.parent.parent / PICTURE
        draw(report, picture)
        write_whole(args.page, page(report, f"../{PICTURE.as_posix()}"))
    print(json.dumps(report, indent=1)) if args.json else _print(report)
    return 0 if report["status"] == "pass" else 1


def _files(args: argparse.Namespace, contract: str) -> tuple[list[Path], bool]:
    """The episodes, and whether they are this command's own. Records what is missing of those."""
    from rssm_ros.evaluation.errors import EvaluationError
    from rssm_ros.training.collect_manipulator import MANIPULATOR, plan_episodes

    there = sorted(args.data.glob("episode-*.npz"))
    ticks = args.episodes * (round(SECONDS * 20) + 1)
    plans = plan_episodes(ticks, MIX, SEED, SECONDS)
    names = {plan.filename for plan in plans}
    if {path.name for path in there} <= names or names <= {path.name for path in there}:
        if contract != MANIPULATOR.contract:
            raise EvaluationError(
                f"{args.data} holds no episodes for the contract {contract!r}; record some with "
                "`rssm collect` or `rssm dataset`, and name their folder with --data"
            )
        if not names <= {path.name for path in there}:
            from rssm_ros.training.collect import collect

            print(f"rssm faults: recording {len(names)} episodes into {args.data} ...", file=sys.stderr)
            collect(MANIPULATOR, plans, args.data, workers=1)
        return [args.data / plan.filename for plan in plans], True
    if len(there) < args.episodes:
        raise EvaluationError(f"{args.data} holds {len(there)} episodes, {args.episodes} are asked for")
    return there[: args.episodes], False


def _watched(session: Any, files: Sequence[Path], own: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Runs under a progress bar on stderr, so that --json stays clean."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rssm_ros.evaluation.faults.runs import episode_of
    from rssm_ros.evaluation.faults.table import Table
    from rssm_ros.evaluation.faults.ticks import ONSET_S
    from rssm_ros.evaluation.playing.filtering import hash_of, read_episode
    from rssm_ros.provenance import hardware, versions

    contract = session.bundle.contract
    table = Table(session, args.particles, args.seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("faults", total=len(files) * len(table.scenarios))
        for path in files:
            episode = episode_of(read_episode(path), contract, complete=own)
            table.add(episode, lambda name: progress.update(bar, advance=1, description=name))
    return {
        "bundle": session.bundle.name,
        "folder": args.bundle.as_posix(),
        "bundle_sha256": session.bundle.sha256,
        "particles": args.particles,
        "seed": args.seed,
        "episodes": len(files),
        "episode_ticks": sum(episode.ticks for episode in table.episodes),
        "data": {
            "sha256": hash_of(files),
            "first_seed": SEED if own else None,
            "files": [path.name for path in files],
        },
        "onset_s": ONSET_S,
        "history_s": contract.history,
        "units": {target.name: target.unit for target in contract.targets},
        **table.report(),
        "machine": hardware(),
        "versions": versions(*VERSIONS),
    }


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for target, unit in report["units"].items():
        head = f"{target}: RMSE in {unit}, visible / hidden, {report['episodes']} episodes"
        table = Table(title=head)
        for column in ("fault", "online", "final", "latest frame wins"):
            table.add_column(column, justify="left" if column == "fault" else "right")
        for row in report["rows"]:
            errors = row["error"][target]
            cells = [
                " / ".join(_text(errors[m][g]["value"]) for g in ("visible", "hidden"))
                for m in ("online", "final", "latest")
            ]
            table.add_row(row["name"], *cells)
        console.print(table)
    for check in report["checks"]:
        mark = "[green]pass[/]" if check["pass"] else "[red]FAIL[/]"
        console.print(f"{mark} {check['name']}: {_text(check['value'])} ({check['bound']})")


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
