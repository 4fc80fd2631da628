"""Message definitions for bags: common packages from rosbags, others from where they are installed."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from rssm_ros.nodes.bag_writer import Definition
from rssm_ros.nodes.errors import NodeError


@cache
def _store() -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def definition_of(kind: str) -> Definition:
    """`sensor_msgs/msg/Image` -> its definition. Raises NodeError where nothing installed describes it."""
    store = _store()
    if kind not in store.fielddefs:
        found: dict[str, Any] = {}
        _read(kind, found)
        store.register(found)
    text, _ = store.generate_msgdef(kind, ros_version=2)
    return Definition(str(text), str(store.hash_rihs01(kind)))


def _read(kind: str, found: dict[str, Any]) -> None:
    """A type from its .msg file, and the types that it refers to."""
    from rosbags.typesys import get_types_from_msg

    package, _, name = kind.partition("/msg/")
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    files = [Path(prefix) / "share" / package / "msg" / f"{name}.msg" for prefix in prefixes if prefix]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise NodeError(f"message type {kind!r} has no definition here; install the ROS package {package!r}")
    made = get_types_from_msg(file.read_text(), kind)
    found.update(made)
    for _, fields in made.values():
        for other in _names(fields):
            if other not in found and other not in _store().fielddefs:
                _read(other, found)


def _names(node: Any) -> list[str]:
    """The message types named anywhere in a parsed definition."""
    if isinstance(node, str):
        return [node] if "/msg/" in node else []
    return [name for part in node for name in _names(part)] if isinstance(node, list | tuple) else []
