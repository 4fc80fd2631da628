"""`rssm collect`: record episodes of a simulated robot for training."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

DEFAULT_MIX = "expert=0.6,perturbed=0.2,random=0.2"


def add_parser(subparsers: Any) -> None:
    """Adds the command to `rssm`."""
    parser = subparsers.add_parser("collect", help="record episodes of a simulated robot for training")
    parser.add_argument("robot", choices=["manipulator"], help="which simulated robot")
    parser.add_argument("--out", type=Path, required=True, help="data set folder; existing episodes are kept")
    parser.add_argument("--ticks", type=int, default=200_000, help="about how many ticks (default 200000)")
    parser.add_argument(
        "--mix",
        default=DEFAULT_MIX,
        help=f"kind=share,... of expert (noisy), perturbed, random, policy (default {DEFAULT_MIX})",
    )
    parser.add_argument("--seed", type=int, default=1000, help="first seed, 100 or more (default 1000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of an episode (default 30)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--policy", type=Path, help="bundle that acts in episodes of kind 'policy' (DAgger)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON; no progress bar")
    parser.set_defaults(run=run)


def parse_mix(text: str) -> dict[str, float]:
    """ "a=0.5,b=0.5" -> {"a": 0.5, "b": 0.5}; raises TrainingError on anything else."""
    from rssm_ros.training.errors import TrainingError

    try:
        return {name.strip(): float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise TrainingError(f"--mix is kind=share,kind=share..., got {text!r}") from error


def run(args: argparse.Namespace) -> int:
    """Collects and reports ticks per second."""
    from rssm_ros.training.collect import Progress, collect, plan_episodes

    policy = None if args.policy is None else str(args.policy.resolve())
    plans = plan_episodes(args.ticks, parse_mix(args.mix), args.seed, args.seconds, policy)
    start = time.monotonic()
    if args.json or not sys.stdout.isatty():
        done = collect(plans, args.out, args.workers)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns) as bar:
            task = bar.add_task("episodes", total=len(plans))

            def report(progress: Progress) -> None:
                rate = progress.ticks / (time.monotonic() - start)
                bar.update(
                    task,
                    completed=progress.episodes + progress.skipped,
                    description=f"episodes ({rate:.0f} ticks/s)",
                )

            done = collect(plans, args.out, args.workers, report)
    wall = time.monotonic() - start
    result = {
        "out": str(args.out),
        "episodes": done.episodes,
        "skipped": done.skipped,
        "ticks": done.ticks,
        "kinds": done.by_kind,
        "wall_s": round(wall, 2),
        "ticks_per_s": round(done.ticks / wall, 1),
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(
            f"{done.episodes} episodes ({done.ticks} ticks) recorded at {done.ticks / wall:.0f} ticks/s, "
            f"{done.skipped} were there already; in {args.out}"
        )
    return 0
