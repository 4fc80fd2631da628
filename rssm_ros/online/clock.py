"""What time it is in a recording whose log and header clocks differ.

Live, `now` is ROS time; in a recording it is the log time. Where the two clocks have nothing to do with each
other (another machine logged, a clock was set, the log was rewritten), stamps must be judged by the clock
that made them: `now` is then the running maximum of the headers, and one wild stamp must not move it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from rssm_ros.online.grid import SECOND

APART_NS = SECOND // 2  # between log and header time, beyond any latency
JUMP_NS = SECOND  # a step of the headers, forth or back, that is not believed at once
CONFIRMATIONS = 3  # successors that must agree with a step forth
RESTART_NS = 10 * SECOND  # of headers in a row, all far behind now, before the clock counts as set back
SAMPLE = 1000  # messages that decide which clock a recording is read by


def clocks_differ(logged_ns: Sequence[int], header_ns: Sequence[int]) -> bool:
    """Whether headers follow another clock than the log: apart in most messages, not in some late ones.

    Both: one entry per message. Stamps of zero (unset) do not count; of none, the clocks agree.
    """
    apart = [abs(log - header) for log, header in zip(logged_ns, header_ns, strict=True) if header > 0]
    return bool(apart) and float(np.median(apart)) > APART_NS


class HeaderClock:
    """`now` as the running maximum of header stamps, in ns.

    Forth: a stamp more than `JUMP_NS` ahead of now does not count until the next three stay within `JUMP_NS`
    of one another, where it led. So it is with the very first: there is no now before a stamp and its next
    three agree. What nobody followed is counted `outlier`, a confirmed step `jump`.

    Back: late data are no news about the time, so `now` stays, and what is more than `JUMP_NS` behind is
    counted `late`. Only where nothing but such stamps comes, in steps of at most `JUMP_NS`, and they have
    gone on for `RESTART_NS`, was the clock set back (a recording that plays again): counted `restart`. A
    burst of late data ends at now, so an outage of up to `RESTART_NS` never looks like that; a clock that was
    set back by less is waited for. Stamp 0 is counted `unset`.
    """

    def __init__(self) -> None:
        self.now_ns: int | None = None
        self.counters: Counter[str] = Counter()
        self._ahead: list[int] = []  # stamps of a step forth that is not confirmed yet
        self._behind: tuple[int, int] | None = None  # first and newest stamp of what may be a restart

    def tell(self, stamp_ns: int) -> int | None:
        """One message's header stamp, in the order of the log; returns now (None before the first)."""
        if stamp_ns <= 0:
            self.counters["unset"] += 1
        elif self.now_ns is None or stamp_ns > self.now_ns + JUMP_NS:
            self._tell_ahead(stamp_ns)
        else:
            self._drop()
            if stamp_ns < self.now_ns - JUMP_NS:
                self._tell_behind(stamp_ns)
            else:
                self.now_ns, self._behind = max(stamp_ns, self.now_ns), None
        return self.now_ns

    def _tell_ahead(self, stamp_ns: int) -> None:
        if self._ahead and abs(stamp_ns - self._ahead[-1]) > JUMP_NS:
            self._drop()
        self._ahead.append(stamp_ns)
        if len(self._ahead) > CONFIRMATIONS:
            if self.now_ns is not None:
                self.counters["jump"] += 1
            self.now_ns, self._ahead, self._behind = max(self._ahead), [], None

    def _tell_behind(self, stamp_ns: int) -> None:
        self.counters["late"] += 1
        first, newest = self._behind or (stamp_ns, stamp_ns)
        if abs(stamp_ns - newest) > JUMP_NS:
            first = newest = stamp_ns
        newest = max(stamp_ns, newest)
        self._behind = (first, newest)
        if newest - first >= RESTART_NS:
            self.counters["restart"] += 1
            self.now_ns, self._behind = newest, None

    def _drop(self) -> None:
        if self._ahead:
            self.counters["outlier"] += len(self._ahead)
            self._ahead = []


class RecordingClock:
    """`now` for each message of a recording, in the order of the log.

    The running maximum of log time; or, where the headers follow another clock, `HeaderClock`. Live replay
    and offline evaluation both ask this class, so that they accept the same messages.
    """

    def __init__(self, by_headers: bool, offset_ns: int = 0) -> None:
        self.by_headers = by_headers
        # Added to the log time of a message without a header, it is a stamp of the headers' clock.
        self.offset_ns = offset_ns if by_headers else 0
        self.now_ns: int | None = None
        self._headers = HeaderClock()

    @classmethod
    def of(cls, times: Iterable[tuple[int, int]]) -> "RecordingClock":
        """The clock of a recording whose observations have these (log, header) times; looks at the first
        `SAMPLE` of them only.
        """
        first = list(islice(times, SAMPLE))
        apart = [header - log for log, header in first if header > 0]
        offset_ns = int(np.median(apart)) if apart else 0
        return cls(clocks_differ([log for log, _ in first], [header for _, header in first]), offset_ns)

    @property
    def counters(self) -> Counter[str]:
        """What was odd about the headers: `unset`, `late`, `outlier`, `jump`, `restart`."""
        return self._headers.counters

    def tell(self, logged_ns: int, header_ns: int | None) -> int | None:
        """One message; returns now, None while it is not known.

        header_ns: None for a message without one, which says nothing about another clock than the log's.
        """
        if not self.by_headers:
            self.now_ns = logged_ns if self.now_ns is None else max(logged_ns, self.now_ns)
        elif header_ns is not None:
            self.now_ns = self._headers.tell(header_ns)
        return self.now_ns
