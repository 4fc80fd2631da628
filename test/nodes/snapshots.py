"""What tests of the monitor are made of: messages, channels and a review, without ROS."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from rssm_ros.nodes.bag_writer import Channel
from rssm_ros.nodes.definitions import definition_of
from rssm_ros.nodes.review_files import Review
from rssm_ros.online.reviews import HAND, Message

KIND = "std_msgs/msg/Float64"
STORE = get_typestore(Stores.ROS2_JAZZY)
REVIEW = Review(
    cause=HAND,
    told="asked for by hand",
    contract="manipulator",
    bundle="/models/one two",
    bundle_sha256="ab" * 32,
    filter_bundle="ab" * 6,
    asked_at="2026-11-21T16:55:00+00:00",
    asked_ns=12_000_000_000,
    tick=240,
    stamp_ns=12_000_000_000,
    surprise_nats=20.5,
    threshold_nats=16.8,
    streak=10,
    review_after=10,
    from_ns=2_000_000_000,
    to_ns=15_000_000_000,
    short=(),
    ticks={"stamp_ns": [12_000_000_000], "surprise_nats": [20.5], "threshold_nats": [16.8]},
    messages={"/value": 3},
    bytes=36,
    counters={"monitor_node": {"reviews": 1}, "filter_node": {"late": "2"}},
)


def review(cause: str = HAND, **others: Any) -> Review:
    return replace(REVIEW, cause=cause, **others)


def channels(topics: Iterable[str] = ("/value",)) -> list[Channel]:
    return [Channel(topic, KIND, definition_of(KIND)) for topic in topics]


def number(value: float) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[KIND](float(value)), KIND))


def messages(count: int, topic: str = "/value", begin_ns: int = 1_000) -> list[Message]:
    return [Message(topic, begin_ns + index, number(index)) for index in range(count)]


def values(bag: Path) -> list[float]:
    with AnyReader([bag]) as reader:
        return [reader.deserialize(data, c.msgtype).data for c, _, data in reader.messages()]
