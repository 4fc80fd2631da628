"""All that a filter remembers, and its form on disk."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rssm_ros.online.belief import TargetBelief
from rssm_ros.online.errors import FilterError
from rssm_ros.online.frozen import Watch
from rssm_ros.online.ring import AppliedLog, ObservationRing
from rssm_ros.online.steps import Array, State, Step

FORMAT = 4
MAGIC = b"rssm_ros filter state\n"  # then the SHA-256 of the rest, then the rest: an .npz
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Snapshot:
    """One computed tick."""

    tick: int
    step: Step
    seen: Mapping[str, int]  # modality -> the last tick it was seen at
    presence: frozenset[str]
    first: bool  # (re)started here
    assumed: bool  # the action was not known and `safe` stood in
    watch: Watch  # what the cameras have shown by now

    @property
    def lost(self) -> bool:
        """Started from nowhere, and nothing seen here either."""
        return self.first and not self.presence


@dataclass
class Memory:
    """The ring: what was accepted, and the ticks computed from it."""

    observations: ObservationRing
    applied: AppliedLog
    now_ns: int | None = None
    start: int | None = None  # the earliest tick seen in this epoch
    computed: int | None = None  # the last tick in the ring
    published: int | None = None
    dirty: int | None = None  # the first tick whose snapshot no longer holds
    snapshots: dict[int, Snapshot] = field(default_factory=dict)

    def changed(self, tick: int) -> bool:
        """Ticks from here on must be computed again; returns whether any of them had been."""
        if self.computed is None or tick > self.computed:
            return False
        self.dirty = tick if self.dirty is None else min(tick, self.dirty)
        return True


def pack(memory: Memory, header: Mapping[str, Any]) -> bytes:
    """Memory as bytes: what was accepted, and the oldest snapshot from which the rest follows again."""
    held, log = memory.applied.snapshot()
    arrays: dict[str, Array] = {"held": held}
    scalars = {name: getattr(memory, name) for name in ("now_ns", "start", "computed", "published")}
    document = {**header, "format": FORMAT, **scalars, "log": [item.stamp_ns for item in log], "seen": []}
    document["heard"], document["restarts"] = memory.observations.heard(), memory.applied.restarts
    for index, item in enumerate(log):
        arrays[f"log/{index}"] = item.si
    for index, (tick, name, seen) in enumerate(memory.observations.items()):
        document["seen"].append([tick, name, seen.stamp_ns])
        arrays[f"seen/{index}"] = seen.value
    if memory.snapshots:
        anchor = memory.snapshots[min(memory.snapshots)]
        step = anchor.step
        document["anchor"] = {
            "tick": anchor.tick,
            "seen": dict(anchor.seen),
            "presence": sorted(anchor.presence),
            "first": anchor.first,
            "assumed": anchor.assumed,
            "targets": sorted(step.targets),
            "watch": anchor.watch.to_dict(),
        }
        arrays |= {"anchor/deter": step.state.deter, "anchor/stoch": step.state.stoch}
        for name in _STEP:
            value = getattr(step, name)
            if value is not None:
                arrays[f"anchor/{name}"] = value
        for name, target in step.targets.items():
            arrays |= {f"anchor/mean/{name}": target.mean, f"anchor/std/{name}": target.std}
    file = io.BytesIO()
    np.savez(file, document=np.frombuffer(json.dumps(document).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    body = file.getvalue()
    return MAGIC + hashlib.sha256(body).digest() + body


_STEP = ("prior", "prior_entropy", "reward", "continue_", "posterior", "surprise", "posterior_entropy")


def unpack(data: bytes, memory: Memory, header: Mapping[str, Any]) -> dict[str, Any]:
    """Fills an empty memory from `pack`'s bytes; returns the saved header.

    header: what must agree (bundle, particles, ...). Raises FilterError naming what does not.
    """
    try:
        with np.load(io.BytesIO(_body(data)), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        document = json.loads(arrays["document"].tobytes())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FilterError(f"saved state: cannot be read ({error}); save it again") from error
    for name, value in {"format": FORMAT, **header}.items():
        if document.get(name) != value:
            raise FilterError(f"saved state: {name} is {document.get(name)!r}, this filter has {value!r}")
    log = [(stamp, arrays[f"log/{index}"]) for index, stamp in enumerate(document["log"])]
    memory.applied.restore(arrays["held"], log, document["restarts"])
    for index, (tick, name, stamp_ns) in enumerate(document["seen"]):
        memory.observations.add(tick, name, stamp_ns, arrays[f"seen/{index}"])
    memory.observations.restore_heard(document["heard"])
    for name in ("now_ns", "start", "computed", "published"):
        setattr(memory, name, document[name])
    if "anchor" in document:
        anchor = _anchor(document["anchor"], arrays)
        memory.snapshots = {anchor.tick: anchor}
        memory.dirty = anchor.tick + 1
    return dict(document)


def _body(data: bytes) -> bytes:
    """What follows the head of a saved state; raises ValueError where it is none, or not whole."""
    head = len(MAGIC) + _DIGEST
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("this is not a saved filter state")
    if hashlib.sha256(data[head:]).digest() != data[len(MAGIC) : head]:
        raise ValueError("it is damaged or cut short: its SHA-256 does not agree")
    return data[head:]


def _anchor(about: Mapping[str, Any], arrays: Mapping[str, Array]) -> Snapshot:
    parts = {name: arrays.get(f"anchor/{name}") for name in _STEP}
    targets = {
        name: TargetBelief(arrays[f"anchor/mean/{name}"], arrays[f"anchor/std/{name}"])
        for name in about["targets"]
    }
    step = Step(State(arrays["anchor/deter"], arrays["anchor/stoch"]), targets=targets, **parts)  # type: ignore[arg-type]
    seen, presence = dict(about["seen"]), frozenset(about["presence"])
    watch = Watch.from_dict(about["watch"])
    return Snapshot(about["tick"], step, seen, presence, about["first"], about["assumed"], watch)
