"""`rssm record` beside a robot of our own making, over real DDS."""

import json
import os
import resource
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

from rosbags.highlevel import AnyReader

from rssm_ros import messages
from rssm_ros.contract import find_contract
from rssm_ros.nodes.recorded import belief_topics, robot_topics, truth_topics
from rssm_ros.recordings import open_bag

CONTRACT = find_contract("manipulator")
ignored = pytest.mark.filterwarnings("ignore:module .sre_:DeprecationWarning")


class Robot:
    """Publishes camera (best effort), odometry and, under a wrong type, joints."""

    def __init__(self) -> None:
        import rclpy
        from nav_msgs.msg import Odometry
        from rclpy.node import Node
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image
        from std_msgs.msg import Float64

        rclpy.init(args=[])
        self._rclpy = rclpy
        self._node = Node("test_robot", enable_rosout=False, start_parameter_services=False)
        driver = QoSProfile(depth=7, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.camera = self._node.create_publisher(Image, "camera/image_raw", driver)
        self.odom = self._node.create_publisher(Odometry, "odom", 10)
        self.joints = self._node.create_publisher(Float64, "joint_states", 10)
        self._image, self._odometry = Image(), Odometry()
        messages.fill_image(self._image, np.full((64, 64, 3), 7, np.uint8), "rgb8")
        self.sent = 0

    def until(self, condition: Callable[[], Any], seconds: float = 40.0) -> None:
        """Publishes at about 50 Hz, numbered by stamp, until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            self.sent += 1
            for message, output in ((self._odometry, self.odom), (self._image, self.camera)):
                messages.set_stamp(message.header.stamp, self.sent * 1_000_000)
                output.publish(message)
            time.sleep(0.02)

    def heard(self) -> bool:
        """Whether somebody listens, and to the camera as it can be heard."""
        return bool(self.camera.get_subscription_count() and self.odom.get_subscription_count())

    def close(self) -> None:
        self._node.destroy_node()
        self._rclpy.try_shutdown()


@pytest.fixture
def robot() -> Iterator[Robot]:
    made = Robot()
    yield made
    made.close()


def record(*words: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "rssm_ros.cli.main", "record", *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


def stamps(bag: Path, topic: str) -> list[int]:
    with AnyReader([bag]) as reader:
        return [messages.cdr_stamp_ns(data) for c, _, data in reader.messages() if c.topic == topic]


@pytest.mark.ros
@ignored
def test_a_robot_is_recorded_as_it_is(tmp_path: Path, robot: Robot) -> None:
    """Best effort heard as such, offers kept, gaps counted, and what is missing named."""
    process = record("--out", tmp_path / "bag", "--split", 1.0, "--json")
    robot.until(robot.heard)
    first = robot.sent + 1
    robot.until(lambda: robot.sent >= first + 60)
    time.sleep(0.6)  # longer than the contract's `stale`
    last = robot.sent + 60
    robot.until(lambda: robot.sent >= last)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    text, errors = process.communicate(timeout=30)
    found = json.loads(text)
    assert process.returncode == 1 and errors.count("\n") == 1, errors
    assert "joint_states (is std_msgs/msg/Float64, not sensor_msgs/msg/JointState)" in found["error"]
    assert "camera" not in found["error"] and "odom" not in found["error"]

    odom, camera = (stamps(tmp_path / "bag", topic) for topic in ("/odom", "/camera/image_raw"))
    assert odom == list(range(odom[0], last * 1_000_000 + 1, 1_000_000)) and odom[0] <= first * 1_000_000
    assert len(camera) == len(set(camera)) >= 50  # best effort: some may be lost
    assert found["topics"]["/odom"]["messages"] == len(odom)
    assert found["topics"]["/odom"]["gaps"] >= 1 and found["topics"]["/odom"]["longest_gap_s"] > 0.5
    assert len(list((tmp_path / "bag").glob("*.mcap"))) >= 2  # splits
    with AnyReader([tmp_path / "bag"]) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles for c in reader.connections if c.msgcount}
    assert [q.reliability.name for q in offered["/camera/image_raw"]] == ["BEST_EFFORT"]
    assert [q.reliability.name for q in offered["/odom"]] == ["RELIABLE"]
    recording = open_bag(tmp_path / "bag", CONTRACT)
    names = [item.name for item in recording.observations()]
    assert names.count("odom") == len(odom) and names.count("camera") == len(camera)


@pytest.mark.ros
@ignored
def test_sigkill_leaves_a_bag_that_can_be_read(tmp_path: Path, robot: Robot) -> None:
    process = record("--out", tmp_path / "bag", "--json")
    robot.until(robot.heard)
    first, metadata = robot.sent + 1, tmp_path / "bag" / "metadata.yaml"
    # Until a checkpoint after the first messages is on the disk.
    robot.until(lambda: robot.sent > first + 20 and "message_count: 0\n  topics" not in metadata.read_text())
    process.kill()
    process.communicate()
    odom = stamps(tmp_path / "bag", "/odom")
    assert odom == list(range(odom[0], odom[0] + len(odom) * 1_000_000, 1_000_000)) and odom


@pytest.mark.ros
@ignored
def test_a_full_disk_ends_a_recording_in_a_line(tmp_path: Path, robot: Robot) -> None:
    process = record("--out", tmp_path / "bag")
    robot.until(robot.heard)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    robot.until(lambda: process.poll() is not None)  # by itself
    _, errors = process.communicate(timeout=30)
    (line,) = (line for line in errors.splitlines() if line.startswith("rssm record: "))
    assert process.returncode == 1 and "Traceback" not in errors
    assert line.endswith("bag: cannot be written (File too large); it is whole up to here")
    odom = stamps(tmp_path / "bag", "/odom")
    assert odom == list(range(odom[0], odom[0] + len(odom) * 1_000_000, 1_000_000)) and odom
    assert sorted(path.name for path in (tmp_path / "bag").iterdir()) == ["bag_0.mcap", "metadata.yaml"]


def test_what_is_recorded_follows_the_contract() -> None:
    robot, truth, beliefs = (f(CONTRACT) for f in (robot_topics, truth_topics, belief_topics))
    assert {item.topic for item in robot if item.needed} == {"camera/image_raw", "odom", "joint_states"}
    assert {"cmd_vel", "arm_controller/commands", "gate_node/applied", "episode", "reward"} <= {
        item.topic for item in robot
    }
    assert {"camera/camera_info", "/clock"} <= {item.topic for item in robot}
    assert next(item.patience for item in robot if item.topic == "camera/image_raw") == 0.15
    assert {item.topic for item in truth} == {
        "ground_truth/package",
        "ground_truth/package_visibility",
        "ground_truth/destination",
    }
    assert "filter_node/belief" in {item.topic for item in beliefs}


def test_a_folder_that_is_there_is_refused_in_one_line(tmp_path: Path) -> None:
    process = record("--out", tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and errors.count("\n") == 1
    assert f"{tmp_path}: cannot record here (exists already); choose another folder" in errors


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--split", "nan"), "'nan' is no amount"),
        (("--split", "inf"), "'inf' is no amount"),
        (("--seconds", "-1"), "'-1' is no amount"),
        (("--namespace", "bad name"), "--namespace 'bad name': "),
    ],
)
def test_options_that_make_no_sense_are_told_in_a_line(
    tmp_path: Path, words: tuple[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rssm_ros.cli.main import main

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = main(["record", "--out", str(tmp_path / "bag"), *words])
    except SystemExit as error:
        code = error.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert code == 2 and told in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "bag").exists()
