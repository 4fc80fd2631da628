"""What was accepted and can still matter: observations by tick, applied actions by stamp.

Both are sets, not queues: what they answer depends on what was put in, never on the order.
"""

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from rssm_ros.online.belief import Floats
from rssm_ros.online.grid import stamp_of
from rssm_ros.online.limits import Vector
from rssm_ros.online.preprocess import all_finite
from rssm_ros.online.steps import Array

ACCEPTED, SUPERSEDED, DUPLICATE, CONFLICT = "accepted", "superseded", "duplicate", "conflict"


def digest_of(array: Array) -> bytes:
    """SHA-256 of an array's bytes: what decides between two messages that claim the same stamp."""
    return hashlib.sha256(array.tobytes()).digest()


@dataclass
class Seen:
    """One accepted observation; its tokens are computed once, when a step first needs them."""

    stamp_ns: int
    digest: bytes
    value: Array
    tokens: Floats | None = None


class ObservationRing:
    """Per tick and modality the one observation that counts."""

    def __init__(self, rate: Fraction) -> None:
        self._rate = rate
        self._ticks: dict[int, dict[str, Seen]] = {}
        # (modality, stamp) -> digest of every message heard for a tick, also of those that do not count.
        self._heard: dict[int, dict[tuple[str, int], set[bytes]]] = {}

    def add(self, tick: int, name: str, stamp_ns: int, value: Array) -> tuple[str, bool]:
        """The nearest to t_k wins, ties go to the earlier stamp, then to the lower digest.

        Returns the verdict and whether the tick has changed: ACCEPTED, SUPERSEDED (a better one is there),
        DUPLICATE (heard before), or CONFLICT (same stamp, other content).
        """
        new = Seen(stamp_ns, digest_of(value), value)
        digests = self._heard.setdefault(tick, {}).setdefault((name, stamp_ns), set())
        if new.digest in digests:
            return DUPLICATE, False
        conflict = bool(digests)
        digests.add(new.digest)
        slot, middle = self._ticks.setdefault(tick, {}), stamp_of(tick, self._rate)
        old = slot.get(name)
        counts = old is None or self._rank(new, middle) < self._rank(old, middle)
        if counts:
            slot[name] = new
        return (CONFLICT if conflict else ACCEPTED if counts else SUPERSEDED), counts

    @staticmethod
    def _rank(seen: Seen, middle: int) -> tuple[int, int, bytes]:
        return abs(seen.stamp_ns - middle), seen.stamp_ns, seen.digest

    def at(self, tick: int) -> dict[str, Seen]:
        """What was seen at a tick."""
        return self._ticks.get(tick, {})

    def first_from(self, tick: int) -> int | None:
        """The first tick from `tick` on at which anything was seen."""
        return min((k for k in self._ticks if k >= tick), default=None)

    def forget(self, tick: int) -> None:
        """Drops `tick` and all before."""
        for old in [k for k in self._heard if k <= tick]:
            del self._heard[old]
            self._ticks.pop(old, None)

    def items(self) -> Iterator[tuple[int, str, Seen]]:
        """(tick, modality, observation), in order."""
        for tick in sorted(self._ticks):
            for name in sorted(self._ticks[tick]):
                yield tick, name, self._ticks[tick][name]

    def heard(self) -> list[tuple[int, str, int, str]]:
        """(tick, modality, stamp, digest in hexadecimal) of every message in the window, in order."""
        return sorted(
            (tick, name, stamp, digest.hex())
            for tick, messages in self._heard.items()
            for (name, stamp), digests in messages.items()
            for digest in digests
        )

    def restore_heard(self, heard: Iterable[tuple[int, str, int, str]]) -> None:
        """The inverse of `heard`; to be called after the observations themselves were added."""
        for tick, name, stamp_ns, digest in heard:
            messages = self._heard.setdefault(tick, {})
            messages.setdefault((name, stamp_ns), set()).add(bytes.fromhex(digest))


