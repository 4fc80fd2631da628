"""Every benchmark by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rssm_ros.evaluation.bench import peaks, rollouts, ticks, training
from rssm_ros.evaluation.bench.rows import Row
from rssm_ros.evaluation.bench.setting import Bench

SUITE: dict[str, Callable[[Bench], list[Row]]] = {
    "peaks": lambda bench: peaks.rows(bench.peaks, bench.about),
    "filter": ticks.rows,
    "rollout": rollouts.rows,
    "train": training.rows,
}


def measure_all(
    bench: Bench, names: Sequence[str], told: Callable[[str], None] = lambda _: None
) -> dict[str, list[Row]]:
    """The rows of each benchmark named, in order; `told` hears which one is running."""
    found = {}
    for name in names:
        told(name)
        found[name] = SUITE[name](bench)
    return found
