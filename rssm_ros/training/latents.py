"""Replay latents: the state that the model last computed at each tick, so that a jump need not start blank.

A memory-mapped side file per storage, in the run's folder: they belong to the run's weights. Every state
that is overwritten goes into an undo log first, and `--resume` rolls back to the checkpoint it starts from,
so that a killed run still equals the uninterrupted one bit for bit. That holds for a killed process; after a
power cut the maps may be newer or older than their log.

Shapes: B rows, T ticks, D deter, S groups, K classes (1 for a Gaussian latent).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from rssm_ros.training.errors import TrainingError
from rssm_ros.training.replay import check_space
from rssm_ros.world_model import State

FOLDER = "latents"
HEADER = struct.Struct("<qqq")  # storage, first tick, ticks
Place = tuple[int, int, bool]  # storage, first tick, whether the stream jumped there


class Maps(NamedTuple):
    """Of one storage: deter [ticks, D] float16, stoch [ticks, S] (class, or the number itself), known
    [ticks]."""

    deter: npt.NDArray[Any]
    stoch: npt.NDArray[Any]
    known: npt.NDArray[Any]


class ReplayLatents:
    """States of all ticks of all storages.

    ticks: of each storage. groups, classes: S and K. `step` is that of the checkpoint to go on from,
    None for a new run. Raises TrainingError if the files of a run to go on with are missing or of another
    size.
    """

    def __init__(
        self, run: Path, ticks: Sequence[int], deter: int, groups: int, classes: int, step: int | None
    ) -> None:
        self.folder, self.groups, self.classes = run / FOLDER, groups, classes
        self.folder.mkdir(parents=True, exist_ok=True)
        kind = np.uint16 if classes > 1 else np.float16
        layout = {"deter": (np.float16, (deter,)), "stoch": (kind, (groups,)), "known": (np.uint8, ())}
        if step is None:
            for old in (*self._logs(), *self.folder.glob("*.memmap")):
                old.unlink()
        self._check_space(
            sum(ticks) * sum(int(np.prod(s)) * np.dtype(d).itemsize for d, s in layout.values())
        )
        self.maps = [
            Maps(*(self._map(f"{name}-{store}", d, (count, *s), step) for name, (d, s) in layout.items()))
            for store, count in enumerate(ticks)
        ]
        if step is not None:
            self._roll_back(step)
        self.log = open(self._name(step or 0), "ab", buffering=0)  # noqa: SIM115  stays open

    def _map(self, name: str, kind: type, shape: tuple[int, ...], step: int | None) -> npt.NDArray[Any]:
        path = self.folder / f"{name}.memmap"
        if step is None:
            return np.memmap(path, kind, "w+", shape=shape)
        expected = int(np.prod(shape)) * np.dtype(kind).itemsize
        if not path.is_file() or path.stat().st_size != expected:
            raise TrainingError(
                f"--resume: {path} is missing or not of {expected} bytes, so the run cannot go on as it was; "
                "begin anew from its weights with --start-from"
            )
        return np.memmap(path, kind, "r+", shape=shape)

    def _check_space(self, needed: int) -> None:
        """The maps are sparse: what they take of the disk comes with the writing, when it is too late."""
        held = sum(512 * path.stat().st_blocks for path in self.folder.glob("*.memmap"))
        check_space(self.folder, max(0, needed - held), "replay latents still need")

    def close(self) -> None:
        """End the log; there is nothing to write any more."""
        self.log.close()

    # Reading and writing ----------------------------------------------------------------------------------

    def before(self, places: Sequence[Place], state: State) -> tuple[State, list[bool]]:
        """States [B, ...] with those of rows that jumped replaced by what is known of the tick before.

        Also which rows those are: they go on, and are no first ticks.
        """
        found = [jumped and start > 0 and bool(self.maps[s].known[start - 1]) for s, start, jumped in places]
        rows = [row for row, here in enumerate(found) if here]
        if not rows:
            return state, found
        ends = [(self.maps[places[row][0]], places[row][1] - 1) for row in rows]
        deter = torch.from_numpy(np.stack([maps.deter[at] for maps, at in ends]).astype(np.float32))
        held = torch.from_numpy(np.stack([maps.stoch[at] for maps, at in ends]).astype(np.float32))
        stoch = F.one_hot(held.long(), self.classes) if self.classes > 1 else held.unsqueeze(-1)
        index = torch.tensor(rows, device=state.deter.device)
        return State(
            state.deter.index_copy(0, index, deter.to(state.deter)),
            state.stoch.index_copy(0, index, stoch.to(state.stoch)),
        ), found

    def write(self, places: Sequence[Place], deter: Tensor, stoch: Tensor) -> None:
        """Keep what was computed at `places`: deter [B, T, D], stoch [B, T, S, K]. Waits for a GPU.

        TrainingError where the disk is full; what could not be logged is not overwritten.
        """
        new_deter = deter.detach().to(torch.float16).cpu().numpy()
        held = stoch.detach().argmax(-1) if self.classes > 1 else stoch.detach().squeeze(-1)
        new_stoch = held.cpu().numpy()
        for row, (store, start, _) in enumerate(places):
            maps, span = self.maps[store], slice(start, start + deter.shape[1])
            old = b"".join(array[span].tobytes() for array in maps)
            self._append(HEADER.pack(store, start, deter.shape[1]) + old)
            maps.deter[span], maps.stoch[span], maps.known[span] = new_deter[row], new_stoch[row], 1

    def _append(self, entry: bytes) -> None:
        """All of it or TrainingError: a raw write may take less than it was given, without a word."""
        rest = memoryview(entry)
        try:
            while rest:
                taken = self.log.write(rest)
                if not taken:
                    raise OSError("nothing was written")
                rest = rest[taken:]
        except OSError as error:
            raise TrainingError(
                f"{self.log.name}: the undo log of the replay latents cannot be written ({error}); make room "
                "and go on from the last checkpoint with --resume"
            ) from error

    # The undo log -----------------------------------------------------------------------------------------

    def saved(self, steps: Sequence[int]) -> None:
        """There are checkpoints at `steps`, the last one just now: log anew, forget what none of them
        needs."""
        self.log.close()
        self.log = open(self._name(steps[-1]), "ab", buffering=0)  # noqa: SIM115  stays open
        for log in self._logs():
            if self._start(log) < min(steps):
                log.unlink()

    def _name(self, step: int) -> Path:
        return self.folder / f"undo-{step:08d}.log"

    @staticmethod
    def _start(log: Path) -> int:
        return int(log.stem.removeprefix("undo-"))

    def _logs(self) -> list[Path]:
        return sorted(self.folder.glob("undo-*.log"))

    def _roll_back(self, step: int) -> None:
        """Undo all that was written at `step` and later, the newest first; a kill on the way does no harm."""
        newer = [log for log in self._logs() if self._start(log) >= step]
        for log in reversed(newer):
            for store, start, old in reversed(list(self._entries(log))):
                for array, part in zip(self.maps[store], old, strict=True):
                    array[start : start + len(part)] = part
        for log in reversed(newer):
            log.unlink()

    def _entries(self, log: Path) -> Iterator[tuple[int, int, list[npt.NDArray[Any]]]]:
        """(storage, first tick, [old deter, stoch, known]); one cut off by a kill was not yet acted upon."""
        with open(log, "rb") as file:
            while len(head := file.read(HEADER.size)) == HEADER.size:
                store, start, ticks = HEADER.unpack(head)
                parts = []
                for array in self.maps[store]:
                    shape = (ticks, *array.shape[1:])
                    size = int(np.prod(shape)) * array.itemsize
                    held = file.read(size)
                    if len(held) < size:
                        return
                    parts.append(np.frombuffer(held, array.dtype).reshape(shape))
                yield store, start, parts
