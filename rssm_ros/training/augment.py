"""What a robot's day does to observations: lost frames, silent sensors, something in front of the lens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rssm_ros.training.replay import Batch
from rssm_ros.world_model import Signals

DOMAIN = 1  # of the counter: other streams than those that draw a row's slices (`replay`)


@dataclass(frozen=True)
class Augmentation:
    """Probabilities per row of a batch."""

    gap: float = 0.2  # one gap of 4 to 8 camera frames
    blackout: float = 0.1  # one gap of 4 to 8 ticks without anything
    sparse: float = 0.05  # the camera comes only every 4 to 8 ticks
    silent: float = 0.1  # one vector modality missing for 8 ticks or more
    patch: float = 0.15  # a rectangle in front of the camera for 3 to 20 ticks


def augment(
    batch: Batch, signals: Signals, rates: Augmentation, seed: int, step: int, first_row: int = 0
) -> Batch:
    """A batch with presence switched off and images covered; what is to be reconstructed stays as it was.

    Adds `seen_<image>` (with patches) beside the untouched images, and `recorded_<modality>` (what the data
    hold) beside the presence that the model is told: a gap made here is still to be reconstructed, which is
    how prediction learns what it should have seen. A pure function of (row's data, seed, step, global row);
    `first_row` is the global row of the batch's first.
    """
    rows, ticks = batch["is_first"].shape
    result = dict(batch)
    for name in signals.modalities:
        result[f"recorded_{name}"] = batch[f"present_{name}"]
        result[f"present_{name}"] = batch[f"present_{name}"].clone()
    for name, _ in signals.images:
        result[f"seen_{name}"] = batch[name].clone()
    for row in range(rows):
        counter = [0, DOMAIN, first_row + row, step]
        _augment_row(
            result,
            row,
            ticks,
            signals,
            rates,
            np.random.Generator(np.random.Philox(key=[seed, 1], counter=counter)),
        )
    return result


def _augment_row(
    result: Batch,
    row: int,
    ticks: int,
    signals: Signals,
    rates: Augmentation,
    random: np.random.Generator,
) -> None:
    images = [name for name, _ in signals.images]
    vectors = [name for name, _ in signals.vectors]
    draws = random.random(5)
    gap = _span(random, ticks, 4, 8)
    if draws[0] < rates.gap:
        for name in images:
            result[f"present_{name}"][row, gap] = False
    if draws[1] < rates.blackout:
        for name in signals.modalities:
            result[f"present_{name}"][row, gap] = False
    if draws[2] < rates.sparse and images:
        keep = torch.zeros(ticks, dtype=torch.bool)
        keep[int(random.integers(0, 4)) :: int(random.integers(4, 9))] = True
        for name in images:
            result[f"present_{name}"][row] &= keep
    if draws[3] < rates.silent and vectors:
        name = vectors[int(random.integers(len(vectors)))]
        result[f"present_{name}"][row, _span(random, ticks, 8, ticks)] = False
    if draws[4] < rates.patch:
        for name in images:
            _cover(result[f"seen_{name}"][row], random)


def _span(random: np.random.Generator, ticks: int, shortest: int, longest: int) -> slice:
    length = int(random.integers(min(shortest, ticks), min(longest, ticks) + 1))
    start = int(random.integers(0, ticks - length + 1))
    return slice(start, start + length)


def _cover(images: torch.Tensor, random: np.random.Generator) -> None:
    """Paint one rectangle of one colour over a span of [T, H, W, C] uint8, in place."""
    ticks, height, width, channels = images.shape
    tall, wide = (int(random.integers(size // 8, size // 3 + 1)) for size in (height, width))
    top, left = int(random.integers(0, height - tall + 1)), int(random.integers(0, width - wide + 1))
    colour = torch.from_numpy(random.integers(0, 256, channels).astype(np.uint8))
    images[_span(random, ticks, 3, 20), top : top + tall, left : left + wide] = colour
