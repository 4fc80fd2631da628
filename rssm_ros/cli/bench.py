"""`rssm bench`: how long the model's steps take here, beside the least they could take."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAMES = ("peaks", "filter", "rollout", "train")
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = subparsers.add_parser("bench", help="measure speed", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all of them where none is named"
    )
    parser.add_argument("--threads", type=int, default=1, help="of every library (default 1)")
    parser.add_argument("--size", default="size12m", help="preset to measure (default size12m)")
    parser.add_argument("--batch", type=int, default=16, help="rows of a training step (default 16)")
    parser.add_argument("--length", type=int, default=64, help="ticks of a training step (default 64)")
    parser.add_argument("--starts", type=int, default=1024, help="rows of a rollout (default 1024)")
    parser.add_argument("--horizon", type=int, default=15, help="ticks of a rollout (default 15)")
    parser.add_argument("--conv", choices=("strided", "exact"), help="one kind of convolution (default both)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="one of them (default both)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="train: each row once more with torch.compile, as in `rssm train`",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of torch (default cpu)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.0,
        help="per row, five times that where one call takes seconds (default 2)",
    )
    parser.add_argument("--repeats", type=int, default=300, help="calls per row at most (default 300)")
    parser.add_argument(
        "--backend",
        default="onnxruntime",
        help="filter: what computes the steps, as in `rssm verify` (default onnxruntime)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=0,
        help="filter: also so many ticks in a row, and whether memory grew, e.g. 100000 (default 0: none)",
    )
    parser.add_argument("--bundle", type=Path, help="bundle beside the presets (default models/manipulator)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write the tables as Markdown")
    parser.add_argument("--json", action="store_true", help="print a list of rows")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 once everything is measured; figures are told, not judged: machines differ."""
    unknown = sorted(set(args.names) - set(NAMES))
    if unknown:
        print(f"rssm bench: no benchmark {unknown[0]!r}, expected {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in LIBRARIES:  # heard by libraries that are not loaded yet; torch is told itself
        os.environ[name] = str(max(1, args.threads))
    from rssm_ros.evaluation.bench.page import page
    from rssm_ros.evaluation.bench.setting import Bench
    from rssm_ros.evaluation.bench.suite import measure_all
    from rssm_ros.files import write_whole

    bench = Bench(_request(args))
    names = [name for name in NAMES if name in (args.names or NAMES)]
    found = measure_all(bench, names, lambda name: print(f"rssm bench: {name} ...", file=sys.stderr))
    if args.page:
        write_whole(args.page, page(found))
    if args.json:
        print(json.dumps([row.to_dict() for rows in found.values() for row in rows], indent=1))
    else:
        _print(found)
    return 0


def _request(args: argparse.Namespace) -> Any:
    from rssm_ros.evaluation.bench.setting import CONVOLUTIONS, DTYPES, Request
    from rssm_ros.world_model import preset

    preset(args.size)  # raises its own error where there is none
    return Request(
        size=args.size,
        threads=args.threads,
        device=args.device,
        batch=args.batch,
        length=args.length,
        starts=args.starts,
        horizon=args.horizon,
        convolutions=(args.conv,) if args.conv else CONVOLUTIONS,
        dtypes=(args.dtype,) if args.dtype else DTYPES,
        seconds=args.seconds,
        repeats=args.repeats,
        compile=args.compile,
        steps=args.steps,
        backend=args.backend,
        bundle=args.bundle,
    )


def _print(found: Mapping[str, Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from rssm_ros.evaluation.bench import page

    console = Console()
    first = next(row for rows in found.values() for row in rows)
    machine = first.machine
    console.print(
        f"{machine['cores']} cores, {machine['cpu']}; {first.device}, {first.threads} threads, "
        f"load {machine['load_1min']:.2f}"
    )
    console.print(", ".join(f"{name} {number}" for name, number in first.versions.items() if number))
    for name, rows in found.items():
        peaks = name == "peaks"
        table = Table(title=name)
        for index, head in enumerate((*page.HEAD[:8], "rate") if peaks else page.HEAD):
            table.add_column(head, justify="left" if index < 3 else "right")
        for row in rows:
            table.add_row(*((*page.cells(row)[:8], page.rate(row)) if peaks else page.cells(row)))
        console.print(table)
        for line in page.ratios(rows):
            console.print(line)
        print(page.breakdown(rows), end="")
