"""A measured row and the floor under it: what the same arithmetic and the same bytes must cost here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH = {"float32": 4, "bfloat16": 2}  # bytes of a number
COMPUTE, BANDWIDTH = "compute", "bandwidth"


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


def floor(parts: Sequence[Part], peak: float, bandwidth: float, dtype: str) -> Floor:
    """Sum over parts of max(operations / peak, bytes of weights / bandwidth).

    peak: operations a second in a large matrix product of this dtype; a multiply-add is two. bandwidth: bytes
    a second in a matrix-vector product over as many bytes as `size_of` all parts: what of them stays in a
    cache between two calls of the model stays there for the product as well.
    """
    bound = {COMPUTE: 0.0, BANDWIDTH: 0.0}
    groups: dict[str, float] = {}
    for part in parts:
        computed = part.operations / peak
        read = part.calls * part.weights * WIDTH[dtype] / bandwidth
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
    floor_torch_ms: float | None = None  # the same with the peak of torch's own product, not the fastest one
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


def size_of(parts: Iterable[Part], dtype: str) -> int:
    """Bytes of the weights of all parts, each once."""
    return WIDTH[dtype] * sum(part.weights for part in parts)


def scaled(parts: Iterable[Part], rows: int = 1, calls: int = 1) -> list[Part]:
    """The same layers with more rows a call, or called more often."""
    return [Part(p.name, p.multiply_adds, p.weights, p.rows * rows, p.calls * calls) for p in parts]
