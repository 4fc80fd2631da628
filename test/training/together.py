"""One of several processes of a small training run, for `test_distributed`: python -m test.training.together.

Arguments: data, where to write, and what to do as JSON; see `main`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rssm_ros.contract import find_contract
from rssm_ros.training import distributed
from rssm_ros.training.baseline_trainer import BaselineTrainer
from rssm_ros.training.distributed import World
from rssm_ros.training.options import options
from rssm_ros.training.replay import Batch
from rssm_ros.training.run import Run
from rssm_ros.training.tracker_trainer import TrackerTrainer
from rssm_ros.training.trainer import Trainer
from rssm_ros.world_model import PRESETS

CHOOSE = World.choose
PRESETS["debug_grounded"] = replace(
    PRESETS["debug"], blocks=0, latent="gaussian", classes=1, stoch=20, posterior="product", grounded=True
)
MUTATIONS = {
    "percentile of its own returns": ("gather", lambda self, rows: rows),
    "mask mean of its own rows": ("mean", lambda self, value: value),
    "noise of its own": ("draw", lambda self, make, rows: make(rows)),
    "starts of its own": (
        "choose",
        lambda self, noise, rows, ticks, wanted: CHOOSE(World(), noise, rows, ticks, wanted // self.size),
    ),
    "statistics of its own": ("gather", lambda self, rows: rows),
    "no exchange": ("average", lambda self, tensors: None),
}


def job(
    data: str, out: str, name: str, steps: int, mutation: str, float64: bool, facts: dict[str, object]
) -> None:
    """Train `steps` updates; process 0 writes parameters, buffers and the first update's gradients."""
    single, kind = torch.Tensor.float, torch.float64 if float64 else torch.float32
    torch.set_default_dtype(kind)
    if float64:  # what asks for single precision gets double
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    method, broken = MUTATIONS.get(mutation, ("average", World.average))
    whole = getattr(World, method)
    setattr(World, method, broken)
    base = options("debug")
    weights = replace(base.scales, **facts.pop("scales", {}))  # type: ignore[call-overload, arg-type]
    baseline, before = str(facts.pop("baseline", "")), str(facts.pop("before", ""))
    kind_of_run: Callable[..., Run] = partial(BaselineTrainer, baseline) if baseline else Trainer
    if before:
        kind_of_run = partial(TrackerTrainer, start_from=Path(before))
    try:
        made = kind_of_run(
            replace(base, threads=1, scales=weights, **facts),  # type: ignore[arg-type]
            find_contract("manipulator"),
            [Path(data)],
            Path(out) / name,
            quiet=True,
        )
        if isinstance(made, Trainer):
            lively(made)
        kept = train(made, steps, kind)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = single  # type: ignore[method-assign]
        setattr(World, method, whole)
    if made.world.first:
        save_file(kept, f"{out}/{name}-{made.world.size}.safetensors")


@torch.no_grad()
def lively(made: Trainer) -> None:
    """Rewards that differ from state to state by some units: an untrained head says 0 everywhere.

    And a range of returns above 1, below which it divides nothing.
    """
    made.learner.returns.high.fill_(5.0)
    out = made.learner.world_model.reward_head.out
    out.weight[119:136] = torch.randn(17, out.in_features, generator=torch.Generator().manual_seed(1))
    out.bias.fill_(-20.0)
    out.bias[119:136] = 0.0


def train(made: Run, steps: int, kind: torch.dtype) -> dict[str, Tensor]:
    """Named tensors after `steps` updates."""
    batch, motion, step = made.replay.batch, made.replay.motion, made.optimizer.step

    def exact(arrays: Batch) -> Batch:
        return {n: value.to(kind) if value.is_floating_point() else value for n, value in arrays.items()}

    made.replay.batch = lambda number: exact(batch(number))  # type: ignore[method-assign]
    made.replay.motion = lambda number, rows, length: exact(motion(number, rows, length))  # type: ignore[method-assign]
    kept: dict[str, Tensor] = {}

    def spied(gradients: Sequence[Tensor | None], *rest: object) -> Tensor:
        if not kept:
            named = zip(made.optimizer.names, gradients, strict=True)
            kept.update({f"gradient/{n}": g.clone().contiguous() for n, g in named if g is not None})
        return step(gradients, *rest)  # type: ignore[arg-type]

    made.optimizer.step = spied  # type: ignore[method-assign]
    for _ in range(steps):
        made._update()
    named = zip(made.optimizer.names, made.optimizer.parameters, strict=True)
    parameters = {f"parameter/{n}": p.detach().contiguous() for n, p in named}
    buffers = {f"buffer/{n}": b.contiguous().clone() for n, b in made.learner.named_buffers()}
    return kept | parameters | buffers


def main(data: str, out: str, jobs: str) -> None:
    """Jobs as JSON: a list of `job`'s other arguments."""
    for facts in json.loads(jobs):
        job(data, out, **facts)
    distributed.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
