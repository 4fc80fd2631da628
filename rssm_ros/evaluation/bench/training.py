"""`rssm bench train`: one update of the world model, without imagination."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from rssm_ros.evaluation.bench.costs import training_parts
from rssm_ros.evaluation.bench.models import camera_contract
from rssm_ros.evaluation.bench.rows import Row
from rssm_ros.evaluation.bench.setting import Bench
from rssm_ros.training.learner import Learner
from rssm_ros.training.machine import compile_parts
from rssm_ros.training.optimizer import Optimizer
from rssm_ros.training.options import Options
from rssm_ros.world_model import Beliefs, Signals

RATE = 4e-5
Batch = dict[str, Tensor]


class Step:
    """Loss, gradients, optimizer: what the trainer does with a batch that is there already."""

    def __init__(self, bench: Bench, conv: str, dtype: str, compiled: bool = False) -> None:
        request, self.device = bench.request, bench.device
        self.finish = bench.peaks.finish
        signals = Signals.from_contract(camera_contract())
        options = Options(preset=request.size, conv=conv, autocast=dtype == "bfloat16")
        torch.manual_seed(0)
        self.learner = Learner(signals, options.sizes(), options).to(self.device)
        self.learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            compile_parts(self.learner)
        named = self.learner.trained()
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = Optimizer(named)
        batch = made_up(signals, request.batch, request.length)
        self.batch = {name: value.to(self.device) for name, value in batch.items()}
        self.count = 0
        self.spent: dict[str, list[float]] = {"forward": [], "backward": [], "optimizer": []}

    def __call__(self) -> None:
        """One update."""
        noise = torch.Generator(self.device).manual_seed(self.count)
        self.count += 1
        marks = [self._mark()]
        loss = self.learner(self.batch, None, noise, False).loss
        marks.append(self._mark())
        gradients = list(torch.autograd.grad(loss, self.parameters, allow_unused=True))
        marks.append(self._mark())
        self.optimizer.step(gradients, RATE)
        marks.append(self._mark())
        for name, start, end in zip(self.spent, marks, marks[1:]):
            self.spent[name].append(1e3 * (end - start))

    def pieces(self) -> dict[str, Callable[[], None]]:
        """The update's largest parts by themselves, forward and backward: where its time goes."""
        model, batch = self.learner.world_model, self.batch
        presence = {name: batch[f"present_{name}"] for name in model.signals.modalities}
        noise = torch.Generator(self.device).manual_seed(0)
        with torch.no_grad():
            tokens = {name: value.float() for name, value in model.tokens(batch, presence).items()}
            shock = model.rssm.latent.noise(*batch["is_first"].shape, generator=noise)

        def recurrence() -> Beliefs:
            evidence = model.rssm.evidence(tokens, presence)
            return model.filter(evidence, batch["action"], batch["is_first"], shock, None)

        with torch.no_grad():
            features = recurrence().features
        features.requires_grad_(True)

        def descend(outputs: Sequence[Tensor], wanted: list[Tensor]) -> None:
            total = torch.stack([output.float().sum() for output in outputs]).sum()
            torch.autograd.grad(total, wanted, allow_unused=True)

        def cast() -> torch.autocast:
            return torch.autocast(self.device.type, torch.bfloat16, self.learner.options.autocast)

        def encoder() -> None:
            with cast():
                outputs = list(model.tokens(batch, presence).values())
            descend(outputs, list(model.encoders.parameters()))

        def decoder() -> None:
            with cast():
                outputs = list(model.decode(features).values())
            descend(outputs, [features, *model.image_decoders.parameters()])

        def core() -> None:
            descend(recurrence(), list(model.rssm.parameters()))

        return {"encoder": encoder, "recurrence": core, "decoder": decoder}

    def _mark(self) -> float:
        self.finish()
        return time.perf_counter()


def rows(bench: Bench) -> list[Row]:
    """One row per kind of convolution and dtype; bfloat16 is autocast, as the trainer's.

    Where it is asked for, each once more with what `rssm train --compile` compiles: backend `torch.compile`.
    """
    request = bench.request
    return [
        _row(bench, conv, dtype, compiled)
        for conv in request.convolutions
        for dtype in request.dtypes
        for compiled in ((False, True) if request.compile else (False,))
    ]


def _row(bench: Bench, conv: str, dtype: str, compiled: bool) -> Row:
    request, device = bench.request, bench.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = Step(bench, conv, dtype, compiled)
    timing = bench.time(step, long=True)
    learner = step.learner
    parts = training_parts(
        learner.world_model, learner.actor, request.batch, request.length, learner.options.particles
    )
    where: dict[str, Any] = {
        "length": request.length,
        "frames_per_s": 1e3 * request.batch * request.length / timing.median_ms,
        **{name: median(spent[-timing.repeats :]) for name, spent in step.spent.items()},
    }
    if device.type == "cuda":
        where["peak_memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    for name, piece in step.pieces().items():
        where[name] = bench.time(piece, long=True, most=3).to_dict()
    backend = "torch.compile" if compiled else "torch"
    return bench.row("train", conv, request.batch, timing, parts, dtype=dtype, where=where, backend=backend)


def made_up(signals: Signals, rows: int, ticks: int) -> Batch:
    """A batch [rows, ticks, ...] of noise in which everything is present and labelled."""
    noise = torch.Generator().manual_seed(0)
    shape = (rows, ticks)

    def between(*tail: int) -> Tensor:
        return torch.rand(*shape, *tail, generator=noise) * 2 - 1

    batch: Batch = {name: between(length) for name, length in signals.vectors}
    for name, image in signals.images:
        batch[name] = torch.randint(0, 256, (*shape, *image), generator=noise, dtype=torch.uint8)
    batch |= {f"present_{name}": torch.ones(shape, dtype=torch.bool) for name in signals.modalities}
    batch |= {name: between(signals.action_dim) for name in ("action", "expert_action", "expert_before")}
    batch["reward"] = between()
    batch |= {name: torch.zeros(shape, dtype=torch.bool) for name in ("is_first", "is_last", "is_terminal")}
    for name, length in signals.targets:
        batch |= {f"target_{name}": between(length), f"visibility_{name}": torch.ones(shape)}
    return batch
