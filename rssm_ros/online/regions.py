"""The regions that a target's belief claims: where it is, with a stated probability.

A region is a highest-density set of the N-particle mixture f: all x with log f(x) >= log f_max - c. For one
Gaussian in d dimensions c is half of the chi-squared quantile; here it comes from one calibration map, fitted
on held-out data by `rssm calibrate`:

    c(level, std, ages) = base(level, std) * product over modalities m of gain(level, m, age_m)

std: of the mixture; age_m: ticks since m was seen. Both are known on the robot; nothing privileged enters.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.bundle import Bundle
from rssm_ros.online.belief import NEVER, Belief, Vector
from rssm_ros.online.errors import FilterError

LEVELS = (0.5, 0.9, 0.95)  # probabilities for which a map is fitted
AGES = (1, 2, 4, 8)  # where another class of ages begins; ages below the first are "seen now"


def log_density(mean: npt.ArrayLike, std: npt.ArrayLike, point: npt.ArrayLike) -> Vector:
    """log f of mixtures, in nats: means and stds [..., N, d], a point [..., d] each -> [...]."""
    center, width = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    x = np.asarray(point, np.float64)[..., None, :]  # [..., 1, d]
    exponent = -0.5 * (((x - center) / width) ** 2).sum(-1) - np.log(width).sum(-1)  # [..., N]
    top = exponent.max(-1, keepdims=True)
    density = np.log(np.exp(exponent - top).mean(-1)) + top[..., 0]
    return np.asarray(density - 0.5 * center.shape[-1] * math.log(2 * math.pi))


def depth(mean: npt.ArrayLike, std: npt.ArrayLike, point: npt.ArrayLike) -> Vector:
    """How far below its maximum the density is at a point, in nats; shapes as in `log_density`.

    The maximum is taken over the particles' means, so it is 0 at the densest of them, and grows without bound
    away from all.
    """
    center = np.asarray(mean, np.float64)
    peaks = [log_density(center, std, center[..., i, :]) for i in range(center.shape[-2])]
    return np.asarray(np.max(peaks, axis=0) - log_density(center, std, point))


def spread(mean: npt.ArrayLike, std: npt.ArrayLike) -> Vector:
    """One standard deviation for all axes: the root of the mixture's mean variance, [..., N, d] -> [...]."""
    within, between = np.square(np.asarray(std, np.float64)), np.asarray(mean, np.float64).var(-2)
    return np.asarray(np.sqrt((within.mean(-2) + between).mean(-1)))


def age_class(age: int) -> int:
    """0: seen now; then by AGES; never seen counts as the oldest."""
    return len(AGES) if age == NEVER else bisect_right(AGES, age)


@dataclass(frozen=True)
class RegionMap:
    """The calibration map of one target. L levels, B knots of log std, classes of ages per modality."""

    levels: tuple[float, ...]
    log_std: tuple[float, ...]  # [B], increasing
    base: tuple[tuple[float, ...], ...]  # [L, B] nats
    gain: Mapping[str, tuple[tuple[float, ...], ...]]  # modality -> [L, 1 + len(AGES)]

    def threshold(self, level: float, std: float, ages: Mapping[str, int]) -> float:
        """c: how deep the region reaches, in nats. Raises FilterError for a level without a fit."""
        if level not in self.levels:
            raise FilterError(f"regions of {level} are not calibrated; there are {self.levels}", "level")
        row = self.levels.index(level)
        c = float(np.interp(math.log(max(std, 1e-9)), self.log_std, self.base[row]))
        for name, gains in self.gain.items():
            c *= gains[row][age_class(ages.get(name, NEVER))]
        return c

    def contains(self, level: float, belief: Belief, target: str, point: npt.ArrayLike) -> bool:
        """Whether the region of a belief holds a point [d]. A deterministic belief claims none: never."""
        mean, std = belief.targets[target].mean, belief.targets[target].std
        limit = self.threshold(level, float(spread(mean, std)), belief.age)
        return bool(depth(mean, std, point) <= limit)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for bundle.json."""
        gain = {name: [list(row) for row in rows] for name, rows in self.gain.items()}
        base = [list(row) for row in self.base]
        return {"levels": list(self.levels), "log_std": list(self.log_std), "base": base, "gain": gain}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "RegionMap":
        """The inverse of `to_dict`. Raises FilterError naming what is missing or of the wrong shape."""
        try:
            rows = _rows(data["base"])
            gain = {str(name): _rows(value) for name, value in data["gain"].items()}
            found = RegionMap(tuple(data["levels"]), tuple(data["log_std"]), rows, gain)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FilterError(f"region map: misses or misspells {error}; run `rssm calibrate`") from error
        wanted = [(found.base, len(found.log_std)), *((rows, 1 + len(AGES)) for rows in gain.values())]
        for value, columns in wanted:
            shape = (len(found.levels), columns)
            if np.shape(value) != shape:
                raise FilterError(f"region map: {np.shape(value)} where {shape} is expected; calibrate again")
        return found


def regions_of(bundle: Bundle) -> dict[str, RegionMap]:
    """The maps of a calibrated bundle by target; none where `rssm calibrate` was not run. Raises
    FilterError."""
    return {name: RegionMap.from_dict(data) for name, data in bundle.calibration.get("regions", {}).items()}


def _rows(values: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(item) for item in row) for row in values)
