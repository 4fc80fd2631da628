"""Several processes that train as one: the same noise, means, percentiles and gradients as one process has.

Rows of the global batch are dealt out in order: process r of n holds rows r B/n to (r + 1) B/n - 1. A loss is
the mean of the processes' losses, so that a mean over [B, T] needs nothing; what does need something is here:
noise (drawn for the global batch, so that a row's noise is keyed by seed, step and global row), divisors that
depend on the data, percentiles, statistics over the batch, and the gradients themselves.
In a single process every helper is the identity, bit for bit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rssm_ros.training.errors import TrainingError

PATIENCE = timedelta(minutes=30)  # how long the others wait while the first one reads data or validates


class _Gather(torch.autograd.Function):
    """Rows of all processes, in order; the gradient of one's own rows is the sum of what all made of them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, size: int) -> Tensor:
        """[B/n, ...] -> [B, ...]."""
        ctx.rank, ctx.count = rank, len(rows)
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """[B, ...] -> [B/n, ...]."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.rank * ctx.count : (ctx.rank + 1) * ctx.count], None, None


@dataclass(frozen=True)
class World:
    """This process among `size`; `host` is a group for numbers that never leave the host's memory."""

    rank: int = 0
    size: int = 1
    host: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks to the person."""
        return self.rank == 0

    def rows(self, batch: int) -> range:
        """The rows of a global batch that belong here; TrainingError if it cannot be dealt out evenly."""
        if batch % self.size:
            raise TrainingError(
                f"--batch {batch} cannot be dealt out to {self.size} processes evenly; choose a multiple"
            )
        share = batch // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    # Noise ------------------------------------------------------------------------------------------------

    def draw(self, make: Callable[[int], Tensor], rows: int) -> Tensor:
        """Noise for this process's rows, [rows, ...]; `make(n)` draws it for n rows, here for the global
        batch."""
        drawn = make(rows * self.size)
        return drawn[self.rank * rows : (self.rank + 1) * rows] if self.size > 1 else drawn

    def choose(self, noise: torch.Generator, rows: int, ticks: int, wanted: int) -> Tensor:
        """Places [n], row * T + tick, of `wanted` different ticks of all processes' rows that lie in the
        `rows` of this one.

        As many of every row, rounded up (all of them at most): so each process knows without asking a GPU
        how many are its own, their means are the processes' means, and in order they are one process's.
        """
        each = min(ticks, math.ceil(wanted / (rows * self.size)))
        keys = self.draw(lambda count: torch.rand(count, ticks, generator=noise, device=noise.device), rows)
        begins = ticks * torch.arange(rows, device=keys.device).unsqueeze(1)  # [B, 1]
        return (begins + keys.argsort(1)[:, :each]).flatten()

    # Means and statistics ---------------------------------------------------------------------------------

    def mean(self, value: Tensor) -> Tensor:
        """The processes' mean of `value`, no gradient: for divisors that depend on the data, and for
        figures."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def gather(self, rows: Tensor) -> Tensor:
        """[B/n, ...] -> [B, ...] with its gradient: for losses on statistics over the batch."""
        if self.size == 1:
            return rows
        result: Tensor = _Gather.apply(rows, self.rank, self.size)  # type: ignore[no-untyped-call]
        return result

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor | None]) -> None:
        """The processes' mean of every tensor, in place, in one message; None stays None in all of them."""
        if self.size == 1:
            return
        given = [tensor for tensor in tensors if tensor is not None]
        flat = torch.cat([tensor.reshape(-1) for tensor in given])
        dist.all_reduce(flat)
        flat /= self.size
        at = 0
        for tensor in given:
            tensor.copy_(flat[at : at + tensor.numel()].view(tensor.shape))
            at += tensor.numel()

    # Between the hosts ------------------------------------------------------------------------------------

    def largest(self, values: Sequence[float]) -> list[float]:
        """Elementwise largest of the processes' numbers; through the hosts, so that no GPU waits."""
        if self.size == 1:
            return list(values)
        table = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(table, op=dist.ReduceOp.MAX, group=self.host)
        return [float(value) for value in table]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier(group=self.host)


def join() -> World:
    """This process's place as torchrun tells it, connected to the others; a single process without torchrun.

    NCCL where there is a GPU for this process, gloo elsewhere. Raises TrainingError if torchrun's variables
    are incomplete or the others cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise TrainingError(f"WORLD_SIZE is {size} but {', '.join(missing)} is not set; start with torchrun")
    rank = int(os.environ["RANK"])
    if not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        try:
            dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(f"process {rank} of {size} cannot reach the others: {error}") from error
    return World(rank, size, dist.new_group(backend="gloo", timeout=PATIENCE))


def leave() -> None:
    """Close the connections, so that the process ends without a warning."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
