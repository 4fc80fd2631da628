"""The contract: one YAML file that says what a robot offers, and every rate, limit and topic that follows.

The sim node, the recorder, the dataset converter, the filter's subscriptions, the planner's publishers and
the gate's limits all read the same `Contract`; nothing about a robot is written down twice.
"""

import math
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from rssm_ros import paths

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
JOINT_STATE = "sensor_msgs/msg/JointState"
# The share of a target that can be seen: hidden at most, visible at least; partly seen in between. A baseline
# that needs to see is told whatever is not hidden.
HIDDEN, VISIBLE = 0.05, 0.5
Vector = npt.NDArray[np.float64]


class ContractError(ValueError):
    """A contract that cannot be used; the message names the file, the key and what was expected."""


@dataclass(frozen=True)
class ObservationSpec:
    """One observation modality: a topic and how its message becomes an array."""

    name: str
    type: str
    topic: str
    size: tuple[int, int] | None = None  # width, height in pixels (images)
    channels: int | None = None
    resize: str = ""  # how an image of another size is fitted (images)
    fields: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    trigger: bool = False
    wait: float = 0.0  # s after the tick that the filter waits for it
    stale: float = 0.2  # s without it after which the gate holds

    @property
    def kind(self) -> str:
        """ "image" or "vector"."""
        return "image" if self.type in IMAGE_TYPES else "vector"

    @property
    def dim(self) -> int:
        """Length of the vector; for an image the number of values in it."""
        if self.kind == "image":
            return math.prod(self.shape)
        return len(self.fields) * max(1, len(self.names))

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width, channels) of an image, (dim,) of a vector. JointState vectors are field-major."""
        if self.kind == "image":
            assert self.size is not None and self.channels is not None
            return (self.size[1], self.size[0], self.channels)
        return (self.dim,)


@dataclass(frozen=True)
class ActionSpec:
    """One command topic with the limits of its channels (SI units; slew per second)."""

    name: str
    type: str
    topic: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    slew: tuple[float, ...]
    safe: str | tuple[float, ...]
    timeout: float  # s without a command after which the robot itself goes to `safe`
    fields: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """Number of channels."""
        return len(self.low)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, unique within the contract: `base/twist.linear.x`, `arm/yaw`."""
        return tuple(f"{self.name}/{part}" for part in (self.names or self.fields))


@dataclass(frozen=True)
class TargetSpec:
    """A quantity decoded from the belief; its topic is a label while training and scoring."""

    name: str
    type: str
    topic: str
    fields: tuple[str, ...]
    unit: str
    visibility: str | None = None  # topic with the visible fraction in [0, 1]

    @property
    def dim(self) -> int:
        """Number of decoded values."""
        return len(self.fields)


@dataclass(frozen=True)
class TopicSpec:
    """A plain topic: its type, its name and, where one value is read from it, the field."""

    type: str
    topic: str
    field: str = ""


@dataclass(frozen=True)
class Contract:
    """What a robot offers. Channels of all actions are concatenated in the order of the file."""

    name: str
    rate: Fraction  # ticks per second, exact
    frame: str
    history: float  # s of late data that can still be used
    max_gap: float  # s without any observation after which the belief is lost
    actuation_delay: int  # ticks
    observations: tuple[ObservationSpec, ...]
    actions: tuple[ActionSpec, ...]
    targets: tuple[TargetSpec, ...] = ()
    episode: TopicSpec | None = None
    reward: TopicSpec | None = None

    @property
    def dt(self) -> float:
        """Seconds per tick."""
        return float(1 / self.rate)

    @property
    def history_ticks(self) -> int:
        """H: how many ticks back a late message is still used."""
        return math.ceil(self.history * self.rate)

    @property
    def max_gap_ticks(self) -> int:
        """Ticks without any observation after which the belief restarts."""
        return math.ceil(self.max_gap * self.rate)

    @property
    def action_dim(self) -> int:
        """A: channels over all actions."""
        return sum(action.dim for action in self.actions)

    @property
    def patience_ns(self) -> int:
        """How long a tick waits for the observations that trigger it, ns."""
        return int(1e9 * max(item.wait for item in self.observations if item.trigger))

    @property
    def window_ticks(self) -> int:
        """Ticks that the filter keeps: its history, and back to the oldest that still waits."""
        return max(self.history_ticks, 2 + int(self.patience_ns * self.rate / 10**9))

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Names of the A channels, in model order. Kept: readers ask for every message."""
        return tuple(channel for action in self.actions for channel in action.channels)

    @property
    def low(self) -> Vector:
        """Lower limits, SI, [A]."""
        return np.array([value for action in self.actions for value in action.low], np.float64)

    @property
    def high(self) -> Vector:
        """Upper limits, SI, [A]."""
        return np.array([value for action in self.actions for value in action.high], np.float64)

    @property
    def slew(self) -> Vector:
        """Largest change per second, SI, [A]."""
        return np.array([value for action in self.actions for value in action.slew], np.float64)

    def observation(self, name: str) -> ObservationSpec:
        """The observation of that name; KeyError when there is none."""
        return next(item for item in self.observations if item.name == name)

    def action_slices(self) -> dict[str, slice]:
        """Where each action's channels lie in the model's action vector."""
        slices, start = {}, 0
        for action in self.actions:
            slices[action.name] = slice(start, start + action.dim)
            start += action.dim
        return slices

    def to_dict(self) -> dict[str, Any]:
        """Plain data in the file's own form; `Contract.from_dict(c.to_dict()) == c`."""
        rate: int | str = int(self.rate) if self.rate.denominator == 1 else str(self.rate)
        plain: dict[str, Any] = {
            "name": self.name,
            "rate": rate,
            "frame": self.frame,
            "history": self.history,
            "max_gap": self.max_gap,
            "actuation_delay": self.actuation_delay,
            "observations": {item.name: _plain(item) for item in self.observations},
            "actions": {item.name: _plain(item) for item in self.actions},
            "targets": {item.name: _plain(item) for item in self.targets},
        }
        for key, topic in (("episode", self.episode), ("reward", self.reward)):
            if topic is not None:
                plain[key] = _plain(topic)
        return plain

    @staticmethod
    def from_dict(data: Any, source: str = "contract") -> "Contract":
        """The contract in plain data. Raises ContractError naming `source`, the key and what was expected."""
        from rssm_ros.contract_reader import read_contract  # it builds the classes of this module

        return read_contract(data, source)


def load_contract(path: Path | str) -> Contract:
    """Reads one YAML file. Raises ContractError."""
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ContractError(
            f"{path}: cannot be read ({error.strerror}); give the path of a contract YAML file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    return Contract.from_dict(data, str(path))


def find_contract(name: str) -> Contract:
    """A shipped contract by name (`manipulator`), or any by path."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return load_contract(name)
    folder = paths.share_path("config", "contracts")
    if not (folder / f"{name}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise ContractError(
            f"no shipped contract is called {name!r} (there are: {known}); "
            "give one of these or a path to a YAML file"
        )
    return load_contract(folder / f"{name}.yaml")


def _plain(item: Any) -> dict[str, Any]:
    """A spec as the YAML mapping it came from: no name, no unset values, tuples as lists."""
    plain = {}
    for field in fields(item):
        value = getattr(item, field.name)
        if field.name == "name" or value is None or value == () or value == "":
            continue
        plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain
