"""The launch files by ROS 2's own `ros2 launch` and real nodes, where it and this package are installed:
in a ROS 2 workspace, after `colcon build`, `python3 -m pytest test/nodes/test_launch.py` in the sources.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_ros")
if shutil.which("ros2") is None:
    pytest.skip("there is no `ros2` here", allow_module_level=True)

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from rssm_ros.evaluation.playing.replaying import final_beliefs
from rssm_ros.evaluation.runs.trace import TraceError, read_last, read_trace
from rssm_ros.nodes.filter_trace import FINAL
from rssm_ros.online.session import Session
from rssm_ros.recordings import open_bag
from test.recorded import CONTRACT, make_bag

try:
    get_package_prefix("rssm_ros")
except PackageNotFoundError:
    pytest.skip("rssm_ros is not in the ament index", allow_module_level=True)

pytestmark = [pytest.mark.ros, pytest.mark.filterwarnings("ignore:module .sre_:DeprecationWarning")]


def launched(file: str, log: Path, **arguments: object) -> "subprocess.Popen[bytes]":
    words = [f"{name}:={value}" for name, value in arguments.items()]
    environment = {name: value for name, value in os.environ.items() if name != "RSSM_ROS_SHARE"}
    return subprocess.Popen(
        ["ros2", "launch", "rssm_ros", file, *words],
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        env=environment,  # files as they are installed
        start_new_session=True,
    )


def until(condition: Callable[[], Any], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def trace_grows(file: Path) -> bool:
    try:
        return bool(read_last(file)["monotonic_ns"])
    except TraceError:
        return False


def test_a_replay_ends_by_itself_and_agrees_with_offline_evaluation(tmp_path: Path, checkout: Path) -> None:
    taken = make_bag(tmp_path / "bag", ticks=30)
    log, bundle = tmp_path / "log.txt", checkout / "models" / "manipulator"
    arguments = {
        "bag": tmp_path / "bag",
        "bundle": bundle,
        "out": tmp_path / "out",
        "particles": 2,
        "speed": 2,
    }
    process = launched("replay.launch.py", log, **arguments)
    try:
        assert process.wait(110) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert f"'played': {taken + 1}" in log.read_text()
    live = {int(r["stamp_ns"]): r["digest"].tobytes() for r in read_trace(tmp_path / "out/trace" / FINAL)}
    offline = list(final_beliefs(Session(bundle), open_bag(tmp_path / "bag", CONTRACT), 2, 0))
    assert len(offline) == 30 and all(live[b.stamp_ns] == b.digest() for b in offline)
    recorded = tmp_path / "out" / "bag"
    assert (recorded / "metadata.yaml").is_file() and (recorded / "bag_0.mcap").stat().st_size > 10_000


def test_a_node_that_refuses_ends_the_launch_with_its_reason(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    process = launched("replay.launch.py", log, bag=tmp_path / "nowhere", out=tmp_path / "out")
    try:
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    assert f"[player_node]: {tmp_path / 'nowhere'}: does not exist" in text, text
    assert text.count("process has finished cleanly") == 3, text


def nodes_of(process: "subprocess.Popen[bytes]") -> list[int]:
    """Process ids of what a launch has started, in its order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children]


def test_a_launch_that_is_killed_takes_its_nodes_along(tmp_path: Path) -> None:
    """SIGTERM ends `ros2 launch` at once, and by itself leaves every node where it is."""
    log = tmp_path / "log.txt"
    process = launched("filter.launch.py", log, trace=tmp_path)
    try:
        until(lambda: (tmp_path / "filter.trace").is_file(), process, log)
        nodes = nodes_of(process)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in nodes):
            assert len(nodes) == 3 and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_launch_goes_on_without_its_monitor(tmp_path: Path) -> None:
    """It keeps its snapshots where nothing can be kept, and refuses; later another one is killed."""
    log, options = tmp_path / "log.txt", {"monitor": "true", "lockstep": "true", "trace": tmp_path}
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file" / "reviews", tmp_path / "reviews"):
        process = launched("manipulator.launch.py", log, reviews=place, **options)
        try:
            if place.parent == tmp_path:
                until(place.is_dir, process, log)
                os.kill(nodes_of(process)[3], signal.SIGKILL)
            else:
                until(lambda: "choose another folder" in log.read_text(), process, log)
            until(lambda: trace_grows(tmp_path / "gate.trace"), process, log)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(30) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert "Traceback" not in log.read_text()
        (tmp_path / "gate.trace").unlink()


@pytest.mark.parametrize(("file", "nodes"), [("manipulator.launch.py", 5), ("filter.launch.py", 4)])
def test_a_graph_comes_to_life_and_ends_with_ctrl_c(tmp_path: Path, file: str, nodes: int) -> None:
    log = tmp_path / "log.txt"
    process = launched(file, log, trace=tmp_path, monitor="true", reviews=tmp_path / "reviews")
    try:
        # The filter is configured when the nodes before it are active.
        until(lambda: (tmp_path / "filter.trace").is_file(), process, log)
        if nodes == 5:  # the loop is closed: the filter believes what the sim shows, and the gate answers
            until(lambda: all(trace_grows(tmp_path / f"{n}.trace") for n in ("filter", "gate")), process, log)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all
        assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text()
    assert text.count("process has finished cleanly") == nodes, text
    assert "Traceback" not in text and "[ERROR]" not in text, text
