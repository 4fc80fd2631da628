"""The filter node's traces: each belief as it was published, and as it became final."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from rssm_ros.contract import Contract
from rssm_ros.evaluation.runs.trace import TraceWriter, belief_dtype
from rssm_ros.online.belief import Belief

DESTINATION = "destination"  # the target that the film marks beside the first one
ONLINE, FINAL = "filter.trace", "final.trace"


def final_dtype(contract: Contract) -> np.dtype[np.void]:
    """One final belief: known when nothing can change it any more, `history` after its tick."""
    fields: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = [
        ("stamp_ns", "<i8"),
        ("digest", "u1", (32,)),
        ("surprise", "<f8"),
        ("lost", "<i1"),
        ("first", "<i1"),
    ]
    for target in contract.targets:
        fields += [
            (f"mean_{target.name}", "<f8", (target.dim,)),
            (f"covariance_{target.name}", "<f8", (target.dim, target.dim)),
        ]
    return np.dtype(fields)


class FilterTrace:
    """Writes both traces into a folder."""

    def __init__(self, folder: str, contract: Contract) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._first = contract.targets[0].name if contract.targets else ""
        goal = next((target for target in contract.targets if target.name == DESTINATION), None)
        self._goal = goal.name if goal else ""
        self._online = None
        if self._first:
            dtype = belief_dtype(contract.targets[0].dim, goal.dim if goal else 0)
            self._online = TraceWriter(Path(folder) / ONLINE, dtype)
        self._final = TraceWriter(Path(folder) / FINAL, final_dtype(contract))

    def online(self, belief: Belief) -> None:
        """As it was published."""
        if self._online is None:
            return
        decoded = belief.targets[self._first]
        self._online.write(
            stamp_ns=belief.stamp_ns,
            monotonic_ns=time.monotonic_ns(),
            mean=decoded.point(),
            covariance=decoded.covariance(),
            surprise=belief.surprise,
            lost=belief.lost,
            **({self._goal: belief.targets[self._goal].point()} if self._goal else {}),
        )

    def final(self, belief: Belief) -> None:
        """As it will stay."""
        decoded: dict[str, Any] = {}
        for name, target in belief.targets.items():
            decoded |= {f"mean_{name}": target.point(), f"covariance_{name}": target.covariance()}
        self._final.write(
            stamp_ns=belief.stamp_ns,
            digest=np.frombuffer(belief.digest(), np.uint8),
            surprise=belief.surprise,
            lost=belief.lost,
            first=belief.first,
            **decoded,
        )
