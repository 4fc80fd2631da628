"""A rosbag as a Recording: what the contract names, decoded, in log order; everything else counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rssm_ros import messages
from rssm_ros.contract import Contract
from rssm_ros.messages import MessageError
from rssm_ros.recordings.errors import RecordingError
from rssm_ros.recordings.files import BagFiles, Raw, one_line
from rssm_ros.recordings.labels import RESET, TERMINAL, Labels, Series, make_labels, make_reward
from rssm_ros.recordings.recording import Event, Observation, Truth
from rssm_ros.recordings.topics import Feed, TopicTable

HEADER, LOG = "header", "log"
REWARD = "reward"  # the label feed of that role


def open_bag(
    path: Path | str,
    contract: Contract,
    namespace: str = "",
    stamps: str = HEADER,
    part: tuple[float, float] = (0.0, 1.0),
) -> BagRecording:
    """A rosbag2 folder, or an .mcap, .db3 or .bag file, as a recording.

    namespace: put before the contract's relative topics. stamps: "header", or "log" where drivers did not
    stamp. part: shares of its time span, from and to. Raises RecordingError.
    """
    return BagRecording(path, contract, namespace, stamps, part)


class BagRecording:
    """See `Recording`. `notes` holds per counted cause what the first such message was told.

    Counts of messages belong to the latest call of `observations`; iterate one at a time.
    """

    def __init__(
        self,
        path: Path | str,
        contract: Contract,
        namespace: str = "",
        stamps: str = HEADER,
        part: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        if stamps not in (HEADER, LOG):
            raise RecordingError(f"stamps is {stamps!r}, expected {HEADER!r} or {LOG!r}")
        if not 0.0 <= part[0] < part[1] <= 1.0:
            raise RecordingError(f"part {part[0]:g}:{part[1]:g}: expected shares with 0 <= from < to <= 1")
        self.contract, self.path = contract, Path(path)
        self.notes: dict[str, str] = {}
        self._by_log = stamps == LOG
        self._files = BagFiles(path)
        self._table = TopicTable(self.path, self._files.topics, contract, namespace)
        feeds = [*self._table.observations(), *self._table.commands()]
        self._feeds = {feed.key: feed for feed in feeds}
        self._label_feeds = {feed.key: feed for feed in self._table.labels()}
        begin, end = self._files.start_ns, self._files.end_ns
        span = end - begin
        self.start_ns, self.end_ns = begin + int(part[0] * span), begin + int(part[1] * span)
        self._stop_ns = self.end_ns + (part[1] == 1.0)  # a part ends before the next one begins
        self._passing: Counter[str] = Counter()
        self._label_counts: Counter[str] = Counter()

    @property
    def counts(self) -> Counter[str]:
        """What was left out, by cause."""
        return self._files.counts + self._table.counts + self._label_counts + self._passing

    @property
    def truth(self) -> Mapping[str, Truth]:
        """Target name -> its truth."""
        return self._labels.truth

    @cached_property
    def reward(self) -> Truth:
        """Rewards as they were recorded. Read by themselves: only those who learn from a bag ask for them."""
        series, _ = self._labelled(lambda name: name == REWARD, Counter())
        return make_reward(series.get(REWARD, Series()), self.contract)

    @property
    def events(self) -> Sequence[Event]:
        """Resets and ends of episodes."""
        return self._labels.events

    def observations(self) -> Iterator[Observation]:
        """Every message that could be decoded, in log order.

        Raises RecordingError at the end where nothing of a topic that is needed could be read.
        """
        counts = self._passing = Counter()
        good: set[str] = set()
        for raw in self._files.messages(self._feeds.keys(), self.start_ns, self._stop_ns, counts):
            feed = self._feeds[(raw.topic, raw.type)]
            decoded = self._decoded(raw, feed, counts)
            if decoded is not None:
                good.add(feed.name)
                yield Observation(feed.name, decoded[0], raw.logged_ns, decoded[1], decoded[2])
        self._check(good)

    def _check(self, good: set[str]) -> None:
        for feed in self._feeds.values():
            if feed.needed and feed.name not in good:
                causes = [
                    note for key, note in self.notes.items() if key.startswith(f"skipped/{feed.counter}/")
                ]
                told = causes[0] if causes else "there is none in this part of it"
                raise RecordingError(f"{self.path}: no message on {feed.topic} can be used: {told}")

    def _decoded(self, raw: Raw, feed: Feed, counts: Counter[str]) -> tuple[int, Any, bool] | None:
        """(stamp, value, whether the stamp is the message's own), or None, counted by cause."""
        try:
            message = raw.decode(raw.data)
        except Exception as error:  # bytes that are no such message: the library raises whatever it met
            self._skip(feed, counts, "corrupt", f"not a {feed.type} ({one_line(error)})")
            return None
        stamp_ns, stamped = self._stamp(message, raw.logged_ns)
        if stamp_ns <= 0:
            told = "its stamp is zero; let the driver stamp, or use log time (--stamps log)"
            self._skip(feed, counts, "unset", told)
            return None
        try:
            return stamp_ns, feed.read(message), stamped
        except MessageError as error:
            self._skip(feed, counts, error.cause, str(error))
            return None

    def _skip(self, feed: Feed, counts: Counter[str], cause: str, told: str) -> None:
        key = f"skipped/{feed.counter}/{cause}"
        counts[key] += 1
        self.notes.setdefault(key, told)

    def _stamp(self, message: Any, logged_ns: int) -> tuple[int, bool]:
        # A std_msgs/Header as a message (the episode's) is its own header.
        header = getattr(message, "header", message)
        if self._by_log or not hasattr(header, "stamp"):
            return logged_ns, False
        return messages.stamp_ns(header.stamp), True

    @cached_property
    def _labels(self) -> Labels:
        return make_labels(self.contract, *self._labelled(lambda name: name != REWARD, self._label_counts))

    def _labelled(
        self, asked: Callable[[str], bool], broken: Counter[str]
    ) -> tuple[dict[str, Series], list[Event]]:
        """One pass over the label topics that are asked for. broken: counts files that break off."""
        feeds = {key: feed for key, feed in self._label_feeds.items() if asked(feed.name)}
        series = {feed.name: Series() for feed in feeds.values()}
        events = []
        counts = self._label_counts
        for raw in self._files.messages(feeds.keys(), self.start_ns, self._stop_ns, broken):
            feed = feeds[(raw.topic, raw.type)]
            if feed.name == "episode":
                event = self._event(raw, feed, counts)
                if event is not None:
                    events.append(event)
                continue
            decoded = self._decoded(raw, feed, counts)
            if decoded is not None:
                series[feed.name].add(decoded[0], raw.logged_ns, np.asarray(decoded[1]), decoded[2])
        return series, events

    def _event(self, raw: Raw, feed: Feed, counts: Counter[str]) -> Event | None:
        decoded = self._decoded(raw, feed, counts)
        if decoded is None:
            return None
        kind = str(raw.decode(raw.data).frame_id)
        if kind not in (RESET, TERMINAL):
            self._skip(feed, counts, "event", f"{kind!r} is neither {RESET!r} nor {TERMINAL!r}")
            return None
        return Event(decoded[0], raw.logged_ns, kind)
