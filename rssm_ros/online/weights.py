"""What an observation is worth to each particle: the likely ones go on, several times if need be.

Systematic resampling (Kitagawa 1996) at every tick that was seen, so that all particles of a belief weigh the
same: equal weights leave everything as it is, to the last bit. Shapes: N particles.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from rssm_ros.online.belief import Floats, Indices, TargetBelief
from rssm_ros.online.steps import State, Step

EDGE = 1e-6  # of a particle's share: places keep clear of where rounding could decide


def ancestors(log_weight: Floats, offset: float) -> Indices:
    """Which particle each of the N after resampling was, ascending: int64 [N].

    log_weight [N] in nats; what is no number weighs nothing. offset: uniform in [0, 1). A particle of weight
    w among all is drawn floor(N w) or ceil(N w) times.
    """
    count = len(log_weight)
    nats = np.where(np.isnan(log_weight), -np.inf, log_weight).astype(np.float64)
    if not np.isfinite(nats.max()):
        return np.arange(count)
    share = np.exp(nats - nats.max())
    # Counted in particles, so that equal weights end at whole numbers and every place falls on its own.
    edges = np.cumsum(share) * (count / share.sum())
    places = np.arange(count) + min(max(offset, EDGE), 1.0 - EDGE)
    drawn: Indices = np.searchsorted(edges, places, side="right")
    return np.minimum(drawn, count - 1)


def survivors(step: Step, chosen: Indices) -> Step:
    """The step whose particles are those of `chosen` [N]; their weights are spent."""
    step = replace(step, log_weight=None)
    if np.array_equal(chosen, np.arange(len(chosen))):
        return step
    taken: dict[str, Any] = {}
    for name in (field.name for field in fields(step)):
        value = getattr(step, name)
        if isinstance(value, State):
            taken[name] = State(value.deter[chosen], value.stoch[chosen])
        elif isinstance(value, Mapping):
            taken[name] = {n: TargetBelief(b.mean[chosen], b.std[chosen]) for n, b in value.items()}
        elif value is not None:
            taken[name] = value[chosen]
    return replace(step, **taken)
