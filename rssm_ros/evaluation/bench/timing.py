"""Calls measured one by one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Effort:
    """Enough is `repeats` calls, or `seconds` after the warm-up; one call at least."""

    repeats: int
    seconds: float
    warmup: int = 3


@dataclass(frozen=True)
class Timing:
    """Of one call, in ms."""

    median_ms: float
    p99_ms: float
    cpu_ms: float  # median of the processor time, all threads
    repeats: int
    best_ms: float  # what a peak is made of: other programs only ever add to it

    def to_dict(self) -> dict[str, float]:
        """For a row's parts."""
        return {"median_ms": self.median_ms, "p99_ms": self.p99_ms, "cpu_ms": self.cpu_ms}


def measure(call: Callable[[], object], effort: Effort, finish: Callable[[], object] | None = None) -> Timing:
    """Times `call`. `finish` waits for a device that computes on its own; it is part of the time."""
    for _ in range(effort.warmup):
        call()
    if finish is not None:
        finish()
    wall: list[float] = []
    cpu: list[float] = []
    end = time.perf_counter() + effort.seconds
    while not wall or (len(wall) < effort.repeats and time.perf_counter() < end):
        busy, start = time.process_time(), time.perf_counter()
        call()
        if finish is not None:
            finish()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    return Timing(
        1e3 * statistics.median(wall),
        1e3 * float(np.percentile(wall, 99)),
        1e3 * statistics.median(cpu),
        len(wall),
        1e3 * min(wall),
    )
