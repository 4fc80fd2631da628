"""The contract: one YAML file that says what a robot offers, and every rate, limit and topic that follows from it.

The sim node, the recorder, the dataset converter, the filter's subscriptions, the planner's publishers and the
gate's limits all read the same `Contract`; nothing about a robot is written down twice.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from rssm_ros import paths

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
JOINT_STATE = "sensor_msgs/msg/JointState"
RESIZE_WAYS = ("stretch", "crop", "pad")
SAFE_WORDS = ("zero", "hold")
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
        """"image" or "vector"."""
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
    def channels(self) -> tuple[str, ...]:
        """Names of the A channels, in model order."""
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
        """Checks and builds a contract from plain data. Raises ContractError naming `source`, key and expectation."""
        return _Reader(source).contract(data)


def load_contract(path: Path | str) -> Contract:
    """Reads one YAML file. Raises ContractError."""
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror}); give the path of a contract YAML file") from error
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
        raise ContractError(f"no shipped contract is called {name!r} (there are: {known}); give one of these or a path to a YAML file")
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


class _Reader:
    """Turns plain data into specs, refusing what it does not know. Keys are reported as dotted paths."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, key: str, expected: str) -> ContractError:
        return ContractError(f"{self.source}: {key}: {expected}")

    def contract(self, data: Any) -> Contract:
        top = self.mapping(data, "(top level)")
        known = {"name", "rate", "frame", "history", "max_gap", "actuation_delay", "observations", "actions", "targets", "episode", "reward"}
        self.only(top, known, "")
        observations = tuple(self.observation(name, value) for name, value in self.section(top, "observations").items())
        actions = tuple(self.action(name, value) for name, value in self.section(top, "actions").items())
        targets = tuple(self.target(name, value) for name, value in self.section(top, "targets", optional=True).items())
        contract = Contract(
            name=self.text(top, "name", ""),
            rate=self.rate(top),
            frame=self.text(top, "frame", ""),
            history=self.seconds(top, "history", ""),
            max_gap=self.seconds(top, "max_gap", ""),
            actuation_delay=self.count(top, "actuation_delay"),
            observations=observations,
            actions=actions,
            targets=targets,
            episode=self.topic(top, "episode"),
            reward=self.topic(top, "reward"),
        )
        if not any(item.trigger for item in observations):
            raise self.fail("observations", "at least one needs `trigger: true`, so that a tick knows when to be computed")
        self.unique_topics(contract)
        return contract

    def observation(self, name: str, data: Any) -> ObservationSpec:
        key = f"observations.{name}"
        item = self.mapping(data, key)
        kind = self.text(item, "type", key)
        common = {"type", "topic", "trigger", "wait", "stale"}
        if kind in IMAGE_TYPES:
            self.only(item, common | {"size", "channels", "resize"}, key)
            size = item.get("size")
            if not (isinstance(size, list) and len(size) == 2 and all(isinstance(v, int) and v > 0 for v in size)):
                raise self.fail(f"{key}.size", f"expected [width, height] in pixels, got {size!r}")
            if item.get("channels") not in (1, 3):
                raise self.fail(f"{key}.channels", f"expected 1 or 3, got {item.get('channels')!r}")
            if item.get("resize", "stretch") not in RESIZE_WAYS:
                raise self.fail(f"{key}.resize", f"expected one of {', '.join(RESIZE_WAYS)}, got {item['resize']!r}")
            shape: dict[str, Any] = {"size": (size[0], size[1]), "channels": item["channels"], "resize": item.get("resize", "stretch")}
        else:
            self.only(item, common | {"fields", "names"}, key)
            shape = {"fields": self.texts(item, "fields", key), "names": self.texts(item, "names", key, optional=True)}
            if kind == JOINT_STATE and not shape["names"]:
                raise self.fail(f"{key}.names", "expected the joint names: a JointState's order is the driver's to choose")
        trigger = item.get("trigger", False)
        if not isinstance(trigger, bool):
            raise self.fail(f"{key}.trigger", f"expected true or false, got {trigger!r}")
        wait = self.seconds(item, "wait", key, default=0.0)
        stale = self.seconds(item, "stale", key, default=0.2)
        return ObservationSpec(name=name, type=kind, topic=self.text(item, "topic", key), trigger=trigger, wait=wait, stale=stale, **shape)

    def action(self, name: str, data: Any) -> ActionSpec:
        key = f"actions.{name}"
        item = self.mapping(data, key)
        self.only(item, {"type", "topic", "fields", "names", "low", "high", "slew", "safe", "timeout"}, key)
        names = self.texts(item, "names", key, optional=True)
        parts = self.texts(item, "fields", key, optional=True)
        channels = names or parts
        if not channels:
            raise self.fail(key, "expected `fields` (message fields) or `names` (joints): the channels of the command")
        low, high, slew = (self.numbers(item, limit, key, len(channels)) for limit in ("low", "high", "slew"))
        for channel, lower, upper, rate in zip(channels, low, high, slew, strict=True):
            if not lower < upper:
                raise self.fail(f"{key}.low", f"expected low < high for {channel}, got {lower} and {upper}")
            if rate <= 0:
                raise self.fail(f"{key}.slew", f"expected a positive change per second for {channel}, got {rate}")
        return ActionSpec(
            name=name,
            type=self.text(item, "type", key),
            topic=self.text(item, "topic", key),
            fields=parts,
            names=names,
            low=low,
            high=high,
            slew=slew,
            safe=self.safe(item, key, low, high),
            timeout=self.seconds(item, "timeout", key),
        )

    def safe(self, item: Mapping[str, Any], key: str, low: tuple[float, ...], high: tuple[float, ...]) -> str | tuple[float, ...]:
        value = item.get("safe")
        if value in SAFE_WORDS:
            zero_is_outside = any(lower > 0 or upper < 0 for lower, upper in zip(low, high, strict=True))
            if value == "zero" and zero_is_outside:
                raise self.fail(f"{key}.safe", "`zero` lies outside low..high; give `hold` or values")
            return str(value)
        if isinstance(value, list):
            values = self.numbers(item, "safe", key, len(low))
            if all(lower <= v <= upper for v, lower, upper in zip(values, low, high, strict=True)):
                return values
        raise self.fail(f"{key}.safe", f"expected `zero`, `hold` or one value per channel within low..high, got {value!r}")

    def target(self, name: str, data: Any) -> TargetSpec:
        key = f"targets.{name}"
        item = self.mapping(data, key)
        self.only(item, {"type", "topic", "fields", "unit", "visibility"}, key)
        visibility = self.text(item, "visibility", key) if "visibility" in item else None
        return TargetSpec(
            name=name,
            type=self.text(item, "type", key),
            topic=self.text(item, "topic", key),
            fields=self.texts(item, "fields", key),
            unit=self.text(item, "unit", key),
            visibility=visibility,
        )

    def topic(self, top: Mapping[str, Any], key: str) -> TopicSpec | None:
        if key not in top:
            return None
        item = self.mapping(top[key], key)
        self.only(item, {"type", "topic", "field"}, key)
        field = self.text(item, "field", key) if "field" in item else ""
        return TopicSpec(type=self.text(item, "type", key), topic=self.text(item, "topic", key), field=field)

    def unique_topics(self, contract: Contract) -> None:
        named = [(f"observations.{o.name}", o.topic) for o in contract.observations]
        named += [(f"actions.{a.name}", a.topic) for a in contract.actions]
        named += [(f"targets.{t.name}", t.topic) for t in contract.targets]
        named += [(f"targets.{t.name}.visibility", t.visibility) for t in contract.targets if t.visibility]
        named += [(key, t.topic) for key, t in (("episode", contract.episode), ("reward", contract.reward)) if t]
        seen: dict[str, str] = {}
        for key, topic in named:
            if topic in seen:
                raise self.fail(f"{key}.topic", f"expected a topic of its own, but {topic!r} is already that of {seen[topic]}")
            seen[topic] = key

    def rate(self, top: Mapping[str, Any]) -> Fraction:
        value = top.get("rate")
        try:
            if isinstance(value, bool) or not isinstance(value, int | str | float):
                raise ValueError
            rate = Fraction(str(value))
        except (ValueError, ZeroDivisionError):
            raise self.fail("rate", f"expected ticks per second as a number or a fraction such as 30000/1001, got {value!r}") from None
        if rate <= 0:
            raise self.fail("rate", f"expected more than 0 ticks per second, got {value!r}")
        return rate

    def count(self, top: Mapping[str, Any], key: str) -> int:
        value = top.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.fail(key, f"expected a whole number of ticks, 0 or more, got {value!r}")
        return value

    def seconds(self, item: Mapping[str, Any], key: str, parent: str, default: float | None = None) -> float:
        value = item.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise self.fail(_join(parent, key), f"expected seconds, 0 or more, got {value!r}")
        return float(value)

    def text(self, item: Mapping[str, Any], key: str, parent: str) -> str:
        value = item.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(_join(parent, key), f"expected a text, got {value!r}" if key in item else "is missing; a text is expected")
        return value

    def texts(self, item: Mapping[str, Any], key: str, parent: str, optional: bool = False) -> tuple[str, ...]:
        value = item.get(key, [] if optional else None)
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value) or (not value and not optional):
            raise self.fail(_join(parent, key), f"expected a list of texts, got {value!r}")
        if len(set(value)) != len(value):
            raise self.fail(_join(parent, key), f"expected each entry once, got {value!r}")
        return tuple(value)

    def numbers(self, item: Mapping[str, Any], key: str, parent: str, length: int) -> tuple[float, ...]:
        value = item.get(key)
        good = isinstance(value, list) and len(value) == length
        if good and all(not isinstance(v, bool) and isinstance(v, int | float) and math.isfinite(v) for v in value):
            return tuple(float(v) for v in value)
        raise self.fail(_join(parent, key), f"expected a list of {length} finite numbers, one per channel, got {value!r}")

    def mapping(self, data: Any, key: str) -> dict[str, Any]:
        if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
            raise self.fail(key, f"expected a mapping of names to values, got {type(data).__name__}")
        return data

    def section(self, top: Mapping[str, Any], key: str, optional: bool = False) -> dict[str, Any]:
        if optional and key not in top:
            return {}
        section = self.mapping(top.get(key), key)
        if not section and not optional:
            raise self.fail(key, "expected at least one entry")
        return section

    def only(self, item: Mapping[str, Any], known: set[str], parent: str) -> None:
        for key in item:
            if key not in known:
                raise self.fail(_join(parent, key), f"is not a known key; expected one of {', '.join(sorted(known))}")


def _join(parent: str, key: str) -> str:
    return f"{parent}.{key}" if parent else key
