"""What a run was worth, from the traces of its nodes: pace, latency, packages, and how well hidden ones
were tracked.

Every error is a root mean square distance in metres in the contract's frame, over the ticks named:
visible (share seen >= 0.5), hidden (<= 0.05). Baselines see the truth wherever the package is not hidden,
which is more than any detector would give them.
"""

import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN, VISIBLE
from rssm_ros.evaluation.runs.trace import Records, TraceError, read_counters, read_trace
from rssm_ros.files import write_whole
from rssm_ros.online.baselines import climatology, hold_last
from rssm_ros.online.gate import MODES

Vector = npt.NDArray[np.float64]
ENOUGH_HIDDEN = 20  # ticks below which nothing is said about hidden packages
LONG = 30.0  # s of simulated time in which packages are certain to be hidden
MILLI = 1e-6  # ns -> ms
KEYS = (
    "status", "checks", "seed", "wall_s", "sim_s", "ticks", "realtime_factor", "loop_hz",
    "over_budget_fraction", "latency_ms", "packages", "sorted", "missed", "wrong", "expert_sorted",
    "random_sorted", "belief_error_m", "hold_last_error_m", "climatology_error_m", "hidden_ticks",
    "dropped", "bundle_sha256", "machine", "versions",
)  # fmt: skip


@dataclass(frozen=True)
class Bounds:
    """What a run must reach."""

    loop_tolerance: float = 0.02  # of the contract's rate
    realtime_factor: float = 0.98
    over_budget_fraction: float = 0.02
    hidden_to_hold_last: float = 0.5
    hidden_to_climatology: float = 0.7
    dropped_share: float = 0.01  # of the ticks; in lockstep none


@dataclass(frozen=True)
class Run:
    """The traces of one run, cut to the ticks that count. Filter and gate may be empty after a failure."""

    sim: Records
    gate: Records
    filter: Records
    dt: float
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by node

    @property
    def ticks(self) -> int:
        """Ticks that passed (the first observation is tick 0)."""
        return max(0, len(self.sim) - 1)


def load_run(folder: Path, dt: float) -> Run:
    """The traces in `folder`; a missing one is empty. Raises TraceError for a damaged one."""
    sim, gate, beliefs = (_optional(folder / f"{name}.trace") for name in ("sim", "gate", "filter"))
    return Run(sim, gate, beliefs, dt, read_counters(folder))


def _optional(path: Path) -> Records:
    return (
        read_trace(path)
        if path.exists()
        else np.zeros(0, np.dtype([("stamp_ns", "<i8"), ("monotonic_ns", "<i8")]))
    )


# -- pace ----------------------------------------------------------------------------------------------


def pace(run: Run, speed: float = 1.0) -> dict[str, Any]:
    """Loop rate, real-time factor and latency (CLOCK_MONOTONIC, picture published to command published).

    speed: simulated seconds per second; an answer has a tick's share of wall time.
    """
    sent = {int(stamp): int(seen) for stamp, seen in zip(run.sim["stamp_ns"], run.sim["monotonic_ns"])}
    latency, moments = [], []
    for record in run.gate:
        seen = sent.pop(int(record["stamp_ns"]), None)  # the first answer counts
        if seen is not None:
            latency.append((int(record["monotonic_ns"]) - seen) * MILLI)
            moments.append(int(record["monotonic_ns"]))
    wall = 1e-9 * float(run.sim["monotonic_ns"][-1] - run.sim["monotonic_ns"][0]) if run.ticks else 0.0
    span = 1e-9 * (moments[-1] - moments[0]) if len(moments) > 1 else 0.0
    last_is_open = bool(len(run.sim)) and int(run.sim["stamp_ns"][-1]) in sent
    asked = len(run.sim) - last_is_open  # the last picture may be answered after the end
    late = sum(value > 1000 * run.dt / speed for value in latency) + asked - len(latency)
    p50, p99 = np.percentile(latency, [50, 99]).tolist() if latency else (None, None)
    return {
        "wall_s": wall,
        "sim_s": run.ticks * run.dt,
        "ticks": run.ticks,
        "realtime_factor": run.ticks * run.dt / wall if wall else None,
        "loop_hz": (len(moments) - 1) / span if span else None,
        "over_budget_fraction": late / asked if asked else None,
        "latency_ms": {"p50": p50, "p99": p99},
        "gate_modes": gate_modes(run),
    }


