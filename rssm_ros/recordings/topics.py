"""Which topics of a bag a contract means, and how a message of each becomes what the filter takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros import messages
from rssm_ros.contract import IMAGE_TYPES, JOINT_STATE, Contract
from rssm_ros.messages import MessageError
from rssm_ros.recordings.errors import RecordingError
from rssm_ros.recordings.files import Topic
from rssm_ros.recordings.recording import APPLIED

APPLIED_TOPIC = "gate_node/applied"
Value = npt.NDArray[Any]
Read = Callable[[Any], Value]  # message -> value; raises MessageError


@dataclass(frozen=True)
class Feed:
    """One topic that is read: under which name its values come, and how they are read."""

    name: str  # of the observation, APPLIED, or a label's role
    topic: str
    type: str
    read: Read
    needed: bool = False  # if not a single message of it can be read, the recording cannot be used

    @property
    def key(self) -> tuple[str, str]:
        """Topic and type: what tells it from everything else in a bag."""
        return self.topic, self.type

    @property
    def counter(self) -> str:
        """Its topic as counters name it."""
        return self.topic.lstrip("/")


class TopicTable:
    """The topics of one bag under the names of a contract. Raises RecordingError for a wrong type."""

    def __init__(self, path: Path, topics: Sequence[Topic], contract: Contract, namespace: str) -> None:
        self.path, self.contract = path, contract
        self.counts: Counter[str] = Counter()  # topics that are not in the bag
        self._namespace = "/".join(part for part in namespace.split("/") if part)
        self._topics: dict[str, list[Topic]] = {}
        for topic in topics:
            self._topics.setdefault(f"/{topic.name.lstrip('/')}", []).append(topic)

    def observations(self) -> list[Feed]:
        """Feeds of the observations. A trigger has to be there; others may be missing, and are counted."""
        feeds = []
        for spec in self.contract.observations:
            key, names = f"observations.{spec.name}", [spec.topic]
            if spec.kind == "image":
                names.append(f"{spec.topic}/compressed")  # what image_transport publishes beside it
            types = IMAGE_TYPES if spec.kind == "image" else (spec.type,)
            topic = self._find(names, types, key)
            if topic is None and spec.trigger:
                raise self._missing(spec.topic, key)
            if topic is not None:
                read = _observation_reader(spec)
                feeds.append(Feed(spec.name, topic.name, topic.type, read, needed=spec.trigger))
        return feeds

    def commands(self) -> list[Feed]:
        """Feeds of what was applied: the gate's own account where there is one, else the command topics."""
        told = self._find([APPLIED_TOPIC], (JOINT_STATE,), "", quiet=True)
        if told is not None:
            return [Feed(APPLIED, told.name, told.type, _applied_reader(self.contract))]
        feeds, slices = [], self.contract.action_slices()
        for action in self.contract.actions:
            topic = self._find([action.topic], (action.type,), f"actions.{action.name}")
            if topic is not None:
                read = _command_reader(action, slices[action.name], self.contract.action_dim)
                feeds.append(Feed(APPLIED, topic.name, topic.type, read))
        return feeds

    def labels(self) -> list[Feed]:
        """Feeds of truths, visibilities ("NAME/visibility"), "episode" and "reward"; none of them needed."""
        feeds = []
        for target in self.contract.targets:
            topic = self._find([target.topic], (target.type,), f"targets.{target.name}")
            if topic is not None:
                feeds.append(Feed(target.name, topic.name, topic.type, _fields_reader(target.fields)))
            if target.visibility:
                seen = self._find([target.visibility], (), f"targets.{target.name}.visibility")
                if seen is not None:
                    name = f"{target.name}/visibility"
                    feeds.append(Feed(name, seen.name, seen.type, _fields_reader(("data",))))
        if self.contract.reward is not None:
            told = self.contract.reward
            topic = self._find([told.topic], (told.type,), "reward")
            if topic is not None:
                feeds.append(Feed("reward", topic.name, topic.type, _fields_reader((told.field or "data",))))
        if self.contract.episode is not None:
            told = self.contract.episode
            topic = self._find([told.topic], (told.type,), "episode")
            if topic is not None:
                feeds.append(Feed("episode", topic.name, topic.type, _nothing))
        return feeds

    def _find(
        self, names: Sequence[str], types: Sequence[str], key: str, quiet: bool = False
    ) -> Topic | None:
        """The first of these topics that holds messages of one of the types (none given: of any).

        Not there: None, counted unless quiet. There with other types only: RecordingError naming `key`.
        """
        for name in map(self._full, names):
            here = [topic for topic in self._topics.get(name, []) if topic.count]
            right = [topic for topic in here if not types or topic.type in types]
            if right:
                for topic in here:
                    if topic not in right:
                        self.counts[f"skipped/{topic.name.lstrip('/')}/type"] += topic.count
                return right[0]
            if here and not quiet:
                raise RecordingError(
                    f"{self.path}: topic {name} holds {here[0].type}, expected {' or '.join(types)}; "
                    f"correct {key} in the contract {self.contract.name!r}"
                )
        if not quiet:
            self.counts[f"skipped/{self._full(names[0]).lstrip('/')}/missing"] += 1
        return None

    def _full(self, name: str) -> str:
        if name.startswith("/") or not self._namespace:
            return f"/{name.lstrip('/')}"
        return f"/{self._namespace}/{name}"

    def _missing(self, name: str, key: str) -> RecordingError:
        full = self._full(name)
        elsewhere = [other for other in self._topics if other.endswith(f"/{name.lstrip('/')}")]
        if full in self._topics:
            what = "no message of it was recorded"
        elif elsewhere:
            space = elsewhere[0].removesuffix(f"/{name.lstrip('/')}").lstrip("/")
            what = f"but {elsewhere[0]} is: give the namespace {space!r}"
        else:
            known = ", ".join(sorted(self._topics)[:12]) or "nothing"
            what = f"it has {known}; correct {key}.topic in the contract {self.contract.name!r}"
        return RecordingError(f"{self.path}: topic {full} is not in this bag: {what}")


def _observation_reader(spec: Any) -> Read:
    if spec.kind == "image":
        return lambda message: messages.read_observation(message, spec)

    def read(message: Any) -> Value:
        with np.errstate(over="ignore"):  # becomes infinite, which the filter refuses by name
            return np.asarray(messages.read_observation(message, spec), np.float32)

    return read


def _applied_reader(contract: Contract) -> Read:
    """The gate's JointState -> SI [A]; NaN for channels that it leaves out."""

    channels, width = contract.channels, contract.action_dim

    def read(message: Any) -> Value:
        named = set(message.name)
        here = [index for index, channel in enumerate(channels) if channel in named]
        if not here:
            known = ", ".join(message.name) or "none"
            raise MessageError(f"none of the contract's channels is in the JointState ({known})", "joint")
        values = np.full(width, np.nan)
        values[here] = messages.read_joints(message, [channels[i] for i in here], ("position",))
        return values

    return read


def _command_reader(action: Any, part: slice, width: int) -> Read:
    """A command of one action -> SI [A]; NaN for the channels of others."""

    def read(message: Any) -> Value:
        values = np.full(width, np.nan)
        values[part] = messages.read_command(message, action.fields, action.names)
        return values

    return read


def _fields_reader(fields: Sequence[str]) -> Read:
    return lambda message: messages.read_fields(message, fields)


def _nothing(message: Any) -> Value:
    return np.empty(0)
