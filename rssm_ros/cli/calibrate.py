"""`rssm calibrate`: which surprise is normal, and regions that keep their promise, on a bundle's own word."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

PERCENTILE = 95.0  # with 10 in a row: see docs/explanation/filter.md for what others notice
HELD_BACK = 3  # every third episode is for the check where no other data are given


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = subparsers.add_parser("calibrate", help="thresholds and regions of a bundle from held-out data")
    parser.add_argument("bundle", type=Path, help="the bundle's folder; its bundle.json is rewritten")
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, metavar="DIR", help="validation data, never trained on"
    )
    parser.add_argument(
        "--check",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="other data for the check (default: every third episode of --data, left out of the fit)",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=PERCENTILE,
        help=f"of normal ticks whose surprise stays below the threshold (default {PERCENTILE:g})",
    )
    parser.add_argument("--after", type=int, default=10, help="surprised ticks in a row that make a review")
    parser.add_argument("--particles", type=int, default=8, help="as deployed (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the filter's noise (default 0)")
    parser.add_argument("--dry-run", action="store_true", help="report only; the bundle stays as it is")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 when 90 % regions contain 88 to 92 % of the check's ticks, visible and hidden, over enough hidden
    runs; 1 where they do not, or where that cannot be told."""
    from rssm_ros.evaluation.calibration import Calibration, calibrate
    from rssm_ros.evaluation.errors import EvaluationError
    from rssm_ros.evaluation.playing.filtering import episode_files, hash_of
    from rssm_ros.online.session import Session

    if not 50 <= args.percentile < 100 or min(args.after, args.particles) < 1:
        raise EvaluationError("--percentile is 50 up to 100, --after and --particles are 1 or more")
    session = Session(args.bundle)
    files, others = episode_files(args.data), episode_files(args.check)
    if not others:
        files, others = (
            [f for i, f in enumerate(files) if (i + 1) % HELD_BACK],
            files[HELD_BACK - 1 :: HELD_BACK],
        )
    if not files or not others:
        raise EvaluationError(f"{len(files)} episodes to fit and {len(others)} to check; collect more")
    fitted, held_out = filtered(session, files, others, args)
    contract = session.bundle.contract
    found: Calibration = calibrate(fitted, held_out, contract, args.percentile, args.after)
    about = {
        "particles": args.particles,
        "percentile": args.percentile,
        "data": {"sha256": hash_of(files), **_amount(fitted[0])},
        "check": {"sha256": hash_of(others), **_amount(held_out)},
    }
    report = {**about, "surprise": found.surprise, **found.report}
    if not args.dry_run:
        _write(session.bundle, args.bundle, found, {**about, "report": found.report})
    print(json.dumps(report, indent=1)) if args.json else _print(report)
    return 0 if report["status"] == "pass" else 1


def _amount(done: Any) -> dict[str, int]:
    return {"episodes": len(set(done.episode.tolist())), "ticks": len(done.surprise)}


def filtered(session: Any, files: Sequence[Path], others: Sequence[Path], args: argparse.Namespace) -> Any:
    """((recorded, thinned), held out), each episode from nowhere, under a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import track

    from rssm_ros.evaluation.playing.filtering import (
        Filtered,
        episode_rows,
        filter_episode,
        read_episode,
        thinned,
    )

    names = [spec.name for spec in session.bundle.contract.observations]
    recorded: list[Filtered] = []
    thin: list[Filtered] = []
    held_out: list[Filtered] = []
    work = [(path, False) for path in files] + [(path, True) for path in others]
    index = 0
    for path, check in track(work, "episodes", console=Console(stderr=True)):
        whole = read_episode(path)
        for begin, end in episode_rows(whole):
            arrays = {name: values[begin:end] for name, values in whole.items()}
            seed = args.seed * 1_000_003 + index
            done = filter_episode(session, arrays, args.particles, seed, index=index)
            (held_out if check else recorded).append(done)
            if not check:
                present = thinned({name: arrays[f"present_{name}"] for name in names}, seed)
                thin.append(filter_episode(session, arrays, args.particles, seed, present, index))
            index += 1
    return (Filtered.joined(recorded), Filtered.joined(thin)), Filtered.joined(held_out)


def _write(bundle: Any, folder: Path, found: Any, about: dict[str, Any]) -> None:
    """Into bundle.json, and the card beside it."""
    from rssm_ros.bundle import write_manifest
    from rssm_ros.export.card import model_card
    from rssm_ros.files import write_whole

    regions = {name: region.to_dict() for name, region in found.regions.items()}
    thresholds = {**bundle.thresholds, "surprise": found.surprise}
    changed = replace(bundle, thresholds=thresholds, calibration={**about, "regions": regions})
    write_whole(folder / "README.md", model_card(write_manifest(changed, folder), folder))


def _print(report: dict[str, Any]) -> None:
    for name, nats in report["surprise"].items():
        print(f"surprise {name}: {nats:.1f} nats")
    alarms = report["false_alarms"]
    runs = f"{alarms['reviews']} runs of {alarms['after']} in {alarms['hours']:.2f} h"
    print(f"above it: {alarms['above']:.2%} of the check's ticks; {runs}")
    for target, entry in report["coverage"].items():
        print(f"{target}: {entry['ticks']} ticks, {entry['hidden_runs']} hidden runs")
        for level, groups in entry.items():
            if level not in ("ticks", "hidden_runs"):
                told = ", ".join(f"{group} {figure['value']:.3f}" for group, figure in groups.items())
                print(f"  {level} regions contain: {told}")
    for check in report["checks"]:
        mark = "pass" if check["pass"] else "FAIL"
        value = "-" if check["value"] is None else f"{check['value']:.4g}"
        advice = f": {check['advice']}" if "advice" in check else ""
        print(f"{mark} {check['name']}: {value} ({check['bound']}){advice}")