def gate_modes(run: Run) -> dict[str, int]:
    """How many commands the gate sent in each mode; a run in order is all `run` but for its first half
    second.
    """
    modes = run.gate["mode"] if "mode" in (run.gate.dtype.names or ()) else np.zeros(0, np.int8)
    counts = {name: int((modes == index).sum()) for index, name in enumerate(MODES)}
    return {name: count for name, count in counts.items() if count}


# -- beliefs -------------------------------------------------------------------------------------------


def belief_errors(run: Run) -> dict[str, Any]:
    """The belief's error, visible and hidden, beside two baselines; None where there is nothing to tell."""
    truth = np.asarray(run.sim["package"], np.float64)  # [T, 2]
    present = np.isfinite(truth).all(axis=1)
    hidden = present & (run.sim["visibility"] <= HIDDEN)
    visible = present & (run.sim["visibility"] >= VISIBLE)
    believed, missing = aligned_beliefs(run)
    distance = np.linalg.norm(believed - truth, axis=1)
    visibility, odometry, reset = (run.sim[name] for name in ("visibility", "odom", "reset"))
    held = np.linalg.norm(hold_last(truth, visibility, odometry, run.dt, reset) - truth, axis=1)
    judged = hidden & np.isfinite(distance) & np.isfinite(held)  # all three on the very same ticks
    guess = np.linalg.norm(truth[judged] - climatology(truth[judged]), axis=1)
    return {
        "belief_error_m": {"visible": rms(distance[visible]), "hidden": rms(distance[judged])},
        "hold_last_error_m": {"hidden": rms(held[judged])},
        "climatology_error_m": rms(guess),
        "hidden_ticks": int(hidden.sum()),
        "judged_ticks": int(judged.sum()),
        "dropped": int(missing),
    }


def aligned_beliefs(run: Run) -> tuple[Vector, int]:
    """The published belief of each tick [T, 2] (the last before it where a tick has none); how many lack.

    A belief that is not a number is none.
    """
    by_stamp = {int(record["stamp_ns"]): record["mean"] for record in run.filter}
    rows, last, missing = [], np.full(2, np.nan), 0
    for stamp in run.sim["stamp_ns"]:
        found = np.asarray(by_stamp.get(int(stamp), np.nan), np.float64)
        good = bool(np.isfinite(found).all())
        missing += not good
        last = found if good else last
        rows.append(last)
    return np.array(rows, np.float64).reshape(-1, 2), missing


def rms(values: npt.ArrayLike) -> float | None:
    """Root mean square of the finite values; None without any."""
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    return float(np.sqrt((array**2).mean())) if len(array) else None


# -- packages ------------------------------------------------------------------------------------------


def packages(run: Run) -> dict[str, int | None]:
    """What became of the packages, over all episodes of the run."""
    names = ("packages", "sorted", "wrong", "missed")
    if not len(run.sim):
        return dict.fromkeys(names)
    scores = np.asarray(run.sim["score"], np.int64)
    ends = np.append(np.flatnonzero(run.sim["reset"][1:]), len(scores) - 1)  # the last tick of each episode
    return dict(zip(names, scores[ends].sum(axis=0).tolist(), strict=True))


def stopped_after(run: Run, fault_ns: int, slow: float = 0.05) -> float | None:
    """Seconds of the robot's time from a fault (CLOCK_MONOTONIC ns) until the base moved slower than `slow`
    (m/s, rad/s) for good; counted from the last tick before the fault.

    The robot's time, not the wall's: while a busy machine stalls, the simulated robot moves no further.
    None: it was never seen to stand still.
    """
    since = max(0, int((run.sim["monotonic_ns"] <= fault_ns).sum()) - 1)
    after = run.sim[since + 1 :]
    if not len(after):
        return None
    moving = np.abs(after["speed"]).max(axis=1) > slow
    if moving[-1]:
        return None
    last = np.flatnonzero(moving)
    at = int(after["stamp_ns"][last[-1] + 1 if len(last) else 0])
    return 1e-9 * (at - int(run.sim["stamp_ns"][since]))


