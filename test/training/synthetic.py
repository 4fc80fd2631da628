"""A small stand-in for collected data: a square that crosses the image behind a bar, in the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rssm_ros.contract import find_contract


def write(directory: Path, episodes: int, ticks: int, seed: int = 0) -> Path:
    """Episodes of the manipulator's contract; expert_action points at where the square is."""
    contract = find_contract("manipulator")
    directory.mkdir(parents=True, exist_ok=True)
    for index in range(episodes):
        random = np.random.default_rng([seed, index])
        np.savez(
            directory / f"episode-{index:08d}-synthetic.npz", **_episode(random, ticks, contract.action_dim)
        )
    return directory


def _episode(random: np.random.Generator, ticks: int, action_dim: int) -> dict[str, np.ndarray]:
    camera = np.full((ticks, 64, 64, 3), 60, np.uint8)
    camera[:, ::8] = 90
    x = (random.uniform(0, 50) + np.cumsum(random.uniform(0.5, 1.5, ticks))) % 56
    red = random.random() < 0.5
    for t in range(ticks):
        camera[t, 30:37, int(x[t]) : int(x[t]) + 7] = (220, 30, 30) if red else (30, 30, 220)
    camera[:, 26:41, 26:40] = 150
    hidden = (x >= 25) & (x <= 34)
    target = np.stack([x / 40 - 0.5, np.full(ticks, 0.1 if red else -0.1)], 1).astype(np.float32)
    action = random.uniform(-1, 1, (ticks, action_dim)).astype(np.float32)
    action[0] = 0
    expert = np.zeros((ticks, action_dim), np.float32)
    expert[:, 0], expert[:, 1] = np.sin(x / 9), 1 if red else -1
    first, last = np.zeros(ticks, bool), np.zeros(ticks, bool)
    first[0], last[-1] = True, True
    return {
        "camera": camera,
        "odom": random.normal(0, 0.1, (ticks, 2)).astype(np.float32),
        "joints": random.normal(0, 0.1, (ticks, 8)).astype(np.float32),
        **{f"present_{name}": np.ones(ticks, bool) for name in ("camera", "odom", "joints")},
        "action": action,
        "expert_action": expert,
        "reward": (x > 50).astype(np.float32),
        "is_first": first,
        "is_last": last,
        "is_terminal": np.zeros(ticks, bool),
        "target_package": target,
        "visibility_package": np.where(hidden, 0.0, 1.0).astype(np.float32),
        "target_destination": np.tile(np.float32([0.3 if red else -0.3, 0.2]), (ticks, 1)),
        "visibility_destination": np.where(hidden, 0.0, 1.0).astype(np.float32),
    }
