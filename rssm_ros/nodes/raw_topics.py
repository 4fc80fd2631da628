"""Topics as serialised messages, heard as their publishers offer them; nothing is decoded."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rclpy.duration import Duration, Infinite
from rclpy.qos import QoSProfile, ReliabilityPolicy

from rssm_ros.nodes.bag_writer import Channel, Quality
from rssm_ros.nodes.definitions import definition_of
from rssm_ros.nodes.interfaces import COMMANDS, message_type
from rssm_ros.nodes.recorded import Recorded

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

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


Take = Callable[[Track, int, bytes], bool]


class RawTopics:
    """Subscribes on `node` and hands each message to `take`, with the time that `now_ns` gives as log time.

    Subscriptions are reliable, and become best effort where the publisher offers no more: `look` finds out,
    and is to be called once a second or so. Raises NodeError for a type that is not installed.
    """

    def __init__(self, node: Any, topics: Iterable[Recorded], now_ns: Callable[[], int], take: Take) -> None:
        """take: gets track, log time and bytes of each message, and returns whether it wanted it. Times of 0
        (a clock that does not run yet) never come.
        """
        self._node, self._now, self._wanted = node, now_ns, take
        described = [(Track(t, node.resolve_topic_name(t.topic)), definition_of(t.kind)) for t in topics]
        for track, _ in described:
            message_type(track.item.kind)
        self.tracks = [track for track, _ in described]
        self.channels = {
            track.name: Channel(track.name, track.item.kind, definition) for track, definition in described
        }

    def listen(self) -> None:
        """From now on."""
        for track in self.tracks:
            self._subscribe(track)

    @property
    def counts(self) -> dict[str, int]:
        """Messages by topic, as the contract calls it."""
        return {track.item.topic: track.count for track in self.tracks}

    def status(self) -> list[TopicStatus]:
        """Every topic."""
        return [track.status() for track in self.tracks]

    def look(self) -> None:
        """At the graph: who publishes, and whether it is heard."""
        for track in self.tracks:
            if track.reliable and not self._ask(track):
                track.reliable = False
                self._node.destroy_subscription(track.subscription)
                self._subscribe(track)

    def close(self) -> None:
        """Hears no more."""
        for track in self.tracks:
            if track.subscription is not None:
                self._node.destroy_subscription(track.subscription)
                track.subscription = None

    def _subscribe(self, track: Track) -> None:
        policy = ReliabilityPolicy.RELIABLE if track.reliable else ReliabilityPolicy.BEST_EFFORT
        quality = QoSProfile(depth=DEPTH, history=COMMANDS.history, reliability=policy)
        kind = message_type(track.item.kind)
        silent = SubscriptionEventCallbacks(use_default_callbacks=False)  # `look` sees what does not fit
        track.subscription = self._node.create_subscription(
            kind, track.name, self._take(track), quality, raw=True, event_callbacks=silent
        )

    def _take(self, track: Track) -> Callable[[bytes], None]:
        def take(data: bytes) -> None:
            now = self._now()
            if now <= 0:
                return
            if not track.count:
                self._ask(track)  # what the publisher offers goes into the bag
            track.note = ""
            if self._wanted(track, now, bytes(data)):
                track.came(now)

        return take

    def _ask(self, track: Track) -> bool:
        """Who publishes a topic, and how; until its first message this is what a bag will say.

        Returns whether it may be subscribed to as reliable.
        """
        offers = self._node.get_publishers_info_by_topic(track.name)
        right = [offer for offer in offers if offer.topic_type == track.item.kind]
        if not track.count:
            wrong = f"is {offers[0].topic_type}, not {track.item.kind}" if offers else "nobody publishes it"
            track.note = "" if right else wrong
            self.channels[track.name].offered = tuple(_described(offer.qos_profile) for offer in right)
        return all(offer.qos_profile.reliability != ReliabilityPolicy.BEST_EFFORT for offer in right)


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
