"""Offline sequence storage: npz episodes -> one flat memory-mapped tensordict -> batches of slices.

Slices run across episode borders; `is_first` tells the model where to reset. Rows of a batch are *streams*:
the same row goes on where it left off for `chunks` batches before it jumps, so that the trainer can carry its
state and the model sees more history than one slice holds. Which ticks a batch holds is a pure function of
(seed, step).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tensordict import MemoryMappedTensor, TensorDict
from torch import Tensor

from rssm_ros.contract import HIDDEN
from rssm_ros.training.errors import TrainingError
from rssm_ros.world_model import Signals

CACHE = ".storage"
STAMP = "complete.json"  # in a storage that is whole
FINITE = ("action", "reward")  # a label may be NaN, and so may what was not observed
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One array of an episode: its per-tick shape and dtype, and whether a file may lack it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    optional: bool = False

    @property
    def bytes(self) -> int:
        """Of one tick."""
        return math.prod(self.shape) * self.dtype.itemsize


def columns(signals: Signals) -> dict[str, Column]:
    """What every episode file of a contract's data must hold."""
    table: dict[str, Column] = {}
    for name, shape in signals.images:
        table[name] = Column(shape, torch.uint8)
    for name, length in signals.vectors:
        table[name] = Column((length,), torch.float32)
    for name in signals.modalities:
        table[f"present_{name}"] = Column((), torch.bool)
    table["action"] = Column((signals.action_dim,), torch.float32)
    table["expert_action"] = Column((signals.action_dim,), torch.float32, optional=True)
    table["reward"] = Column((), torch.float32)
    for name in ("is_first", "is_last", "is_terminal"):
        table[name] = Column((), torch.bool)
    for name, length in signals.targets:
        # Older data may lack a newer target: no label there, masked like every other NaN.
        table[f"target_{name}"] = Column((length,), torch.float32, optional=True)
        table[f"visibility_{name}"] = Column((), torch.float32, optional=True)
    return table


def open_storage(directory: Path, signals: Signals) -> TensorDict:
    """The memory-mapped ticks of a data directory, built beside the data on first use.

    Raises TrainingError for a missing, empty, truncated or mismatched data set.
    """
    if not directory.is_dir():
        raise TrainingError(f"data directory {directory} does not exist; make one with `rssm collect`")
    files = sorted(directory.glob("episode-*.npz"))
    if not files:
        raise TrainingError(f"{directory} holds no episode-*.npz; make some with `rssm collect`")
    cache, key, table = directory / CACHE, _fingerprint(files, signals), columns(signals)
    if _stamped(cache / STAMP) == key and _whole(cache, table):
        return TensorDict.load_memmap(cache / "ticks")
    return _build(files, cache, key, table)


