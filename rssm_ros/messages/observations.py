"""An observation of a contract <-> its ROS message."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rssm_ros.messages.commands import fill_joint_state
from rssm_ros.messages.images import fill_image, read_image
from rssm_ros.messages.vectors import read_fields, read_joints, write_field

Array = npt.NDArray[Any]
ODOM = "odom"  # where odometry begins: its world-fixed frame (REP 105)


class Spec(Protocol):
    """What is read from a contract's ObservationSpec."""

    @property
    def kind(self) -> str:
        """`image` or `vector`."""

    @property
    def channels(self) -> int | None:
        """1 or 3 for images."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Dotted paths; for joints the JointState's fields."""

    @property
    def names(self) -> tuple[str, ...]:
        """Joint names, or none."""


def read_observation(message: Any, spec: Spec) -> Array:
    """The message as an array: uint8 [H, W, C] in its own size, or float64 [dim]. Raises MessageError."""
    if spec.kind == "image":
        return read_image(message, spec.channels or 3)
    if spec.names:
        return read_joints(message, spec.names, spec.fields)
    return read_fields(message, spec.fields)


def fill_observation(message: Any, spec: Spec, value: npt.ArrayLike) -> None:
    """Writes an array in the contract's form into a message of the contract's type; the inverse of
    reading.
    """
    array = np.asarray(value)
    if spec.kind == "image":
        fill_image(message, array, "rgb8" if spec.channels == 3 else "mono8")
    elif spec.names:
        columns = array.reshape(len(spec.fields), len(spec.names))  # field-major
        fill_joint_state(message, spec.names, **dict(zip(spec.fields, columns, strict=True)))
    else:
        for path, number in zip(spec.fields, array, strict=True):
            write_field(message, path, float(number))


def set_frames(message: Any, frame: str) -> None:
    """Names the robot's frame in a stamped message, in place. An Odometry's is that of its twist, the child;
    its pose, of which only the orientation is made valid here, belongs to `odom`.
    """
    if hasattr(message, "child_frame_id"):
        message.header.frame_id, message.child_frame_id = ODOM, frame
        message.pose.pose.orientation.w = 1.0
    else:
        message.header.frame_id = frame
