"""From a computed tick to the belief that is published."""

import math
from collections.abc import Mapping
from dataclasses import replace

from rssm_ros.contract import Contract
from rssm_ros.online.belief import NEVER, Belief, Floats
from rssm_ros.online.grid import stamp_of
from rssm_ros.online.memory import Snapshot
from rssm_ros.online.steps import Step


def belief_of(snapshot: Snapshot, contract: Contract) -> Belief:
    """The belief at a computed tick."""
    step, tick = snapshot.step, snapshot.tick
    prior_entropy = _mean(step.prior_entropy)
    return Belief(
        tick=tick,
        stamp_ns=stamp_of(tick, contract.rate),
        deter=step.state.deter,
        stoch=step.state.stoch,
        surprise=_mean(step.surprise),
        prior_entropy=prior_entropy,
        posterior_entropy=prior_entropy if step.posterior_entropy is None else _mean(step.posterior_entropy),
        targets=step.targets,
        reward=step.reward,
        continue_=step.continue_,
        presence={spec.name: spec.name in snapshot.presence for spec in contract.observations},
        age=_ages(tick, snapshot.seen, contract),
        lost=snapshot.lost,
        first=snapshot.first,
    )


def belief_ahead(belief: Belief, step: Step, tick: int, lost: bool, contract: Contract) -> Belief:
    """A belief rolled forward to `tick` without looking: `step` is the last prediction.

    `first` stays: it tells the planner that the filter restarted at the belief it came from.
    """
    entropy = _mean(step.prior_entropy)
    later = tick - belief.tick
    return replace(
        belief,
        tick=tick,
        stamp_ns=stamp_of(tick, contract.rate),
        deter=step.state.deter,
        stoch=step.state.stoch,
        surprise=math.nan,
        prior_entropy=entropy,
        posterior_entropy=entropy,
        targets=step.targets,
        reward=step.reward,
        continue_=step.continue_,
        presence=dict.fromkeys(belief.presence, False),
        age={name: age if age == NEVER else age + later for name, age in belief.age.items()},
        lost=lost,
    )


def _ages(tick: int, seen: Mapping[str, int], contract: Contract) -> dict[str, int]:
    names = [spec.name for spec in contract.observations]
    return {name: tick - seen[name] if name in seen else NEVER for name in names}


def _mean(values: Floats | None) -> float:
    if values is None:
        return math.nan
    return float(values[0] if len(values) == 1 else values.mean())  # of one: itself, without numpy's 5 us
