"""Learned and reference policies on the same held-out seeds, in parallel lockstep sims."""

import multiprocessing
import operator
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN, VISIBLE
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.statistics import estimate, mean, ratio, root_ratio
from rssm_ros.online.baselines import climatology, hold_last
from rssm_ros.provenance import hardware, versions
from rssm_ros.workers import end_with_parent

BUNDLE = "bundle"
REFERENCES = ("expert", "constant_velocity", "memoryless", "random")
FIRST_SEED = 0  # 0 to 99 are held out by `rssm collect`
TARGET = "package"
VERSIONS = ("mujoco", "numpy", "onnxruntime", "gymnasium")
LEAST_OF_EXPERT, MOST_OF_HOLD_LAST, MOST_OF_CLIMATOLOGY = 0.6, 0.5, 0.7
COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
Positions = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """One policy on one seed."""

    policy: str  # BUNDLE or one of REFERENCES
    seed: int
    seconds: float
    bundle: Path
    particles: int


@dataclass(frozen=True)
class Episode:
    """What came of a task. T = the ticks at which there was a package, seen at least once."""

    policy: str
    seed: int
    ticks: int
    packages: int
    sorted: int
    wrong: int
    missed: int
    tipped: bool
    visibility: npt.NDArray[np.float32]  # [T]
    truth: Positions  # [T, 2] m, base frame
    belief: Positions  # [T, 2] mean over particles, NaN without a belief; empty for references
    held: Positions  # [T, 2] hold-last, odometry-compensated


def tasks(
    bundle: Path,
    seeds: Sequence[int],
    seconds: float,
    particles: int,
    policies: Sequence[str] = (BUNDLE, *REFERENCES),
) -> list[Task]:
    """The slow ones first, so that the workers finish together."""
    return [Task(policy, seed, seconds, bundle, particles) for policy in policies for seed in seeds]


def run_all(work: Sequence[Task], workers: int) -> Iterator[Episode]:
    """Episodes in the order in which they finish; one thread per worker."""
    if workers <= 1:
        yield from map(run_episode, work)
        return
    kept = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        spawn = multiprocessing.get_context("spawn")
        with spawn.Pool(min(workers, len(work)), initializer=end_with_parent) as pool:
            yield from pool.imap_unordered(run_episode, work)
    finally:
        if kept is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = kept


def run_episode(task: Task) -> Episode:
    """Drives the sorting cell for `task.seconds` of simulated time. The seed decides everything."""
    from rssm_ros.envs.manipulator import ManipulatorEnv

    policy = _policy(task.policy, task.bundle, task.particles)
    env = ManipulatorEnv(episode_seconds=task.seconds, camera=task.policy == BUNDLE)
    try:
        observation, info = env.reset(seed=task.seed)
        policy.reset(task.seed)
        rows: list[tuple[Any, ...]] = []
        done = False
        while not done:
            action = policy.act(observation, info)
            rows.append((info["visibility"], info[TARGET], observation["odom"], _believed(policy)))
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        score, tipped, dt = info["score"], bool(info["tipped"]), env.contract.dt
    finally:
        env.close()
    visibility = np.asarray([row[0] for row in rows], np.float32)
    truth = np.asarray([row[1] for row in rows], np.float32)
    held = hold_last(truth, visibility, np.asarray([row[2] for row in rows]), dt).astype(np.float32)
    learned = task.policy == BUNDLE
    belief = np.asarray([row[3] for row in rows], np.float32)
    kept = np.isfinite(truth).all(1) & np.isfinite(held).all(1)
    return Episode(
        policy=task.policy,
        seed=task.seed,
        ticks=len(rows),
        packages=score.packages,
        sorted=score.sorted,
        wrong=score.wrong,
        missed=score.missed,
        tipped=tipped,
        visibility=visibility[kept],
        truth=truth[kept],
        belief=belief[kept] if learned else np.zeros((0, 2), np.float32),
        held=held[kept],
    )


@lru_cache(maxsize=1)
def _policy(name: str, bundle: Path, particles: int) -> Any:
    """One policy at a time per process: loading and proving a bundle takes seconds."""
    if name != BUNDLE:
        from rssm_ros.envs.policies import reference_policies

        return reference_policies()[name]
    from rssm_ros.evaluation.runs.learned import LearnedPolicy

    return LearnedPolicy(bundle, particles=particles, seed=0)


def _believed(policy: Any) -> npt.NDArray[np.float64]:
    """Where the policy's belief of this tick puts the package, [2]; NaN where it says nothing."""
    belief = getattr(policy, "belief", None)
    if belief is None or TARGET not in belief.targets:
        return np.full(2, np.nan)
    return np.asarray(belief.targets[TARGET].point(), np.float64)


