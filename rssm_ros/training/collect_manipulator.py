"""Recording the sorting robot: the expert with noise, random motion, and a policy that the expert corrects.

One uncompressed .npz per episode. Row t holds the observation at t, the action applied over [t-1, t), and
what the expert decided at t, whoever acted. Held-out seeds (0 to 99) are refused: they belong to evaluation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.training.collect import Arrays, Plan, Source
from rssm_ros.training.errors import TrainingError

HELD_OUT = 100  # seeds below this one are for evaluation only
KINDS = ("expert", "perturbed", "random", "policy")
EPISODE_SECONDS = 30.0


@dataclass(frozen=True)
class EpisodePlan(Plan):
    """One episode to record."""

    seconds: float = EPISODE_SECONDS
    policy: str | None = None  # bundle directory, for kind "policy"


class Noise:
    """Ornstein-Uhlenbeck noise on the expert's actions, with bursts, so that recoveries are seen.

    Levels differ per episode; a few episodes stay clean. `strong` doubles everything and adds spells in which
    the expert is ignored for half a second.
    """

    def __init__(self, seed: int, strong: bool, dt: float, dim: int = 6) -> None:
        self._rng = np.random.default_rng([seed, 23])
        rng = self._rng
        clean = rng.random() < 0.15 and not strong
        scale = 0.0 if clean else float(rng.uniform(0.05, 0.30)) * (2.0 if strong else 1.0)
        self._scale = scale * np.array([1.0, 0.5, 1.0, 0.7, 0.7, 0.7])
        self._keep = float(np.exp(-dt / rng.uniform(0.1, 0.6)))
        self._value = np.zeros(dim)
        self._burst, self._kick = 0, np.zeros(dim)
        self._rate = (0.012 if strong else 0.004) if scale > 0 else 0.0
        self._dim = dim

    def __call__(self, action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The action really taken [6]."""
        fresh = self._rng.normal(size=self._dim)
        self._value = self._keep * self._value + np.sqrt(1.0 - self._keep**2) * self._scale * fresh
        if self._burst == 0 and self._rng.random() < self._rate:
            self._burst = int(self._rng.integers(4, 14))
            self._kick = self._rng.uniform(-1.0, 1.0, self._dim)
            if self._rng.random() < 0.5:
                self._kick[3:] = self._kick[3]  # the arm as a whole: a sweep at the wrong moment
        noisy = np.asarray(action, np.float64) + self._value
        if self._burst > 0:
            self._burst -= 1
            noisy = 0.3 * noisy + 0.7 * self._kick
        return np.clip(noisy, -1.0, 1.0).astype(np.float32)