def reference_scores(
    seed: int, seconds: float, names: tuple[str, ...] = ("expert", "random")
) -> dict[str, int]:
    """Packages sorted by reference policies on the same seed and time, in parallel, without pictures."""
    with ProcessPoolExecutor(min(len(names), os.cpu_count() or 1), get_context("spawn")) as pool:
        return dict(zip(names, pool.map(_reference, names, [seed] * len(names), [seconds] * len(names))))


def _reference(name: str, seed: int, seconds: float) -> int:
    from rssm_ros.envs.manipulator import ManipulatorEnv
    from rssm_ros.envs.policies import reference_policies

    env, policy = ManipulatorEnv(episode_seconds=None, camera=False), reference_policies()[name]
    observation, info = env.reset(seed=seed)
    policy.reset(seed)
    total, before = 0, 0
    for _ in range(round(seconds / env.contract.dt)):
        observation, _, terminal, _, info = env.step(policy.act(observation, info))
        total, before = total + info["score"].sorted - before, info["score"].sorted
        if terminal:  # tipped over: the next episode, as in the run
            seed, before = seed + 1, 0
            observation, info = env.reset(seed=seed)
            policy.reset(seed)
    return total


# -- the summary ---------------------------------------------------------------------------------------


def summarise(run: Run, rate: float, speed: float = 1.0, lockstep: bool = False) -> dict[str, Any]:
    """Everything that the traces say, with the checks; keys as in `KEYS`, without those it cannot know."""
    found: dict[str, Any] = {**pace(run, speed), **packages(run)}
    if len(run.sim):
        found |= belief_errors(run)
    found["counters"] = run.counters
    if lockstep:
        found["lockstep_timeout"] = run.counters.get("sim_node", {}).get("lockstep_timeout")
    found["checks"] = checks(found, Bounds(), rate * speed, speed, lockstep)
    return found


def checks(
    found: Mapping[str, Any], bounds: Bounds, loop_hz: float, speed: float, lockstep: bool
) -> list[dict[str, Any]]:
    """The checks that apply: no pace in lockstep, no tracking for a short run that hid too little."""
    made: list[dict[str, Any]] = []

    def add(
        name: str, value: float | None, low: float | None, high: float | None, below: float | None = None
    ) -> None:
        good = value is not None and (low is None or value >= low) and (high is None or value <= high)
        good = good and (below is None or (value is not None and value < below))
        limits = ((">=", low), ("<=", high), ("<", below))
        told = [f"{sign} {limit:.4g}" for sign, limit in limits if limit is not None]
        made.append({"name": name, "value": value, "bound": " and ".join(told), "pass": good})

    if not lockstep:
        slack = bounds.loop_tolerance
        add("loop_hz", found.get("loop_hz"), loop_hz * (1 - slack), loop_hz * (1 + slack))
        add("realtime_factor", found.get("realtime_factor"), bounds.realtime_factor * speed, None)
        add("over_budget_fraction", found.get("over_budget_fraction"), None, bounds.over_budget_fraction)
    else:
        add("lockstep_timeout", found.get("lockstep_timeout"), None, 0)
    add("dropped", found.get("dropped"), None, 0 if lockstep else bounds.dropped_share * found["ticks"])
    if (found.get("sim_s") or 0.0) >= LONG:
        add("hidden_ticks", found.get("hidden_ticks"), ENOUGH_HIDDEN, None)
    if found.get("hidden_ticks", 0) >= ENOUGH_HIDDEN:
        hidden = found["belief_error_m"]["hidden"]
        hold, guess = found["hold_last_error_m"]["hidden"], found["climatology_error_m"]
        ratios = [hidden / base if hidden is not None and base else None for base in (hold, guess)]
        add("hidden_error_to_hold_last", ratios[0], None, bounds.hidden_to_hold_last)
        add("hidden_error_to_climatology", ratios[1], None, None, below=bounds.hidden_to_climatology)
    return made


def write_summary(path: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Writes summary.json, atomically, with every key of `KEYS` (null where unknown); returns it whole."""
    whole = {**dict.fromkeys(KEYS), **summary}
    whole["checks"] = whole["checks"] or []
    write_whole(path, json.dumps(_plain(whole), indent=1) + "\n")
    return whole


def _plain(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = [
    "KEYS",
    "Bounds",
    "Run",
    "TraceError",
    "load_run",
    "reference_scores",
    "summarise",
    "write_summary",
]
