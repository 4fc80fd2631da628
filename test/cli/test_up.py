"""`rssm up` with real nodes over real DDS, on a tiny bundle of random weights."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rssm_ros.evaluation.runs.summary import KEYS
from rssm_ros.evaluation.runs.trace import TraceError, read_last, read_trace

pytestmark = pytest.mark.ros
MOVING = 0.1  # m/s or rad/s


@cache
def moving_bundle(parent: Path) -> Path:
    """Random weights whose actor drives and swings the arm, so that there is something to stop."""
    import torch

    from rssm_ros.contract import find_contract
    from rssm_ros.export.bundle import export_bundle
    from test.bundles import tiny_model

    model = tiny_model()
    with torch.no_grad():
        model.actor.mean.bias.copy_(torch.tensor([0.9, 0.3, 1.0, 0.5, 0.5, 0.5]))
    export_bundle(model, find_contract("manipulator"), parent / "moving", horizon=4)
    return parent / "moving"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_bundle(tmp_path_factory.mktemp("bundles"))


def up(*words: object, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "rssm_ros.cli.main", "up", "manipulator", *map(str, words)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def children(pid: int) -> Iterator[tuple[str, int]]:
    """Name and pid of each node that a process has started."""
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_text().split("\0")
        except (OSError, IndexError, ValueError):
            continue
        if parent == pid:
            names = [word.rpartition(".")[2] for word in words if "rssm_ros.nodes." in word]
            yield from ((name, int(entry.name)) for name in names)


def wait_until_it_moves(out: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if abs(read_last(out / "trace" / "sim.trace")["speed"]).max() > MOVING:
                return
        except TraceError:
            pass
        time.sleep(0.02)
    process.kill()
    raise AssertionError(process.communicate())


def test_a_lockstep_run_leaves_summary_bag_and_film(tmp_path: Path, bundle: Path) -> None:
    out = tmp_path / "out"
    words = ("--seconds", 3, "--seed", 3, "--lockstep", "--record", "--monitor", "--json")
    process = up(*words, "--bundle", bundle, "--out", out)
    text, errors = process.communicate(timeout=110)
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads(text) == summary, errors
    assert set(KEYS) <= set(summary) and "error" not in summary
    assert process.returncode == (0 if summary["status"] == "pass" else 1)
    assert summary["ticks"] == 60 and summary["sim_s"] == 3.0 and summary["seed"] == 3
    assert summary["over_budget_fraction"] is not None and summary["dropped"] == 0
    assert isinstance(summary["expert_sorted"], int) and isinstance(summary["random_sorted"], int)
    assert summary["bundle_sha256"]
    assert summary["lockstep_timeout"] == 0 and summary["counters"]["filter_node"]["camera/accepted"] >= 60
    assert "gate_node" in summary["counters"]
    heard = summary["counters"]["monitor_node"]
    assert heard["memory/messages"] > 60 * 10 and not heard["bad_belief"] and "monitor_error" not in summary
    assert (out / "reviews").is_dir()
    every_tick_is_answered(out)
    the_bag_can_be_read(out)
    assert (out / "manipulator.mp4").read_bytes()[4:8] == b"ftyp"


def test_a_lockstep_run_can_be_repeated_bit_for_bit(tmp_path: Path, bundle: Path) -> None:
    runs = []
    for name in ("once", "again"):
        words = ("--seconds", 2, "--lockstep", "--json", "--no-references", "--bundle", bundle)
        process = up(*words, "--out", tmp_path / name)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, 1), errors
        runs.append(read_trace(tmp_path / name / "trace" / "sim.trace"))
    assert len(runs[0]) == len(runs[1]) == 41
    for field in ("state", "applied", "camera", "joints", "odom"):
        np.testing.assert_array_equal(*(run[field] for run in runs), field)


def every_tick_is_answered(out: Path) -> None:
    """Each observation has one command that acts exactly one tick later: what is applied is what was sent."""
    sim, gate = read_trace(out / "trace" / "sim.trace"), read_trace(out / "trace" / "gate.trace")
    answers = {int(record["stamp_ns"]): record for record in gate if record["stamp_ns"]}
    assert [int(stamp) in answers for stamp in sim["stamp_ns"][:-1]] == [True] * 60
    for k in range(2, 61):  # applied over [k-1, k) answers o_{k-2}
        sent = answers[int(sim["stamp_ns"][k - 2])]["applied"]
        np.testing.assert_allclose(sim["applied"][k], sent, atol=1e-5)


def the_bag_can_be_read(out: Path) -> None:
    from rosbags.highlevel import AnyReader

    with AnyReader([out / "bag"]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        for topic in (
            "/camera/image_raw",
            "/odom",
            "/joint_states",
            "/ground_truth/package",
            "/filter_node/belief",
        ):
            assert counts[topic] >= 58, counts
        assert counts["/gate_node/applied"] >= 58 and counts["/episode"] == 1 and counts["/clock"] >= 250
        connections = [c for c in reader.connections if c.topic == "/odom"]
        stamps = [t for _, t, _ in reader.messages(connections)]
    assert 1_000_000_000 <= stamps[0] <= stamps[-1] <= 4_100_000_000  # log time is simulated time


@pytest.mark.parametrize(
    ("node", "number"),
    [
        ("planner_node", signal.SIGKILL),
        ("planner_node", signal.SIGSTOP),
        ("filter_node", signal.SIGKILL),
        ("gate_node", signal.SIGKILL),
        ("gate_node", signal.SIGTERM),
        ("sim_node", signal.SIGKILL),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_node_that_dies_or_hangs_stops_the_robot_and_is_named(
    tmp_path: Path, bundle: Path, node: str, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    process = up("--seconds", 30, "--bundle", bundle, "--out", out, "--json", "--no-references")
    wait_until_it_moves(out, process)
    victim = dict(children(process.pid))[node]
    struck = time.monotonic_ns()
    os.kill(victim, number)
    _, errors = process.communicate(timeout=30)
    summary = json.loads((out / "summary.json").read_text())
    assert process.returncode == 1 and summary["status"] == "error", errors
    assert summary["error"].startswith(node) and str(victim) in summary["error"]
    assert errors.splitlines()[-1] == f"rssm up: {summary['error']}"
    told = {signal.SIGKILL: "SIGKILL", signal.SIGSTOP: "stopped", signal.SIGTERM: "ended with code 0"}[number]
    assert told in summary["error"]
    assert not dict(children(process.pid)) and not Path(f"/proc/{victim}").exists()
    if number == signal.SIGTERM:  # the safe action is the last thing sent
        assert read_last(out / "trace" / "gate.trace")["applied"][:2].tolist() == [0.0, 0.0]
    if node != "sim_node":
        # From the fault on, not from when it was noticed (1.5 s later where the node hangs).
        least = 0.1 if number == signal.SIGSTOP else 0.0
        assert least < summary["stopped_after_s"] < 1.0
        the_robot_stood_still(read_trace(out / "trace" / "sim.trace"), struck, braked=node == "gate_node")


def test_nodes_end_with_the_process_that_started_them(tmp_path: Path, bundle: Path) -> None:
    """A killed `rssm up` must not leave a robot running unwatched."""
    process = up("--seconds", 30, "--bundle", bundle, "--out", tmp_path / "out", "--json")
    wait_until_it_moves(tmp_path / "out", process)
    nodes = dict(children(process.pid))
    assert len(nodes) == 4
    process.kill()
    process.communicate(timeout=10)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in nodes.values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def the_robot_stood_still(sim: np.ndarray, struck: int, braked: bool) -> None:
    """From half a second after the blow until the end: commanded to, and but for a little sway it did."""
    before = sim[sim["monotonic_ns"] < struck]
    late = sim[sim["stamp_ns"] > before["stamp_ns"][-1] + 500_000_000]  # of the robot's time: machines stall
    assert len(late) >= 3
    assert np.abs(before["speed"][-1]).max() > MOVING
    np.testing.assert_array_equal(late["applied"][1:, :2], 0.0)
    assert np.abs(np.diff(late["applied"][1:, 2:], axis=0)).max() < 1e-6
    assert np.abs(late["base"] - late["base"][-1]).max() < 0.02, late["base"]  # m, rad
    assert np.abs(late["joints"][:, :4] - late["joints"][-1, :4]).max() < 0.03  # rad, with the sensors' noise
    assert bool(late["braked"].all()) == braked


def test_a_missing_bundle_is_said_in_one_line_and_in_the_summary(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = up("--bundle", tmp_path / "nowhere", "--out", out, "--json")
    text, errors = process.communicate(timeout=60)
    summary = json.loads((out / "summary.json").read_text())
    assert process.returncode == 2
    assert "nowhere: there is no such bundle" in summary["error"]
    assert summary["error"].startswith(("filter_node: ", "planner_node: "))
    assert set(KEYS) <= set(summary) and summary["status"] == "error"
    assert errors.strip() == f"rssm up: {summary['error']}" and json.loads(text) == summary