class Dropout:
    """Which observations are lost on purpose, in a part of the episodes."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 29])
        self._rates = {
            "camera": 0.02 if self._rng.random() < 0.5 else 0.0,
            "odom": 0.008 if self._rng.random() < 0.25 else 0.0,
            "joints": 0.008 if self._rng.random() < 0.25 else 0.0,
        }
        self._left = dict.fromkeys(self._rates, 0)

    def __call__(self, first: bool) -> dict[str, bool]:
        """Presence per modality at the next tick; the first tick of an episode is always complete."""
        present = {}
        for name, rate in self._rates.items():
            if self._left[name] > 0:
                self._left[name] -= 1
            elif not first and self._rng.random() < rate:
                self._left[name] = int(self._rng.integers(4, 9))
            present[name] = first or self._left[name] == 0
        return present


def record_episode(plan: EpisodePlan, env: Any, policy: Any | None = None) -> Arrays:
    """Run one episode and return its arrays, [T, ...] each.

    policy: an `envs.policies.Policy` for kind "policy" (DAgger): spells of the policy alternate with spells
    of the expert, in a share drawn per episode. It is given only the observations that were not dropped, and
    its `told(action)` hears which command is really pending.
    """
    from rssm_ros.envs.policies import RandomPolicy

    rng = np.random.default_rng([plan.seed, 31])
    noise = Noise(plan.seed, plan.kind == "perturbed", env.contract.dt)
    dropout = Dropout(plan.seed)
    wander = RandomPolicy(smooth=float(rng.uniform(0.15, 0.8)))
    wander.reset(plan.seed)
    share = float(rng.choice([1.0, 1.0, 0.8, 0.5])) if policy is not None else 0.0
    leads, spell = True, 0
    rows: dict[str, list[Any]] = {}
    observation, info = env.reset(seed=plan.seed)
    if policy is not None:
        policy.reset(plan.seed)
    reward, terminated, truncated, first = 0.0, False, False, True
    while True:
        present = dropout(first)
        _append(rows, observation, info, present, reward, first, terminated, truncated)
        if terminated or truncated:
            return _arrays(rows)
        expert = info["expert_action"]
        if plan.kind == "random":
            action = wander.act(observation, info)
        elif plan.kind == "policy":
            assert policy is not None
            seen = {name: value for name, value in observation.items() if present[name]}
            proposal = policy.act(seen, info)  # asked every tick: its filter must not miss one
            if spell == 0:
                leads, spell = bool(rng.random() < share), int(rng.integers(20, 80))
            spell -= 1
            action = proposal if leads else expert
            policy.told(action)
        else:
            action = noise(expert)
        observation, reward, terminated, truncated, info = env.step(action)
        first = False


def _append(
    rows: dict[str, list[Any]],
    observation: Mapping[str, Any],
    info: Mapping[str, Any],
    present: Mapping[str, bool],
    reward: float,
    first: bool,
    terminated: bool,
    truncated: bool,
) -> None:
    row = {
        **observation,
        **{f"present_{name}": value for name, value in present.items()},
        "action": info["applied"],
        "expert_action": info["expert_action"],
        "reward": np.float32(reward),
        "is_first": first,
        "is_last": terminated or truncated,
        "is_terminal": terminated,
        "target_package": info["package"],
        "target_destination": info["destination"],
        "visibility_package": np.float32(info["visibility"]),
        "visibility_destination": np.float32(info["visibility"]),  # told by the package, once seen
    }
    for name, value in row.items():
        rows.setdefault(name, []).append(value)


def _arrays(rows: Mapping[str, list[Any]]) -> Arrays:
    return {name: np.stack([np.asarray(value) for value in values]) for name, values in rows.items()}


# -- in the worker processes ------------------------------------------------------------------------------

_worker: dict[str, Any] = {}  # environment and policy, kept from plan to plan


def record(plan: EpisodePlan) -> Arrays:
    """One episode in this process's own environment."""
    from rssm_ros.envs.manipulator import ManipulatorEnv

    if "env" not in _worker or _worker["env"].episode_seconds != plan.seconds:
        _worker["env"] = ManipulatorEnv(episode_seconds=plan.seconds)
    policy = None
    if plan.kind == "policy":
        if _worker.get("bundle") != plan.policy:
            from rssm_ros.evaluation.runs.learned import LearnedPolicy

            # Seed 0, whichever episode comes first: `reset(plan.seed)` makes each one's noise its own.
            _worker["policy"] = LearnedPolicy(Path(str(plan.policy)), 1, 0)
            _worker["bundle"] = plan.policy
        policy = _worker["policy"]
    return record_episode(plan, _worker["env"], policy)


MANIPULATOR = Source("manipulator", record, ("numpy", "mujoco", "gymnasium"))


def plan_episodes(
    ticks: int,
    mix: Mapping[str, float],
    seed: int,
    seconds: float = EPISODE_SECONDS,
    policy: str | None = None,
) -> list[EpisodePlan]:
    """The episodes that make up about `ticks` ticks in the shares of `mix`, deterministic in its arguments.

    Raises TrainingError for an unknown kind, a share that is not positive, held-out seeds, a missing policy.
    """
    from rssm_ros.contract import find_contract

    if seed < HELD_OUT:
        raise TrainingError(f"seeds below {HELD_OUT} are held out for evaluation; start there or later")
    unknown = set(mix) - set(KINDS)
    if unknown or not mix or any(not value > 0 for value in mix.values()):
        kinds = ", ".join(KINDS)
        raise TrainingError(f"a mix is kind=share with shares > 0 and kinds of {kinds}; got {dict(mix)}")
    if "policy" in mix and policy is None:
        raise TrainingError("the kind 'policy' needs a bundle: --policy models/NAME")
    rate = find_contract("manipulator").rate
    count = max(1, round(ticks / (float(seconds * rate) + 1)))
    total = sum(mix.values())
    plans, done = [], dict.fromkeys(mix, 0)
    for index in range(count):  # always the kind that is furthest behind its share
        kind = max(mix, key=lambda name: mix[name] / total * (index + 1) - done[name])
        done[kind] += 1
        plans.append(EpisodePlan(seed + index, kind, seconds, policy if kind == "policy" else None))
    return plans
