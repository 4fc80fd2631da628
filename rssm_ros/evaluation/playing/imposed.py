"""Imposed occlusion: the pictures of any recording covered on a schedule, so that it can be scored.

`KIND:SHORTEST-LONGEST@SHARE`, several with `+`: `blackout:4-8@0.1` makes spells of 4 to 8 ticks black, about
a tenth of all ticks. Kinds: `blackout` (a black picture), `drop` (no picture at all), `patch` (a grey
rectangle at a random place; `patch:4-8@0.1:0.5` covers half of the picture, the default). What is covered
depends on seed and tick alone.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.online.grid import tick_of
from rssm_ros.recordings import Event, Observation, Recording, Truth

Array = npt.NDArray[Any]
BLACKOUT, DROP, PATCH = "blackout", "drop", "patch"
KINDS = (BLACKOUT, DROP, PATCH)
GREY = 96  # of a patch
LEAD = 20  # ticks at a recording's start that stay as they were: something has to be seen first
MOST_SHARE = 0.9
SLACK = 20  # ticks beyond the window for which uncovered pictures are kept
_FORM = re.compile(r"(\w+):(\d+)(?:-(\d+))?@([0-9.]+)(?::([0-9.]+))?")


@dataclass(frozen=True)
class Imposition:
    """One kind of spell. They come after open ones of random length; `share` of the ticks is covered."""

    kind: str
    shortest: int  # ticks
    longest: int
    share: float  # of all ticks
    size: float = 1.0  # of the picture that is covered

    def __str__(self) -> str:
        size = f":{self.size:g}" if self.kind == PATCH else ""
        return f"{self.kind}:{self.shortest}-{self.longest}@{self.share:g}{size}"


def parse_imposed(text: str) -> tuple[Imposition, ...]:
    """`blackout:4-8@0.1+patch:10@0.2:0.3`. Raises EvaluationError that says what was expected."""
    found = tuple(_parse_one(part) for part in text.split("+"))
    if sum(item.share for item in found) > MOST_SHARE:
        raise EvaluationError(f"--impose {text!r}: at most {MOST_SHARE:g} of the ticks can be covered")
    return found


def _parse_one(part: str) -> Imposition:
    match = _FORM.fullmatch(part.strip())
    usage = "expected KIND:SHORTEST-LONGEST@SHARE such as blackout:4-8@0.1"
    if match is None:
        raise EvaluationError(f"--impose {part!r}: {usage}")
    kind, low, high, share, size = match.groups()
    if kind not in KINDS:
        raise EvaluationError(f"--impose {part!r}: {kind!r} is none of {', '.join(KINDS)}; {usage}")
    if size is not None and kind != PATCH:
        raise EvaluationError(f"--impose {part!r}: only a patch has a size; {usage}")
    shortest, longest = int(low), int(high or low)
    try:
        share, size = float(share), float(size or (0.5 if kind == PATCH else 1.0))
    except ValueError as error:
        raise EvaluationError(f"--impose {part!r}: {error}; {usage}") from error
    if not 1 <= shortest <= longest or not 0 < share <= MOST_SHARE or not 0 < size <= 1:
        raise EvaluationError(
            f"--impose {part!r}: ticks from 1 up, a share up to {MOST_SHARE:g}, a size up to 1; {usage}"
        )
    return Imposition(kind, shortest, longest, share, size)


@dataclass(frozen=True)
class Cover:
    """What hides the pictures of one tick."""

    kind: str
    top: float  # shares of height and width
    left: float
    height: float
    width: float

    @property
    def share(self) -> float:
        """Of the picture that is covered."""
        return 1.0 if self.kind != PATCH else self.height * self.width


class Schedule:
    """Which ticks are covered, and how; a function of seed and tick (counted from the recording's first)."""

    def __init__(self, imposed: Sequence[Imposition], seed: int) -> None:
        self._imposed, self._rng = tuple(imposed), np.random.default_rng([seed, 41])
        self._covers: list[Cover | None] = [None] * LEAD
        shares = np.array([item.share for item in self._imposed])
        mean = np.array([(item.shortest + item.longest) / 2 for item in self._imposed])
        self._total = float(shares.sum())
        self._weights = (shares / mean) / (shares / mean).sum()  # spells of each kind
        self._length = float((self._weights * mean).sum())

    def __call__(self, tick: int) -> Cover | None:
        """The cover of a tick >= 0, or None."""
        while tick >= len(self._covers):
            self._extend()
        return self._covers[tick] if tick >= 0 else None

    def _extend(self) -> None:
        open_ticks = self._length * (1.0 - self._total) / self._total
        self._covers += [None] * int(self._rng.geometric(1.0 / max(open_ticks, 1.0)))
        item = self._imposed[int(self._rng.choice(len(self._imposed), p=self._weights))]
        length = int(self._rng.integers(item.shortest, item.longest + 1))
        height = width = float(np.sqrt(item.size))
        if item.kind == PATCH:
            height = float(self._rng.uniform(item.size, 1.0))
            width = item.size / height
        top, left = self._rng.uniform(0.0, 1.0 - height), self._rng.uniform(0.0, 1.0 - width)
        self._covers += [Cover(item.kind, float(top), float(left), height, width)] * length


def covered(image: Array, cover: Cover) -> Array:
    """A picture [H, W, C] or [H, W] as it looks behind its cover; a copy."""
    if cover.kind == BLACKOUT:
        return np.zeros_like(image)
    h, w = image.shape[:2]
    rows = slice(round(cover.top * h), max(round((cover.top + cover.height) * h), round(cover.top * h) + 1))
    left = round(cover.left * w)
    patched = image.copy()
    patched[rows, left : max(round((cover.left + cover.width) * w), left + 1)] = GREY
    return patched


class ImposedRecording:
    """A recording whose pictures are covered on a schedule; everything else comes as it was."""

    def __init__(self, recording: Recording, imposed: Sequence[Imposition], seed: int) -> None:
        self.recording, self._imposed, self._seed = recording, tuple(imposed), seed
        self._images = {spec.name for spec in recording.contract.observations if spec.kind == "image"}
        if not self._images:
            raise EvaluationError("--impose needs a camera in the contract; there is none to cover")
        self._begin = tick_of(recording.start_ns, recording.contract.rate)
        self._schedule = Schedule(self._imposed, seed)
        self._uncovered: dict[int, dict[str, Array]] = {}

    def cover(self, tick: int) -> Cover | None:
        """What hides the pictures of a tick of the grid."""
        return self._schedule(tick - self._begin)

    def uncovered(self, tick: int) -> Mapping[str, Array]:
        """The pictures behind the cover of a tick, of those that came within the filter's window."""
        return self._uncovered.get(tick, {})

    def _keep(self, tick: int, name: str, image: Array) -> None:
        self._uncovered.setdefault(tick, {})[name] = image
        oldest = tick - 2 * self.contract.history_ticks - SLACK
        for old in [old for old in self._uncovered if old < oldest]:
            del self._uncovered[old]

    @property
    def contract(self) -> Contract:
        """Of the recording."""
        return self.recording.contract

    @property
    def truth(self) -> Mapping[str, Truth]:
        """Of the recording."""
        return self.recording.truth

    @property
    def reward(self) -> Truth:
        """Of the recording."""
        return self.recording.reward

    @property
    def events(self) -> Sequence[Event]:
        """Of the recording."""
        return self.recording.events

    @property
    def counts(self) -> Counter[str]:
        """Of the recording."""
        return self.recording.counts

    @property
    def start_ns(self) -> int:
        """Of the recording."""
        return self.recording.start_ns

    @property
    def end_ns(self) -> int:
        """Of the recording."""
        return self.recording.end_ns

    def observations(self) -> Iterator[Observation]:
        """In log order, covered ones covered; of kind `drop`, left out."""
        for item in self.recording.observations():
            if item.name not in self._images:
                yield item
                continue
            tick = tick_of(item.stamp_ns, self.contract.rate)
            cover = self.cover(tick)
            if cover is None:
                yield item
                continue
            self._keep(tick, item.name, item.value)
            if cover.kind != DROP:
                yield replace(item, value=covered(item.value, cover))
