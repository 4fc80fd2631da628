"""How soon the surprise notices that robot and model no longer agree, and how often it cries wolf.

    python scripts/mismatch.py BUNDLE [--episodes 20] [--seed 730000] [--particles 8] [--after 10]

The noisy expert works as in training; after 10 s one thing about the robot changes, as named in the table.
Prints a Markdown table: share of the episodes with a review after the change, the median delay until it, and
how often nominal episodes had one, for the bundle's calibrated thresholds.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rssm_ros.envs.manipulator import ManipulatorEnv
from rssm_ros.evaluation.calibration import reviews
from rssm_ros.evaluation.playing.filtering import Filtered, filter_episode
from rssm_ros.online.session import Session
from rssm_ros.training.collect_manipulator import EpisodePlan, record_episode

ONSET = 200  # ticks: 10 s


def _friction(factor: float) -> Callable[[Any], None]:
    def change(env: ManipulatorEnv) -> None:
        env.cell.model.geom_friction[:, 0] *= factor

    return change


def _slip(value: float) -> Callable[[Any], None]:
    def change(env: ManipulatorEnv) -> None:
        env.cell.slip = value

    return change


def _mast(lower: float = 0.0, turn: float = 0.0) -> Callable[[Any], None]:
    """The camera `lower` m lower, and turned by `turn` rad to its right."""

    def change(env: ManipulatorEnv) -> None:
        model = env.cell.model
        camera = model.camera("camera").id
        model.cam_pos[camera, 2] -= lower
        w, x, y, z = model.cam_quat[camera]
        c, s = np.cos(-turn / 2), np.sin(-turn / 2)  # about the world's vertical axis
        model.cam_quat[camera] = (c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w)

    return change


def _nothing(env: ManipulatorEnv) -> None:
    pass


CHANGES: dict[str, Callable[[Any], None]] = {
    "nothing (nominal)": _nothing,
    "friction of everything x 0.25": _friction(0.25),
    "friction of everything x 4": _friction(4.0),
    "wheels slip: 0.6 of the odometry (training: 0.85 to 1)": _slip(0.6),
    "picture mirrored": _nothing,  # done to the observation
    "mast 3 cm lower": _mast(lower=0.03),
    "mast 10 cm lower": _mast(lower=0.10),
    "mast turned by 3 degrees": _mast(turn=np.radians(3)),
    "mast turned by 10 degrees": _mast(turn=np.radians(10)),
}


class Changed:
    """An environment of which one thing changes after ONSET ticks, until the next reset."""

    def __init__(self, env: ManipulatorEnv, name: str) -> None:
        self.env, self.contract, self._name = env, env.contract, name
        model = env.cell.model
        self._kept = {key: getattr(model, key).copy() for key in ("geom_friction", "cam_pos", "cam_quat")}
        self._tick = 0

    def reset(self, seed: int) -> Any:
        """As the environment's own, with everything as it was."""
        for key, value in self._kept.items():
            getattr(self.env.cell.model, key)[:] = value
        self._tick = 0
        return self.env.reset(seed=seed)

    def step(self, action: Any) -> Any:
        """As the environment's own."""
        self._tick += 1
        if self._tick == ONSET:
            CHANGES[self._name](self.env)
        observation, *rest = self.env.step(action)
        if self._name == "picture mirrored" and self._tick >= ONSET:
            observation = {**observation, "camera": observation["camera"][:, ::-1].copy()}
        return observation, *rest


def measure(session: Session, name: str, arguments: argparse.Namespace) -> Filtered:
    """All episodes of one change after the filter."""
    env = ManipulatorEnv(episode_seconds=arguments.seconds)
    changed, parts = Changed(env, name), []
    for index in range(arguments.episodes):
        seed = arguments.seed + index
        arrays = record_episode(EpisodePlan(seed, "expert", arguments.seconds), changed)
        parts.append(filter_episode(session, arrays, arguments.particles, seed, index=index))
    changed.reset(arguments.seed)
    env.close()
    return Filtered.joined(parts)


def row(filtered: Filtered, thresholds: dict[str, float], after: int, dt: float) -> tuple[float, float, int]:
    """(share of episodes noticed, median delay in s of those, reviews before the change)."""
    starts = np.searchsorted(filtered.episode, np.unique(filtered.episode))
    found = np.array(reviews(filtered, thresholds, after), int)
    tick = found - starts[filtered.episode[found]] if len(found) else found
    delays = {}
    for episode, at in zip(filtered.episode[found], tick):
        if at >= ONSET:
            delays.setdefault(int(episode), (at - ONSET) * dt)
    early = int((tick < ONSET).sum())
    median = float(np.median(list(delays.values()))) if delays else float("nan")
    return len(delays) / len(starts), median, early


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of an episode")
    parser.add_argument("--only", type=int, nargs="+", metavar="ROW", help="rows of the table, from 0")
    parser.add_argument("--seed", type=int, default=730_000)
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--after", type=int, default=10, help="ticks in a row that make a review")
    parser.add_argument("--keep", type=Path, help="folder for surprise and patterns, one .npz per change")
    arguments = parser.parse_args()
    session = Session(arguments.bundle)
    thresholds, dt = session.bundle.thresholds.get("surprise", {}), session.bundle.contract.dt
    print("| after 10 s | noticed | median delay, s | reviews before |\n|---|---|---|---|")
    names = list(CHANGES)
    for index in arguments.only or range(len(names)):
        name = names[index]
        filtered = measure(session, name, arguments)
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            columns = {"episode", "surprise", "patterns", "first"}
            values = {column: getattr(filtered, column) for column in columns}
            np.savez(arguments.keep / f"{index}.npz", name=name, **values)
        share, delay, early = row(filtered, thresholds, arguments.after, dt)
        print(f"| {name} | {share:.0%} | {delay:.2f} | {early} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
