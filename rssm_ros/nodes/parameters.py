"""What parameters of nodes are made of: described, bounded, and refused where a change would do nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult


@dataclass(frozen=True)
class Parameter:
    """A parameter with everything `ros2 param describe` shows. A low/high pair bounds it."""

    name: str
    default: bool | int | float | str
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False  # read whenever it is needed; the others when the node is configured, and not again

    @property
    def told(self) -> str:
        """The description, and whether it may be set on the way."""
        return f"{self.description} (at any time)" if self.live else self.description

    def descriptor(self) -> ParameterDescriptor:
        """The ROS form of it. Not `read_only`: until the node is configured, it may be set."""
        made = ParameterDescriptor(description=self.told, read_only=False)
        if self.choices:
            made.additional_constraints = f"one of: {', '.join(self.choices)}"
        if self.low is not None and self.high is not None:
            if isinstance(self.default, int):
                made.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=0)]
            else:
                bounds = FloatingPointRange(from_value=float(self.low), to_value=float(self.high), step=0.0)
                made.floating_point_range = [bounds]
        return made

    def refusal(self, value: Any, configured: bool) -> str:
        """Why it cannot be set to a value of its type and range, or nothing."""
        if self.choices and value not in self.choices:
            return f"parameter {self.name!r} is {value!r}; expected one of {', '.join(self.choices)}"
        if configured and not self.live:
            return f"{self.name!r} is read when this node is configured: deactivate and clean up first"
        return ""


COMMON = (
    Parameter("autostart", False, "configure and activate by itself, for use without a lifecycle manager"),
    Parameter("contract", "manipulator", "a shipped contract's name or the path of a contract YAML file"),
    Parameter("trace", "", "folder for this node's binary trace of the run; empty: none"),
)


def judge(
    described: Mapping[str, Parameter], changes: Iterable[Any], configured: bool
) -> SetParametersResult:
    """The answer to `ros2 param set`: all of the changes, or none. changes: rclpy's parameters."""
    for change in changes:
        known = described.get(change.name)
        if known is not None and (refusal := known.refusal(change.value, configured)):
            return SetParametersResult(successful=False, reason=refusal)
    return SetParametersResult(successful=True)
