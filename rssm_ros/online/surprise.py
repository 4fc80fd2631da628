"""Surprise above its threshold for several ticks in a row: the model and the robot no longer agree.

One tick above the threshold says little: by calibration a known share of normal ticks is. What the gate and
the monitor act on is a run of them.
"""

import math
from collections.abc import Mapping
from typing import Any

REVIEW_AFTER = 10  # ticks in a row, of a bundle that was not calibrated for another number


def calibrated_after(calibration: Mapping[str, Any]) -> int:
    """As many ticks in a row as a bundle's `calibration` has judged reviews by."""
    return int(calibration.get("report", {}).get("false_alarms", {}).get("after", REVIEW_AFTER))


def surprised_for(count: int, surprise: float, threshold: float) -> int:
    """Ticks in a row above the threshold: `count` before this tick -> the count after it.

    A tick that says nothing changes nothing: nothing was seen (surprise is NaN), or what was seen was never
    calibrated (the threshold is NaN).
    """
    if math.isnan(surprise) or math.isnan(threshold):
        return count
    return count + 1 if surprise > threshold else 0


class Review:
    """Says when a recording of the last seconds is worth a look: once per run of surprised ticks."""

    def __init__(self, after: int = REVIEW_AFTER) -> None:
        self.after, self.count = after, 0

    def tell(self, surprise: float, threshold: float) -> bool:
        """One tick (nats). True at the tick that makes `after` in a row."""
        before, self.count = self.count, surprised_for(self.count, surprise, threshold)
        return before < self.after <= self.count
