import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from rssm_ros.nodes import processes
from rssm_ros.nodes.graph import NodeDescription
from rssm_ros.nodes.processes import NETWORK, NodeProcess, child_environment, end_all, free_domain


def started(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> NodeProcess:
    """A process of our own instead of a node."""
    script = folder / "script.sh"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} -u -c '{code}'\n")
    script.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(script))
    return NodeProcess(NodeDescription("any", "any_node", {}), folder, os.environ)


def says(process: NodeProcess, text: str) -> None:
    for _ in range(200):
        if text in process.log.read_text():
            return
        process.wait(0.05)
    raise AssertionError(process.log.read_text())


def test_the_last_error_is_the_complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        'print("[INFO] [1.5] [n]: fine"); print("[ERROR] [2.5] [n]: first"); '
        'print("[ERROR] [3.5] [n]: no such bundle: x"); print("[WARN] [4.5] [n]: later"); raise SystemExit(2)'
    )
    process = started(tmp_path, code, monkeypatch)
    assert process.wait(10)
    assert process.how_it_ended() == "ended with code 2: no such bundle: x"
    assert process.state() == "dead"


def test_a_traceback_says_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = started(tmp_path, 'raise KeyError("gone")', monkeypatch)
    assert process.wait(10)
    assert process.how_it_ended() == "ended with code 1: KeyError: 'gone'"


def test_who_is_deaf_is_killed_and_who_is_stopped_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = tmp_path / "deaf"
    deaf.mkdir()
    ignoring = 'import signal, time; signal.signal(15, signal.SIG_IGN); print("up"); time.sleep(60)'
    stubborn = started(deaf, ignoring, monkeypatch)
    says(stubborn, "up")
    monkeypatch.undo()
    frozen = started(tmp_path, 'import time; print("up"); time.sleep(60)', monkeypatch)
    says(frozen, "up")
    assert frozen.state() == "running"
    frozen.signal(signal.SIGSTOP)
    frozen.wait(0.1)
    assert frozen.state() == "stopped"
    assert end_all([frozen, stubborn], patience=0.5) == ["any_node"]
    assert (frozen.code, stubborn.code) == (-signal.SIGTERM, -signal.SIGKILL)
    assert frozen.how_it_ended() == "was killed by SIGTERM"


def test_no_robot_is_reached_from_a_shell_that_is_set_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulated gate publishes on a robot's topics: own domain, loopback, no peers and no profiles."""
    for name in NETWORK:
        monkeypatch.setenv(name, "142")  # none of those that are drawn
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    made = child_environment(tmp_path)
    assert made["ROS_DOMAIN_ID"] != "142" and 1 <= int(made["ROS_DOMAIN_ID"]) <= 101
    assert made["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert "127.0.0.1" in Path(made["FASTDDS_DEFAULT_PROFILES_FILE"]).read_text()
    kept = {"ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTDDS_DEFAULT_PROFILES_FILE"}
    assert set(NETWORK) & set(made) == kept
    assert made["OMP_NUM_THREADS"] == "3"  # what leads nowhere is the caller's choice
    assert made["RSSM_ROS_PARENT"] == str(os.getpid()) and made["ROS_LOG_DIR"].startswith(str(tmp_path))


def test_a_chosen_domain_is_taken_on_loopback_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    made = child_environment(tmp_path, 7)
    assert made["ROS_DOMAIN_ID"] == "7" and made["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


def test_a_domain_in_use_is_not_taken() -> None:
    first = free_domain(seed=5)
    assert 1 <= first <= 101 and free_domain(seed=5) == first
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 7400 + 250 * first + 10))
        assert free_domain(seed=5) != first
