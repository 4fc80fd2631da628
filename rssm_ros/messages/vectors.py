"""Numbers out of messages: by dotted path, and by joint name."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.messages.errors import MessageError

Vector = npt.NDArray[np.float64]


def read_field(message: Any, path: str) -> float:
    """One number by its dotted path, `twist.twist.linear.x`; `data[2]`-like steps are written `data.2`.

    Raises MessageError `field` naming the step that is missing.
    """
    value = message
    for step in _steps(path):
        try:
            value = getattr(value, step) if isinstance(step, str) else value[step]
        except (AttributeError, IndexError, TypeError):
            told = f"field {path!r}: {type(value).__name__} has no {step!r}; correct the contract's fields"
            raise MessageError(told, "field") from None
    try:
        return float(value)
    except (TypeError, ValueError):
        told = f"field {path!r} is a {type(value).__name__}, expected a number"
        raise MessageError(told, "field") from None


@lru_cache(maxsize=256)  # the same few paths, message after message
def _steps(path: str) -> tuple[str | int, ...]:
    return tuple(int(step) if step.isdigit() else step for step in path.split("."))


def read_fields(message: Any, paths: Sequence[str]) -> Vector:
    """Several numbers, [len(paths)]."""
    return np.array([read_field(message, path) for path in paths], np.float64)


def write_field(message: Any, path: str, value: float) -> None:
    """Writes one number by its dotted path, in place. Raises MessageError `field`.

    `float()` is not decoration: an int or a numpy scalar in a float64 field is sent as other bits.
    """
    *parents, last = path.split(".")
    target = message
    for step in parents:
        if not hasattr(target, step):
            raise MessageError(f"field {path!r}: {type(target).__name__} has no {step!r}", "field")
        target = getattr(target, step)
    if not hasattr(target, last):
        raise MessageError(f"field {path!r}: {type(target).__name__} has no {last!r}", "field")
    setattr(target, last, float(value))


def read_joints(message: Any, names: Sequence[str], fields: Sequence[str]) -> Vector:
    """Joint values by name, whatever order the driver uses: all positions, then all velocities (field-major).

    Returns [len(fields) * len(names)]. Raises MessageError `joint` for a joint that is missing or named twice
    and for an empty field.
    """
    order = {name: index for index, name in enumerate(message.name)}
    if len(order) != len(message.name):
        twice = next(name for name in message.name if list(message.name).count(name) > 1)
        raise MessageError(f"joint {twice!r} is named twice in the JointState; which one counts?", "joint")
    missing = [name for name in names if name not in order]
    if missing:
        known = ", ".join(message.name) or "none"
        raise MessageError(f"joint {missing[0]!r} is not in the JointState (it has: {known})", "joint")
    values: list[float] = []
    for field in fields:
        column = getattr(message, field, None)
        if column is None or len(column) != len(order):
            count = 0 if column is None else len(column)
            raise MessageError(f"JointState.{field} has {count} values for {len(order)} joints", "joint")
        values.extend(float(column[order[name]]) for name in names)
    return np.array(values, np.float64)
