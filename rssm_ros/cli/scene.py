"""`rssm scene`: measure the sorting cell's acceptance table."""

import argparse
import json
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Adds the command to `rssm`."""
    parser = subparsers.add_parser("scene", help="measure the sorting cell's acceptance table")
    parser.add_argument("--seeds", type=int, default=20, help="seeds per policy, from 0 (default 20)")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated seconds per seed (default 60)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--out", type=Path, help="write the table here as Markdown")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures, prints, writes; 1 when a check failed."""
    from rssm_ros import provenance
    from rssm_ros.envs import acceptance
    from rssm_ros.files import write_whole

    machine = {"cpu": provenance.hardware(), **provenance.versions("mujoco", "numpy", "gymnasium")}
    summary: dict[str, Any] = {"speed": acceptance.speed(), "machine": machine}
    runs = acceptance.measure(range(args.seeds), args.seconds, args.workers)
    summary |= acceptance.summarise(runs)
    command = f"rssm scene --seeds {args.seeds} --seconds {args.seconds:.0f} --out docs/reference/scene.md"
    page = acceptance.markdown(summary, command, args.seeds, args.seconds)
    if args.out is not None:
        write_whole(args.out, page)
    print(json.dumps(summary, indent=1) if args.json else page)
    return 0 if all(check["passed"] for check in summary["checks"]) else 1
