"""An MCAP bag that is whole on disk at every moment: what SIGKILL takes is the last second, not the bag.

The format ends with an index, and most readers want it. So every checkpoint writes the new chunk with a
complete ending behind it, and the next one begins where that ending began. metadata.yaml is kept up alike, so
the folder reads as a finished bag all the time, with any program. Nothing here imports ROS.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rssm_ros.files import write_whole
from rssm_ros.nodes.errors import NodeError

CHUNK = 1 << 20  # bytes of messages in one chunk
PENDING = 16 << 20  # bytes that wait in memory at most
Quality = Mapping[str, Any]  # one offered quality of service, in rosbag2's own words


@dataclass(frozen=True)
class Definition:
    """What a message type looks like, for readers that have never heard of it."""

    text: str  # the .msg file and those it refers to, as rosbag2 joins them
    digest: str  # RIHS01


@dataclass
class Channel:
    """One topic of the bag."""

    topic: str
    kind: str
    definition: Definition
    offered: tuple[Quality, ...] = ()
    count: int = 0


@dataclass
class Split:
    """One file of the bag."""

    name: str
    first_ns: int = 2**63 - 1
    last_ns: int = 0
    count: int = 0

    def described(self) -> dict[str, Any]:
        """As metadata.yaml has it; also for the whole bag."""
        begun = self.first_ns if self.count else 0
        return {
            "starting_time": {"nanoseconds_since_epoch": begun},
            "duration": {"nanoseconds": max(0, self.last_ns - begun)},
            "message_count": self.count,
        }


class Ending:
    """The file under an MCAP writer: `keep` what stays, `show` what the next bytes will overwrite."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self._kept = 0
        self._pending = bytearray()
        self._shown = b""  # the ending on disk, behind what is kept

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._kept + len(self._pending)

    def write(self, data: bytes) -> int:
        """Takes bytes; they reach the disk with `show`."""
        self._pending += data
        return len(data)

    def flush(self) -> None:
        """Nothing: a half-written chunk must not reach the disk."""

    @property
    def waiting(self) -> int:
        """Bytes that are not on the disk yet."""
        return len(self._pending)

    def show(self, kept: int) -> None:
        """Writes everything; of it, `kept` bytes stay and the rest is the ending.

        Raises OSError (a full disk); the file is then what it was before.
        """
        data = bytes(self._pending)
        try:
            _write_all(self._file, data, self._kept)
        except OSError:
            del self._pending[kept:]  # another ending will come, behind what stays
            _write_all(self._file, self._shown, self._kept)
            os.ftruncate(self._file, self._kept + len(self._shown))
            raise
        self._kept, self._shown = self._kept + kept, data[kept:]
        self._pending.clear()

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


class BagWriter:
    """A rosbag2 folder: NAME_0.mcap, NAME_1.mcap... and metadata.yaml."""

    def __init__(
        self, folder: Path, split_bytes: int = 0, about: Mapping[str, str] | None = None, name: str = ""
    ) -> None:
        """split_bytes: a file that has grown so large is followed by another; 0: one file. about: kept as the
        bag's custom data. name: of the files; empty: the folder's. Raises NodeError where the folder cannot
        be made.
        """
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            told = "exists already" if isinstance(error, FileExistsError) else error.strerror
            raise NodeError(f"{folder}: cannot record here ({told}); choose another folder") from error
        self.folder, self.bytes, self._name = folder, 0, name or folder.name
        self._split_bytes, self._about = split_bytes, dict(about or {})
        self._channels: dict[str, Channel] = {}
        self._splits: list[Split] = []
        self._whole, self._new, self._closed = Split(""), False, False
        try:
            self._begin()
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise NodeError(
                f"{folder}: cannot record here ({error.strerror}); choose another folder"
            ) from error

    def add(self, channel: Channel) -> None:
        """A topic that will be written; before its first message."""
        self._channels[channel.topic] = channel

    def counts(self) -> dict[str, int]:
        """Messages by topic."""
        return {channel.topic: channel.count for channel in self._channels.values()}

    def write(self, topic: str, log_ns: int, data: bytes) -> None:
        """One serialised message. Raises OSError where the disk does not take it."""
        channel = self._channels[topic]
        identifier = self._open.get(topic)
        if identifier is None:
            identifier = self._open[topic] = self._register(channel)
        self._mcap.add_message(identifier, log_ns, data, log_ns, channel.count)
        channel.count += 1
        for span in (self._splits[-1], self._whole):
            span.count += 1
            span.first_ns, span.last_ns = min(log_ns, span.first_ns), max(log_ns, span.last_ns)
        self._new = True
        if self._file.waiting > PENDING:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Makes the bag on disk complete up to now. Raises OSError; it is then as complete as before, and
        closed where it was the next file that could not begin.
        """
        if not self._new:
            return
        self._finish()
        full = self._split_bytes and self.bytes - self._before >= self._split_bytes
        if full and not self._closed:
            self._file.close()
            self._begin()

    def close(self) -> None:
        """The last checkpoint. A second call does nothing."""
        if not self._closed:
            self._closed = True
            try:
                self.checkpoint()
            finally:
                self._file.close()

    def _begin(self) -> None:
        from mcap.writer import CompressionType, Writer  # an extra: only who records needs it

        number = len(self._splits)
        self._splits.append(Split(f"{self._name}_{number}.mcap"))
        self._before, self._open = self.bytes, dict[str, int]()
        self._schemas = dict[str, int]()
        self._file = Ending(self.folder / self._splits[-1].name)
        # The list of offsets is optional, and the writer would add to it at each ending.
        self._mcap = Writer(self._file, CHUNK, CompressionType.NONE, use_summary_offsets=False)
        self._mcap.start("ros2", "rssm_ros")
        self._new = True
        try:
            self._finish()
        except OSError:
            self._closed = True
            self._file.close()
            (self.folder / self._splits.pop().name).unlink(missing_ok=True)
            raise

    def _finish(self) -> None:
        self._mcap.flush()  # the chunk
        kept = self._file.waiting
        self._mcap.finish()  # the ending
        self._file.show(kept)
        self.bytes = self._before + self._file.tell()
        self._new = False
        self._describe()

    def _register(self, channel: Channel) -> int:
        kind = channel.kind
        if kind not in self._schemas:
            text = channel.definition.text.encode()
            self._schemas[kind] = self._mcap.register_schema(kind, "ros2msg", text)
        offered = {"offered_qos_profiles": _yaml([dict(quality) for quality in channel.offered])}
        return int(self._mcap.register_channel(channel.topic, "cdr", self._schemas[kind], offered))

    def _describe(self) -> None:
        """metadata.yaml, replaced as a whole."""
        topics = [
            {
                "topic_metadata": {
                    "name": channel.topic,
                    "type": channel.kind,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [dict(quality) for quality in channel.offered],
                    "type_description_hash": channel.definition.digest,
                },
                "message_count": channel.count,
            }
            for channel in self._channels.values()
        ]
        information = {
            "version": 9,
            "storage_identifier": "mcap",
            "relative_file_paths": [split.name for split in self._splits],
            **self._whole.described(),
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "files": [{"path": split.name, **split.described()} for split in self._splits],
            "custom_data": self._about,
            "ros_distro": os.environ.get("ROS_DISTRO", "rssm_ros"),
        }
        write_whole(self.folder / "metadata.yaml", _yaml({"rosbag2_bagfile_information": information}))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Without `&id001`: not every reader of metadata.yaml knows anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(data: Any) -> str:
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False))


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
