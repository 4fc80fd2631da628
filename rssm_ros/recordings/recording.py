"""The interface of a recording: messages in log order, the truth beside them, and what was left out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract

APPLIED = "applied"  # the name under which the commands that really took effect come


@dataclass(frozen=True)
class Observation:
    """One decoded message, of one modality or of the applied commands."""

    name: str  # of the contract's observation, or APPLIED
    stamp_ns: int  # header stamp; of a message without one, when it was logged
    received_ns: int  # log time
    # As the filter's `observe` wants it: uint8 [H, W, C] in the camera's own size, or float32 [d]. APPLIED:
    # SI, float64 [A] in the contract's order, NaN for channels that the message says nothing about.
    value: npt.NDArray[Any]
    stamped: bool = True  # False: the message has no header, stamp_ns is log time (the filter counts it)


@dataclass(frozen=True)
class Event:
    """Something that happened to the episode."""

    stamp_ns: int
    received_ns: int
    kind: str  # "reset": a new episode begins with this tick; "terminal": this tick ended one


@dataclass(frozen=True)
class Truth:
    """One quantity's ground truth, sorted by header stamp; nothing in it: the recording has none."""

    stamp_ns: npt.NDArray[np.int64]  # [N]
    value: npt.NDArray[np.float64]  # [N, d] SI; NaN: none
    visibility: npt.NDArray[np.float64]  # [N] 0..1; NaN: unknown

    def __post_init__(self) -> None:
        count = len(self.stamp_ns)
        assert self.value.ndim == 2 and len(self.value) == count, (self.value.shape, count)
        assert self.visibility.shape == (count,), (self.visibility.shape, count)
        assert bool((np.diff(self.stamp_ns) > 0).all()), "stamps of a truth must increase"

    @staticmethod
    def none(dim: int) -> "Truth":
        """No truth about a quantity of `dim` values."""
        return Truth(np.empty(0, np.int64), np.empty((0, dim)), np.empty(0))


class Recording(Protocol):
    """Something recorded on a robot (or a simulated one) that a contract describes."""

    @property
    def contract(self) -> Contract:
        """What the names mean."""

    @property
    def truth(self) -> Mapping[str, Truth]:
        """Target name -> its truth, for every target of the contract."""

    @property
    def reward(self) -> Truth:
        """Rewards as they were recorded, [N, 1]; `Truth.none(1)` where there are none."""

    @property
    def events(self) -> Sequence[Event]:
        """What happened to the episode, sorted by stamp."""

    @property
    def counts(self) -> Counter[str]:
        """What was left out so far, by cause: `skipped/<topic>/<cause>`. Complete after `observations()` is
        exhausted.
        """

    @property
    def start_ns(self) -> int:
        """Log time of the first message."""

    @property
    def end_ns(self) -> int:
        """Log time of the last message."""

    def observations(self) -> Iterator[Observation]:
        """Every message that could be decoded, in log order; each call starts anew. Streams: memory does not
        grow with the recording's length.
        """
