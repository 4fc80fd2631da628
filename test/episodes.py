"""Collected episodes as `rssm collect manipulator` writes them, made up."""

from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("camera", "odom", "joints")


def made_up_episode(seed: int, ticks: int = 30) -> dict[str, Any]:
    """Filled by chance."""
    draw = np.random.default_rng(seed)
    present = {f"present_{name}": draw.random(ticks) < 0.9 for name in NAMES}
    for values in present.values():
        values[0] = True
    return present | {
        "camera": draw.integers(0, 256, (ticks, 64, 64, 3), dtype=np.uint8),
        "odom": draw.normal(size=(ticks, 2)).astype(np.float32),
        "joints": draw.normal(size=(ticks, 8)).astype(np.float32),
        "action": draw.uniform(-1, 1, (ticks, 6)).astype(np.float32),
        "target_package": draw.normal(size=(ticks, 2)).astype(np.float32),
        "visibility_package": draw.choice([0.0, 1.0], ticks).astype(np.float32),
    }


def smooth_episode(seed: int, ticks: int = 80) -> dict[str, Any]:
    """A package that drifts, hidden now and then; the robot stands still."""
    arrays = made_up_episode(seed, ticks) | {"odom": np.zeros((ticks, 2), np.float32)}
    place = np.cumsum(np.random.default_rng(seed).normal(scale=0.01, size=(ticks, 2)), 0)
    shown = np.where(np.arange(ticks) % 16 < 10, 1.0, 0.0)
    labels = {"target_package": place.astype(np.float32), "visibility_package": shown.astype(np.float32)}
    return arrays | labels | {"velocity_package": np.diff(place, axis=0, prepend=place[:1]) / 0.05}


def write_smooth(folder: Path, count: int, ticks: int = 80) -> Path:
    """So many smooth episodes, of seeds 1 and on, in a folder."""
    for seed in range(1, count + 1):
        np.savez(folder / f"episode-{seed:08d}-expert.npz", **smooth_episode(seed, ticks))
    return folder
