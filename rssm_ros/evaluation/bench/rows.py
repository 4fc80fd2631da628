"""A measured row and the floor under it: what the same arithmetic and the same bytes must cost here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

WIDTH = {"float32": 4, "bfloat16": 2}  # bytes of a number
COMPUTE, BANDWIDTH = "compute", "bandwidth"


class Machine(Protocol):
    """What a floor needs to know of the machine."""

    def operations(self, dtype: str) -> float:
        """Operations a second in a large matrix product (a multiply-add is two)."""

    def bandwidth(self, size: int) -> float:
        """Bytes a second in a matrix-vector product over `size` bytes, read again and again."""


@dataclass(frozen=True)
class Part:
    """A layer at work: its multiply-adds for one row, its weights, and how often it is called."""

    name: str
    multiply_adds: int  # per row and call
    weights: int  # numbers read per call
    rows: int = 1  # per call
    calls: int = 1

    @property
    def operations(self) -> int:
        """Of all calls; a multiply-add is two."""
        return 2 * self.multiply_adds * self.rows * self.calls


@dataclass(frozen=True)
class Floor:
    """The least time for a list of parts, and what bounds most of it."""

    ms: float
    by: str  # "compute" or "bandwidth"
    groups: dict[str, float] = field(default_factory=dict)  # ms by the first word of the parts' names


def floor(parts: Sequence[Part], machine: Machine, dtype: str) -> Floor:
    """Sum over parts of max(operations / peak, bytes of weights / bandwidth).

    The bandwidth is that of a matrix-vector product over as many bytes as all parts' weights together: what
    of them stays in a cache between two calls of the model stays there for the product as well.
    """
    peak = machine.operations(dtype)
    width = WIDTH[dtype]
    speed = machine.bandwidth(max(1, width * sum(part.weights for part in parts)))
    bound = {COMPUTE: 0.0, BANDWIDTH: 0.0}
    groups: dict[str, float] = {}
    for part in parts:
        computed = part.operations / peak
        read = part.calls * part.weights * width / speed
        bound[COMPUTE if computed >= read else BANDWIDTH] += max(computed, read)
        group = part.name.split(".")[0]
        groups[group] = groups.get(group, 0.0) + 1e3 * max(computed, read)
    return Floor(1e3 * sum(bound.values()), max(bound, key=lambda by: bound[by]), groups)


@dataclass(frozen=True)
class Row:
    """One line of `rssm bench NAME --json`. Times in ms, of one call."""

    name: str
    size: str
    variant: str  # "strided", "exact" or "core"; of other rows what sets them apart
    batch: int
    threads: int
    backend: str
    device: str
    dtype: str
    median_ms: float
    p99_ms: float
    repeats: int
    floor_ms: float | None = None  # None where nobody knows one
    floor_by: str | None = None
    cpu_ms: float | None = None  # processor time: what is left when other programs take their share away
    rate: float | None = None  # of a peak: operations or bytes a second
    parts: dict[str, Any] = field(default_factory=dict)  # where the time goes: measured ms and floors
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many floors it took."""
        return None if not self.floor_ms else self.median_ms / self.floor_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "ratio": self.ratio}


def scaled(parts: Iterable[Part], rows: int = 1, calls: int = 1) -> list[Part]:
    """The same layers with more rows a call, or called more often."""
    return [Part(p.name, p.multiply_adds, p.weights, p.rows * rows, p.calls * calls) for p in parts]
