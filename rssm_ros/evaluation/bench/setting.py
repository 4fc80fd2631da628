"""What a benchmark was asked for, and what every row says about where it ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rssm_ros import provenance
from rssm_ros.evaluation.bench.peaks import TORCH, Peaks
from rssm_ros.evaluation.bench.rows import Part, Row, floor, size_of
from rssm_ros.evaluation.bench.timing import Effort, Timing, measure
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.online.backends.backend import DEFAULT
from rssm_ros.training.machine import prepare

PACKAGES = ("numpy", "onnxruntime", "torch", "opencv-python")
CONVOLUTIONS = ("strided", "exact")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Request:
    """What the command line says."""

    size: str = "size12m"
    threads: int = 1
    device: str = "cpu"
    batch: int = 16  # rows of a training step
    length: int = 64  # ticks of a training step
    starts: int = 1024  # rows of a rollout
    horizon: int = 15  # ticks of a rollout
    convolutions: tuple[str, ...] = CONVOLUTIONS
    dtypes: tuple[str, ...] = DTYPES
    seconds: float = 2.0  # at most so long per row of the filter; five times that per row of the others
    repeats: int = 300  # at most so many calls per row
    compile: bool = False  # also train with what the trainer's --compile compiles
    steps: int = 0  # of the filter in a row, to see whether memory grows; 0: not asked for
    backend: str = DEFAULT  # of the filter's sessions
    bundle: Path | None = None  # the shipped one, where the filter's rows ask for it

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        for name in ("threads", "batch", "length", "starts", "horizon", "repeats"):
            if getattr(self, name) < 1:
                raise EvaluationError(f"bench: {name} is {getattr(self, name)}, expected at least 1")
        if self.steps < 0:
            raise EvaluationError(f"bench: steps is {self.steps}, expected at least 0")
        if self.device not in ("cpu", "cuda"):
            raise EvaluationError(f"bench: device is {self.device!r}, expected cpu or cuda")


class Bench:
    """A request on this machine."""

    def __init__(self, request: Request) -> None:
        self.request = request
        if request.device == "cuda" and not torch.cuda.is_available():
            raise EvaluationError("bench: torch finds no GPU here; leave --device cuda out")
        prepare(request.threads)  # the trainer's own settings of memory and denormals
        torch.set_num_threads(request.threads)
        self.device = torch.device(request.device)
        self.peaks = Peaks(self.device, request.threads)
        self.versions = provenance.versions(*PACKAGES)

    @property
    def about(self) -> dict[str, Any]:
        """What every row says: threads, device, versions, machine and its load now."""
        named = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {
            "threads": self.request.threads,
            "device": named,
            "versions": self.versions,
            "machine": provenance.machine(),
        }

    def effort(self, long: bool = False, most: int | None = None) -> Effort:
        """How long to measure one row; `long` for calls that take seconds, `most` so many of them."""
        request = self.request
        repeats = request.repeats if most is None else min(most, request.repeats)
        # Three updates go by until the allocator has all the memory that one needs.
        warmup = (3 if most is None else 1) if long else 10
        return Effort(repeats, request.seconds * (5 if long else 1), warmup)

    def time(self, call: Callable[[], object], long: bool = False, most: int | None = None) -> Timing:
        """One call, measured on this device."""
        return measure(call, self.effort(long, most), self.peaks.finish)

    def row(
        self,
        name: str,
        variant: str,
        batch: int,
        timing: Timing,
        parts: list[Part] | None = None,
        *,
        size: str | None = None,
        dtype: str = "float32",
        backend: str = "torch",
        device: str | None = None,
        where: dict[str, Any] | None = None,
    ) -> Row:
        """A row; its floor, from bandwidths measured right now, where there are parts.

        device: what computed it, where that is not torch's; it has no floor: the peaks are torch's.
        """
        told, least, plain = dict(where or {}), None, None
        about = self.about if device in (None, "cpu") else {**self.about, "device": device}
        if parts and about["device"] == self.about["device"]:
            peaks = self.peaks.operations(dtype)
            bandwidth = self.peaks.bandwidth(size_of(parts, dtype))
            least = floor(parts, max(peaks.values()), bandwidth, dtype)
            plain = floor(parts, peaks[TORCH], bandwidth, dtype).ms
            told["floors_ms"] = least.groups
        return Row(
            name=name,
            size=size or self.request.size,
            variant=variant,
            batch=batch,
            backend=backend,
            dtype=dtype,
            median_ms=timing.median_ms,
            p99_ms=timing.p99_ms,
            repeats=timing.repeats,
            floor_ms=least.ms if least else None,
            floor_by=least.by if least else None,
            floor_torch_ms=plain,
            cpu_ms=timing.cpu_ms,
            parts=told,
            **about,
        )
