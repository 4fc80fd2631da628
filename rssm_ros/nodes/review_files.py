"""Snapshots on the disk: a rosbag2 folder each, with a review.json in it that says why it was taken.

A folder of reviews holds `0007-surprise-20261121T165500Z/` and the like, each complete: it is written under
another name first, brought to the disk, and then renamed. Nothing here imports ROS.
"""

import errno
import fcntl
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rssm_ros.nodes.bag_writer import BagWriter, Channel
from rssm_ros.nodes.errors import NodeError
from rssm_ros.online.reviews import CAUSES, Message, Standing, to_remove

SCHEMA = 1
REVIEW = "review.json"
LEAST_FREE = 200 << 20  # bytes that a snapshot leaves on the disk, for whoever else writes there
PARTIAL = (".part", ".old")  # how names end of what is being written, and removed
_NAME = re.compile(rf"(\d{{4,}})-({'|'.join(CAUSES)})-\d{{8}}T\d{{6}}Z")


@dataclass(frozen=True)
class Review:
    """Why a snapshot was taken, and of what. What is not known is None; times are ns of ROS time."""

    cause: str  # `surprise`, or `hand`
    told: str  # the same in a sentence
    contract: str
    bundle: str  # the folder of the model that the monitor was told of
    bundle_sha256: str
    filter_bundle: str  # the first 12 digits of the SHA-256 of the one that the filter runs; empty: not heard
    asked_at: str  # wall clock, ISO 8601
    asked_ns: int
    tick: int
    stamp_ns: int
    surprise_nats: float | None
    threshold_nats: float | None
    streak: int  # ticks in a row above the threshold
    review_after: int  # as many make a review
    from_ns: int  # log time of the first message
    to_ns: int
    short: tuple[str, ...]  # why it is shorter than was asked for
    ticks: Mapping[str, list[Any]]  # stamp_ns, surprise_nats, threshold_nats: one entry per belief
    messages: Mapping[str, int]  # by topic
    bytes: int
    counters: Mapping[str, Mapping[str, Any]]  # by node: monitor_node, filter_node
    schema: int = field(default=SCHEMA)

    def text(self) -> str:
        """As review.json has it."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"


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
            if left.name.startswith(".") and left.name.endswith(PARTIAL):
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


def standing_of(name: str) -> Standing | None:
    """What a folder's name says; None where it is not of a snapshot."""
    found = _NAME.fullmatch(name)
    return Standing(int(found.group(1)), found.group(2)) if found else None


def _write(
    folder: Path, name: str, review: Review, channels: Iterable[Channel], messages: Sequence[Message]
) -> None:
    writer = BagWriter(folder, about={"contract": review.contract, "review": review.cause}, name=name)
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


# -- reading -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """A snapshot as it is found on the disk."""

    folder: Path
    review: Review | None  # None: it cannot be read
    problem: str = ""


def find_reviews(folder: Path) -> list[Listed]:
    """The snapshots in a folder (or in the `reviews` of a run's folder), oldest first.

    Raises NodeError where there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise NodeError(f"{folder}: there is no such folder; give the one that monitor_node writes to")
    within = folder / "reviews"
    for place in (folder, within):
        names = [(item.number, path) for path in _paths(place) if (item := standing_of(path.name))]
        if names:
            return [_listed(path) for _, path in sorted(names)]
    if within.is_dir():
        return []
    other = next((path.name for path in _paths(folder) if not path.name.startswith(".")), "")
    if other:
        raise NodeError(f"{folder}: holds no snapshots of monitor_node, but {other!r} and the like")
    return []


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _listed(folder: Path) -> Listed:
    path = folder / REVIEW
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("schema") != SCHEMA:
            told = f"{path}: schema is {data.get('schema')!r}, this version reads {SCHEMA}"
            return Listed(folder, None, told)
        return Listed(folder, Review(**{**data, "short": tuple(data["short"])}))
    except OSError as error:
        return Listed(folder, None, f"{path}: cannot be read ({error.strerror})")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Listed(folder, None, f"{path}: is no review ({error})")
