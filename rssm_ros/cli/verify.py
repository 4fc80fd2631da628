"""`rssm verify`: does a bundle compute here what it computed where it was made?"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rssm_ros.bundle import BundleError
from rssm_ros.online.golden import Difference


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = subparsers.add_parser("verify", help="prove a bundle on this machine")
    parser.add_argument("bundle", type=Path, help="the bundle's folder, e.g. models/manipulator")
    parser.add_argument(
        "--backend",
        default="onnxruntime",
        help="what computes: onnxruntime (default), onnxruntime-cuda, onnxruntime-tensorrt, torchscript, "
        "torchscript-cuda; another one than the default is also compared with it, step by step and in a "
        "free run",
    )
    parser.add_argument("--threads", type=int, default=1, help="of the backend, per call (default 1)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0: proven. 1: damaged, not what its manifest says, or computing something else. 2: there is none, or
    no such backend here."""
    from rssm_ros.online.backends.backend import DEFAULT
    from rssm_ros.online.golden import compare_golden
    from rssm_ros.online.session import Session

    if not args.bundle.is_dir():
        raise BundleError(f"{args.bundle}: there is no such bundle; give the folder that `rssm export` wrote")
    report: dict[str, Any] = {
        "bundle": str(args.bundle),
        "backend": args.backend,
        "status": "fail",
        "outputs": [],
    }
    differences: list[Difference] = []
    try:
        session = Session(args.bundle, threads=args.threads, prove=False, backend=args.backend)
        report["bundle_sha256"] = session.fingerprint
        differences = compare_golden(args.bundle, session.run, session.tolerance)
        passed = all(item.passed for item in differences)
        if args.backend != DEFAULT:
            report |= _compared(Session(args.bundle, threads=args.threads), session)
            passed &= report["teacher_forced"]["pass"] and report["free_run"]["pass"]
        if session.lost:
            raise BundleError(session.lost)
        report["status"] = "pass" if passed else "fail"
    except BundleError as error:
        report["error"] = str(error)
    report["outputs"] = [_row(graph, output, differences) for graph, output in _outputs(differences)]
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report)
    return 0 if report["status"] == "pass" else 1


def _compared(reference: Any, session: Any) -> dict[str, Any]:
    """Two sessions beside each other, in the report's words."""
    from rssm_ros.online.backends.parity import free_run, teacher_forced

    forced, free = teacher_forced(reference, session), free_run(reference, session)
    return {
        "reference": reference.backend,
        "teacher_forced": {**asdict(forced), "pass": forced.passed},
        "free_run": {**asdict(free), "worst": free.worst, "pass": free.passed},
    }


def _outputs(differences: list[Difference]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((item.graph, item.output) for item in differences))


def _row(graph: str, output: str, differences: list[Difference]) -> dict[str, Any]:
    """The worst case of one output."""
    cases = [item for item in differences if (item.graph, item.output) == (graph, output)]
    worst = max(cases, key=lambda item: (not item.passed, item.error))
    return {
        "graph": graph,
        "output": output,
        "cases": len(cases),
        "error": worst.error,
        "allowed": worst.allowed,
        "pass": worst.passed,
    }


def _print(report: dict[str, Any]) -> None:
    for row in report["outputs"]:
        mark = "ok  " if row["pass"] else "FAIL"
        difference = f"{row['error']:9.2e} (allowed {row['allowed']:.2e})"
        print(f"{mark} {row['graph']:15s} {row['output']:22s} {difference}")
    if "teacher_forced" in report:
        _print_compared(report)
    if "error" in report:
        print(report["error"])
    verdict = "proven on this machine" if report["status"] == "pass" else "NOT proven on this machine"
    print(f"{report['bundle']}: {verdict}, backend {report['backend']}")


def _print_compared(report: dict[str, Any]) -> None:
    forced, free = report["teacher_forced"], report["free_run"]
    for name, value in forced["worst"].items():
        mark = "ok  " if value <= forced["allowed"] else "FAIL"
        print(f"{mark} {'step by step':15s} {name:22s} {value:9.2e} (allowed {forced['allowed']:.2e})")
    mark = "ok  " if not forced["different"] else "FAIL"
    print(
        f"{mark} {'step by step':15s} {'samples':22s} {forced['different']} of {forced['samples']} differ, "
        f"{forced['near']} too near an edge to compare"
    )
    since = free["first_difference"]
    told = "the same samples throughout" if since is None else f"another sample from tick {since} on"
    mark = "ok  " if free["pass"] else "FAIL"
    print(f"{mark} {'free run':15s} {told}; statistics differ by {100 * free['worst']:.2g} % (allowed 1)")
