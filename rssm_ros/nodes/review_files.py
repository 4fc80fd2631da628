"""Snapshots on the disk: a rosbag2 folder each, with a review.json in it that says why it was taken.

A folder of reviews holds `0007-surprise-20261121T165500Z/` and the like, see review_folder for how they come
there. Nothing here imports ROS.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_origin

from rssm_ros.nodes.errors import NodeError
from rssm_ros.online.reviews import CAUSES, Standing

SCHEMA = 1
REVIEW = "review.json"
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


def standing_of(name: str) -> Standing | None:
    """What a folder's name says; None where it is not of a snapshot."""
    found = _NAME.fullmatch(name)
    return Standing(int(found.group(1)), found.group(2)) if found else None


@dataclass(frozen=True)
class Listed:
    """A snapshot as it is found on the disk."""

    folder: Path
    review: Review | None  # None: it cannot be read
    problem: str = ""


def find_reviews(folder: Path) -> list[Listed]:
    """The snapshots in a folder (or in the `reviews` of a run's folder), oldest first; of a snapshot, itself.

    Raises NodeError where there is no such folder, or none in it.
    """
    if not folder.is_dir():
        raise NodeError(f"{folder}: there is no such folder; give the one that monitor_node writes to")
    if standing_of(folder.resolve().name):
        return [_listed(folder)]
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
        return Listed(folder, _review(data))
    except OSError as error:
        return Listed(folder, None, f"{path}: cannot be read ({error.strerror})")
    except (ValueError, AttributeError) as error:
        return Listed(folder, None, f"{path}: is no review ({error})")


def _review(data: Mapping[str, Any]) -> Review:
    """Keys of a later version are passed over. Raises ValueError for what lacks, or is of another kind."""
    known: dict[str, Any] = {}
    for item in fields(Review):
        value, kind = data.get(item.name), _KINDS[get_origin(item.type) or item.type]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{item.name} is {value!r}")
        known[item.name] = tuple(value) if isinstance(value, list) else value
    if not all(isinstance(count, int) for count in known["messages"].values()):
        raise ValueError(f"messages is {known['messages']!r}")
    return Review(**known)


_KINDS: dict[Any, Any] = {  # of the annotations above -> of JSON
    str: str,
    int: int,
    UnionType: int | float | None,
    tuple: list,
    Mapping: dict,
}
