"""Real messages, with the field checks on that the wheels leave off."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseArray, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, JointState, PointCloud2, PointField

from rssm_ros import messages
from rssm_ros.contract import find_contract
from rssm_ros.nodes.beliefs import belief_of, records_of
from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.interfaces import message_type
from rssm_ros.online.belief import NEVER, Belief, TargetBelief

pytestmark = pytest.mark.filterwarnings("ignore:module .sre_:DeprecationWarning")  # a parser of rclpy's
CONTRACT = find_contract("manipulator")


def through_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


def belief(particles: int = 3) -> Belief:
    generator = np.random.default_rng(4)
    normal = lambda *shape: generator.normal(size=shape).astype(np.float32)  # noqa: E731
    return Belief(
        tick=57,
        stamp_ns=2_850_000_000,
        deter=normal(particles, 16),
        stoch=generator.integers(0, 16, (particles, 4)),
        surprise=1.25,
        prior_entropy=2.5,
        posterior_entropy=0.5,
        targets={
            target.name: TargetBelief(normal(particles, target.dim), np.abs(normal(particles, target.dim)))
            for target in CONTRACT.targets
        },
        reward=normal(particles),
        continue_=normal(particles),
        presence={"camera": True, "odom": False, "joints": True},
        age={"camera": 0, "odom": 7, "joints": NEVER},
        lost=False,
        first=True,
    )


@pytest.mark.parametrize("spec", CONTRACT.observations, ids=lambda spec: spec.name)
def test_observations_round_trip(spec) -> None:
    generator = np.random.default_rng(1)
    if spec.kind == "image":
        value = generator.integers(0, 256, spec.shape, np.uint8)
    else:
        value = generator.normal(size=spec.shape).astype(np.float32)
    message = message_type(spec.type)()
    messages.fill_observation(message, spec, value)
    messages.set_stamp(message.header.stamp, 1_234_567_890)
    np.testing.assert_array_equal(messages.read_observation(through_the_wire(message), spec), value)
    assert messages.cdr_stamp_ns(serialize_message(message)) == 1_234_567_890


@pytest.mark.parametrize("action", CONTRACT.actions, ids=lambda action: action.name)
def test_commands_round_trip(action) -> None:
    value = np.linspace(-1, 1, action.dim).astype(np.float32)
    message = message_type(action.type)()
    messages.fill_command(message, value, action.fields, action.names)
    got = messages.read_command(through_the_wire(message), action.fields, action.names)
    np.testing.assert_array_equal(got, value.astype(np.float64))


def test_a_belief_arrives_as_it_was() -> None:
    sent = belief()
    cloud = PointCloud2()
    messages.fill_belief(cloud, PointField, records_of(sent, CONTRACT, threshold=3.5))
    got = belief_of(messages.read_belief(through_the_wire(cloud)), sent.stamp_ns, CONTRACT)
    for name in ("deter", "stoch", "reward", "continue_"):
        np.testing.assert_array_equal(getattr(got, name), getattr(sent, name))
    for name in ("tick", "stamp_ns", "presence", "age", "lost", "first", "surprise"):
        assert getattr(got, name) == getattr(sent, name), name
    np.testing.assert_array_equal(got.targets["package"].std, sent.targets["package"].std)
    records = messages.read_belief(cloud)
    np.testing.assert_array_equal(records["x"], sent.targets["package"].mean[:, 0])
    assert records["surprise_threshold"][0] == 3.5 and math.isnan(
        records_of(sent, CONTRACT)["surprise_threshold"][0]
    )


def test_a_gaussian_belief_keeps_its_numbers() -> None:
    """They were cast to class indices: the planner saw another state than the filter's."""
    numbers = np.random.default_rng(0).normal(size=belief().stoch.shape).astype(np.float32)
    sent = replace(belief(), stoch=numbers)
    cloud = PointCloud2()
    messages.fill_belief(cloud, PointField, records_of(sent, CONTRACT))
    got = belief_of(messages.read_belief(through_the_wire(cloud)), sent.stamp_ns, CONTRACT, "gaussian")
    np.testing.assert_array_equal(got.stoch, sent.stoch)


def test_a_belief_of_another_contract_is_refused() -> None:
    records = records_of(belief(), CONTRACT)
    with pytest.raises(messages.MessageError, match="manipulator"):
        belief_of(records[["x", "y", "z", "deter", "stoch", "age"]], 0, CONTRACT)


def test_targets_become_poses() -> None:
    decoded = belief().targets["package"]
    fields = CONTRACT.targets[0].fields
    pose = PoseWithCovarianceStamped()
    messages.fill_pose_with_covariance(pose, fields, decoded.point(), decoded.covariance())
    got = through_the_wire(pose)
    assert got.pose.pose.position.x == decoded.point()[0] and got.pose.covariance[35] == 1e6
    poses = PoseArray()
    messages.fill_pose_array(poses, Pose, fields, decoded.mean)
    assert [p.position.y for p in through_the_wire(poses).poses] == decoded.mean[:, 1].tolist()


def test_odometry_is_of_the_robot_in_the_frame_where_it_began() -> None:
    """nav_msgs/Odometry: the pose in header.frame_id, the twist in child_frame_id; REP 105 names them."""
    odometry = Odometry()
    messages.set_frames(odometry, "base_link")
    got = through_the_wire(odometry)
    assert (got.header.frame_id, got.child_frame_id) == ("odom", "base_link")
    assert got.pose.pose.orientation.w == 1.0
    joints = JointState()
    messages.set_frames(joints, "base_link")
    assert joints.header.frame_id == "base_link"


def test_filling_passes_the_field_checks() -> None:
    """ints and numpy scalars are what field checks refuse and what the wheels corrupt without them."""
    stamp = Time()
    messages.set_stamp(stamp, np.int64(5_000_000_001))
    assert (stamp.sec, stamp.nanosec) == (5, 1)
    image = Image()
    messages.fill_image(image, np.zeros((2, 3, 3), np.uint8), "bgra8")
    assert len(through_the_wire(image).data) == 24


def test_unknown_types_are_refused_by_name() -> None:
    with pytest.raises(NodeError, match="nowhere_msgs"):
        message_type("nowhere_msgs/msg/Nothing")
    with pytest.raises(NodeError, match="Nothing"):
        message_type("std_msgs/msg/Nothing")