def _whole(cache: Path, table: Mapping[str, Column]) -> bool:
    """Whether every array of a storage has its length: what a broken copy cut off would be read as zeros."""
    place = cache / "ticks"
    try:
        ticks = int(json.loads((cache / STAMP).read_text())["ticks"])
        sizes = {name: (place / f"{name}.memmap").stat().st_size for name in table}
        json.loads((place / "meta.json").read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all(sizes[name] == ticks * column.bytes for name, column in table.items())


def _stamped(stamp: Path) -> str | None:
    """The fingerprint in a storage's stamp; None if there is none or a full disk cut it off."""
    try:
        found: str | None = json.loads(stamp.read_text()).get("fingerprint")
    except (OSError, ValueError):
        return None
    return found


def contents(directory: Path) -> str:
    """A short hash of a data directory's file names and sizes: what `--resume` compares."""
    facts = [[file.name, file.stat().st_size] for file in sorted(directory.glob("episode-*.npz"))]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def content_hash(directory: Path) -> str | None:
    """The hash of all episodes' bytes that `rssm collect` left in dataset.json; None where there is none.

    Data recorded anew under the same names may well have the same sizes.
    """
    try:
        found = json.loads((directory / "dataset.json").read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)


def _fingerprint(files: Sequence[Path], signals: Signals) -> str:
    facts = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    return hashlib.sha256(json.dumps([facts, signals.to_dict()]).encode()).hexdigest()


def _build(files: Sequence[Path], cache: Path, key: str, table: dict[str, Column]) -> TensorDict:
    """Made in a folder of its own and then renamed: two runs may begin on the same data at once."""
    lengths = [_length(file, table) for file in files]
    total = sum(lengths)
    shutil.rmtree(cache, ignore_errors=True)
    check_space(cache.parent, total * sum(column.bytes for column in table.values()), "its storage needs")
    with tempfile.TemporaryDirectory(prefix=f"{cache.name}-", dir=cache.parent) as name:
        made = Path(name)
        _fill(made / "ticks", files, lengths, table)
        (made / STAMP).write_text(json.dumps({"fingerprint": key, "ticks": total, "episodes": len(files)}))
        try:
            made.rename(cache)
        except OSError as error:
            if _stamped(cache / STAMP) != key:  # otherwise another run was faster
                raise TrainingError(
                    f"{cache} cannot be written ({error}); delete it and try again"
                ) from error
    return TensorDict.load_memmap(cache / "ticks")


def _fill(place: Path, files: Sequence[Path], lengths: Sequence[int], table: dict[str, Column]) -> None:
    """All ticks of the files into one memory-mapped tensordict."""
    total = sum(lengths)
    place.mkdir()
    store = TensorDict(
        {
            name: MemoryMappedTensor.empty(
                (total, *column.shape), dtype=column.dtype, filename=str(place / f"{name}.memmap")
            )
            for name, column in table.items()
        },
        [total],
    ).memmap_(place)
    at = 0
    for file, length in zip(files, lengths, strict=True):
        with np.load(file) as data:
            for name, column in table.items():
                store[name][at : at + length] = _read(data, name, column, length, file)
            if not data["is_first"][0]:
                raise TrainingError(f"{file}: is_first[0] is false, expected every file to start an episode")
        at += length


def check_space(directory: Path, needed: int, what: str) -> None:
    """TrainingError if `needed` bytes do not fit in there; what: who needs them, up to the verb.

    Writing to a memory map on a full disk would end the process by a signal, without a word.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise TrainingError(
            f"{directory}: {what} {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; make room"
        )


def _length(file: Path, table: dict[str, Column]) -> int:
    """Ticks in one file after checking that every array fits; reads headers of the small ones only."""
    try:
        with np.load(file) as data:
            names = set(data.files)
            missing = sorted(
                name for name, column in table.items() if not column.optional and name not in names
            )
            if missing:
                raise TrainingError(f"{file}: lacks {missing}; was it collected under another contract?")
            length = len(data["is_first"])
    except TrainingError:
        raise
    except Exception as error:  # of numpy, zipfile, zlib: a damaged file raises whatever it is
        raise TrainingError(f"{file}: cannot be read ({error}); delete it and collect again") from error
    if length < 2:
        raise TrainingError(f"{file}: has {length} ticks, expected at least 2; delete it")
    return length


def _read(data: Any, name: str, column: Column, length: int, file: Path) -> Tensor:
    if name not in data.files:
        return torch.full((length, *column.shape), float("nan"), dtype=column.dtype)
    try:
        array: Array = data[name]
    except Exception as error:
        raise TrainingError(f"{file}: {name} is truncated or corrupt ({error}); delete the file") from error
    if array.shape != (length, *column.shape):
        raise TrainingError(f"{file}: {name} has shape {array.shape}, expected {(length, *column.shape)}")
    if not np.can_cast(array.dtype, _kind(column), "same_kind"):
        raise TrainingError(
            f"{file}: {name} holds {array.dtype}, expected {_kind(column)}, as which it would lose what it "
            "says (a picture of 0..1 would be black)"
        )
    if name in FINITE and not np.isfinite(array).all():
        tick = int(np.argwhere(~np.isfinite(array))[0][0])
        raise TrainingError(f"{file}: {name} is not a finite number at tick {tick}; delete the file")
    return torch.from_numpy(np.ascontiguousarray(array)).to(column.dtype)


def _kind(column: Column) -> np.dtype[Any]:
    """The array type that a column is stored as."""
    return torch.empty(0, dtype=column.dtype).numpy().dtype


Batch = dict[str, Tensor]


class Replay:
    """Slices of one or several storages, drawn in proportion to their ticks."""

    def __init__(
        self,
        stores: Sequence[TensorDict],
        rows: int,
        length: int,
        chunks: int,
        seed: int,
        own: range | None = None,
    ) -> None:
        """`rows` is the global batch; `own` are the rows of it that this process makes (all if None)."""
        self.stores = [{str(name): value for name, value in store.items()} for store in stores]
        self.ticks = [len(store["is_first"]) for store in self.stores]
        self.rows, self.length, self.chunks, self.seed = rows, length, chunks, seed
        self.own = range(rows) if own is None else own
        shortest = min(self.ticks)
        if shortest < length:
            raise TrainingError(
                f"a data set has {shortest} ticks, fewer than one slice of {length}; collect more, or choose "
                "a shorter --length"
            )

    @property
    def total(self) -> int:
        """Ticks in all storages."""
        return sum(self.ticks)

    def places(self, step: int) -> list[tuple[int, int, bool]]:
        """(storage, first tick, whether the stream jumped here) of every own row at `step`."""
        places = []
        for row in self.own:
            # Rows jump at different steps, so every batch holds about as many fresh starts.
            clock = step + row * self.chunks // self.rows
            stretch, chunk = divmod(clock, self.chunks)
            random = np.random.Generator(np.random.Philox(key=[self.seed, row], counter=[0, 0, 0, stretch]))
            store = int(random.choice(len(self.ticks), p=np.array(self.ticks) / self.total))
            span = min(self.chunks, self.ticks[store] // self.length) * self.length
            start = int(random.integers(0, self.ticks[store] - span + 1))
            chunk_here = chunk % (span // self.length)
            places.append((store, start + chunk_here * self.length, chunk_here == 0 or step == 0))
        return places

    def batch(self, step: int) -> Batch:
        """Arrays [rows, length, ...] of `step`, plus `expert_before`: the expert's decision one tick
        earlier."""
        slices: list[dict[str, Tensor]] = []
        for store, start, jumped in self.places(step):
            data = self.stores[store]
            piece = {name: value[start : start + self.length] for name, value in data.items()}
            before = [max(start - 1, 0)]
            piece["expert_before"] = torch.cat([data["expert_action"][before], piece["expert_action"][:-1]])
            piece["is_first"] = piece["is_first"].clone()
            if jumped:
                piece["is_first"][0] = True
            slices.append(piece)
        return {name: torch.stack([piece[name] for piece in slices]) for name in slices[0]}

    def motion(self, step: int, rows: range, length: int) -> Batch:
        """Labels, whether they are in sight, actions and episode starts alone: [rows, length, ...].

        Each row has a place of its own, like a batch's a function of (seed, row, step). Shorter where a
        storage is.
        """
        length = min(length, min(self.ticks))
        slices: list[dict[str, Tensor]] = []
        for row in rows:
            key = [self.seed, row + (1 << 32)]
            random = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))
            store = int(random.choice(len(self.ticks), p=np.array(self.ticks) / self.total))
            start = int(random.integers(0, self.ticks[store] - length + 1))
            data = self.stores[store]
            names = [name for name in data if name.startswith(("target_", "visibility_"))]
            names += ["action", "is_first"]
            slices.append({name: data[name][start : start + length] for name in names})
        return {name: torch.stack([piece[name] for piece in slices]) for name in slices[0]}

    def target_statistics(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and spread of a target over all labelled ticks, and its mean over the hidden ones: [d]
        each."""
        values = torch.cat([store[f"target_{name}"] for store in self.stores])
        visibility = torch.cat([store[f"visibility_{name}"] for store in self.stores])
        labelled = ~torch.isnan(values).any(-1)
        if not labelled.any():
            raise TrainingError(
                f"target {name} has no label in any tick; drop it from the contract or collect again"
            )
        known = values[labelled]
        hidden = values[labelled & (visibility <= HIDDEN)]
        return (
            known.mean(0),
            known.std(0, unbiased=False).clamp(min=1e-3),
            (hidden if len(hidden) else known).mean(0),
        )
