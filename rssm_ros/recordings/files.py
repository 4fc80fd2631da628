"""The files of a rosbag: found, opened one after the other, and read message by message in log order.

The library `rosbags` does the reading: rosbag2 (sqlite3, mcap; splits; zstd by file, by message or inside
mcap) and rosbag1. Here is what it leaves open: a split that is missing or broken does not take the others
with it, and whatever goes wrong inside a damaged file comes out as one error or as one counted cause.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rssm_ros.recordings.errors import RecordingError

STORAGES = (".mcap", ".db3")  # of rosbag2
RECOVERY = {
    ".mcap": "if recording was cut off, `mcap recover` saves what is whole",
    ".db3": "if recording was cut off, `sqlite3 FILE .recover` saves what is whole",
    ".bag": "if recording was cut off, `rosbag reindex` saves what is whole",
}
PADDING = bytes(4)
Decode = Callable[[bytes], Any]


@dataclass(frozen=True)
class Topic:
    """One topic as a bag holds it."""

    name: str
    type: str  # package/msg/Name
    count: int  # messages


class Raw(NamedTuple):
    """One message as it was recorded. `decode` raises whatever a damaged one makes it raise."""

    topic: str
    type: str
    logged_ns: int
    data: bytes
    decode: Decode


@dataclass(frozen=True)
class StorageFile:
    """One file of a bag and what has to be undone before it can be read: "", "file" or "message" (zstd)."""

    path: Path
    compression: str = ""

    @property
    def suffix(self) -> str:
        """What the file is once decompressed."""
        return Path(self.path.stem).suffix if self.compression == "file" else self.path.suffix


class BagFiles:
    """One bag: its topics, its time span, its messages. Raises RecordingError where nothing can be read."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.counts: Counter[str] = Counter()  # splits that are missing or cannot be opened
        self.files = self._present(_layout(self.path))
        spans, self.topics = self._survey()
        if not spans:
            raise RecordingError(f"{self.path}: holds no messages; was anything published while it recorded?")
        self.start_ns, self.end_ns = min(a for a, _ in spans), max(b for _, b in spans)

    def _present(self, files: list[StorageFile]) -> list[StorageFile]:
        found = [file for file in files if file.path.is_file()]
        for file in files:
            if file not in found:
                self.counts[f"skipped/{file.path.name}/missing"] += 1
        if not found:
            raise RecordingError(
                f"{self.path}: {files[0].path.name} is not there; its metadata.yaml names it, copy it back"
            )
        return found

    def _survey(self) -> tuple[list[tuple[int, int]], list[Topic]]:
        """Time spans and topics of all files; files that cannot be opened are dropped, unless all are."""
        spans: list[tuple[int, int]] = []
        counts: Counter[tuple[str, str]] = Counter()
        good, first_error = [], None
        for file in self.files:
            try:
                with opened(file) as reader:
                    for connection in reader.connections:
                        counts[(connection.topic, full_type(connection.msgtype))] += connection.msgcount
                    if reader.message_count:
                        spans.append((int(reader.start_time), int(reader.end_time) - 1))
            except RecordingError as error:
                first_error = first_error or error
                self.counts[f"skipped/{file.path.name}/unreadable"] += 1
            else:
                good.append(file)
        if first_error and not good:
            raise first_error
        self.files = good
        return spans, [Topic(name, kind, count) for (name, kind), count in counts.items()]

    def messages(
        self, wanted: Collection[tuple[str, str]], start_ns: int, stop_ns: int, counts: Counter[str]
    ) -> Iterator[Raw]:
        """Messages of (topic, type) pairs with start <= log time < stop, in log order, one file at a time.

        A file that breaks off is read as far as it goes, and counted.
        """
        for file in self.files:
            with opened(file) as reader:
                yield from _of_file(file, reader, wanted, (start_ns, stop_ns), counts)


def _of_file(
    file: StorageFile,
    reader: Any,
    wanted: Collection[tuple[str, str]],
    span: tuple[int, int],
    counts: Counter[str],
) -> Iterator[Raw]:
    connections = [c for c in reader.connections if (c.topic, full_type(c.msgtype)) in wanted]
    if not connections:
        return
    known = {c.id: (c.topic, full_type(c.msgtype), _decoder(c, file)) for c in connections}
    stream = reader.messages(connections, start=span[0], stop=span[1])
    while True:
        try:
            connection, logged_ns, data = next(stream)
        except StopIteration:
            return
        except Exception:  # a damaged chunk or page: the library raises whatever it met there
            counts[f"skipped/{file.path.name}/truncated"] += 1
            return
        topic, kind, decode = known[connection.id]
        yield Raw(topic, kind, int(logged_ns), data, decode)


def full_type(name: str) -> str:
    """`sensor_msgs/Image`, as some writers say, -> `sensor_msgs/msg/Image`."""
    parts = name.split("/")
    return f"{parts[0]}/msg/{parts[1]}" if len(parts) == 2 else name


