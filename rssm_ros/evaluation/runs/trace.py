"""Small binary traces of a run: one fixed record per tick, appended as it happens.

A trace survives the process that writes it: each record is one unbuffered write, so a node killed with
SIGKILL leaves everything up to its last tick. The first line is the record's description (JSON), the rest
raw records.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.files import write_whole

Records = npt.NDArray[np.void]


class TraceError(ValueError):
    """A trace file that is missing or is not one; the message names it."""


class TraceWriter:
    """Appends records of one dtype to a new file. Where the disk is full it says so once and writes no more:
    no robot stops for its trace.
    """

    def __init__(self, path: Path, dtype: np.dtype[np.void]) -> None:
        self.dtype, self._path, self._full = dtype, path, False
        self._file = path.open("wb", buffering=0)
        self._append(json.dumps(dtype.descr).encode() + b"\n")

    def write(self, **values: Any) -> None:
        """One record by field name; fields not given are zero."""
        record = np.zeros((), self.dtype)
        for name, value in values.items():
            record[name] = value
        if not self._full:
            self._append(record.tobytes())

    def _append(self, data: bytes) -> None:
        try:
            self._full = self._file.write(data) < len(data)  # the last record is cut off
            why = "the disk is full"
        except OSError as error:
            self._full, why = True, str(error.strerror)
        if self._full:
            print(f"{self._path}: cannot be written ({why}); the trace ends here", file=sys.stderr)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_trace(path: Path) -> Records:
    """All whole records of a trace, [ticks]. Raises TraceError."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        dtype = _dtype(head)
    except (OSError, ValueError, TypeError) as error:
        raise TraceError(f"{path} is not a trace of a run: {error}") from error
    return np.frombuffer(body, dtype, len(body) // dtype.itemsize)


def read_last(path: Path) -> np.void:
    """The last whole record of a trace that may still grow; cheap. Raises TraceError, also where there
    is none.
    """
    try:
        with path.open("rb") as file:
            head = file.readline()
            dtype = _dtype(head)
            count = (path.stat().st_size - len(head)) // dtype.itemsize
            file.seek(len(head) + max(0, count - 1) * dtype.itemsize)
            records: Records = np.frombuffer(file.read(dtype.itemsize), dtype, 1)
            last: np.void = records[0]
            return last
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise TraceError(f"{path} holds no record yet: {error}") from error


def write_counters(folder: Path, node: str, counters: Mapping[str, int]) -> None:
    """What a node has counted in its whole life, beside its trace: whole, or not at all. Raises OSError."""
    text = json.dumps({name: int(count) for name, count in sorted(counters.items())})
    write_whole(folder / f"{node}.counters.json", text + "\n")


def read_counters(folder: Path) -> dict[str, dict[str, int]]:
    """What the nodes have counted, by node; one that was killed is not among them. Raises TraceError."""
    found = {}
    for path in sorted(folder.glob("*.counters.json")):
        try:
            found[path.name.removesuffix(".counters.json")] = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise TraceError(f"{path} does not hold a node's counters: {error}") from error
    return found


def _dtype(head: bytes) -> np.dtype[np.void]:
    return np.dtype([(item[0], item[1], *(tuple(shape) for shape in item[2:])) for item in json.loads(head)])


def simulation_dtype(
    state: int, channels: int, observations: dict[str, tuple[int, ...]]
) -> np.dtype[np.void]:
    """The sim node's record: what was true, measured and applied at one tick.

    state: length of `ManipulatorEnv.state()`; channels: A; observations: the shape of each (three numbers: an
    image of bytes).
    """
    fields: list[Any] = [
        ("tick", "<i8"),
        ("stamp_ns", "<i8"),  # t_k
        ("monotonic_ns", "<i8"),  # CLOCK_MONOTONIC when the picture was published
        ("state", "<f8", (state,)),
        ("base", "<f8", (3,)),  # true x, y, heading in the world
        ("speed", "<f4", (2,)),  # true forward and turning speed
        ("package", "<f4", (2,)),  # in base_link; NaN: none
        ("serial", "<i4"),  # counts packages
        ("visibility", "<f4"),
        ("applied", "<f4", (channels,)),  # SI, over [k-1, k)
        ("reward", "<f4"),
        ("score", "<i4", (4,)),  # packages, sorted, wrong, missed
        ("reset", "<i1"),  # a new episode begins at this tick
        ("braked", "<i1"),  # the robot's own timeout stops it
    ]
    fields += [(name, "<f4" if len(shape) == 1 else "u1", shape) for name, shape in observations.items()]
    return np.dtype(fields)


def gate_dtype(channels: int) -> np.dtype[np.void]:
    """The gate node's record: one published command."""
    return np.dtype(
        [
            ("stamp_ns", "<i8"),  # of the belief it answers; 0 when the watchdog spoke
            ("applied_ns", "<i8"),  # the stamp it was published with
            ("monotonic_ns", "<i8"),
            ("applied", "<f4", (channels,)),  # SI
            ("mode", "<i1"),  # index into online.gate.MODES
        ]
    )


def belief_dtype(size: int, destination: int = 0) -> np.dtype[np.void]:
    """The filter node's record: one published belief of a target of `size` numbers.

    destination: numbers of the target of that name, for contracts that have one.
    """
    fields: list[Any] = [
        ("stamp_ns", "<i8"),
        ("monotonic_ns", "<i8"),
        ("mean", "<f4", (size,)),
        ("covariance", "<f4", (size, size)),
        ("surprise", "<f4"),
        ("lost", "<i1"),
    ]
    return np.dtype(fields + [("destination", "<f4", (destination,))] * bool(destination))


def plan_dtype(horizon: int, size: int) -> np.dtype[np.void]:
    """The planner node's record: one plan and the target's imagined path (NaN where there is none)."""
    return np.dtype(
        [
            ("stamp_ns", "<i8"),  # of the belief it answers
            ("monotonic_ns", "<i8"),
            ("path", "<f4", (horizon, size)),
            ("value", "<f4"),
        ]
    )
