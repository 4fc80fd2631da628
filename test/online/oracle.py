"""What the filter must believe, the slow way: sort everything first, then one plain loop over the ticks.

Nothing of the filter's bookkeeping is used here: no ring, no replay, no window.
"""

import hashlib
import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from rssm_ros.contract import Contract
from rssm_ros.online import noise
from rssm_ros.online.belief import TargetBelief
from rssm_ros.online.frozen import AFTER, FAR, GAP, REST, ROUND
from rssm_ros.online.grid import stamp_of, tick_of
from rssm_ros.online.limits import Limits
from rssm_ros.online.steps import State, Step, initial_state


class Message(NamedTuple):
    """name: a modality, "applied" or "episode"; value: the array."""

    name: str
    stamp: int
    value: Any


def _digest(value: Any) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).digest()


def chosen(messages: list[Message], contract: Contract) -> dict[int, dict[str, Any]]:
    """Per tick and modality the value that counts: nearest to t_k, then earlier, then lower digest."""
    best: dict[tuple[int, str], Any] = {}
    for message in messages:
        if message.name not in ("applied", "episode"):
            tick = tick_of(message.stamp, contract.rate)
            distance = abs(message.stamp - stamp_of(tick, contract.rate))
            rank = (distance, message.stamp, _digest(message.value))
            key = (tick, message.name)
            if key not in best or rank < best[key][0]:
                best[key] = (rank, message.value)
    ticks: dict[int, dict[str, Any]] = {}
    for (tick, name), (_, value) in best.items():
        ticks.setdefault(tick, {})[name] = value
    return ticks


def frozen_at(heard: dict[int, dict[str, Any]], contract: Contract, starts: list[int]) -> set[int]:
    """Ticks whose picture (of "camera") does not count: it came before, time and again, while the robot of
    "odom" went far. An episode's pictures are compared with its own.
    """
    found = set()
    for tick in heard:
        since = max((start for start in starts if start <= tick), default=-1)
        ticks = [k for k in sorted(heard) if since <= k <= tick]
        shown = [k for k in ticks if "camera" in heard[k]]
        if "camera" not in heard[tick]:
            continue
        same = [k for k in shown if _digest(heard[k]["camera"]) == _digest(heard[tick]["camera"])]
        changed = max((k for k in shown if k not in same), default=-1)
        run = [k for k in same if k > changed]
        sums, told = np.zeros(2), [k for k in ticks if "odom" in heard[k]]
        far = False
        for before, k in itertools.pairwise(told):
            if k > run[0] and (k - before) * contract.dt <= GAP:
                speed = np.asarray(heard[k]["odom"], np.float64)
                sums = sums + np.where(np.abs(speed) > REST, speed, 0.0) * ((k - before) * contract.dt)
                far = far or abs(sums[0]) >= FAR or abs(sums[1]) >= ROUND
        if far and len(run) - 1 >= AFTER:
            found.add(tick)
    return found


def action_at(stamp: int, commands: list[Message], safe: Any, begins: list[int]) -> Any:
    """Per channel the last one applied in the episode at or before a stamp; of the same stamp the lower
    digest.
    """
    value = np.full_like(safe, np.nan)
    since = max((begin for begin in begins if begin <= stamp), default=0)
    for command in commands:
        if since <= command.stamp <= stamp:
            value = np.where(np.isfinite(command.value), command.value, value)
    return np.where(np.isfinite(value), value, safe)


def _in_order(messages: list[Message]) -> list[Message]:
    """Applied commands by stamp, one for each."""
    best: dict[int, Message] = {}
    for message in messages:
        if message.name == "applied":
            old = best.get(message.stamp)
            if old is None or _digest(message.value) < _digest(old.value):
                best[message.stamp] = message
    return [best[stamp] for stamp in sorted(best)]


def resampled(step: Step, offset: float) -> Step:
    """Systematic resampling as the textbook has it: one comb of N teeth over the heap of weights."""
    weights = np.exp(step.log_weight - step.log_weight.max()).astype(np.float64)
    weights, chosen, heap, particle = weights / weights.sum(), [], 0.0, -1
    for tooth in range(len(weights)):
        while heap * len(weights) <= tooth + offset and particle + 1 < len(weights):
            particle += 1
            heap += weights[particle]
        chosen.append(particle)
    return replace(
        step,
        state=State(step.state.deter[chosen], step.state.stoch[chosen]),
        targets={n: TargetBelief(t.mean[chosen], t.std[chosen]) for n, t in step.targets.items()},
        reward=step.reward[chosen],
        surprise=step.surprise[chosen],
        prior_entropy=step.prior_entropy[chosen],
    )


def beliefs(session: Any, contract: Contract, messages: list[Message], particles: int, seed: int, last: int):
    """{tick: (step, first, presence, age)} from the first observation to tick `last`."""
    heard, commands, limits = chosen(messages, contract), _in_order(messages), Limits(contract)
    safe = limits.safe(None, np.zeros(contract.action_dim))
    begins = [message.stamp for message in messages if message.name == "episode"]
    starts = [tick_of(stamp, contract.rate) for stamp in begins]
    frozen = frozen_at(heard, contract, starts)
    used = {
        tick: {name: value for name, value in values.items() if name != "camera" or tick not in frozen}
        for tick, values in heard.items()
    }
    seen = {tick: values for tick, values in used.items() if values}
    state, out, latest = initial_state(session.latent, particles), {}, {}
    for tick in range(min(heard, default=last + 1), last + 1):
        since = max((start for start in starts if start <= tick), default=0)
        first = not any(max(since, tick - contract.max_gap_ticks) <= k < tick for k in seen)
        if tick == since:
            latest = {}
        si = action_at(stamp_of(tick - 1, contract.rate), commands, safe, begins)
        action = limits.normalise(si).astype(np.float32)
        drawn = noise.draw(session.latent, seed, tick, particles)
        if tick in seen:
            tokens = {name: session.encode(name, value) for name, value in seen[tick].items()}
            step = session.step(state, action, tokens, first, drawn)
            if particles > 1 and step.log_weight is not None:
                step = resampled(step, noise.offset(seed, tick))
        else:
            step = session.predict(state, action, first, drawn)
        state = step.state
        latest |= dict.fromkeys(seen.get(tick, ()), tick)
        ages = {
            spec.name: tick - latest[spec.name] if spec.name in latest else -1
            for spec in contract.observations
        }
        out[tick] = (step, first, {name: name in seen.get(tick, ()) for name in ages}, ages)
    return out


def same(belief, expected) -> bool:
    """Whether a belief is bitwise what the oracle has."""
    step, first, presence, ages = expected
    pairs = [
        (belief.deter, step.state.deter),
        (belief.stoch, step.state.stoch),
        (belief.reward, step.reward),
        *((belief.targets[name].mean, target.mean) for name, target in step.targets.items()),
        *((belief.targets[name].std, target.std) for name, target in step.targets.items()),
    ]
    surprise = np.nan if step.surprise is None else float(step.surprise.mean())
    numbers = np.array([belief.surprise, surprise, belief.prior_entropy, float(step.prior_entropy.mean())])
    return (
        all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)
        and numbers[:1].tobytes() == numbers[1:2].tobytes()
        and numbers[2] == numbers[3]
        and (belief.first, belief.presence, belief.age) == (first, presence, ages)
    )
