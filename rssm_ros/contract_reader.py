"""Reading a contract: plain data in, specs out, and every mistake named by file, key and expectation."""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from rssm_ros.contract import (
    IMAGE_TYPES,
    JOINT_STATE,
    ActionSpec,
    Contract,
    ContractError,
    ObservationSpec,
    TargetSpec,
    TopicSpec,
)

RESIZE_WAYS = ("stretch", "crop", "pad")
SAFE_WORDS = ("zero", "hold")


def read_contract(data: Any, source: str) -> Contract:
    """The contract in plain data; ContractError names `source`, the key and what was expected."""
    return _Reader(source).contract(data)


class _Reader:
    """Turns plain data into specs, refusing what it does not know. Keys are reported as dotted paths."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, key: str, expected: str) -> ContractError:
        return ContractError(f"{self.source}: {key}: {expected}")

    def contract(self, data: Any) -> Contract:
        top = self.mapping(data, "(top level)")
        known = {
            "name",
            "rate",
            "frame",
            "history",
            "max_gap",
            "actuation_delay",
            "observations",
            "actions",
            "targets",
            "episode",
            "reward",
        }
        self.only(top, known, "")
        observations = tuple(
            self.observation(name, value) for name, value in self.section(top, "observations").items()
        )
        actions = tuple(self.action(name, value) for name, value in self.section(top, "actions").items())
        targets = tuple(
            self.target(name, value) for name, value in self.section(top, "targets", optional=True).items()
        )
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
            raise self.fail(
                "observations", "at least one needs `trigger: true`, so that a tick knows when to be computed"
            )
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
            if not (
                isinstance(size, list) and len(size) == 2 and all(isinstance(v, int) and v > 0 for v in size)
            ):
                raise self.fail(f"{key}.size", f"expected [width, height] in pixels, got {size!r}")
            if item.get("channels") not in (1, 3):
                raise self.fail(f"{key}.channels", f"expected 1 or 3, got {item.get('channels')!r}")
            if item.get("resize", "stretch") not in RESIZE_WAYS:
                raise self.fail(
                    f"{key}.resize", f"expected one of {', '.join(RESIZE_WAYS)}, got {item['resize']!r}"
                )
            shape: dict[str, Any] = {
                "size": (size[0], size[1]),
                "channels": item["channels"],
                "resize": item.get("resize", "stretch"),
            }
        else:
            self.only(item, common | {"fields", "names"}, key)
            shape = {
                "fields": self.texts(item, "fields", key),
                "names": self.texts(item, "names", key, optional=True),
            }
            if kind == JOINT_STATE and not shape["names"]:
                raise self.fail(
                    f"{key}.names", "expected the joint names: a JointState's order is the driver's to choose"
                )
        trigger = item.get("trigger", False)
        if not isinstance(trigger, bool):
            raise self.fail(f"{key}.trigger", f"expected true or false, got {trigger!r}")
        wait = self.seconds(item, "wait", key, default=0.0)
        stale = self.seconds(item, "stale", key, default=0.2)
        return ObservationSpec(
            name=name,
            type=kind,
            topic=self.text(item, "topic", key),
            trigger=trigger,
            wait=wait,
            stale=stale,
            **shape,
        )

    def action(self, name: str, data: Any) -> ActionSpec:
        key = f"actions.{name}"
        item = self.mapping(data, key)
        self.only(item, {"type", "topic", "fields", "names", "low", "high", "slew", "safe", "timeout"}, key)
        names = self.texts(item, "names", key, optional=True)
        parts = self.texts(item, "fields", key, optional=True)
        channels = names or parts
        if not channels:
            raise self.fail(
                key, "expected `fields` (message fields) or `names` (joints): the channels of the command"
            )
        low, high, slew = (self.numbers(item, limit, key, len(channels)) for limit in ("low", "high", "slew"))
        for channel, lower, upper, rate in zip(channels, low, high, slew, strict=True):
            if not lower < upper:
                raise self.fail(f"{key}.low", f"expected low < high for {channel}, got {lower} and {upper}")
            if rate <= 0:
                raise self.fail(
                    f"{key}.slew", f"expected a positive change per second for {channel}, got {rate}"
                )
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

    def safe(
        self, item: Mapping[str, Any], key: str, low: tuple[float, ...], high: tuple[float, ...]
    ) -> str | tuple[float, ...]:
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
        raise self.fail(
            f"{key}.safe", f"expected `zero`, `hold` or one value per channel within low..high, got {value!r}"
        )

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
        named += [
            (key, t.topic) for key, t in (("episode", contract.episode), ("reward", contract.reward)) if t
        ]
        seen: dict[str, str] = {}
        for key, topic in named:
            if topic in seen:
                raise self.fail(
                    f"{key}.topic",
                    f"expected a topic of its own, but {topic!r} is already that of {seen[topic]}",
                )
            seen[topic] = key

    def rate(self, top: Mapping[str, Any]) -> Fraction:
        value = top.get("rate")
        try:
            if isinstance(value, bool) or not isinstance(value, int | str | float):
                raise ValueError
            rate = Fraction(str(value))
        except (ValueError, ZeroDivisionError):
            raise self.fail(
                "rate",
                f"expected ticks per second as a number or a fraction such as 30000/1001, got {value!r}",
            ) from None
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
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value < 0
        ):
            raise self.fail(_join(parent, key), f"expected seconds, 0 or more, got {value!r}")
        return float(value)

    def text(self, item: Mapping[str, Any], key: str, parent: str) -> str:
        value = item.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(
                _join(parent, key),
                f"expected a text, got {value!r}" if key in item else "is missing; a text is expected",
            )
        return value

    def texts(
        self, item: Mapping[str, Any], key: str, parent: str, optional: bool = False
    ) -> tuple[str, ...]:
        value = item.get(key, [] if optional else None)
        if (
            not isinstance(value, list)
            or not all(isinstance(v, str) and v for v in value)
            or (not value and not optional)
        ):
            raise self.fail(_join(parent, key), f"expected a list of texts, got {value!r}")
        if len(set(value)) != len(value):
            raise self.fail(_join(parent, key), f"expected each entry once, got {value!r}")
        return tuple(value)

    def numbers(self, item: Mapping[str, Any], key: str, parent: str, length: int) -> tuple[float, ...]:
        value = item.get(key)
        if isinstance(value, list) and len(value) == length and all(map(_is_finite, value)):
            return tuple(float(v) for v in value)
        raise self.fail(
            _join(parent, key), f"expected a list of {length} finite numbers, one per channel, got {value!r}"
        )

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
                raise self.fail(
                    _join(parent, key), f"is not a known key; expected one of {', '.join(sorted(known))}"
                )


def _is_finite(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)


def _join(parent: str, key: str) -> str:
    return f"{parent}.{key}" if parent else key
