"""A held-out set of the sorting cell for scorecards: occlusions of every length, and what only a simulator
knows.

Episodes as `rssm collect manipulator` records them, with seeds that no training uses. Besides the tunnel and
the arm, which hide packages for a few or for many ticks, the camera is lost in spells of 1 to 24 ticks, short
ones as often as long ones. For privileged baselines: `velocity_package` is the belt's, in the robot's frame;
`privileged_package` is where the acceptance table's belt-informed tracker has it, which knows the belt, the
paddle and the truth whenever anything of the package is seen.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.playing.collected import PRIVILEGED, VELOCITY
from rssm_ros.training.collect import Arrays, Source
from rssm_ros.training.collect_manipulator import EpisodePlan, record_episode

FIRST_SEED = 950_000
MIX = "expert=0.6,perturbed=0.25,random=0.15"
SPELLS = ((1, 1), (2, 4), (5, 8), (9, 16), (17, 24))  # ticks, from to
OPEN = (20, 120)  # ticks between two of them
_worker: dict[str, Any] = {}


class Watched:
    """An environment that remembers its true states, and how much of the package was in view."""

    def __init__(self, env: Any) -> None:
        self._env, self.contract = env, env.contract
        self.truths: list[Any] = []
        self.visibility: list[float] = []

    def reset(self, seed: int) -> Any:
        """A new episode."""
        self.truths, self.visibility = [], []
        observation, info = self._env.reset(seed=seed)
        self._note(info)
        return observation, info

    def step(self, action: npt.NDArray[np.float32]) -> Any:
        """One tick."""
        found = self._env.step(action)
        self._note(found[-1])
        return found

    def _note(self, info: Any) -> None:
        self.truths.append(info["truth"])
        self.visibility.append(float(info["visibility"]))

    def velocities(self) -> npt.NDArray[np.float32]:
        """[T, 2] m/s of the belt, which runs along the world's x, in the robot's frame."""
        heading = np.array([truth.base[2] for truth in self.truths])
        speed = np.array([truth.belt_velocity for truth in self.truths])
        return np.stack([speed * np.cos(heading), -speed * np.sin(heading)], -1).astype(np.float32)

    def tracked(self, camera: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        """[T, 2] m in the robot's frame where the belt-informed tracker has the package; NaN: nowhere.

        camera: [T] whether a picture came.
        """
        from rssm_ros.envs.policies import DeadReckoning

        tracker, places = DeadReckoning(belt=True), np.full((len(self.truths), 2), np.nan)
        for row, truth in enumerate(self.truths):
            found = tracker.update(truth, self.visibility[row] * bool(camera[row])).package
            if found is not None:
                x, y, heading = truth.base
                dx, dy, c, s = found[0] - x, found[1] - y, np.cos(heading), np.sin(heading)
                places[row] = (c * dx + s * dy, c * dy - s * dx)
        return places.astype(np.float32)


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
    watched = Watched(_worker["env"])
    arrays = record_episode(plan, watched)
    arrays["present_camera"] = arrays["present_camera"] & ~camera_losses(len(arrays["reward"]), plan.seed)
    arrays[f"{VELOCITY}package"] = watched.velocities()
    arrays[f"{PRIVILEGED}package"] = watched.tracked(arrays["present_camera"])
    return arrays


HELD_OUT = Source("manipulator", record, ("numpy", "mujoco", "gymnasium"), {"held_out": True})