def one_line(error: BaseException) -> str:
    """What an error says, in one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def _layout(path: Path) -> list[StorageFile]:
    """The files of a bag in order: of a folder what its metadata.yaml says, or the file itself."""
    if not path.exists():
        raise RecordingError(f"{path}: does not exist; give a bag's folder, or an .mcap, .db3 or .bag file")
    if path.is_file():
        if path.suffix not in RECOVERY:
            raise RecordingError(
                f"{path}: is no rosbag by its name (.mcap, .db3, .bag); of a compressed one give the folder"
            )
        return [StorageFile(path)]
    metadata = path / "metadata.yaml"
    if metadata.is_file():
        return _from_metadata(metadata)
    found = sorted(file for file in path.iterdir() if file.suffix in STORAGES)
    if not found:
        raise RecordingError(f"{path}: holds neither metadata.yaml nor .mcap or .db3 files; is it a bag?")
    return [StorageFile(file) for file in found]


def _from_metadata(path: Path) -> list[StorageFile]:
    try:
        about = yaml.safe_load(path.read_text())["rosbag2_bagfile_information"]
        names = [Path(str(name)).name for name in about["relative_file_paths"]]
        mode = str(about.get("compression_mode") or "none").lower()
        method = str(about.get("compression_format") or "")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise RecordingError(f"{path}: cannot be read ({one_line(error)}); `ros2 bag reindex`") from error
    except (KeyError, TypeError, AttributeError) as error:
        told = f"{path}: is no description of a bag ({one_line(error)} is missing or no list); "
        raise RecordingError(told + "`ros2 bag reindex` writes it anew") from error
    if mode not in ("none", "file", "message") or (mode in ("file", "message") and method != "zstd"):
        raise RecordingError(
            f"{path}: is compressed by {mode} with {method or 'nothing'}; only zstd is supported"
        )
    if not names:
        raise RecordingError(f"{path}: names no files; `ros2 bag reindex` writes it anew")
    return [StorageFile(path.parent / name, "" if mode == "none" else mode) for name in names]


@contextmanager
def opened(file: StorageFile) -> Iterator[Any]:
    """The library's reader of one file. Raises RecordingError naming the file where it cannot be opened."""
    with tempfile.TemporaryDirectory(prefix="rssm-bag-") as folder:
        reader = None
        try:
            reader = _reader(_unpacked(file, Path(folder)))
            reader.open()
        except ModuleNotFoundError:
            raise
        except Exception as error:  # the library raises its own errors, struct's, sqlite's, zstd's ...
            advice = RECOVERY.get(file.suffix, "is it a bag?")
            raise RecordingError(f"{file.path}: cannot be opened ({one_line(error)}); {advice}") from error
        try:
            yield reader
        finally:
            reader.close()


def _unpacked(file: StorageFile, folder: Path) -> Path:
    if file.compression != "file":
        return file.path
    target = folder / file.path.stem
    with file.path.open("rb") as packed, _zstd().open(packed, "rb") as source, target.open("wb") as out:
        shutil.copyfileobj(source, out)
    return target


def _reader(path: Path) -> Any:
    if path.suffix == ".bag":
        from rosbags.rosbag1 import Reader as Reader1

        return Reader1(path)
    from rosbags.rosbag2 import Reader as Reader2

    return Reader2(path)


def _zstd() -> Any:
    """Python's own zstd where it has one, else the one that rosbags brings."""
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from backports import zstd  # type: ignore[import-not-found,no-redef,unused-ignore]
    return zstd


def _decoder(connection: Any, file: StorageFile) -> Decode:
    """Bytes -> message object, by the definition that came with the bag, else the stock one."""
    kind = full_type(connection.msgtype)
    store = _own_types(connection, kind) or _stock_types()
    if kind not in store.fielddefs:
        raise RecordingError(
            f"{file.path}: topic {connection.topic} has the type {kind}, which neither the bag nor ROS's "
            "stock messages define; record it again with a recorder that stores definitions (mcap)"
        )
    read: Decode = partial(store.deserialize_ros1, typename=kind)
    if file.suffix != ".bag":
        read = _forgiving(store, kind)
    if file.compression == "message":
        unpack = _zstd().decompress
        return lambda data: read(unpack(data))
    return read


def _forgiving(store: Any, kind: str) -> Decode:
    """Reads CDR, also with the 4 zeros that rclpy's `serialize_message` puts behind an empty float64[]."""

    def read(data: bytes) -> Any:
        try:
            return store.deserialize_cdr(data, kind)
        except Exception:
            if bytes(data[-4:]) != PADDING:
                raise
            return store.deserialize_cdr(data[:-4], kind)

    return read


@cache
def _stock_types() -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def _own_types(connection: Any, kind: str) -> Any | None:
    """A store of what the bag itself says of a type; None where it says nothing that can be understood."""
    return _types_of(connection.msgdef.data, connection.msgdef.format, kind)


@lru_cache(maxsize=256)  # compiling a definition takes as long as reading a hundred messages of it
def _types_of(text: str, form: Any, kind: str) -> Any | None:
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

    if form == MessageDefinitionFormat.NONE:
        return None
    try:
        store = get_typestore(Stores.EMPTY)
        if form == MessageDefinitionFormat.MSG:
            store.register(get_types_from_msg(text, kind))
        else:
            line = "=" * 80 + "\n"  # several IDL files in one text, each under such a line and its name
            for part in text.split(line) if text.startswith(f"{line}IDL: ") else [text]:
                if part.strip():
                    store.register(
                        get_types_from_idl(part.split("\n", 1)[1] if part.startswith("IDL: ") else part)
                    )
        if kind in store.fielddefs:
            store.get_msgdef(kind)  # makes the code that reads it: what it refers to must be there
            return store
    except Exception:  # a definition that makes no sense; the stock one may do
        return None
    return None
