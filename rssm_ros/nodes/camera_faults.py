"""What may go wrong with a camera, on purpose: pictures withheld, late, or the old one again."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pictures = Mapping[str, npt.NDArray[np.uint8]]  # by observation


@dataclass(frozen=True)
class Faults:
    """How bad it is."""

    drop: float = 0.0  # share of pictures withheld
    freeze: float = (
        0.0  # share of pictures in whose place the one before comes again, as from a driver that hangs
    )
    delay_ns: int = 0  # how late pictures come, to whole ticks


class FaultyCamera:
    """Decides per tick which pictures go out, under which stamps."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._waiting: deque[tuple[int, Pictures]] = deque()
        self._shown: Pictures | None = None

    def through(self, stamp_ns: int, pictures: Pictures, faults: Faults) -> list[tuple[int, Pictures]]:
        """The pictures of a tick -> (stamp, pictures) that go out now, oldest first."""
        dropped, frozen = self._random.random(2) < (faults.drop, faults.freeze)
        if not (frozen and self._shown is not None):
            self._shown = {name: picture.copy() for name, picture in pictures.items()}
        if not dropped:
            self._waiting.append((stamp_ns, self._shown))
        due: list[tuple[int, Pictures]] = []
        while self._waiting and self._waiting[0][0] + faults.delay_ns <= stamp_ns:
            due.append(self._waiting.popleft())
        return due

    def forget(self) -> None:
        """A new episode: nothing of the old one comes any more."""
        self._waiting.clear()
        self._shown = None
