"""Which messages are worth keeping, and when: the last seconds in memory, and a snapshot of them on request.

Times called `now_ns` are ns of ROS time, which may stand still or begin anew; `steady` is seconds of a clock
that does neither. Both are given by the caller. Nothing here touches a disk.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rssm_ros.online.grid import SECOND

OVERHEAD = 200  # bytes that a kept message costs beside its own
BACK_NS = SECOND  # a clock that goes back further has begun anew; by less it was put right
STILL = 5.0  # steady s after which ROS time is said to stand still
SURPRISE, HAND = "surprise", "hand"  # why a snapshot is taken
CAUSES = (SURPRISE, HAND)
TAKING, TOO_SOON = "taking", "too_soon"  # why none is
OVER, STOPPED = "over", "stopped"  # why one that was asked for is taken now


@dataclass(frozen=True, slots=True)
class Message:
    """One serialised message as it was received."""

    topic: str
    log_ns: int  # ROS time at which it came
    data: bytes

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return len(self.data) + OVERHEAD


class RecentMessages:
    """The messages of the last `seconds`, but no more than fit into `most_bytes`: the oldest go first.

    `dropped` counts those that went for lack of room alone; `short_ns` is the log time of the last of them.
    """

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._span_ns, self._most = round(seconds * SECOND), most_bytes
        self._messages: deque[Message] = deque()
        self.bytes = self.dropped = self.short_ns = self._newest = 0

    def __len__(self) -> int:
        return len(self._messages)

    def of_another_run(self, log_ns: int) -> bool:
        """Whether a message of this time would belong to a clock that has begun anew."""
        return log_ns < self._newest - BACK_NS

    def add(self, message: Message) -> None:
        """Keeps it; first forgets everything if the clock has begun anew."""
        if self.of_another_run(message.log_ns):
            self.clear()
        self._newest = max(self._newest, message.log_ns)
        self._messages.append(message)
        self.bytes += message.cost
        while self._messages and self._messages[0].log_ns < self._newest - self._span_ns:
            self._drop_first()
        while self.bytes > self._most:
            self.short_ns = max(self.short_ns, self._drop_first().log_ns)
            self.dropped += 1

    def _drop_first(self) -> Message:
        first = self._messages.popleft()
        self.bytes -= first.cost
        return first

    def clear(self) -> None:
        """Forgets all messages; what was counted stays."""
        self._messages.clear()
        self.bytes = self.short_ns = self._newest = 0

    def between(self, begin_ns: int, end_ns: int) -> tuple[Message, ...]:
        """What came in [begin, end], in the order in which it came."""
        return tuple(message for message in self._messages if begin_ns <= message.log_ns <= end_ns)


@dataclass(frozen=True)
class Surprise:
    """What one belief said of itself."""

    stamp_ns: int
    nats: float  # NaN: nothing was seen
    threshold: float  # nats, for what was seen; NaN: not calibrated


@dataclass(frozen=True)
class Asked:
    """A snapshot that was asked for."""

    cause: str  # one of CAUSES
    now_ns: int  # when
    wall_s: float  # the same by the wall clock, s since 1970
    surprise: Surprise  # of the belief that stood then; its stamp is 0 where there was none yet
    streak: int  # ticks in a row above the threshold


class Snapshots:
    """When a snapshot is taken: `after` seconds after it was asked for, and none for `pause` seconds then.

    One at a time: what is asked for meanwhile is refused, and the caller counts it.
    """

    def __init__(self, before: float, after: float, pause: float) -> None:
        """before, after: s of ROS time around the moment of asking. pause: steady s from one request that was
        heard to the next.
        """
        self._before_ns, self._after_ns = round(before * SECOND), round(after * SECOND)
        self._pause, self._asked_at = pause, -math.inf
        self._seen_ns, self._moved_at = 0, -math.inf  # ROS time last seen, and since when it is that
        self.pending: Asked | None = None

    def ask(self, asked: Asked, steady: float) -> str:
        """Takes a request; returns why not, or nothing."""
        if self.pending is not None:
            return TAKING
        if self.wait(steady) > 0:
            return TOO_SOON
        self.pending, self._asked_at = asked, steady
        self._seen_ns, self._moved_at = asked.now_ns, steady
        return ""

    def wait(self, steady: float) -> float:
        """Steady seconds until the next request is heard."""
        return max(0.0, self._asked_at + self._pause - steady)

    def due(self, now_ns: int, steady: float) -> str:
        """OVER: the pending snapshot's time is over. STOPPED: it will never be, as the clock stands still or
        has begun anew. Otherwise nothing.
        """
        if self.pending is None:
            return ""
        if now_ns != self._seen_ns:
            self._seen_ns, self._moved_at = now_ns, steady
        if now_ns >= self.pending.now_ns + self._after_ns:
            return OVER
        anew = now_ns < self.pending.now_ns - BACK_NS
        return STOPPED if anew or steady - self._moved_at > STILL else ""

    def take(self) -> tuple[Asked, int, int]:
        """The pending request, and its log times from and to (0 means unset). There is none afterwards."""
        assert self.pending is not None
        asked, self.pending = self.pending, None
        return asked, max(1, asked.now_ns - self._before_ns), asked.now_ns + self._after_ns


@dataclass(frozen=True)
class Standing:
    """A snapshot on the disk."""

    number: int  # counts up, whatever the clocks say
    cause: str


def to_remove(standing: Sequence[Standing], most: int) -> list[int] | None:
    """Numbers of the snapshots that make room for one more among `most`; None where there is no room.

    The oldest go, since the newest are what somebody is looking for now; but never those taken by hand, which
    somebody wanted: where only these are left, the new one is refused.
    """
    excess = len(standing) + 1 - most
    free = sorted(item.number for item in standing if item.cause != HAND)
    return None if excess > len(free) else free[: max(0, excess)]
