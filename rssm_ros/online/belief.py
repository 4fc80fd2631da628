"""What the filter says: one belief per tick, with all its particles."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Vector = npt.NDArray[np.float64]

NEVER = -1  # an age: not seen since the last reset


@dataclass(frozen=True)
class TargetBelief:
    """A decoded quantity as an equally weighted mixture of N Gaussians with diagonal covariance."""

    mean: Floats  # [N, d]
    std: Floats  # [N, d]

    def point(self) -> Vector:
        """The mixture's mean, [d]."""
        return np.asarray(np.mean(self.mean, axis=0, dtype=np.float64))

    def covariance(self) -> Vector:
        """The mixture's covariance, [d, d]: spread within the particles plus spread between them."""
        mean, std = np.asarray(self.mean, np.float64), np.asarray(self.std, np.float64)
        between = mean - mean.mean(axis=0)
        return np.asarray(np.diag((std**2).mean(axis=0)) + between.T @ between / len(mean), np.float64)


@dataclass(frozen=True)
class Belief:
    """The belief at one tick. N particles, equally weighted; D, S as in the bundle's sizes."""

    tick: int
    stamp_ns: int  # t_k
    deter: Floats  # [N, D]
    stoch: Indices | Floats  # [N, S] class indices, or a Gaussian latent's numbers
    surprise: float  # nats, mean over particles; NaN where nothing was seen
    prior_entropy: float  # nats, mean over particles
    posterior_entropy: float
    targets: Mapping[str, TargetBelief]
    reward: Floats  # [N]
    continue_: Floats  # [N]
    presence: Mapping[str, bool]  # which modalities were seen at this tick
    age: Mapping[str, int]  # ticks since each was seen, NEVER before
    lost: bool  # nothing seen for `max_gap`: this is the model's guess from nowhere
    first: bool = False  # the filter (re)started here

    def digest(self) -> bytes:
        """SHA-256 over everything it says: equal digests, bitwise equal beliefs. 32 bytes."""
        arrays = [self.deter, self.stoch, self.reward, self.continue_]
        for name in sorted(self.targets):
            arrays += [self.targets[name].mean, self.targets[name].std]
        numbers = np.array([self.surprise, self.prior_entropy, self.posterior_entropy], np.float64)
        about = (self.tick, self.lost, self.first, sorted(self.presence.items()), sorted(self.age.items()))
        found = hashlib.sha256(repr(about).encode() + numbers.tobytes())
        for array in arrays:
            found.update(array.tobytes())
        return found.digest()
