"""How often the model and the robot did not agree, and where that was to be looked at."""

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.bundle import Bundle
from rssm_ros.evaluation.scoring.scorecard import Surprise
from rssm_ros.evaluation.ticks import Ticks
from rssm_ros.online.surprise import Review, calibrated_after, surprised_for

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def surprise_of(ticks: Ticks, bundle: Bundle) -> tuple[Surprise, Floats, Array]:
    """The surprise, each tick's threshold [T], and where review events begin [T]."""
    thresholds = bundle.thresholds.get("surprise", {})
    after = calibrated_after(bundle.calibration)
    limits = np.array([thresholds.get(str(name), math.nan) for name in ticks.pattern], np.float64)
    begins, events = np.zeros(len(ticks), bool), []
    watch, streak, episode = Review(after), 0, -1
    rows = zip(ticks.episode.tolist(), ticks.surprise.tolist(), limits.tolist(), strict=True)
    for row, (of, value, limit) in enumerate(rows):
        if of != episode:
            watch, streak, episode = Review(after), 0, of
        streak = surprised_for(streak, value, limit)
        if watch.tell(value, limit):
            begins[row] = True
            where = {"episode": episode, "t_ns": int(ticks.t_ns[row])}
            events.append({**where, "value": value, "threshold": limit, "ticks": streak})
        elif events and streak > after and events[-1]["episode"] == episode:
            events[-1]["ticks"] = streak
    seen = ticks.surprise[np.isfinite(ticks.surprise)]
    p50, p99 = np.percentile(seen, [50, 99]).tolist() if len(seen) else (None, None)
    common = Counter(name for name in ticks.pattern.tolist() if name).most_common(1)
    threshold = thresholds.get(common[0][0]) if common else None
    return Surprise(p50, p99, threshold, dict(thresholds), len(events), tuple(events)), limits, begins
