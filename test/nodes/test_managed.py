"""A node's managed life, without processes."""

import ast
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from test.disks import largest_file

pytestmark = [pytest.mark.ros, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of rclpy's own
FOLDER = Path(__file__).parents[2] / "rssm_ros" / "nodes"
NODES = (
    "sim_node",
    "filter_node",
    "planner_node",
    "gate_node",
    "monitor_node",
    "player_node",
    "recorder_node",
)


@pytest.fixture
def ros() -> Iterator[Any]:
    import rclpy

    rclpy.init(args=[])
    yield rclpy
    rclpy.try_shutdown()


def on_the_graph(node: Any) -> list[int]:
    kinds = (node.publishers, node.subscriptions, node.services, node.clients, node.timers)
    return [len(list(kind)) for kind in kinds]


def test_a_gate_configured_again_hears_everything_once(ros: Any) -> None:
    """Twice would end every run: a command that comes again is an old command, for ever."""
    from rclpy.lifecycle import TransitionCallbackReturn
    from sensor_msgs.msg import JointState

    from rssm_ros.nodes.executors import make_executor
    from rssm_ros.nodes.gate_node import GateNode
    from rssm_ros.nodes.interfaces import COMMANDS

    node = GateNode()
    executor = make_executor(node)
    bare = on_the_graph(node)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    once = on_the_graph(node)
    executor.spin_once(timeout_sec=0.02)
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert on_the_graph(node) == bare and sum(once) > sum(bare)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert on_the_graph(node) == once
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    commands = node.create_publisher(JointState, "planner_node/command/channels", COMMANDS)
    deadline = time.monotonic() + 5
    while commands.get_subscription_count() != 1 and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.02)
    assert commands.get_subscription_count() == 1
    commands.publish(JointState())
    while not node._inbox and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.05)
    for _ in range(3):
        executor.spin_once(timeout_sec=0.02)
    assert len(node._inbox) == 1
    # Not active, it hoards nothing: pictures by the hundred, say.
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    node._inbox.clear()
    commands.publish(JointState())
    for _ in range(5):
        executor.spin_once(timeout_sec=0.05)
    assert not node._inbox
    executor.shutdown()
    node.destroy_node()


def test_a_refused_configuration_leaves_nothing(ros: Any) -> None:
    from rclpy.lifecycle import TransitionCallbackReturn
    from std_msgs.msg import Float64

    from rssm_ros.nodes.errors import NodeError
    from rssm_ros.nodes.managed import ManagedNode

    class Refusing(ManagedNode):
        def set_up(self) -> None:
            self.create_lifecycle_publisher(Float64, "anything", 1)
            self.create_subscription(Float64, "anything", lambda _: None, 1)
            raise NodeError("not here")

    node = Refusing("refusing")
    bare = on_the_graph(node)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert node.failure == "not here" and on_the_graph(node) == bare
    node.destroy_node()


def test_a_fault_while_activating_leaves_nothing_and_may_be_tried_again(ros: Any) -> None:
    """rclpy swallows the exception; what is subscribed twice hears everything twice."""
    from lifecycle_msgs.msg import State
    from rclpy.lifecycle import TransitionCallbackReturn
    from std_msgs.msg import Float64

    from rssm_ros.nodes.managed import ManagedNode

    class Faulty(ManagedNode):
        faulty, open = True, 0

        def set_up(self) -> None:
            self.create_subscription(Float64, "anything", lambda _: None, 1)
            self.open += 1

        def start(self) -> None:
            if self.faulty:
                raise RuntimeError("a fault of ours")

        def tear_down(self) -> None:
            self.open -= 1

    node = Faulty("faulty")
    bare = on_the_graph(node)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.trigger_activate()
    assert node._state_machine.current_state[0] == State.PRIMARY_STATE_UNCONFIGURED
    assert on_the_graph(node) == bare and not node.running and node.open == 0
    node.faulty = False
    assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert node.running and node.open == 1
    assert node.trigger_shutdown() == TransitionCallbackReturn.SUCCESS
    assert on_the_graph(node) == bare and not node.running and node.open == 0
    node.destroy_node()


def test_a_full_disk_does_not_keep_a_node_from_its_end(ros: Any, tmp_path: Path) -> None:
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.parameter import Parameter as Value

    from rssm_ros.nodes.managed import ManagedNode

    class Counting(ManagedNode):
        def stop(self) -> None:
            self.keep_counters({"one": 1})

    node = Counting("counting")
    node.set_parameters([Value("trace", value=str(tmp_path))])
    assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    with largest_file(0):
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    node.destroy_node()


def test_whoever_started_a_node_and_is_gone_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from rssm_ros.nodes import running

    monkeypatch.delenv(running.PARENT, raising=False)
    assert not running.orphaned()
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    for pid, expected in ((os.getppid(), False), (os.getpid(), False), (gone.pid, True)):
        monkeypatch.setenv(running.PARENT, str(pid))  # the second: a debugger stands between the two
        assert running.orphaned() == expected
    monkeypatch.setenv(running.PARENT, str(os.getpid()))
    monkeypatch.setattr(running, "_STARTER", gone.pid)
    assert running.orphaned()


def test_a_parameter_that_would_change_nothing_is_refused(ros: Any) -> None:
    from rclpy.parameter import Parameter as Value
    from std_msgs.msg import Float64

    from rssm_ros.nodes.managed import ManagedNode
    from rssm_ros.nodes.parameters import Parameter

    class Choosy(ManagedNode):
        parameters = (
            Parameter("kind", "soft", "of it", choices=("soft", "hard")),
            Parameter("share", 0.5, "of it", 0.0, 1.0, live=True),
        )

        def set_up(self) -> None:
            self.create_subscription(Float64, "anything", lambda _: None, 1)

    node = Choosy("choosy")

    def refusal(**changes: Any) -> str:
        answer = node.set_parameters_atomically([Value(name, value=v) for name, v in changes.items()])
        assert answer.successful or answer.reason
        return str(answer.reason)

    assert "soft, hard" in refusal(kind="odd") and node.value("kind") == "soft"
    assert not refusal(kind="hard") and not refusal(share=0.1) and "range" in refusal(share=1.5)
    node.trigger_configure()
    assert "clean up first" in refusal(share=0.2, kind="soft") and node.value("share") == 0.1
    assert not refusal(share=0.2) and node.value("share") == 0.2
    node.trigger_cleanup()
    assert not refusal(kind="soft")
    node.destroy_node()


def test_no_attribute_of_ours_hides_one_of_rclpy(ros: Any) -> None:
    """A publisher kept as `self._clock` ended sim_node at the first `ros2 param set`: rclpy wants its own."""
    from rclpy.lifecycle import LifecycleNode

    node = LifecycleNode("plain")
    taken = set(vars(node)) | {name for name in dir(LifecycleNode) if not name.startswith("__")}
    node.destroy_node()
    assert "_clock" in taken
    for name in NODES:
        stored = {
            part.attr
            for part in ast.walk(ast.parse((FOLDER / f"{name}.py").read_text()))
            if isinstance(part, ast.Attribute)
            and isinstance(part.ctx, ast.Store)
            and isinstance(part.value, ast.Name)
            and part.value.id == "self"
        }
        assert stored and not stored & taken, name
