from array import array
from types import SimpleNamespace as Space

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.messages import (
    MessageError,
    cdr_stamp_ns,
    fill_command,
    fill_joint_state,
    fill_pose_array,
    fill_pose_with_covariance,
    read_command,
    read_field,
    read_fields,
    read_joints,
    set_stamp,
    stamp_ns,
)

FINITE = st.floats(-1e30, 1e30)


def twist() -> Space:
    return Space(twist=Space(linear=Space(x=0.0, y=0.0), angular=Space(z=0.0)))


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_round_trip(nanoseconds: int) -> None:
    stamp = Space(sec=0, nanosec=0)
    set_stamp(stamp, nanoseconds)
    assert stamp_ns(stamp) == nanoseconds and 0 <= stamp.nanosec < 10**9


def test_a_stamp_is_read_from_serialised_bytes_of_either_order() -> None:
    little = bytes([0, 1, 0, 0]) + (7).to_bytes(4, "little") + (8).to_bytes(4, "little")
    big = bytes([0, 0, 0, 0]) + (7).to_bytes(4, "big") + (8).to_bytes(4, "big")
    assert cdr_stamp_ns(little) == cdr_stamp_ns(big) == 7_000_000_008


def test_fields_are_read_by_dotted_path() -> None:
    message = Space(twist=Space(twist=Space(linear=Space(x=1.5), angular=Space(z=-2))), data=[3.0, 4.0])
    values = read_fields(message, ("twist.twist.linear.x", "twist.twist.angular.z", "data.1"))
    np.testing.assert_array_equal(values, [1.5, -2.0, 4.0])


@pytest.mark.parametrize(
    ("path", "told"),
    [("twist.linaer.x", "linaer"), ("twist", "a number"), ("data.9", "9"), ("name", "a number")],
)
def test_a_wrong_path_names_its_step(path: str, told: str) -> None:
    with pytest.raises(MessageError, match=told) as caught:
        read_field(Space(twist=twist().twist, data=[1.0], name="x"), path)
    assert caught.value.cause == "field"


@given(st.permutations(["yaw", "shoulder", "elbow"]), st.lists(FINITE, min_size=6, max_size=6))
def test_joints_are_read_by_name_whatever_the_drivers_order(order: list[str], values: list[float]) -> None:
    """The regression it pins: joint order of the driver taken for that of the contract."""
    wanted = ("yaw", "shoulder", "elbow")
    position, velocity = dict(zip(wanted, values[:3])), dict(zip(wanted, values[3:]))
    message = Space(name=order, position=[position[n] for n in order], velocity=[velocity[n] for n in order])
    np.testing.assert_array_equal(read_joints(message, wanted, ("position", "velocity")), values)


def test_a_missing_joint_and_an_empty_field_are_named() -> None:
    message = Space(name=["yaw"], position=[0.0], velocity=[])
    with pytest.raises(MessageError, match=r"'wrist'.*it has: yaw"):
        read_joints(message, ("wrist",), ("position",))
    with pytest.raises(MessageError, match="velocity has 0 values for 1 joints"):
        read_joints(message, ("yaw",), ("velocity",))


@given(st.lists(FINITE, min_size=2, max_size=2))
def test_commands_round_trip_in_every_form(values: list[float]) -> None:
    fields, names = ("twist.linear.x", "twist.angular.z"), ("a", "b")
    for message, by_field, by_name in (
        (twist(), fields, ()),
        (Space(data=array("d")), (), names),
        (Space(name=[], position=[], velocity=[]), (), names),
    ):
        fill_command(message, np.array(values, np.float32), by_field, by_name)
        np.testing.assert_array_equal(read_command(message, by_field, by_name), np.array(values, np.float32))


def test_numbers_written_are_python_floats() -> None:
    """The regression it pins: an int or numpy scalar in a float64 field is sent as other bits."""
    message = twist()
    fill_command(message, np.array([1, 2]), ("twist.linear.x", "twist.angular.z"), ())
    assert type(message.twist.linear.x) is float and type(message.twist.angular.z) is float


def test_wrong_commands_are_refused() -> None:
    with pytest.raises(MessageError, match="3 values for the 2 joints"):
        read_command(Space(data=[1.0, 2.0, 3.0]), (), ("a", "b"))
    with pytest.raises(MessageError, match="cannot carry a command"):
        fill_command(Space(), [1.0], (), ("a",))
    with pytest.raises(MessageError, match="sideways"):
        fill_command(twist(), [1.0], ("twist.linear.sideways",), ())
    with pytest.raises(MessageError, match="lin"):
        fill_command(twist(), [1.0], ("twist.lin.x",), ())


def test_joint_state_keeps_what_is_not_given() -> None:
    message = Space(name=[], position=array("d"), velocity=array("d"))
    fill_joint_state(message, ("a", "b"), position=[1.0, 2.0])
    assert (
        message.name == ["a", "b"] and list(message.position) == [1.0, 2.0] and list(message.velocity) == []
    )


def pose() -> Space:
    return Space(position=Space(x=0.0, y=0.0, z=0.0), orientation=Space(x=0.0, y=0.0, z=0.0, w=0.0))


def test_a_target_fills_what_it_decodes_and_disowns_the_rest() -> None:
    message = Space(pose=Space(pose=pose(), covariance=None))
    fill_pose_with_covariance(
        message, ("pose.position.x", "pose.position.z"), [1.0, 2.0], [[0.1, 0.05], [0.05, 0.2]]
    )
    matrix = np.asarray(message.pose.covariance).reshape(6, 6)
    assert (message.pose.pose.position.x, message.pose.pose.position.z) == (1.0, 2.0)
    assert (matrix[0, 0], matrix[2, 2], matrix[0, 2], matrix[2, 0]) == (0.1, 0.2, 0.05, 0.05)
    assert [matrix[i, i] for i in (1, 3, 4, 5)] == [1e6] * 4 and matrix[0, 1] == 0.0


def test_particles_become_poses() -> None:
    message = Space(poses=None)
    fill_pose_array(message, pose, ("pose.position.x", "pose.position.y"), np.arange(6.0).reshape(3, 2))
    assert [(p.position.x, p.position.y, p.orientation.w) for p in message.poses] == [
        (0, 1, 1),
        (2, 3, 1),
        (4, 5, 1),
    ]
