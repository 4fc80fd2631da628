"""Figures with intervals: everything is resampled by seed, and paired where two things shared the seeds."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
DRAWS = 2000
ENOUGH_RUNS = 1000  # times that something went out of sight: the fewest of which a figure is judged


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """{"value", "ci95"}; what is not finite becomes None, since JSON knows no NaN."""
        plain = [number if math.isfinite(number) else None for number in (self.value, self.low, self.high)]
        return {"value": plain[0], "ci95": plain[1:]}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Estimate":
        """The inverse of `to_dict`: None becomes NaN."""
        numbers = (data["value"], *data["ci95"])
        return Estimate(*(math.nan if number is None else float(number) for number in numbers))


def estimate(
    statistic: Callable[..., Vector], *per_seed: npt.ArrayLike, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """`statistic(*arrays)` with a percentile interval from resampling seeds, the same seeds in every array.

    per_seed: arrays [S], one number per seed. statistic: arrays [..., S] -> [...]. Deterministic in `seed`.
    """
    arrays = [np.asarray(array, np.float64) for array in per_seed]
    count = len(arrays[0])
    if count == 0 or any(array.shape != (count,) for array in arrays):
        raise ValueError(f"expected arrays of one number per seed, got {[array.shape for array in arrays]}")
    chosen = _drawn(seed, draws, count)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(*arrays))
        resampled = np.asarray(statistic(*(array[chosen] for array in arrays)), np.float64)
    resampled = resampled[np.isfinite(resampled)]
    if resampled.size == 0:
        return Estimate(value, math.nan, math.nan)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


@lru_cache(maxsize=8)  # a scorecard draws the same for each of its hundreds of figures
def _drawn(seed: int, draws: int, count: int) -> npt.NDArray[np.int64]:
    """[draws, S] which seeds, with replacement."""
    return np.random.default_rng(seed).integers(count, size=(draws, count))


def ratio(numerator: Vector, denominator: Vector) -> Vector:
    """Sum over sum, [..., S] -> [...]: a rate in which a seed weighs by how much happened in it."""
    return np.asarray(numerator.sum(-1) / denominator.sum(-1))


def root_ratio(numerator: Vector, denominator: Vector) -> Vector:
    """Root of sum over sum: of squared errors and counts the RMSE, of two squared errors their ratio."""
    return np.sqrt(ratio(numerator, denominator))


def chi_squared(dim: int, probability: float) -> float:
    """The squared distance, in deviations, within which a normal in `dim` dimensions lies so often."""

    def within(square: float) -> float:  # the regularised gamma function P(dim / 2, square / 2)
        half, shape = square / 2, 1.0 if dim % 2 == 0 else 0.5
        share = 1 - math.exp(-half) if dim % 2 == 0 else math.erf(math.sqrt(half))
        while shape < dim / 2:  # P(a + 1, x) = P(a, x) - x^a e^-x / Gamma(a + 1)
            share -= half**shape * math.exp(-half) / math.gamma(shape + 1)
            shape += 1
        return share

    low, high = 0.0, 1.0
    while within(high) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < probability else (low, middle)
    return high


def mean(values: Vector) -> Vector:
    """The mean over seeds."""
    return np.asarray(values.mean(-1))
