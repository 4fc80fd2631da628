"""A bag of a running graph, written from the serialised messages as they come; nothing is decoded."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType

from rssm_ros.nodes.bag_writer import BagWriter
from rssm_ros.nodes.raw_topics import RawTopics, TopicStatus, Track
from rssm_ros.nodes.recorded import Recorded

PERIOD = 1.0  # s between two looks at the graph, and two checkpoints: what SIGKILL may cost
SHARE = 0.05  # of the time for checkpoints: the index that each one writes grows with the file


class Recorder:
    """Writes what comes on topics, with the time that `now_ns` gives as log time.

    A clock of simulated time makes the bag replay as it happened, however fast the run was. The bag is
    complete on disk every second; `close` ends it. Raises NodeError where it cannot begin; later troubles are
    told in `error`.
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
        self._node, self._closed = node, False
        self._topics = RawTopics(node, topics, now_ns, self._write)  # may refuse, before a folder is made
        self._writer = BagWriter(folder, split_bytes, about)
        for channel in self._topics.channels.values():
            self._writer.add(channel)
        self._topics.listen()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # ROS time may stand still
        self._timer = node.create_timer(PERIOD, self._look, clock=steady)

    @property
    def counts(self) -> dict[str, int]:
        """Messages by topic, as the contract calls it."""
        return self._topics.counts

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
        return self._topics.status()

    def _write(self, track: Track, now_ns: int, data: bytes) -> bool:
        if self._closed or self.error:
            return False
        self._guarded(lambda: self._writer.write(track.name, now_ns, data))
        if self.error:
            return False
        if track.item.needed and not self.begun_ns:
            self.begun_ns = now_ns
        return True

    def _look(self) -> None:
        """Once a second: the graph, and the disk."""
        if self._closed or self.error:
            return
        self._topics.look()
        begun = time.monotonic()
        if begun >= self._rest:
            self._guarded(self._writer.checkpoint)
            self._rest = begun + (time.monotonic() - begun) / SHARE

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
            self._topics.close()
            self._guarded(self._writer.close)
