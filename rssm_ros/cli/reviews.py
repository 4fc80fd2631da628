"""`rssm reviews`: the monitor's snapshots in a folder: when, why, and how to replay each."""

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rssm_ros.nodes.review_files import Listed, Review, find_reviews
from rssm_ros.online.grid import SECOND

FAILED = 1


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "reviews",
        help="the monitor's snapshots in a folder: when, why, and how to replay each",
        description="Lists what monitor_node has written, oldest first. A snapshot is a rosbag2 folder with "
        "a review.json: `rssm evaluate` and `rssm replay` take it as it is. Exit code 1: one of them "
        "cannot be read.",
    )
    parser.add_argument(
        "folder", type=Path, help="what monitor_node was given as `out`, or the --out of `rssm up --monitor`"
    )
    parser.add_argument(
        "--bundle", default="", help="in the commands to replay (default: the one it ran with)"
    )
    parser.add_argument("--json", action="store_true", help="print every review as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0, or 1 where a snapshot cannot be read."""
    found = find_reviews(arguments.folder)
    if arguments.json:
        print(json.dumps([_plain(item, arguments.bundle) for item in found], indent=1))
    else:
        _print(found, arguments)
    broken = [item.problem for item in found if item.problem]
    for problem in broken:
        print(f"rssm reviews: {problem}", file=sys.stderr)
    return FAILED if broken else 0


def commands(item: Listed, bundle: str = "") -> dict[str, str]:
    """How to replay a snapshot: through the filter at once, and live over ROS."""
    assert item.review is not None
    model, bag = shlex.quote(bundle or item.review.bundle), shlex.quote(str(item.folder))
    out, contract = shlex.quote(f"out/{item.folder.name}"), shlex.quote(item.review.contract)
    return {
        "evaluate": f"rssm evaluate {bag} --bundle {model} --no-checks --out {out}",
        "replay": f"rssm replay {bag} --bundle {model} --contract {contract} --out {out}-live",
    }


def _plain(item: Listed, bundle: str) -> dict[str, Any]:
    if item.review is None:
        return {"folder": str(item.folder), "error": item.problem}
    return {"folder": str(item.folder), **asdict(item.review), "commands": commands(item, bundle)}


def _print(found: list[Listed], arguments: argparse.Namespace) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    if not found:
        console.print(f"{arguments.folder}: no snapshots", markup=False)
    for item in found:
        if item.review is None:
            continue  # told on stderr
        console.print(item.folder.name, style="bold", markup=False)
        for line in _lines(item.review):
            console.print(f"  {line}", markup=False)
        for command in commands(item, arguments.bundle).values():
            console.print(f"  {command}", style="cyan", markup=False)


def _lines(review: Review) -> list[str]:
    """What a person wants to know of it."""
    seconds = (review.to_ns - review.from_ns) / SECOND
    before = (review.asked_ns - review.from_ns) / SECOND
    total = sum(review.messages.values())
    when = f"{review.asked_at}, tick {review.tick} ({review.stamp_ns / SECOND:.2f} s of ROS time)"
    lines = [
        f"{when}: {review.told}",
        f"surprise {_nats(review.surprise_nats)}, threshold {_nats(review.threshold_nats)}; "
        f"{seconds:.1f} s ({before:.1f} s before), {total} messages, {review.bytes / 1e6:.1f} MB",
    ]
    lines += [f"short: {reason}" for reason in review.short]
    told = review.filter_bundle
    if told and not review.bundle_sha256.startswith(told):
        lines.append(f"the filter ran another bundle ({told}) than the monitor was told of")
    return lines


def _nats(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} nats"
