"""monitor_node over real DDS: a review of a filter of our own making becomes a bag that replays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("cv2")

from rssm_ros import messages
from rssm_ros.bundle import load_bundle
from rssm_ros.contract import find_contract
from rssm_ros.messages import belief_dtype
from rssm_ros.nodes.panel import WIDTH
from rssm_ros.nodes.review_files import find_reviews
from rssm_ros.online.grid import SECOND
from rssm_ros.recordings import open_bag
from test.disks import fill, small_disk

pytestmark = [pytest.mark.ros, pytest.mark.filterwarnings("ignore:module .sre_:DeprecationWarning")]
CONTRACT = find_contract("manipulator")
TICK = SECOND // 20


class Robot:
    """A clock, what a robot sees, and a filter that says how surprised it is."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.node import Node
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import Image, JointState, PointCloud2
        from std_srvs.srv import Trigger

        from rssm_ros.nodes.interfaces import COMMANDS, message_type, sensing

        rclpy.init(args=[])
        self._rclpy, self._kinds = rclpy, (Clock, PointCloud2, JointState, DiagnosticArray)
        node = self.node = Node("test_robot", enable_rosout=False, start_parameter_services=False)
        self.clock = node.create_publisher(Clock, "clock", COMMANDS)
        self.belief = node.create_publisher(PointCloud2, "filter_node/belief", COMMANDS)
        self.applied = node.create_publisher(JointState, "gate_node/applied", COMMANDS)
        self.diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", COMMANDS)
        self.sensors = {
            spec.name: (
                message_type(spec.type),
                node.create_publisher(message_type(spec.type), spec.topic, sensing(False)),
            )
            for spec in CONTRACT.observations
        }
        self.snapshot = node.create_client(Trigger, "monitor_node/snapshot")
        self.panels: list[Any] = []
        self.watch = lambda: node.create_subscription(
            Image, "monitor_node/panel", self.panels.append, COMMANDS
        )
        self.tick, self.rng = 20, np.random.default_rng(0)

    def run(self, ticks: int, nats: float = 1.0) -> None:
        """At 50 ticks a second."""
        for _ in range(ticks):
            self._publish(nats)
            self.tick += 1
            self._rclpy.spin_once(self.node, timeout_sec=0.0)
            time.sleep(0.02)

    def until(self, condition: Callable[[], Any], seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            self.run(1)

    def heard(self) -> bool:
        outputs = [self.clock, self.belief, self.applied, *(output for _, output in self.sensors.values())]
        return all(output.get_subscription_count() for output in outputs)

    def ask(self) -> Any:
        """No tick passes meanwhile: on a busy machine the answer may take longer than what is to be kept."""
        future = self.snapshot.call_async(self.snapshot.srv_type.Request())
        self._rclpy.spin_until_future_complete(self.node, future, timeout_sec=40.0)
        assert future.done()
        return future.result()

    def _publish(self, nats: float) -> None:
        from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
        from sensor_msgs.msg import PointField

        clock, cloud, joints, array = (kind() for kind in self._kinds)
        now = self.tick * TICK
        messages.set_stamp(clock.clock, now)
        self.clock.publish(clock)
        for spec in CONTRACT.observations:
            kind, output = self.sensors[spec.name]
            message = kind()
            messages.set_stamp(message.header.stamp, now)
            value = self.rng.random(spec.shape)
            messages.fill_observation(
                message, spec, (255 * value).astype(np.uint8) if spec.kind == "image" else value
            )
            output.publish(message)
        targets = {target.name: target.dim for target in CONTRACT.targets}
        records = np.zeros(2, belief_dtype(4, 3, targets, [spec.name for spec in CONTRACT.observations]))
        records["surprise"], records["surprise_threshold"] = nats, 16.0
        messages.fill_belief(cloud, PointField, records)
        messages.set_stamp(cloud.header.stamp, now)
        self.belief.publish(cloud)
        messages.fill_joint_state(joints, CONTRACT.channels, position=[0.0] * CONTRACT.action_dim)
        messages.set_stamp(joints.header.stamp, now)
        self.applied.publish(joints)
        values = [KeyValue(key="late", value="7")]
        array.status = [
            DiagnosticStatus(name="filter_node: belief", hardware_id="0123456789ab", values=values)
        ]
        self.diagnostics.publish(array)

    def close(self) -> None:
        self.node.destroy_node()
        self._rclpy.try_shutdown()


@pytest.fixture
def robot() -> Iterator[Robot]:
    made = Robot()
    yield made
    made.close()


def started(folder: Path, log: Path) -> "subprocess.Popen[bytes]":
    """The monitor; its snapshots, its trace and its ROS log in a folder."""
    settings = {"out": folder / "reviews", "before": 1.0, "after": 0.5, "pause": 1.0}
    words = {"autostart": "true", "use_sim_time": "true", "trace": folder, **settings}
    given = [item for name, value in words.items() for item in ("-p", f"{name}:={value}")]
    return subprocess.Popen(
        [sys.executable, "-m", "rssm_ros.nodes.monitor_node", "--ros-args", *given],
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        env={**os.environ, "ROS_LOG_DIR": str(folder / "log")},
    )


def test_a_review_becomes_a_bag_that_replays(tmp_path: Path, checkout: Path, robot: Robot) -> None:
    log = tmp_path / "log.txt"
    process = started(tmp_path, log)
    try:
        robot.until(robot.heard)
        robot.run(30)
        robot.run(12, 20.0)
        reviewed = robot.tick
        robot.until(lambda: len(find_reviews(tmp_path)) == 1)
        looking = robot.watch()
        robot.until(lambda: robot.panels)
        robot.node.destroy_subscription(looking)
        robot.run(40)  # there is something to keep again
        robot.until(lambda: robot.ask().success)
        process.send_signal(signal.SIGTERM)  # what was asked for is still written
        assert process.wait(20) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
    assert "ERROR" not in log.read_text() and "Traceback" not in log.read_text()
    assert robot.panels[-1].width == WIDTH and len(set(robot.panels[-1].data)) > 20

    first, second = find_reviews(tmp_path)
    assert first.review is not None and second.review is not None
    review, bundle = first.review, load_bundle(checkout / "models" / "manipulator")
    assert review.cause == "surprise" and reviewed - 5 <= review.tick <= reviewed and not review.short
    assert review.bundle_sha256 == bundle.sha256 and review.filter_bundle == "0123456789ab"
    assert review.counters["filter_node"] == {"late": "7"}
    assert review.ticks["surprise_nats"].count(20.0) == 12
    seen = list(open_bag(first.folder, CONTRACT).observations())
    assert {item.name for item in seen} >= {"camera", "odom", "joints"}
    ticks = sorted({item.stamp_ns // TICK for item in seen if item.name == "camera"})
    assert ticks[0] <= review.tick - 19 and ticks[-1] >= review.tick + 8 and len(ticks) >= 28
    assert second.review.cause == "hand" and list(second.review.short) == ["ended early: the monitor ended"]
    counters = (tmp_path / "monitor_node.counters.json").read_text()
    assert '"reviews": 1' in counters and '"snapshots": 2' in counters


def test_a_really_full_disk_costs_the_snapshots_and_nothing_else(tmp_path: Path, robot: Robot) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log.txt"
    disk.mkdir()
    try:
        with small_disk(disk, 1000):
            process = started(disk, log)
            try:
                robot.until(robot.heard)
                fill(disk)
                robot.run(5)
                robot.run(12, 20.0)
                robot.until(lambda: "no snapshot" in log.read_text())
                robot.until(lambda: robot.ask().success)  # the watch goes on
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0, log.read_text()
            finally:
                if process.poll() is None:
                    process.kill()
            assert find_reviews(disk) == [] and list((disk / "reviews").iterdir()) == []
    except PermissionError:
        pytest.skip("nobody but root may make a disk")
    text = log.read_text()
    assert text.count("[ERROR]") == 2 and "Traceback" not in text, text  # the snapshot, and what was counted
    assert "reviews: cannot be written (No space left on device)" in text, text
