"""An MCAP bag of a run, written from the serialised messages as they come; nothing is decoded."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rclpy.qos import QoSProfile
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from rssm_ros.nodes.interfaces import COMMANDS, message_type


class Recorder:
    """Subscribes raw on `node` and writes what comes, with the time that `now_ns` gives as log time.

    A recording clock of simulated time makes the bag replay as it happened, however fast the run was.
    """

    def __init__(
        self, node: Any, path: Path, topics: Iterable[tuple[str, str]], now_ns: Callable[[], int]
    ) -> None:
        self.counts: dict[str, int] = {}
        self._now = now_ns
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        store = get_typestore(Stores.ROS2_JAZZY)
        self._closed = False
        for topic, kind in topics:
            connection = self._writer.add_connection(f"/{topic.lstrip('/')}", kind, typestore=store)
            self.counts[topic] = 0
            quality = QoSProfile(depth=50, history=COMMANDS.history, reliability=COMMANDS.reliability)
            node.create_subscription(
                message_type(kind), topic, self._take(topic, connection), quality, raw=True
            )

    def _take(self, topic: str, connection: Any) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            now = self._now()
            if now > 0 and not self._closed:
                self._writer.write(connection, now, bytes(data))
                self.counts[topic] += 1

        return write

    def close(self) -> None:
        """Finishes the file: without this no reader opens it."""
        if not self._closed:
            self._closed = True
            self._writer.close()
