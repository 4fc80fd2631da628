"""The model's steps as the filter and the planner see them: plain arrays in, plain arrays out.

Shapes: N particles, D deter, S groups, K classes, A actions, E_m tokens of modality m, H horizon, d of a
target.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rssm_ros.bundle import Latent
from rssm_ros.online.belief import Floats, Indices, TargetBelief

Array = npt.NDArray[Any]


class State(NamedTuple):
    """What the recursion carries: deter [N, D] float32, stoch [N, S] class indices or a normal's numbers."""

    deter: Floats
    stoch: Indices | Floats


def initial_state(latent: Latent, particles: int) -> State:
    """The state before anything was seen. Every use of it is a first step, which ignores its values."""
    kind: type[np.generic] = np.float32 if latent.kind == "gaussian" else np.int64
    return State(np.zeros((particles, latent.deter), np.float32), np.zeros((particles, latent.stoch), kind))


@dataclass(frozen=True)
class Step:
    """What one tick gives. Probabilities are [N, S, K]; posterior and surprise are None after a mere
    prediction."""

    state: State
    prior: Floats
    prior_entropy: Floats  # [N] nats
    targets: Mapping[str, TargetBelief]
    reward: Floats  # [N]
    continue_: Floats  # [N]
    posterior: Floats | None = None
    surprise: Floats | None = None  # [N] nats
    posterior_entropy: Floats | None = None  # [N] nats
    log_weight: Floats | None = None  # [N] nats, up to what all share; None: all weigh the same


@dataclass(frozen=True)
class Imagined:
    """Candidate plans, rolled out: N of them, H ticks each."""

    returns: Floats  # [N] discounted rewards of the H ticks
    values: Floats  # [N] discounted value of the last state
    paths: Mapping[str, Floats]  # per target the mean, [N, H, d]


class Steps(Protocol):
    """What the filter needs of a model. `Session` is the real one; tests bring smaller ones."""

    @property
    def latent(self) -> Latent:
        """Sizes."""

    @property
    def fingerprint(self) -> str:
        """Names the model: saved states fit only the model they came from."""

    def encode(self, name: str, value: Array) -> Floats:
        """One observation in the contract's form -> tokens [1, E_m]."""

    def step(
        self, state: State, action: Floats, tokens: Mapping[str, Floats], first: bool, noise: Floats
    ) -> Step:
        """Predict with action [A] (normalised), correct with the tokens given; noise [N, S]."""

    def predict(self, state: State, action: Floats, first: bool, noise: Floats) -> Step:
        """The prior half of `step`: what it gives, exactly, when nothing was seen."""