def summarise(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Counts, errors and checks with 95 % intervals over seeds; plain data for JSON.

    Raises EvaluationError when the policies did not run on the same seeds (intervals are paired).
    """
    by_policy: dict[str, list[Episode]] = {}
    for episode in sorted(episodes, key=lambda e: e.seed):
        by_policy.setdefault(episode.policy, []).append(episode)
    seeds = {name: tuple(e.seed for e in group) for name, group in by_policy.items()}
    if len(set(seeds.values())) != 1:
        raise EvaluationError(f"policies ran on different seeds ({seeds}); run each on all of them")
    report: dict[str, Any] = {
        "seeds": list(next(iter(seeds.values()))),
        "policies": {name: _counts(group) for name, group in by_policy.items()},
    }
    if "expert" in by_policy:
        best = [e.sorted for e in by_policy["expert"]]
        report["sorted_of_expert"] = {
            name: estimate(ratio, [e.sorted for e in group], best).to_dict()
            for name, group in by_policy.items()
            if name != "expert"
        }
    if BUNDLE in by_policy:
        group = by_policy[BUNDLE]
        report["belief"] = {
            "hidden": belief_errors(group, hidden=True),
            "visible": belief_errors(group, hidden=False),
        }
    report["checks"] = _checks(report)
    report["status"] = "pass" if all(check["pass"] for check in report["checks"]) else "fail"
    return report


def _counts(group: Sequence[Episode]) -> dict[str, Any]:
    names = ("packages", "sorted", "wrong", "missed")
    totals = {name: sum(getattr(e, name) for e in group) for name in names}
    per_seed = {f"{name}_per_seed": [getattr(e, name) for e in group] for name in names}
    return {
        **totals,
        "sorted_a_seed": estimate(mean, [e.sorted for e in group]).to_dict(),
        "sorted_share": estimate(ratio, [e.sorted for e in group], [e.packages for e in group]).to_dict(),
        "tipped": sum(e.tipped for e in group),
        **per_seed,
    }


def belief_errors(group: Sequence[Episode], hidden: bool) -> dict[str, Any]:
    """RMSE (m) of belief, hold-last and the best constant on the same ticks, and the ratios between them.

    `ticks` are those with a belief; how many had none is `ticks_without_belief`.
    """
    wanted = [e.visibility <= HIDDEN if hidden else e.visibility >= VISIBLE for e in group]
    chosen = [mask & np.isfinite(e.belief).all(1) for e, mask in zip(group, wanted, strict=True)]
    constant = climatology(np.concatenate([e.truth[mask] for e, mask in zip(group, chosen, strict=True)]))

    def squares(guesses: Sequence[npt.NDArray[Any]]) -> list[float]:
        return [
            float(np.square((guess - e.truth)[mask]).sum())
            for e, mask, guess in zip(group, chosen, guesses, strict=True)
        ]

    ticks = [int(mask.sum()) for mask in chosen]
    belief = squares([e.belief for e in group])
    held = squares([e.held for e in group])
    fixed = squares([np.broadcast_to(constant, e.truth.shape) for e in group])
    return {
        "ticks": sum(ticks),
        "ticks_without_belief": sum(int(mask.sum()) for mask in wanted) - sum(ticks),
        "error_m": estimate(root_ratio, belief, ticks).to_dict(),
        "hold_last_error_m": estimate(root_ratio, held, ticks).to_dict(),
        "climatology_error_m": estimate(root_ratio, fixed, ticks).to_dict(),
        "climatology_m": [float(value) if np.isfinite(value) else None for value in constant],
        "ratio_to_hold_last": estimate(root_ratio, belief, held).to_dict(),
        "ratio_to_climatology": estimate(root_ratio, belief, fixed).to_dict(),
    }


def _checks(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The bounds a shipped bundle has to meet, as far as this run can tell."""
    found: list[tuple[str, float | None, str, float | None]] = []
    of_expert = report.get("sorted_of_expert", {})
    if BUNDLE in of_expert:
        value = of_expert[BUNDLE]["value"]
        found.append(("sorted_of_expert", value, ">=", LEAST_OF_EXPERT))
        if "constant_velocity" in of_expert:
            bound = of_expert["constant_velocity"]["value"]
            found.append(("sorted_above_constant_velocity", value, ">", bound))
    if "belief" in report:
        hidden = report["belief"]["hidden"]
        found.append(("hidden_to_hold_last", hidden["ratio_to_hold_last"]["value"], "<=", MOST_OF_HOLD_LAST))
        found.append(
            ("hidden_to_climatology", hidden["ratio_to_climatology"]["value"], "<", MOST_OF_CLIMATOLOGY)
        )
    return [_check(*row) for row in found]


def _check(name: str, value: float | None, sign: str, bound: float | None) -> dict[str, Any]:
    """One row of `checks`; a figure that could not be had does not pass."""
    if value is None or bound is None:
        return {"name": name, "value": value, "bound": sign, "pass": False}
    passed = bool(COMPARE[sign](value, bound))
    return {"name": name, "value": value, "bound": f"{sign} {bound:.3g}", "pass": passed}


def evaluate(
    work: Sequence[Task], workers: int = 1, watch: Callable[[Episode], None] = lambda episode: None
) -> dict[str, Any]:
    """Runs the tasks and returns their report; `watch` sees each episode as it ends."""
    from rssm_ros.bundle import WEIGHTS, load_bundle

    folder = work[0].bundle
    bundle = load_bundle(folder)  # before the references take their minutes
    start = time.monotonic()
    episodes = []
    for episode in run_all(work, workers):
        watch(episode)
        episodes.append(episode)
    return {
        "bundle": folder.name,
        "bundle_sha256": bundle.sha256,
        "weights_sha256": bundle.files[
            WEIGHTS
        ],  # the same in a bundle that is exported again with these scores
        "seconds": work[0].seconds,
        "particles": work[0].particles,
        **summarise(episodes),
        "wall_s": round(time.monotonic() - start, 1),
        "workers": workers,
        "machine": hardware(),
        "versions": versions(*VERSIONS),
    }
