"""Batches where the model is, made while a GPU is busy with the one before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from rssm_ros.training.replay import Batch


class Feed:
    """`make(step)` is a pure function of the step, so a batch made ahead is the batch."""

    def __init__(self, make: Callable[[int], Batch], device: torch.device, ahead: bool | None = None) -> None:
        """ahead: whether to make the next batch in a thread; by default where the device is a GPU (a CPU has
        no time to spare for it)."""
        self.make, self.device = make, device
        ahead = device.type == "cuda" if ahead is None else ahead
        self.pool = ThreadPoolExecutor(1, "feed") if ahead else None
        self.next: tuple[int, Future[Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        """The batch of `step`, [B, T, ...] on the device; whatever `make` raises."""
        if self.pool is None:
            batch = self._made(step)
        else:
            waiting = self.next
            batch = waiting[1].result() if waiting and waiting[0] == step else self._made(step)
            self.next = step + 1, self.pool.submit(self._made, step + 1)
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def _made(self, step: int) -> Batch:
        batch = self.make(step)
        if self.device.type == "cuda":  # from pinned memory the copy does not hold up the host
            return {name: value.pin_memory() for name, value in batch.items()}
        return batch

    def close(self) -> None:
        """End the thread; what it made ahead is dropped."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
