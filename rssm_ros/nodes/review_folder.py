"""Writes snapshots: each complete under another name first, brought to the disk and then renamed, among no
more than so many. Nothing here imports ROS.
"""

import errno
import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rssm_ros.nodes.bag_writer import BagWriter, Channel
from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.review_files import REVIEW, Review, standing_of
from rssm_ros.online.reviews import Message, to_remove

LEAST_FREE = 200 << 20  # bytes that a snapshot leaves on the disk, for whoever else writes there
PARTIAL = (".part", ".old")  # how names end of what is being written, and removed


@dataclass(frozen=True)
class Written:
    """What came of a snapshot."""

    folder: Path
    removed: int  # older ones that made room


class ReviewFolder:
    """A folder of at most `most` snapshots, which one process writes at a time.

    Room is made as `online.reviews.to_remove` says. Raises NodeError where the folder cannot be used.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self._most = folder, most
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise NodeError(
                f"{folder}: cannot keep reviews here ({error.strerror}); choose another folder"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise NodeError(
                f"{folder}: another monitor_node keeps its reviews here; choose another folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        for left in folder.iterdir():  # by a monitor that was killed, or lost its power
            stem, _, end = left.name.removeprefix(".").rpartition(".")
            if f".{end}" in PARTIAL and standing_of(stem):
                shutil.rmtree(left, ignore_errors=True)

    @property
    def writable(self) -> bool:
        """Whether this process may write there."""
        return os.access(self.folder, os.W_OK)

    def write(
        self, review: Review, channels: Iterable[Channel], messages: Sequence[Message], free: int = LEAST_FREE
    ) -> Written:
        """One snapshot. free: bytes that must be left on the disk.

        Raises OSError (a full or a read-only disk) and NodeError (no room among the snapshots); then there is
        nothing of it, and all that was there before.
        """
        found = [(item, path) for path in self.folder.iterdir() if (item := standing_of(path.name))]
        places = {item.number: path for item, path in found}
        outdated = to_remove([item for item, _ in found], self._most)
        if outdated is None:
            raise NodeError(
                f"{self.folder}: holds {len(found)} snapshots, and those taken by hand are never removed; "
                "move some away, or raise the parameter `most`"
            )
        size = sum(len(message.data) for message in messages)
        if shutil.disk_usage(self.folder).free < size + free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        number = max(places, default=0) + 1
        date = datetime.fromisoformat(review.asked_at).astimezone(UTC)
        name = f"{number:04d}-{review.cause}-{date:%Y%m%dT%H%M%SZ}"
        partial = self.folder / f".{name}{PARTIAL[0]}"
        try:
            _write(partial, name, review, channels, messages)
            for old in outdated:
                _remove(places[old])
            partial.rename(self.folder / name)
            _to_disk(self.folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return Written(self.folder / name, len(outdated))

    def close(self) -> None:
        """Lets others write there."""
        os.close(self._lock)


def _write(
    folder: Path, name: str, review: Review, channels: Iterable[Channel], messages: Sequence[Message]
) -> None:
    try:
        writer = BagWriter(folder, about={"contract": review.contract, "review": review.cause}, name=name)
    except NodeError as error:
        raise error.__cause__ or error from None  # the disk's own words: the name is not the user's to choose
    try:
        for channel in channels:
            writer.add(channel)
        for message in messages:
            writer.write(message.topic, message.log_ns, message.data)
    finally:
        writer.close()
    (folder / REVIEW).write_text(review.text(), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        _to_disk(path)


def _remove(folder: Path) -> None:
    """At once for whoever looks; a snapshot that was half removed would be taken for one."""
    hidden = folder.with_name(f".{folder.name}{PARTIAL[1]}")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def _to_disk(path: Path) -> None:
    """A file, or the names in a folder: what a power failure finds there."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def count_topics(messages: Iterable[Message]) -> dict[str, int]:
    """Messages by topic."""
    return dict(sorted(Counter(message.topic for message in messages).items()))


def failure_of(error: Exception) -> tuple[str, str]:
    """Why a snapshot was not written: the name of a counter, and a sentence."""
    if isinstance(error, NodeError):
        return "no_room", str(error)
    if isinstance(error, OSError):
        told = f"{error.filename or ''}: cannot be written ({error.strerror})".lstrip(": ")
        return errno.errorcode.get(error.errno or 0, "OSError"), told
    return type(error).__name__, f"{type(error).__name__}: {error}"  # a fault of ours
