"""A held-out set of the sorting cell for scorecards: occlusions of every length, and what only a simulator
knows.

Episodes as `rssm collect manipulator` records them, with seeds that no training uses. Besides the tunnel and
the arm, which hide packages for a few or for many ticks, the camera is lost in spells of 1 to 24 ticks, short
ones as often as long ones. `velocity_package` is the belt's, in the robot's frame, for the privileged one.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.collected import VELOCITY
from rssm_ros.training.collect import Arrays, Source
from rssm_ros.training.collect_manipulator import EpisodePlan, record_episode

FIRST_SEED = 950_000
MIX = "expert=0.6,perturbed=0.25,random=0.15"
SPELLS = ((1, 1), (2, 4), (5, 8), (9, 16), (17, 24))  # ticks, from to
OPEN = (20, 120)  # ticks between two of them
_worker: dict[str, Any] = {}


class BeltWatch:
    """An environment that remembers how the belt moved, in the robot's frame: `velocities` [T, 2] m/s."""

    def __init__(self, env: Any) -> None:
        self._env, self.contract = env, env.contract
        self.velocities: list[tuple[float, float]] = []

    def reset(self, seed: int) -> Any:
        """A new episode."""
        self.velocities = []
        observation, info = self._env.reset(seed=seed)
        self._note(info)
        return observation, info

    def step(self, action: npt.NDArray[np.float32]) -> Any:
        """One tick."""
        found = self._env.step(action)
        self._note(found[-1])
        return found

    def _note(self, info: Any) -> None:
        truth = info["truth"]
        heading, speed = truth.base[2], truth.belt_velocity  # the belt runs along the world's x
        self.velocities.append((speed * np.cos(heading), -speed * np.sin(heading)))


def camera_losses(ticks: int, seed: int) -> npt.NDArray[np.bool_]:
    """[T] where the camera is lost on purpose; never at the first tick."""
    rng, lost = np.random.default_rng([seed, 43]), np.zeros(ticks, bool)
    tick = int(rng.integers(*OPEN))
    while tick < ticks:
        low, high = SPELLS[int(rng.integers(len(SPELLS)))]
        length = int(rng.integers(low, high + 1))
        lost[tick : tick + length] = True
        tick += length + int(rng.integers(*OPEN))
    return lost


def record(plan: EpisodePlan) -> Arrays:
    """One episode in this process's own environment."""
    from rssm_ros.envs.manipulator import ManipulatorEnv

    if "env" not in _worker or _worker["env"].episode_seconds != plan.seconds:
        _worker["env"] = ManipulatorEnv(episode_seconds=plan.seconds)
    watch = BeltWatch(_worker["env"])
    arrays = record_episode(plan, watch)
    arrays[f"{VELOCITY}package"] = np.array(watch.velocities, np.float32)
    arrays["present_camera"] = arrays["present_camera"] & ~camera_losses(len(arrays["reward"]), plan.seed)
    return arrays


HELD_OUT = Source("manipulator", record, ("numpy", "mujoco", "gymnasium"), {"held_out": True})