@dataclass(frozen=True)
class Applied:
    """One applied command; NaN where it does not speak of a channel."""

    stamp_ns: int
    digest: bytes
    si: Vector  # [A]


class AppliedLog:
    """Applied commands, and per channel the last one at or before any stamp."""

    def __init__(self, safe: Vector) -> None:
        self._safe = safe
        self._held = np.full_like(safe, np.nan)  # the last of what was forgotten
        self._stamps: list[int] = []  # sorted
        self._log: dict[int, Applied] = {}
        self._merged: list[Vector] = []  # per stamp the last of each channel; valid as far as it reaches
        self.restarts: list[int] = []  # sorted stamps of new episodes

    def add(self, stamp_ns: int, si: Vector) -> str:
        """-> ACCEPTED, DUPLICATE, or CONFLICT (same stamp, other content; the lower digest counts)."""
        new = Applied(stamp_ns, digest_of(si), si)
        old = self._log.get(stamp_ns)
        if old is None:
            insort(self._stamps, stamp_ns)
        elif old.digest == new.digest:
            return DUPLICATE
        if old is None or new.digest < old.digest:
            self._log[stamp_ns] = new
            del self._merged[bisect_left(self._stamps, stamp_ns) :]
        return ACCEPTED if old is None else CONFLICT

    def restart(self, stamp_ns: int) -> str:
        """An episode begins: what was applied before this stamp no longer holds. -> ACCEPTED or DUPLICATE."""
        if stamp_ns in self.restarts:
            return DUPLICATE
        insort(self.restarts, stamp_ns)
        del self._merged[bisect_left(self._stamps, stamp_ns) :]
        return ACCEPTED

    def _restarted(self, after_ns: int | None, until_ns: int) -> bool:
        """Whether an episode began in (after, until]: a command of the very stamp is the new episode's."""
        count = bisect_right(self.restarts, until_ns)
        return count > 0 and (after_ns is None or self.restarts[count - 1] > after_ns)

    def at(self, stamp_ns: int) -> tuple[Vector, bool]:
        """The command in force at a stamp, [A], and whether all of it was really applied (else `safe` fills
        in)."""
        value = self._last(stamp_ns)
        if all_finite(value):
            return value, True
        return np.where(np.isfinite(value), value, self._safe), False

    def _last(self, stamp_ns: int) -> Vector:
        """[A], NaN for channels of which nothing was heard."""
        count = bisect_right(self._stamps, stamp_ns)
        while (index := len(self._merged)) < count:
            before, stamp = self._merged[-1] if index else self._held, self._stamps[index]
            if self._restarted(self._stamps[index - 1] if index else None, stamp):
                before = np.full_like(self._safe, np.nan)
            si = self._log[stamp].si
            self._merged.append(si if all_finite(si) else np.where(np.isfinite(si), si, before))
        if self._restarted(self._stamps[count - 1] if count else None, stamp_ns):
            return np.full_like(self._safe, np.nan)
        return self._merged[count - 1] if count else self._held

    def forget(self, stamp_ns: int) -> None:
        """Folds what was applied at or before a stamp into the held command."""
        self._held = self._last(stamp_ns)
        count = bisect_right(self._stamps, stamp_ns)
        for stamp in self._stamps[:count]:
            del self._log[stamp]
        del self._stamps[:count], self._merged[:count]
        del self.restarts[: bisect_right(self.restarts, stamp_ns)]

    def snapshot(self) -> tuple[Vector, list[Applied]]:
        """The held command and the log, in order of stamps."""
        return self._held.copy(), [self._log[stamp] for stamp in self._stamps]

    def restore(self, held: Vector, log: list[tuple[int, Vector]], restarts: Iterable[int] = ()) -> None:
        """The inverse of `snapshot` (and `restarts`)."""
        self._held, self._stamps, self._log, self._merged = held, [], {}, []
        self.restarts = sorted(restarts)
        for stamp_ns, si in log:
            self.add(stamp_ns, si)
