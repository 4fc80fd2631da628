import time
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytestmark = [pytest.mark.ros, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of rclpy's own


def spin(executor: Any, deadline: float) -> None:
    while time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.1)


def test_both_executors_take_what_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of arrival where this ROS can; errors in callbacks are not swallowed."""
    import rclpy
    from rclpy.node import Node
    from std_msgs.msg import Float64

    from rssm_ros.nodes.executors import WaitSetExecutor, make_executor

    rclpy.init(args=[])
    node = Node("test_executors", enable_rosout=False, start_parameter_services=False)
    try:
        publishers = {topic: node.create_publisher(Float64, f"taken/{topic}", 10) for topic in "abc"}
        got: list[tuple[str, float]] = []

        def take(topic: str) -> Any:
            def store(message: Float64) -> None:
                if message.data < 0:
                    raise ValueError("boom")
                got.append((topic, message.data))

            return store

        for topic in "abc":
            node.create_subscription(Float64, f"taken/{topic}", take(topic), 10)
        for kind in ("events", "wait set"):
            if kind == "wait set":
                monkeypatch.setitem(__import__("sys").modules, "rclpy.experimental", None)
            executor = make_executor(node)
            assert isinstance(executor, WaitSetExecutor) == (kind == "wait set")
            for _ in range(5):
                executor.spin_once(timeout_sec=0.02)  # it gets to know the node's subscriptions
            sent = [(topic, float(number)) for number in range(3) for topic in "cab"]
            for topic, number in sent:
                publishers[topic].publish(Float64(data=number))
            deadline = time.monotonic() + 5
            while len(got) < len(sent) and time.monotonic() < deadline:
                executor.spin_once(timeout_sec=0.1)
            assert sorted(got) == sorted(sent) and (kind != "events" or got == sent)
            before = time.monotonic()
            executor.spin_once(timeout_sec=0.05)
            assert time.monotonic() - before > 0.04
            publishers["a"].publish(Float64(data=-1.0))
            with pytest.raises(ValueError, match="boom"):
                spin(executor, deadline)
            got.clear()
            executor.remove_node(node)
            executor.shutdown()
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


@pytest.mark.parametrize("kind", ["events", "wait set"])
def test_all_that_has_come_is_taken_before_the_node_works(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Else a node that is held up hears the newest time first, and long after it what was seen by then."""
    import rclpy
    from rclpy.node import Node
    from std_msgs.msg import Float64

    from rssm_ros.nodes.executors import make_executor, take_all

    if kind == "wait set":
        monkeypatch.setitem(__import__("sys").modules, "rclpy.experimental", None)
    rclpy.init(args=[])
    node = Node("test_take_all", enable_rosout=False, start_parameter_services=False)
    try:
        seen, times = (node.create_publisher(Float64, f"taken/{name}", 100) for name in ("seen", "time"))
        got: list[float] = []
        now: list[float] = []
        node.create_subscription(Float64, "taken/seen", lambda message: got.append(message.data), 100)
        node.create_subscription(Float64, "taken/time", lambda message: now.append(message.data), 1)
        executor = make_executor(node)
        take_all(executor, 0.02)
        for number in range(12):
            times.publish(Float64(data=float(number)))
            seen.publish(Float64(data=float(number)))
        time.sleep(0.1)  # it works
        take_all(executor, 1.0)
        assert now[-1] == 11.0 and got == [float(number) for number in range(12)]
        before = time.monotonic()
        take_all(executor, 0.05)  # nothing comes: as long as it was told, and no longer
        assert 0.04 < time.monotonic() - before < 1.0 and len(got) == 12
        executor.shutdown()
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
