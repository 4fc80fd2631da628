"""`rssm dataset`: bags -> episodes for training, by a contract."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rssm_ros.training.bag_dataset import BagProgress, Converted


def add_parser(subparsers: Any) -> None:
    """Adds the command to `rssm`."""
    parser = subparsers.add_parser("dataset", help="turn recorded bags into episodes for training")
    parser.add_argument(
        "bags", type=Path, nargs="+", metavar="BAG", help="rosbag2 folders, or .mcap, .db3, .bag files"
    )
    parser.add_argument("--contract", required=True, help="name or file of the contract")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="data set folder; bags done before are kept"
    )
    parser.add_argument("--namespace", default="", help="before the contract's relative topics")
    parser.add_argument(
        "--stamps",
        choices=("header", "log"),
        default="header",
        help="whose time a message has; log where drivers did not stamp (default header)",
    )
    parser.add_argument(
        "--part", default="0:1", metavar="FROM:TO", help="shares of each bag's time span, such as 0:0.5"
    )
    parser.add_argument(
        "--shortest", type=float, default=0.5, help="s; shorter episodes are dropped (default 0.5)"
    )
    parser.add_argument("--longest", type=float, default=60.0, help="s; longer episodes are cut (default 60)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON; no progress bar")
    parser.set_defaults(run=run)


def parse_part(text: str) -> tuple[float, float]:
    """ "0:0.5" -> (0.0, 0.5); raises TrainingError on anything else."""
    from rssm_ros.training.errors import TrainingError

    try:
        begin, end = (float(word) for word in text.split(":"))
    except ValueError as error:
        raise TrainingError(f"--part is FROM:TO in shares of the time span, got {text!r}") from error
    if not 0.0 <= begin < end <= 1.0:
        raise TrainingError(f"--part {text}: expected 0 <= FROM < TO <= 1")
    return begin, end


def run(args: argparse.Namespace) -> int:
    """Converts; 0 when every bag could be read, 1 when some could not, 2 (by the error) when none could."""
    from rssm_ros.contract import find_contract
    from rssm_ros.training.bag_dataset import Conversion, convert

    how = Conversion(args.namespace, args.stamps, parse_part(args.part), args.shortest, args.longest)
    start = time.monotonic()
    work = partial(convert, args.bags, args.contract, find_contract(args.contract), args.out, how)
    done = work() if args.json or not sys.stdout.isatty() else _with_bar(work, len(args.bags))
    for error in done.failed.values():
        print(f"rssm dataset: {error}", file=sys.stderr)
    wall = time.monotonic() - start
    if args.json:
        print(json.dumps({**done.summary, "failed": done.failed, "wall_s": round(wall, 2)}))
    else:
        _tell(done, args.out, wall)
    return 1 if done.failed else 0


def _with_bar(work: "Callable[..., Converted]", bags: int) -> "Converted":
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("bags", total=float(bags))

        def report(progress: "BagProgress") -> None:
            told = f"bag {progress.bag + 1} of {progress.bags}, {progress.ticks} ticks"
            bar.update(task, completed=progress.bag + progress.share, description=told)

        return work(report=report)


def _tell(done: "Converted", out: Path, wall: float) -> None:
    print(
        f"{out}: {done.summary['episodes']} episodes, {done.summary['ticks']} ticks of {len(done.bags)} bags "
        f"in {wall:.1f} s ({done.skipped} were there already)"
    )
    for bag in done.bags:
        counts, told = bag["counts"], []
        for key in ("gaps", "ticks_unseen", "ticks_of_short_episodes", "safe_assumed"):
            if counts.get(key):
                told.append(f"{counts[key]} {key.replace('_', ' ')}")
        bad = {k: n for k, n in counts.items() if "/" in k and not k.endswith(("/accepted", "/superseded"))}
        told += [f"{count} {key}" for key, count in {**bad, **bag["left_out"]}.items()]
        print(f"  {bag['name']}: {', '.join(told) or 'complete'}")
        for key, note in bag["notes"].items():
            print(f"    {key}: {note}")
