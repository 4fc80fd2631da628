"""Is it worth giving a bundle smaller numbers? Errors, calibration and time of int8 and float16.

    python scripts/quantise.py models/manipulator --data FOLDER [--episodes 20] [--particles 8] [--json]

FOLDER: episodes of `rssm collect` that the model has not seen. Every variant filters the same episodes with
the same noise; times are processor times of one step, taken in turns. docs/explanation/backends.md has the
figures and what follows from them.
"""

import argparse
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from rssm_ros.bundle import load_bundle, write_manifest
from rssm_ros.contract import HIDDEN, VISIBLE
from rssm_ros.evaluation.bench.ticks import Tick
from rssm_ros.evaluation.calibration import coverage
from rssm_ros.evaluation.playing.filtering import Filtered, episode_files, filter_episode, read_episode
from rssm_ros.online.backends.parity import teacher_forced
from rssm_ros.online.regions import regions_of
from rssm_ros.online.session import Session

STEPS = ("filter", "predict")
ROUNDS, CALLS = 5, 60


def main() -> None:
    """Makes the variants, runs them, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, nargs="+")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    files = episode_files(args.data)[: args.episodes]
    with tempfile.TemporaryDirectory(prefix="rssm-quantise-") as made:
        variants: dict[str, Path] = {"float32": args.bundle}
        for name, change in CHANGES.items():
            variants[name] = changed(args.bundle, Path(made) / name.replace(" ", "-"), change)
        sessions = {name: Session(folder, prove=False) for name, folder in variants.items()}
        times = timed(sessions)
        rows = []
        for name, session in sessions.items():
            scores = scored(session, files, args.particles)
            forced = teacher_forced(sessions["float32"], session, ticks=50)
            told = {
                "posterior_error": forced.worst["posterior"],
                "samples_differ": forced.different / forced.samples,
            }
            rows.append({"variant": name, **times[name], **scores, **told})
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()) + " |")


def changed(bundle: Path, folder: Path, change: Callable[[Path, Path], None]) -> Path:
    """A copy of the bundle with other steps."""
    shutil.copytree(bundle, folder)
    for step in STEPS:
        path = folder / f"{step}.onnx"
        change(bundle / path.name, path)
    write_manifest(load_bundle(bundle), folder)
    return folder


def int8(source: Path, target: Path) -> None:
    """Weights of products as signed bytes, a scale per column; activations measured at run time.

    The core's products over blocks stay float32: onnxruntime has no such kernel for weights of three axes.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source, load_external_data=False).graph
    deep = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 2}
    excluded = [node.name for node in graph.node if node.op_type == "MatMul" and deep & set(node.input)]
    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=excluded)


def float16(source: Path, target: Path) -> None:
    """Everything but inputs and outputs in half precision."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = whole(source)
    onnx.save(convert_float_to_float16(model, keep_io_types=True), target)


def float16_weights(source: Path, target: Path) -> None:
    """Weights rounded to half precision, computed in float32: what storing them so would do."""
    model = whole(source)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 256:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    onnx.save(model, target)


def whole(path: Path) -> onnx.ModelProto:
    """A graph with its weights inside."""
    model = onnx.load(path)
    external_data_helper.convert_model_from_external_data(model)
    return model


CHANGES = {"float16 weights": float16_weights, "float16": float16, "int8 dynamic": int8}


def timed(sessions: dict[str, Session]) -> dict[str, dict[str, float]]:
    """Least processor time of a step in us, one particle and 32, in turns."""
    found: dict[str, dict[str, float]] = {name: {} for name in sessions}
    for particles in (1, 32):
        ticks = {name: Tick(session, particles) for name, session in sessions.items()}
        for _ in range(ROUNDS):
            for name, tick in ticks.items():
                for _ in range(CALLS):
                    begin = time.thread_time_ns()
                    tick.step()
                    spent = (time.thread_time_ns() - begin) / 1e3
                    key = f"us_{particles}"
                    found[name][key] = min(found[name].get(key, spent), spent)
    return found


def scored(session: Session, files: list[Path], particles: int) -> dict[str, Any]:
    """Errors of the first target and coverage of its 90 % regions, visible and hidden."""
    parts = [
        filter_episode(session, read_episode(path), particles, seed, index=seed)
        for seed, path in enumerate(files)
    ]
    run, contract = Filtered.joined(parts), session.bundle.contract
    target = contract.targets[0].name
    track = run.tracks[target]
    error = ((track.mean.mean(1) - track.truth) ** 2).sum(-1)
    found: dict[str, Any] = {"ticks": len(error)}
    for group, mask in (("visible", track.visibility >= VISIBLE), ("hidden", track.visibility <= HIDDEN)):
        found[f"rmse_{group}"] = float(np.sqrt(np.nanmean(error[mask])))
    names = [spec.name for spec in contract.observations]
    entry = coverage(run, {target: regions_of(session.bundle)[target]}, names)[target]["0.9"]
    found |= {f"in_90_{group}": figure["value"] for group, figure in entry.items()}
    found["surprise"] = float(np.nanmedian(run.surprise[~run.first]))
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
