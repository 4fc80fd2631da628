"""`rssm export`: a checkpoint becomes a bundle that has proven itself on this machine."""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SETTINGS = ("batch", "length", "rate", "imagination_fraction", "threads")  # told of each training stage


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command."""
    parser = subparsers.add_parser("export", help="turn a checkpoint into a bundle")
    parser.add_argument("checkpoint", type=Path, help="a run, or one of its checkpoints")
    parser.add_argument(
        "--out", type=Path, required=True, help="the bundle's folder, e.g. models/manipulator"
    )
    parser.add_argument(
        "--horizon", type=int, default=10, help="ticks that rollout.onnx imagines (default 10)"
    )
    parser.add_argument(
        "--scores",
        type=Path,
        help="report of `rssm evaluate-policy --out` (or evaluate-dot) on a bundle of these weights",
    )
    parser.add_argument(
        "--thresholds",
        type=Path,
        help='JSON {"surprise": {"camera+joints+odom": NATS, ...}}: surprise above which the gate loses '
        "patience, by what was seen; default: what one validation tick in a thousand exceeded",
    )
    parser.add_argument(
        "--commands", type=Path, help="text file with the commands that made it, for the card"
    )
    parser.add_argument(
        "--earlier",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="the runs that the checkpoint's first known run was started from, the first one first; only "
        "where checkpoints of an older version do not say so themselves",
    )
    parser.add_argument(
        "--shuffle-weights",
        type=int,
        metavar="SEED",
        help="permute every weight tensor first: a bundle that loads and knows nothing, to compare with",
    )
    parser.add_argument(
        "--torchscript", action="store_true", help="the steps as TorchScript files, too (backend torchscript)"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exports; 0 when the new bundle has proven itself."""
    from rssm_ros.contract import Contract
    from rssm_ros.export.bundle import Model, export_bundle, shuffled
    from rssm_ros.export.errors import ExportError
    from rssm_ros.training.checkpoint import load_checkpoint, load_tracker

    if args.horizon < 1:
        raise ExportError(f"--horizon is {args.horizon}; at least 1 tick is needed")
    world_model, actor, critic, meta = load_checkpoint(args.checkpoint)
    contract = Contract.from_dict(meta["contract"], f"{args.checkpoint}: contract")
    model = Model(world_model, actor, critic, load_tracker(args.checkpoint, world_model, meta))
    if args.shuffle_weights is not None:
        model = shuffled(model, args.shuffle_weights)
    bundle = export_bundle(model, contract, args.out, _provenance(meta, args), args.horizon, args.torchscript)
    if args.json:
        print(json.dumps(bundle.to_dict(), indent=1))
    else:
        size = sum(path.stat().st_size for path in args.out.iterdir()) / 1e6
        print(f"{args.out}: {size:.1f} MB, proven here; SHA-256 {bundle.sha256[:12]}")
    return 0


def _provenance(meta: Mapping[str, Any], args: argparse.Namespace) -> Any:
    """What the manifest says about data and training; folders by name only, they mean nothing elsewhere."""
    from rssm_ros.export.bundle import Provenance
    from rssm_ros.provenance import commit, hardware

    stages = _stages(meta, args)
    folders = dict.fromkeys(str(folder) for stage in stages for folder in stage.get("data") or ())
    training = {
        "commands": args.commands.read_text().splitlines() if args.commands else None,
        "shuffled_with_seed": args.shuffle_weights,
        "steps": sum(int(stage.get("step") or 0) for stage in stages),
        "hours": round(sum(float(stage.get("elapsed_s") or 0.0) for stage in stages) / 3600, 3),
        "stages": {f"{at} {stage['name']}": _told(stage) for at, stage in enumerate(stages, 1)},
        "exported_on": hardware(),
        "exported_at_commit": commit(),
        "validation": meta.get("validation"),
        "options": meta.get("options"),
        "sizes": meta.get("sizes"),
        "versions": meta.get("versions"),
    }
    dataset = {Path(folder).name: _dataset(Path(folder)) for folder in folders}
    scores = _scores(args.scores) if args.scores else {}
    told = {name: value for name, value in training.items() if value not in (None, {}, [])}
    return Provenance(dataset, told, _thresholds(meta, args), scores)


def _stages(meta: Mapping[str, Any], args: argparse.Namespace) -> list[Mapping[str, Any]]:
    """Every run that the weights went through, the first one first, as its checkpoint tells it."""
    from rssm_ros.training.checkpoint import read_state

    earlier = [{"name": run.resolve().name, **read_state(run)} for run in args.earlier]
    return [*earlier, *meta.get("chain", []), {"name": args.checkpoint.name, **meta}]


def _told(stage: Mapping[str, Any]) -> dict[str, Any]:
    """One stage in the manifest's words."""
    options = stage.get("options") or {}
    told = {
        "steps": stage.get("step"),
        "hours": round(float(stage.get("elapsed_s") or 0.0) / 3600, 3),
        "data": ", ".join(Path(str(folder)).name for folder in stage.get("data") or ()),
        "taken": stage.get("taken"),
        **{
            name: options.get(name) for name in ("batch", "length", "rate", "imagination_fraction", "threads")
        },
        "hardware": stage.get("hardware"),
        "commit": stage.get("commit"),
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def _scores(path: Path) -> dict[str, Any]:
    """A report of evaluate-policy or -dot. That it is of these weights is checked once they are written."""
    from rssm_ros.export.errors import ExportError

    scores = _json(path)
    if not isinstance(scores, dict) or "weights_sha256" not in scores:
        raise ExportError(
            f"{path}: has no weights_sha256, so nothing says which model these scores belong to; "
            "make them with `rssm evaluate-policy BUNDLE --out FILE` (or evaluate-dot)"
        )
    return scores


def _thresholds(meta: Mapping[str, Any], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of the surprise, by presence pattern: from the file, or from the run's last validation (which says
    nothing about shuffled weights)."""
    from rssm_ros.bundle import pattern
    from rssm_ros.export.errors import ExportError
    from rssm_ros.training.validation import surprise_thresholds

    path = args.thresholds
    if path is None:
        found = surprise_thresholds(meta.get("validation") or {}) if args.shuffle_weights is None else {}
        return {"surprise": found} if found else {}
    told = _json(path)
    surprise = told.get("surprise") if isinstance(told, dict) else None
    if not isinstance(surprise, dict) or set(told) != {"surprise"}:
        raise ExportError(f"{path}: expected an object with the one key 'surprise', and patterns in it")
    known = set(meta["contract"]["observations"])
    for name, value in surprise.items():
        parts = name.split("+")
        if pattern(parts) != name or not set(parts) <= known:
            raise ExportError(
                f"{path}: {name!r} is no pattern of this contract; expected names of {sorted(known)}, "
                "sorted, with + between them"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ExportError(f"{path}: {name} is {value!r}; expected a finite number of nats above 0")
    return {"surprise": {name: float(value) for name, value in surprise.items()}}


def _json(path: Path) -> Any:
    from rssm_ros.export.errors import ExportError

    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read as JSON ({error})") from error


def _dataset(folder: Path) -> dict[str, Any]:
    """What a data set says of itself: hash over its files, counts, seeds."""
    try:
        about = json.loads((folder / "dataset.json").read_text())
    except (OSError, ValueError):
        return {"sha256": "unknown: dataset.json was not there at export"}
    kept = {
        name: about[name] for name in ("sha256", "ticks", "episodes", "kinds", "versions") if name in about
    }
    seeds = about.get("seeds") or []
    return {**kept, "seeds": f"{min(seeds)} to {max(seeds)}"} if seeds else kept
