"""Commands: one action of a contract in its own message type, and all channels in one stamped JointState."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.messages.errors import MessageError
from rssm_ros.messages.vectors import read_fields, read_joints, write_field

Vector = npt.NDArray[np.float64]


def fill_command(message: Any, values: npt.ArrayLike, fields: Sequence[str], names: Sequence[str]) -> None:
    """Writes an action's SI values [A_i] into its message in place.

    With fields: by dotted path (TwistStamped, Twist). With names: a JointState, or any message whose `data`
    is an array in the contract's joint order (Float64MultiArray).
    """
    numbers = np.asarray(values, np.float64)
    if fields:
        assert numbers.shape == (len(fields),), numbers.shape
        for path, value in zip(fields, numbers, strict=True):
            write_field(message, path, value)
    elif hasattr(message, "position"):
        fill_joint_state(message, names, position=numbers)
    elif hasattr(message, "data"):
        assert numbers.shape == (len(names),), numbers.shape
        message.data = array("d", numbers)
    else:
        told = f"{type(message).__name__} cannot carry a command; give the contract's `fields`"
        raise MessageError(told, "field")


def read_command(message: Any, fields: Sequence[str], names: Sequence[str]) -> Vector:
    """The SI values of an action's message, [A_i]; the inverse of `fill_command`. Raises MessageError."""
    if fields:
        return read_fields(message, fields)
    if hasattr(message, "position"):
        return read_joints(message, names, ("position",))
    values = np.asarray(message.data, np.float64)
    if values.shape != (len(names),):
        told = f"command of {values.size} values for the {len(names)} joints {', '.join(names)}"
        raise MessageError(told, "shape")
    return values


def fill_joint_state(
    message: Any,
    names: Sequence[str],
    position: npt.ArrayLike | None = None,
    velocity: npt.ArrayLike | None = None,
) -> None:
    """Writes names with positions and velocities into a JointState in place."""
    message.name = [str(name) for name in names]
    for field, values in (("position", position), ("velocity", velocity)):
        if values is not None:
            numbers = np.asarray(values, np.float64)
            assert numbers.shape == (len(names),), (field, numbers.shape)
            setattr(message, field, array("d", numbers))
