"""The simulated robot and its gate by themselves: clock, episodes, pause and step, emergency stop."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rssm_ros.evaluation.runs.trace import read_trace
from rssm_ros.online.gate import MODES

pytest.importorskip("rclpy")
pytestmark = [pytest.mark.ros, pytest.mark.filterwarnings("ignore:module .sre_:DeprecationWarning")]


class Listener:
    """Hears what the nodes say and calls their services."""

    def __init__(self) -> None:
        import rclpy
        from nav_msgs.msg import Odometry
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import JointState
        from std_msgs.msg import Header

        from rssm_ros import messages
        from rssm_ros.nodes.interfaces import COMMANDS

        rclpy.init(args=[])
        self._rclpy = rclpy
        self._executor = SingleThreadedExecutor()
        self.node = Node("test_listener", enable_rosout=False, start_parameter_services=False)
        self._executor.add_node(self.node)
        self.order: list[tuple[str, int]] = []
        self.episodes: list[str] = []
        self.applied: list[list[float]] = []
        stamp = messages.stamp_ns
        listen = self.node.create_subscription
        listen(Clock, "clock", lambda m: self.order.append(("clock", stamp(m.clock))), 100)
        listen(Odometry, "odom", lambda m: self.order.append(("odom", stamp(m.header.stamp))), 100)
        listen(Header, "episode", lambda m: self.episodes.append(m.frame_id), 100)
        listen(JointState, "gate_node/applied", lambda m: self.applied.append(list(m.position)), COMMANDS)

    def until(self, condition: Callable[[], Any], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.order[-5:], self.episodes, len(self.applied))
            self._executor.spin_once(timeout_sec=0.05)

    def spin(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)

    def call(self, kind: Any, name: str, **request: Any) -> Any:
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout_sec=10.0)
        future = client.call_async(kind.Request(**request))
        self.until(future.done)
        return future.result()

    def stamps(self, topic: str) -> list[int]:
        return [stamp for name, stamp in self.order if name == topic]

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._rclpy.try_shutdown()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    traced = ["-p", f"trace:={tmp_path}"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"rssm_ros.nodes.{name}", "--ros-args", "-p", "autostart:=true", *extra],
            env=os.environ,
            stderr=(tmp_path / f"{name}.log").open("wb"),
        )
        for name, extra in (
            ("gate_node", ["-p", "use_sim_time:=true", *traced]),
            ("sim_node", traced),
        )
    ]
    yield started
    for process in started:
        process.terminate()
    assert [process.wait(10) for process in started] == [0, 0]


def test_robot_and_gate(listener: Listener, nodes: Any, tmp_path: Path) -> None:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState
    from std_srvs.srv import SetBool, Trigger

    listener.until(lambda: len(listener.stamps("odom")) > 5)
    # Time starts at 1 s (0 means "unset"); who listens late joins in the middle.
    assert read_trace(tmp_path / "sim.trace")["stamp_ns"][0] == 1_000_000_000
    assert 0 <= listener.stamps("odom")[-1] - listener.stamps("clock")[-1] + 100_000_000 <= 200_000_000

    # A new episode: the clock goes on.
    assert listener.call(Trigger, "sim_node/reset").success
    listener.until(lambda: listener.episodes[-1:] == ["reset"])
    listener.until(lambda: read_trace(tmp_path / "sim.trace")["reset"].sum() == 2)
    clocks = listener.stamps("clock")
    assert clocks == sorted(clocks)

    # Pause: nothing moves but by single steps.
    assert not listener.call(Trigger, "sim_node/step").success
    assert listener.call(SetBool, "sim_node/pause", data=True).success
    listener.spin(0.3)
    before = len(listener.stamps("odom"))
    listener.spin(0.3)
    assert len(listener.stamps("odom")) == before
    assert listener.call(Trigger, "sim_node/step").success
    listener.until(lambda: len(listener.stamps("odom")) == before + 1)
    assert listener.call(SetBool, "sim_node/pause", data=False).success
    listener.until(lambda: len(listener.stamps("odom")) > before + 5)

    # The gate holds the measured joints while nobody commands; its emergency stop answers.
    listener.until(lambda: len(listener.applied) > 5)
    assert listener.applied[-1][:2] == [0.0, 0.0] and max(map(abs, listener.applied[-1][2:])) > 0.3
    assert gate_mode(tmp_path) == "hold"
    assert listener.call(Trigger, "gate_node/estop").success
    listener.until(lambda: gate_mode(tmp_path) == "estop")

    # It latches: neither time nor a pause of the gate ends it, only the reset; nothing moves meanwhile.
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        request = {"transition": Transition(id=transition)}
        assert listener.call(ChangeState, "gate_node/change_state", **request).success
    before = len(listener.applied)
    listener.until(lambda: len(listener.applied) > before + 10)
    assert gate_mode(tmp_path) == "estop"
    for applied in listener.applied[before:]:
        assert applied == pytest.approx(listener.applied[before], abs=0.02) and applied[:2] == [0.0, 0.0]
    assert listener.call(Trigger, "gate_node/reset").success
    listener.until(lambda: gate_mode(tmp_path) == "hold")


def gate_mode(folder: Path) -> str:
    """The mode in which the gate last sent something."""
    return MODES[int(read_trace(folder / "gate.trace")["mode"][-1])]
