"""Which ticks of the fault table's episodes count, and what their errors add up to."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN, VISIBLE
from rssm_ros.evaluation.faults.runs import Episode
from rssm_ros.evaluation.faults.scenarios import JUDGED_MS
from rssm_ros.evaluation.scoring.measures import identities
from rssm_ros.evaluation.statistics import estimate, root_ratio
from rssm_ros.online.grid import SECOND, stamp_of, tick_of

Array = npt.NDArray[Any]
ONSET_S = 5  # s into an episode
BOUNDS = {"visible": 1.25, "hidden": 1.10}  # x the error without a delay


@dataclass(frozen=True)
class Masks:
    """Which of an episode's T ticks count for a target."""

    visible: Array  # [T]
    hidden: Array  # [T]
    new: Array  # [T] nothing of this object could have come yet, were everything `JUDGED_MS` late

    @staticmethod
    def of(episode: Episode, target: str) -> "Masks":
        """Of the ticks after the onset that have a label."""
        truth, visibility = episode.truth[target], episode.visibility[target]
        counts = np.isfinite(truth).all(-1) & (np.arange(episode.ticks) >= onset_row(episode))
        return Masks(counts & (visibility >= VISIBLE), counts & (visibility <= HIDDEN), _new(episode))

    def groups(self) -> dict[str, Array]:
        """{group: [T]}."""
        return {"visible": self.visible, "hidden": self.hidden}


def _new(episode: Episode) -> Array:
    """[T] ticks of which the object was first seen less than `JUDGED_MS` ago, or never."""
    steps = judged_ticks(episode)
    new = np.zeros(episode.ticks, bool)
    for target, truth in episode.truth.items():
        number = identities(truth, np.zeros(episode.ticks, np.int64))
        for each in np.unique(number[number >= 0]):
            rows = np.flatnonzero(number == each)
            seen = np.flatnonzero(episode.visibility[target][rows] > HIDDEN)
            first = rows[seen[0]] if len(seen) else episode.ticks
            new[rows[rows < first + steps]] = True
    return new


def judged_ticks(episode: Episode) -> int:
    """The judged delay in ticks."""
    return tick_of(JUDGED_MS * SECOND // 1000, episode.contract.rate)


def onset_row(episode: Episode) -> int:
    """The row at which faults begin."""
    return tick_of(ONSET_S * SECOND, episode.contract.rate)


def onset_ns(episode: Episode) -> int:
    """When faults begin."""
    return stamp_of(episode.begin + onset_row(episode), episode.contract.rate)


@dataclass(frozen=True)
class Sums:
    """Squared errors of one method in one group of ticks, per episode."""

    squares: Array  # [E]
    ticks: Array  # [E]

    def error(self) -> dict[str, Any]:
        """The root mean square with its interval over episodes."""
        return estimate(root_ratio, self.squares, self.ticks).to_dict()

    def ratio(self, other: "Sums") -> dict[str, Any]:
        """This error by another one on the same ticks of the same episodes."""
        return estimate(root_ratio, self.squares, other.squares).to_dict()
