"""A bag of a running graph, written from the serialised messages as they come; nothing is decoded."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration, Infinite
from rclpy.qos import QoSProfile, ReliabilityPolicy

from rssm_ros.nodes.bag_writer import BagWriter, Channel, Quality
from rssm_ros.nodes.definitions import definition_of
from rssm_ros.nodes.interfaces import COMMANDS, message_type
from rssm_ros.nodes.recorded import Recorded

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

PERIOD = 1.0  # s between two looks at the graph, and two checkpoints: what SIGKILL may cost
SHARE = 0.05  # of the time for checkpoints: the index that each one writes grows with the file
RECENT = 3.0  # s over which rates are taken
DEPTH = 100  # messages that may wait for this process
_FOREVER = {"sec": 9_223_372_036, "nsec": 854_775_807}


@dataclass(frozen=True)
class TopicStatus:
    """One topic of a recording, for the eye."""

    topic: str
    count: int
    hz: float  # over the last seconds
    gaps: int  # how often nothing came for longer than the contract allows
    longest_gap: float  # s
    note: str  # why nothing comes; empty while something does
    needed: bool


class Track:
    """One topic: its subscription, and when its messages came."""

    def __init__(self, item: Recorded, name: str) -> None:
        self.item, self.name = item, name  # name: fully qualified
        self.subscription: Any = None
        self.reliable = True
        self.count = self.gaps = 0
        self.longest = 0.0
        self.note = "nobody publishes it"
        self._last_ns = 0
        self._recent: deque[float] = deque(maxlen=1000)  # steady times

    def came(self, now_ns: int) -> None:
        """A message was written; now in log time."""
        quiet = (now_ns - self._last_ns) * 1e-9 if self.count else 0.0
        self.gaps += quiet > self.item.patience
        self.longest = max(quiet, self.longest)
        self._last_ns = now_ns
        self.count += 1
        self._recent.append(time.monotonic())

    def status(self) -> TopicStatus:
        """As it is now."""
        now = time.monotonic()
        recent = [moment for moment in self._recent if now - moment < RECENT]
        span = now - recent[0] if len(recent) > 1 else math.inf
        note = self.note or ("published, but nothing came" if not self.count else "")
        return TopicStatus(
            self.name, self.count, len(recent) / span, self.gaps, self.longest, note, self.item.needed
        )


class Recorder:
    """Subscribes raw on `node` and writes what comes, with the time that `now_ns` gives as log time.

    A clock of simulated time makes the bag replay as it happened, however fast the run was. Subscriptions are
    reliable, and become best effort where the publisher offers no more. The bag is complete on disk every
    second; `close` ends it. Raises NodeError where it cannot begin; later troubles are told in `error`.
    """

    def __init__(
        self,
        node: Any,
        folder: Path,
        topics: Iterable[Recorded],
        now_ns: Callable[[], int],
        split_bytes: int = 0,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.error = ""
        self._rest = 0.0  # steady time before which there is no checkpoint
        self.begun_ns = 0  # log time of the first message that a bag needs; 0 before
        self._node, self._now, self._closed = node, now_ns, False
        described = [(Track(t, node.resolve_topic_name(t.topic)), definition_of(t.kind)) for t in topics]
        for track, _ in described:
            message_type(track.item.kind)  # refused before a folder is made
        self._writer = BagWriter(folder, split_bytes, about)
        self._tracks = [track for track, _ in described]
        self._channels = {
            track.name: Channel(track.name, track.item.kind, definition) for track, definition in described
        }
        for track in self._tracks:
            self._writer.add(self._channels[track.name])
            self._subscribe(track)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # ROS time may stand still
        self._timer = node.create_timer(PERIOD, self._look, clock=steady)

    @property
    def counts(self) -> dict[str, int]:
        """Messages by topic, as the contract calls it."""
        return {track.item.topic: track.count for track in self._tracks}

    @property
    def folder(self) -> Path:
        """Of the bag."""
        return self._writer.folder

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._writer.bytes

    def status(self) -> list[TopicStatus]:
        """Every topic."""
        return [track.status() for track in self._tracks]

    def _subscribe(self, track: Track) -> None:
        policy = ReliabilityPolicy.RELIABLE if track.reliable else ReliabilityPolicy.BEST_EFFORT
        quality = QoSProfile(depth=DEPTH, history=COMMANDS.history, reliability=policy)
        kind = message_type(track.item.kind)
        silent = SubscriptionEventCallbacks(use_default_callbacks=False)  # `_look` sees what does not fit
        track.subscription = self._node.create_subscription(
            kind, track.name, self._take(track), quality, raw=True, event_callbacks=silent
        )

    def _take(self, track: Track) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            now = self._now()
            if now <= 0 or self._closed or self.error:
                return
            if not track.count:
                self._ask(track)  # what the publisher offers goes into the bag
            track.note = ""
            self._guarded(lambda: self._writer.write(track.name, now, bytes(data)))
            if not self.error:
                track.came(now)
                if track.item.needed and not self.begun_ns:
                    self.begun_ns = now

        return write

    def _look(self) -> None:
        """Once a second: the graph, and the disk."""
        if self._closed or self.error:
            return
        for track in self._tracks:
            if track.reliable and not self._ask(track):
                track.reliable = False
                self._node.destroy_subscription(track.subscription)
                self._subscribe(track)
        begun = time.monotonic()
        if begun >= self._rest:
            self._guarded(self._writer.checkpoint)
            self._rest = begun + (time.monotonic() - begun) / SHARE

    def _ask(self, track: Track) -> bool:
        """Who publishes a topic, and how; until its first message this is what the bag will say.

        Returns whether it may be subscribed to as reliable.
        """
        offers = self._node.get_publishers_info_by_topic(track.name)
        right = [offer for offer in offers if offer.topic_type == track.item.kind]
        if not track.count:
            wrong = f"is {offers[0].topic_type}, not {track.item.kind}" if offers else "nobody publishes it"
            track.note = "" if right else wrong
            self._channels[track.name].offered = tuple(_described(offer.qos_profile) for offer in right)
        return all(offer.qos_profile.reliability != ReliabilityPolicy.BEST_EFFORT for offer in right)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self.error = (
                f"{self._writer.folder}: cannot be written ({error.strerror}); it is whole up to here"
            )

    def close(self) -> None:
        """Writes what is left, and ends the bag."""
        if not self._closed:
            self._closed = True
            self._node.destroy_timer(self._timer)
            for track in self._tracks:
                self._node.destroy_subscription(track.subscription)
            self._guarded(self._writer.close)


def _described(quality: QoSProfile) -> Quality:
    """A quality of service as rosbag2 writes it; history is not told over the wire."""
    return {
        "history": "keep_all" if quality.history.name == "KEEP_ALL" else "keep_last",
        "depth": int(quality.depth) or 10,
        "reliability": quality.reliability.name.lower(),
        "durability": quality.durability.name.lower(),
        "deadline": _duration(quality.deadline),
        "lifespan": _duration(quality.lifespan),
        "liveliness": quality.liveliness.name.lower(),
        "liveliness_lease_duration": _duration(quality.liveliness_lease_duration),
        "avoid_ros_namespace_conventions": bool(quality.avoid_ros_namespace_conventions),
    }


def _duration(duration: Duration) -> dict[str, int]:
    if duration.nanoseconds >= Infinite.nanoseconds:
        return dict(_FOREVER)
    seconds, nanoseconds = divmod(duration.nanoseconds, 1_000_000_000)
    return {"sec": int(seconds), "nsec": int(nanoseconds)}
