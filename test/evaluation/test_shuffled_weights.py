"""The shipped bundle's figures come from what it learned: with its weights shuffled they fall apart."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rssm_ros.bundle import GOLDEN, WEIGHTS, load_bundle, write_manifest
from rssm_ros.evaluation.runs.policy import BUNDLE, evaluate, tasks
from rssm_ros.online.golden import read_golden
from rssm_ros.online.session import Session
from test.bundles import tiny_bundle

onnx = pytest.importorskip("onnx")
SEED, SECONDS = 1, 12.0  # two packages are sorted by then


def shuffle_weights(source: Path, target: Path, seed: int) -> None:
    """A copy whose tensors keep their values, not their order; its golden vectors fit, so it loads."""
    bundle = load_bundle(source)
    shutil.copytree(source, target)
    places: dict[int, tuple[int, np.dtype[np.generic]]] = {}
    for path in target.glob("*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            where = {entry.key: entry.value for entry in tensor.external_data}
            if where:
                kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                places[int(where.get("offset", 0))] = (int(where["length"]), kind)
    raw = bytearray((target / WEIGHTS).read_bytes())
    rng = np.random.default_rng(seed)
    for offset, (length, kind) in sorted(places.items()):
        values = np.frombuffer(raw, kind, length // kind.itemsize, offset)
        raw[offset : offset + length] = rng.permutation(values).tobytes()
    (target / WEIGHTS).write_bytes(raw)
    write_manifest(bundle, target)
    session, arrays = Session(target, prove=False), read_golden(target)
    for graph, case in sorted({tuple(name.split("/")[:2]) for name in arrays}):
        prefix = f"{graph}/{case}/in/"
        feeds = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
        arrays |= {f"{graph}/{case}/out/{name}": value for name, value in session.run(graph, feeds).items()}
    np.savez_compressed(target / GOLDEN, allow_pickle=False, **arrays)
    write_manifest(bundle, target)


@pytest.fixture
def shipped(checkout: Path) -> Path:
    return checkout / "models" / "manipulator"


def test_a_shuffled_bundle_still_proves_itself(tmp_path: Path) -> None:
    """Hashes and golden vectors say that a bundle computes what it computed, not that it is any good."""
    shuffle_weights(tiny_bundle(), tmp_path / "shuffled", seed=0)
    assert (tmp_path / "shuffled" / WEIGHTS).read_bytes() != (tiny_bundle() / WEIGHTS).read_bytes()
    Session(tmp_path / "shuffled")


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_shuffled_weights_neither_track_nor_sort(shipped: Path, tmp_path: Path) -> None:
    shuffled = tmp_path / "manipulator"
    shuffle_weights(shipped, shuffled, seed=0)
    figures = []
    for folder in (shipped, shuffled):
        report = evaluate(tasks(folder, (SEED,), SECONDS, particles=4, policies=(BUNDLE,)), workers=1)
        hidden = report["belief"]["hidden"]
        assert hidden["ticks"] > 50
        figures.append((report["policies"][BUNDLE]["sorted"], hidden["error_m"]["value"]))
    (sorted_shipped, error_shipped), (sorted_shuffled, error_shuffled) = figures
    assert error_shuffled > 2 * error_shipped
    assert sorted_shuffled <= sorted_shipped - 2


def summary(bundle: Path, out: Path) -> dict[str, Any]:
    """summary.json of a run of the whole graph, in lockstep, so that a busy machine changes nothing."""
    words = ["up", "manipulator", "--lockstep", "--no-references", "--seconds", str(SECONDS)]
    words += ["--seed", str(SEED)]
    command = [sys.executable, "-m", "rssm_ros.cli.main", *words, "--bundle", str(bundle), "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    assert "error" not in found, result.stderr
    return found


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_summary_of_a_run_tells_them_apart(shipped: Path, tmp_path: Path) -> None:
    pytest.importorskip("rclpy")
    shuffle_weights(shipped, tmp_path / "manipulator", seed=0)
    good, bad = summary(shipped, tmp_path / "good"), summary(tmp_path / "manipulator", tmp_path / "bad")
    assert bad["belief_error_m"]["hidden"] > 2 * good["belief_error_m"]["hidden"]
    assert bad["sorted"] < good["sorted"]
    failed = {check["name"] for check in bad["checks"] if not check["pass"]}
    assert {"hidden_error_to_hold_last", "hidden_error_to_climatology"} <= failed
