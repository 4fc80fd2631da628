"""How a run is going, for the eye: from the latest messages, decoded only when somebody looks."""

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Float64

from rssm_ros import messages
from rssm_ros.contract import Contract
from rssm_ros.nodes.interfaces import message_type

BELIEF = "filter_node/belief"
RECENT = 2.0  # s over which the rate is taken


@dataclass(frozen=True)
class Status:
    """One moment of a run, for the eye. NaN: not known."""

    sim_s: float
    tick: int
    loop_hz: float
    visibility: float
    error_m: float  # of the first target's belief
    surprise: float
    commands: int


class RunStatus:
    """The latest of everything."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._target = contract.targets[0] if contract.targets else None
        self._latest: dict[str, bytes] = {}
        self._answers: deque[float] = deque(maxlen=200)
        self._commands = 0

    def truth_topics(self) -> list[tuple[str, Any]]:
        """What it wants to hear beside the heartbeats: (topic, type)."""
        if self._target is None:
            return []
        topics = [(self._target.topic, message_type(self._target.type))]
        return topics + ([(self._target.visibility, Float64)] if self._target.visibility else [])

    def keep(self, topic: str, data: bytes) -> None:
        """A serialised message."""
        self._latest[topic] = data

    def answered(self, moment: float) -> None:
        """A command was published; steady s."""
        self._answers.append(moment)
        self._commands += 1

    def stamp_ns(self, topic: str) -> int:
        """The header stamp of a topic's latest message; 0 where none came."""
        data = self._latest.get(topic)
        return 0 if data is None else messages.cdr_stamp_ns(data)

    def at(self, sim_ns: int) -> Status:
        """As it is now."""
        now, belief = time.monotonic(), self._belief()
        recent = [moment for moment in self._answers if now - moment < RECENT]
        return Status(
            sim_s=sim_ns * 1e-9,
            tick=int(sim_ns * 1e-9 * self._contract.rate),
            loop_hz=(len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 2 else math.nan,
            visibility=self._visibility(),
            error_m=self._error(belief),
            surprise=math.nan if belief is None else float(belief[0]["surprise"]),
            commands=self._commands,
        )

    def _belief(self) -> Any:
        data = self._latest.get(BELIEF)
        return None if data is None else messages.read_belief(deserialize_message(data, PointCloud2))

    def _visibility(self) -> float:
        topic = self._target.visibility if self._target else None
        data = self._latest.get(topic or "")
        return math.nan if data is None else float(deserialize_message(data, Float64).data)

    def _error(self, belief: Any) -> float:
        if belief is None or self._target is None:
            return math.nan
        data = self._latest.get(self._target.topic)
        if data is None:
            return math.nan
        message = deserialize_message(data, message_type(self._target.type))
        truth = messages.read_fields(message, self._target.fields)
        return float(math.dist(truth, belief[f"mean_{self._target.name}"].mean(axis=0)))
