"""`rssm collect`: record episodes of a simulated robot for training."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rssm_ros.training.collect import Plan, Source

DEFAULT_MIX = "expert=0.6,perturbed=0.2,random=0.2"
# Options that mean something for one robot only, and what they are there when not given.
OPTIONS: dict[str, dict[str, Any]] = {
    "manipulator": {"mix": DEFAULT_MIX, "seconds": 30.0, "policy": None},
    "dot": {"setting": "hard"},
}


def add_parser(subparsers: Any) -> None:
    """Adds the command to `rssm`."""
    parser = subparsers.add_parser("collect", help="record episodes of a simulated robot for training")
    parser.add_argument("robot", choices=list(OPTIONS), help="which simulated robot")
    parser.add_argument("--out", type=Path, required=True, help="data set folder; existing episodes are kept")
    parser.add_argument("--ticks", type=int, default=200_000, help="about how many ticks (default 200000)")
    parser.add_argument(
        "--seed", type=int, default=1000, help="first seed (default 1000); low ones are held out"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="for `rssm evaluate`: seeds of its own, and what only a simulator knows (manipulator: from "
        "950000, occlusions of every length, the belt's motion; dot: from 0, the exact Bayes filter's track)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON; no progress bar")
    robot = parser.add_argument_group("manipulator")
    robot.add_argument(
        "--mix",
        help=f"kind=share,... of expert (noisy), perturbed, random, policy (default {DEFAULT_MIX})",
    )
    robot.add_argument("--seconds", type=float, help="length of an episode (default 30)")
    robot.add_argument("--policy", type=Path, help="bundle that acts in episodes of kind 'policy' (DAgger)")
    dot = parser.add_argument_group("dot")
    dot.add_argument("--setting", help="published or hard (default hard)")
    parser.set_defaults(run=run)


def parse_mix(text: str) -> dict[str, float]:
    """ "a=0.5,b=0.5" -> {"a": 0.5, "b": 0.5}; raises TrainingError on anything else."""
    from rssm_ros.training.errors import TrainingError

    try:
        return {name.strip(): float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise TrainingError(f"--mix is kind=share,kind=share..., got {text!r}") from error


def what_to_record(args: argparse.Namespace) -> "tuple[Source, list[Plan]]":
    """The robot's source and its plans. Raises TrainingError for an option of another robot."""
    from rssm_ros.training.errors import TrainingError

    for robot, options in OPTIONS.items():
        for name, default in options.items():
            if getattr(args, name) is not None and robot != args.robot:
                raise TrainingError(f"--{name} is an option of `rssm collect {robot}`, not of {args.robot}")
            if getattr(args, name) is None:
                setattr(args, name, default)
    if args.robot == "dot" and args.held_out:
        from rssm_ros.evaluation.dot import held_out as held_out_dot

        return held_out_dot.source(args.setting), [*held_out_dot.plan_held_out(args.ticks, args.setting)]
    if args.robot == "dot":
        from rssm_ros.training.collect_dot import plan_blocks, source

        return source(args.setting), [*plan_blocks(args.ticks, args.setting, args.seed)]
    from rssm_ros.training.collect_manipulator import MANIPULATOR, plan_episodes

    if args.held_out:
        from rssm_ros.evaluation.held_out import FIRST_SEED, HELD_OUT, MIX

        mix = parse_mix(MIX if args.mix == DEFAULT_MIX else args.mix)
        seed = max(args.seed, FIRST_SEED)
        return HELD_OUT, [*plan_episodes(args.ticks, mix, seed, args.seconds)]
    policy = None if args.policy is None else str(args.policy.resolve())
    return MANIPULATOR, [*plan_episodes(args.ticks, parse_mix(args.mix), args.seed, args.seconds, policy)]


def run(args: argparse.Namespace) -> int:
    """Collects and reports ticks per second."""
    from rssm_ros.training.collect import Progress, collect

    source, plans = what_to_record(args)
    start = time.monotonic()
    if args.json or not sys.stdout.isatty():
        done = collect(source, plans, args.out, args.workers)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns) as bar:
            task = bar.add_task("files", total=len(plans))

            def report(progress: Progress) -> None:
                rate = progress.ticks / (time.monotonic() - start)
                bar.update(
                    task,
                    completed=progress.files + progress.skipped,
                    description=f"files ({rate:.0f} ticks/s)",
                )

            done = collect(source, plans, args.out, args.workers, report)
    wall = time.monotonic() - start
    result = {
        "out": str(args.out),
        "episodes": done.files,
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
            f"{done.files} files ({done.ticks} ticks) recorded at {done.ticks / wall:.0f} ticks/s, "
            f"{done.skipped} were there already; in {args.out}"
        )
    return 0
