"""What this machine can do: the figures that every floor is made of, measured in the same run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rssm_ros.evaluation.bench.rows import Row
from rssm_ros.evaluation.bench.timing import Effort, Timing, measure

EDGES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}  # of the square matrices
READ = 256 << 20  # bytes; more than any cache
COLUMNS = 2048  # of the matrix in a matrix-vector product, as in size12m's core
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TORCH = "torch"  # its own product; MKL on most x86 machines
LOOK = Effort(30, 0.6, 3)


class Peaks:
    """Measures on first use, and keeps what it found; a bandwidth is measured anew each time, next to what it
    is compared with."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.threads = device, threads
        self._operations: dict[str, dict[str, float]] = {}

    def operations(self, dtype: str) -> dict[str, float]:
        """Operations a second in a large matrix product, by library: the fastest call at the best size."""
        if dtype not in self._operations:
            found: dict[str, float] = {}
            for library, edge, timing in self.product_times(dtype):
                found[library] = max(found.get(library, 0.0), gained(edge, timing))
            self._operations[dtype] = found
        return self._operations[dtype]

    def bandwidth(self, size: int) -> float:
        """Bytes a second in a matrix-vector product over `size` bytes: its best call, as of `operations`."""
        return moved(size, self.product_with_vector(size))

    def product_with_vector(self, size: int) -> Timing:
        """Over `size` bytes, read again and again; of a vector on either side the faster."""
        columns = min(COLUMNS, size // 4)
        matrix = torch.randn(size // 4 // columns, columns, device=self.device)
        right, left = (torch.randn(n, device=self.device) for n in (columns, len(matrix)))
        calls = (lambda: torch.mv(matrix, right), lambda: left @ matrix)
        return min((measure(call, LOOK, self.finish) for call in calls), key=lambda t: t.best_ms)

    def read(self) -> Timing:
        """A sum over `READ` bytes, more than any cache holds."""
        buffer = torch.ones(READ // 4, device=self.device)
        return measure(buffer.sum, LOOK, self.finish)

    def finish(self) -> None:
        """Waits for a device that computes on its own."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def products(self, dtype: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """The libraries that multiply matrices here. MKL keeps to 256-bit vectors on some processors, oneDNN
        does not: neither alone says what the machine can do."""
        found: dict[str, Callable[[Tensor, Tensor], Tensor]] = {TORCH: F.linear}
        onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if self.device.type == "cpu" and dtype == "float32" and onednn:
            found["onednn"] = lambda x, w: F.linear(x.to_mkldnn(), w).to_dense()
        return found

    def product_times(self, dtype: str) -> list[tuple[str, int, Timing]]:
        """(library, edge, time) of every product tried."""
        times = []
        for edge in EDGES["cuda" if self.device.type == "cuda" else "cpu"]:
            left, right = (torch.randn(edge, edge, device=self.device).to(DTYPES[dtype]) for _ in range(2))
            for name, product in self.products(dtype).items():

                def call(product: Callable[[Tensor, Tensor], Tensor] = product) -> Tensor:
                    return product(left, right)  # noqa: B023 - called before the loop goes on

                times.append((name, edge, measure(call, LOOK, self.finish)))
        return times


def gained(edge: int, timing: Timing) -> float:
    """Operations a second of a product of square matrices. Its best call: nothing but this is in it."""
    return 2.0 * edge**3 / (1e-3 * timing.best_ms)


def moved(size: int, timing: Timing) -> float:
    """Bytes a second of a call that reads `size` bytes. Its best call, likewise: other programs would lower a
    median, and with it the floor's share of what is measured beside it."""
    return size / (1e-3 * timing.best_ms)


def rows(peaks: Peaks, about: dict[str, Any], sizes: tuple[int, ...] = (2, 16, 33)) -> list[Row]:
    """`rssm bench peaks`; sizes of the matrix-vector products in millions of bytes."""
    found: list[Row] = []

    def add(name: str, size: str, variant: str, dtype: str, timing: Timing, rate: float) -> None:
        row = Row(
            name=name,
            size=size,
            variant=variant,
            batch=1,
            backend="torch",
            dtype=dtype,
            median_ms=timing.median_ms,
            p99_ms=timing.p99_ms,
            repeats=timing.repeats,
            cpu_ms=timing.cpu_ms,
            rate=rate,
            **about,
        )
        found.append(row)

    for dtype in DTYPES:
        for library, edge, timing in peaks.product_times(dtype):
            add("matmul", f"{edge}", library, dtype, timing, gained(edge, timing))
    for size in sizes:
        timing = peaks.product_with_vector(size * 10**6)
        add("matrix_vector", f"{size} MB", "", "float32", timing, moved(size * 10**6, timing))
    timing = peaks.read()
    add("read", f"{READ >> 20} MiB", "", "float32", timing, moved(READ, timing))
    return found
