"""Bags made in tests: messages of any stock type from arrays, written in any of the formats that are read."""

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from rosbags.interfaces import Nodetype
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from rssm_ros import messages
from rssm_ros.contract import Contract
from rssm_ros.online.grid import stamp_of
from rssm_ros.online.limits import Limits

STORE = get_typestore(Stores.ROS2_JAZZY)
STORE1 = get_typestore(Stores.ROS1_NOETIC)
JOINTS = "sensor_msgs/msg/JointState"
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class Entry(NamedTuple):
    """One message to be recorded. message: an object of the type, or the bytes to be written as they are."""

    topic: str
    type: str
    logged_ns: int
    message: Any


def blank(kind: str, store: Any = STORE) -> Any:
    """A message with every field zero, empty, or blank itself."""

    def value(description: Any) -> Any:
        node, what = description
        if node == Nodetype.NAME:
            return blank(what, store)
        if node == Nodetype.BASE:
            return "" if what[0] == "string" else 0
        inner, count = what
        if inner[0] == Nodetype.BASE and inner[1][0] != "string":
            size = count if node == Nodetype.ARRAY else 0
            return np.zeros(size, inner[1][0].replace("octet", "uint8").replace("char", "int8"))
        return [value(inner) for _ in range(count if node == Nodetype.ARRAY else 0)]

    fields = {name: value(description) for name, description in store.fielddefs[kind][1]}
    return store.types[kind](**fields)


def stamped(kind: str, stamp_ns: int, store: Any = STORE) -> Any:
    """A blank message with a header stamp."""
    message = blank(kind, store)
    messages.set_stamp(message.header.stamp, stamp_ns)
    return message


def image(pixels: Any, stamp_ns: int, encoding: str = "rgb8", store: Any = STORE) -> Any:
    """uint8 [H, W, C] as an Image."""
    message = stamped(IMAGE, stamp_ns, store)
    messages.fill_image(message, pixels, encoding)
    return message


def compressed(data: bytes, stamp_ns: int, form: str = "jpeg") -> Any:
    """JPEG or PNG bytes as a CompressedImage."""
    message = stamped(COMPRESSED, stamp_ns)
    message.format, message.data = form, np.frombuffer(data, np.uint8)
    return message


def fields(kind: str, values: dict[str, float], stamp_ns: int | None = None, store: Any = STORE) -> Any:
    """A message with numbers at dotted paths."""
    message = blank(kind, store) if stamp_ns is None else stamped(kind, stamp_ns, store)
    for path, number in values.items():
        messages.write_field(message, path, number)
    return message


def joints(names: Iterable[str], values: Any, stamp_ns: int) -> Any:
    """A JointState with positions."""
    message = stamped(JOINTS, stamp_ns)
    messages.fill_joint_state(message, list(names), position=values)
    return message


def packed(message: Any, kind: str, ros1: bool = False) -> bytes:
    """Serialised, as a writer wants it."""
    if isinstance(message, bytes):
        return message
    for name in getattr(message, "__dataclass_fields__", {}):
        value = getattr(message, name)
        if isinstance(value, array):  # what rclpy likes and rosbags does not
            setattr(message, name, np.array(value))
    return bytes(STORE1.serialize_ros1(message, kind) if ros1 else STORE.serialize_cdr(message, kind))


def write(path: Path, entries: Iterable[Entry], how: str = "mcap") -> Path:
    """A bag at `path` (a folder, or path.bag for "ros1"); how: mcap, mcap+zstd, db3, db3+file, db3+message,
    ros1. Returns what to open.
    """
    if how == "ros1":
        return _write1(path.with_suffix(".bag"), entries)
    storage, _, compression = how.partition("+")
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    writer = Writer(path, version=9, storage_plugin=plugin)
    if compression:
        mode = {"zstd": "STORAGE", "file": "FILE", "message": "MESSAGE"}[compression]
        writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        connections: dict[tuple[str, str], Any] = {}
        for entry in entries:
            key = (entry.topic, entry.type)
            if key not in connections:
                connections[key] = writer.add_connection(entry.topic, entry.type, typestore=STORE)
            writer.write(connections[key], entry.logged_ns, packed(entry.message, entry.type))
    return path


def _write1(path: Path, entries: Iterable[Entry]) -> Path:
    with Writer1(path) as writer:
        connections: dict[str, Any] = {}
        for entry in entries:
            if entry.topic not in connections:
                connections[entry.topic] = writer.add_connection(entry.topic, entry.type, typestore=STORE1)
            data = packed(entry.message, entry.type, ros1=True)
            writer.write(connections[entry.topic], entry.logged_ns, data)
    return path


def write_split(path: Path, parts: Iterable[Iterable[Entry]], how: str = "mcap") -> Path:
    """A bag of several files: each part recorded by itself, then put into one folder."""
    names, about = [], None
    path.mkdir()
    for index, part in enumerate(parts):
        single = write(path.parent / f"{path.name}-part{index}", part, how)
        found = yaml.safe_load((single / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        (name,) = found["relative_file_paths"]
        target = f"{path.name}_{index}{''.join(Path(name).suffixes)}"
        (single / Path(name).name).rename(path / target)
        names.append(target)
        about = about or found
    assert about is not None
    about["relative_file_paths"] = names
    (path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": about}))
    return path


def episode_entries(contract: Contract, arrays: Any, first_tick: int = 20, reset: bool = True) -> list[Entry]:
    """An episode as `rssm collect` stores it -> what a simulator would have published, in log order.

    Row t was seen at the tick first_tick + t; its action was applied from the tick before.
    """
    limits, rate, entries = Limits(contract), contract.rate, []
    for row, action in enumerate(arrays["action"]):
        now, before = stamp_of(first_tick + row, rate), stamp_of(first_tick + row - 1, rate)
        applied = joints(contract.channels, limits.scale(action), before)
        entries.append(Entry("/gate_node/applied", JOINTS, before, applied))
        if contract.episode and ((reset and row == 0) or arrays["is_terminal"][row]):
            kind = "terminal" if arrays["is_terminal"][row] else "reset"
            header = blank(contract.episode.type)
            messages.set_stamp(header.stamp, now)
            header.frame_id = kind
            entries.append(Entry(f"/{contract.episode.topic}", contract.episode.type, now, header))
        for spec in contract.observations:
            if arrays[f"present_{spec.name}"][row]:
                message = stamped(spec.type, now)
                messages.fill_observation(message, spec, arrays[spec.name][row])
                entries.append(Entry(f"/{spec.topic}", spec.type, now, message))
        entries += _labels(contract, arrays, row, now)
    return sorted(entries, key=lambda entry: entry.logged_ns)


def _labels(contract: Contract, arrays: Any, row: int, now: int) -> list[Entry]:
    entries = []
    for target in contract.targets:
        values = dict(zip(target.fields, arrays[f"target_{target.name}"][row].tolist(), strict=True))
        entries.append(Entry(f"/{target.topic}", target.type, now, fields(target.type, values, now)))
        if target.visibility:
            kind, share = "std_msgs/msg/Float64", float(arrays[f"visibility_{target.name}"][row])
            entries.append(Entry(f"/{target.visibility}", kind, now, fields(kind, {"data": share})))
    if contract.reward:
        told = fields(contract.reward.type, {contract.reward.field: float(arrays["reward"][row])}, now)
        entries.append(Entry(f"/{contract.reward.topic}", contract.reward.type, now, told))
    return entries
