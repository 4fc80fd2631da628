"""What time it is in a recording whose log and header clocks differ.

Live, `now` is ROS time; in a recording it is the log time. Where the two clocks have nothing to do with each
other (another machine logged, a clock was set, the log was rewritten), stamps must be judged by the clock
that made them: `now` is then the running maximum of the headers, and one wild stamp must not move it.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rssm_ros.online.grid import SECOND

APART_NS = SECOND // 2  # between log and header time, beyond any latency
JUMP_NS = SECOND  # a step of the headers, forth or back, that needs to be confirmed
CONFIRMATIONS = 3  # successors that must agree


def clocks_differ(logged_ns: Sequence[int], header_ns: Sequence[int]) -> bool:
    """Whether headers follow another clock than the log: apart in most messages, not in some late ones.

    Both: one entry per message. Stamps of zero (unset) do not count; of none, the clocks agree.
    """
    apart = [abs(log - header) for log, header in zip(logged_ns, header_ns, strict=True) if header > 0]
    return bool(apart) and float(np.median(apart)) > APART_NS


class HeaderClock:
    """`now` as the running maximum of header stamps, in ns.

    A stamp more than `JUMP_NS` ahead of now, or behind it, does not count until the next three stay within
    `JUMP_NS` of one another, where it led: then time has really jumped, forth or back. A stamp that nobody
    followed is counted `outlier`, a confirmed one `jump`, stamp 0 `unset`.
    """

    def __init__(self) -> None:
        self.now_ns: int | None = None
        self.counters: Counter[str] = Counter()
        self._strange: list[int] = []  # stamps of a jump that is not confirmed yet

    def tell(self, stamp_ns: int) -> int | None:
        """One message's header stamp, in the order of the log; returns now (None before the first)."""
        if stamp_ns <= 0:
            self.counters["unset"] += 1
        elif self.now_ns is None or abs(stamp_ns - self.now_ns) <= JUMP_NS:
            self._drop()
            self.now_ns = max(stamp_ns, self.now_ns or 0)
        else:
            if self._strange and abs(stamp_ns - self._strange[-1]) > JUMP_NS:
                self._drop()
            self._strange.append(stamp_ns)
            if len(self._strange) > CONFIRMATIONS:
                self.now_ns, self._strange = max(self._strange), []
                self.counters["jump"] += 1
        return self.now_ns

    def _drop(self) -> None:
        if self._strange:
            self.counters["outlier"] += len(self._strange)
            self._strange = []
