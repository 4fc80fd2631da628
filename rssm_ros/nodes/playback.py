"""A recording against a clock: what is due, and what time it is then. Nothing here imports ROS."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from rssm_ros.contract import Contract
from rssm_ros.online.clock import RecordingClock
from rssm_ros.online.grid import SECOND
from rssm_ros.recordings import APPLIED, Event, Observation, Recording

STEP_NS = SECOND // 100  # of log time between two words about the time
AFTER = 8  # ticks that time goes on beyond the filter's window when all is played: then every belief is final
Item = Observation | Event


@dataclass(frozen=True)
class Moment:
    """A step of log time: `now` as the filter shall know it, and what was logged up to it."""

    logged_ns: int
    now_ns: int  # 0: not known yet
    items: tuple[Item, ...]


def moments(recording: Recording, contract: Contract) -> Iterator[Moment]:
    """The recording in steps of 10 ms of log time, then as long again as beliefs take to become final.

    `now` is RecordingClock's, as offline evaluation has it: log time, or the running maximum of the headers
    where they follow another clock.
    """
    observations = (i for i in recording.observations() if i.stamped and i.name != APPLIED)
    clock = RecordingClock.of((item.received_ns, item.stamp_ns) for item in observations)
    events: list[Item] = sorted(recording.events, key=_logged)  # they come by stamp
    stream: Iterator[Item] = heapq.merge(events, recording.observations(), key=_logged)
    logged_ns, due = recording.start_ns - STEP_NS, next(stream, None)
    now_ns = 0 if clock.by_headers else logged_ns
    yield Moment(logged_ns, now_ns, ())
    while due is not None:
        logged_ns += STEP_NS
        items: list[Item] = []
        while due is not None and due.received_ns <= logged_ns:
            dated = isinstance(due, Event) or due.stamped
            clock.tell(due.received_ns, due.stamp_ns if dated else None)
            items.append(_restamped(due, clock.offset_ns))
            due = next(stream, None)
        now_ns = logged_ns if not clock.by_headers else clock.now_ns or 0
        yield Moment(logged_ns, now_ns, tuple(items))
    tail_ns = int((contract.window_ticks + AFTER) * contract.dt * SECOND) + contract.patience_ns
    for passed in range(STEP_NS, tail_ns + STEP_NS, STEP_NS):
        yield Moment(logged_ns + passed, now_ns + passed, ())


def _logged(item: Item) -> int:
    return item.received_ns


def _restamped(item: Item, offset_ns: int) -> Item:
    """A message without a header carries log time: as a stamp of the headers' clock."""
    if isinstance(item, Observation) and not item.stamped and offset_ns:
        stamp_ns = item.stamp_ns + offset_ns
        return Observation(item.name, stamp_ns, item.received_ns, item.value, stamped=False)
    return item
