"""What monitor_node does, without ROS: keeps the last seconds, watches surprise, and writes a snapshot when
the model and the robot no longer agree.

Snapshots are written by a thread of their own; a disk that is full, slow or read-only costs a counter.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from rssm_ros.contract import Contract
from rssm_ros.nodes.bag_writer import Channel
from rssm_ros.nodes.review_files import Review
from rssm_ros.nodes.review_folder import ReviewFolder, Written, count_topics, failure_of
from rssm_ros.online import reviews
from rssm_ros.online.grid import SECOND, tick_of
from rssm_ros.online.reviews import Asked, Message, RecentMessages, Snapshots, Surprise
from rssm_ros.online.surprise import REVIEW_AFTER
from rssm_ros.online.surprise import Review as Streak

NEARLY_NS = SECOND  # by as much a snapshot may be shorter than asked for without a word
NOTHING = Surprise(0, math.nan, math.nan)
YOUNG, ROOM, ENDED = "nothing was heard before", "no room in memory", "ended early"


@dataclass(frozen=True)
class MonitorSettings:
    """What is kept, and when."""

    before: float = 10.0  # s of ROS time before a trigger
    after: float = 3.0  # and after it
    pause: float = 30.0  # s from one trigger that was heard to the next
    most_bytes: int = 256_000_000  # of messages in memory; while a snapshot is written, twice that
    review_after: int = REVIEW_AFTER  # ticks in a row above the threshold
    chart: float = 10.0  # s of surprise that a panel shows

    @property
    def span(self) -> float:
        """Seconds that are kept in memory."""
        return self.before + self.after


class Monitor:
    """Times as in `online.reviews`. folder: None: reviews are counted, and nothing is written."""

    def __init__(
        self,
        contract: Contract,
        settings: MonitorSettings,
        folder: ReviewFolder | None,
        channels: Callable[[], Iterable[Channel]],
        bundle: tuple[str, str] = ("", ""),
    ) -> None:
        """channels: of the topics that are heard. bundle: folder and SHA-256 of the model."""
        self._contract, self._settings, self._folder = contract, settings, folder
        self._channels, self._bundle = channels, bundle
        self._recent = RecentMessages(settings.span, settings.most_bytes)
        self._snapshots = Snapshots(settings.before, settings.after, settings.pause)
        self._streak = Streak(settings.review_after)
        longest = max(settings.span, settings.chart) * float(contract.rate)
        self.surprises: deque[Surprise] = deque(maxlen=math.ceil(longest) + 100)
        self._filter: tuple[str, dict[str, str]] = ("", {})
        self._pool: ThreadPoolExecutor | None = None
        self._writing: Future[Written] | None = None
        self.counted: Counter[str] = Counter()
        self.trouble = ""  # why the last snapshot was not written; empty: it was
        self.latest = ""  # the name of the last one that was

    # What it hears ----------------------------------------------------------------------------------------

    def hear(self, topic: str, log_ns: int, data: bytes) -> None:
        """Any message."""
        if self._recent.of_another_run(log_ns):
            self._take_pending("the clock began anew")  # with what is there: it will not be much longer
        self._recent.add(Message(topic, log_ns, data))

    def believe(self, surprise: Surprise, now_ns: int, steady: float) -> None:
        """What a belief says of itself. One that is not newer than the last changes nothing."""
        last = self.surprises[-1].stamp_ns if self.surprises else 0
        if surprise.stamp_ns < last - reviews.BACK_NS:  # a new run of the clock
            self._anew()
        elif surprise.stamp_ns <= last:
            self.counted["old_belief"] += 1
            return
        self.surprises.append(surprise)
        if self._streak.tell(surprise.nats, surprise.threshold):
            self.counted["reviews"] += 1
            if refusal := self._ask(reviews.SURPRISE, now_ns, steady):
                self.counted[f"not_taken/{refusal}"] += 1

    def _anew(self) -> None:
        self.surprises.clear()
        self._streak = Streak(self._settings.review_after)

    def filter_says(self, bundle: str, counters: Mapping[str, str]) -> None:
        """The filter's diagnostics: the first 12 digits of its bundle's SHA-256, and what it has counted."""
        self._filter = (bundle, dict(counters))

    @property
    def streak(self) -> int:
        """Ticks in a row above the threshold."""
        return self._streak.count

    @property
    def review_after(self) -> int:
        """As many are a review."""
        return self._settings.review_after

    # Snapshots --------------------------------------------------------------------------------------------

    def by_hand(self, now_ns: int, steady: float) -> tuple[bool, str]:
        """Somebody wants a snapshot: whether there will be one, and what to tell."""
        refusal = self._ask(reviews.HAND, now_ns, steady)
        if refusal == "no_folder":
            return False, "no folder was given; set the parameter `out` and configure again"
        if refusal == reviews.TOO_SOON:
            wait = self._snapshots.wait(steady)
            return False, f"too soon after the last one; again in {wait:.0f} s (parameter `pause`)"
        if refusal:
            return False, "one is being taken"
        assert self._folder is not None
        return True, f"in {self._settings.after:g} s there will be one in {self._folder.folder}"

    def _ask(self, cause: str, now_ns: int, steady: float) -> str:
        """Returns why there will be none, or nothing."""
        if self._folder is None:
            return "no_folder"
        if self._writing is not None:
            return reviews.TAKING
        latest = self.surprises[-1] if self.surprises else NOTHING
        return self._snapshots.ask(Asked(cause, now_ns, time.time(), latest, self.streak), steady)

    def work(self, now_ns: int, steady: float) -> None:
        """To be called often: takes what is due, and looks what became of what was taken."""
        if self._writing is not None and self._writing.done():
            self._see(self._writing)
            self._writing = None
        if due := self._snapshots.due(now_ns, steady):
            self._take_pending("" if due == reviews.OVER else "the clock stood still or began anew")

    def begin(self) -> None:
        """Forgets what it heard before a pause; what was counted stays."""
        self._recent.clear()
        self._anew()

    def end(self) -> None:
        """Takes what was asked for with what is there, and waits until it is written."""
        self._take_pending("the monitor ended")
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self.work(0, 0.0)

    def _take_pending(self, ended: str) -> None:
        if self._snapshots.pending is None:
            return
        asked, begin_ns, end_ns = self._snapshots.take()
        messages = self._recent.between(begin_ns, end_ns)
        assert self._folder is not None and self._writing is None
        if not messages:
            self._fail("empty", "nothing was heard; there is nothing to keep")
            return
        review = self._review(asked, begin_ns, messages, ended)
        channels = [Channel(c.topic, c.kind, c.definition, c.offered) for c in self._channels()]
        self._pool = self._pool or ThreadPoolExecutor(1, "snapshots")
        self._writing = self._pool.submit(self._folder.write, review, channels, messages)

    def _review(self, asked: Asked, begin_ns: int, messages: tuple[Message, ...], ended: str) -> Review:
        first, last = (pick(message.log_ns for message in messages) for pick in (min, max))
        short = [f"{ENDED}: {ended}"] if ended else []
        if self._recent.short_ns >= begin_ns:
            short.append(f"{ROOM} ({self._settings.most_bytes / 1e6:g} MB, parameter `megabytes`)")
        elif first > begin_ns + NEARLY_NS:
            short.append(YOUNG)
        said = [item for item in self.surprises if first <= item.stamp_ns <= last]
        surprise, why = asked.surprise, f"surprise above its threshold for {asked.streak} ticks in a row"
        return Review(
            cause=asked.cause,
            told=why if asked.cause == reviews.SURPRISE else "asked for by hand",
            contract=self._contract.name,
            bundle=self._bundle[0],
            bundle_sha256=self._bundle[1],
            filter_bundle=self._filter[0],
            asked_at=datetime.fromtimestamp(asked.wall_s, UTC).isoformat(timespec="seconds"),
            asked_ns=asked.now_ns,
            tick=tick_of(surprise.stamp_ns, self._contract.rate),
            stamp_ns=surprise.stamp_ns,
            surprise_nats=_known(surprise.nats),
            threshold_nats=_known(surprise.threshold),
            streak=asked.streak,
            review_after=self.review_after,
            from_ns=first,
            to_ns=last,
            short=tuple(short),
            ticks={
                "stamp_ns": [item.stamp_ns for item in said],
                "surprise_nats": [_known(item.nats) for item in said],
                "threshold_nats": [_known(item.threshold) for item in said],
            },
            messages=count_topics(messages),
            bytes=sum(len(message.data) for message in messages),
            counters={"monitor_node": dict(self.counters), "filter_node": self._filter[1]},
        )

    def _see(self, writing: "Future[Written]") -> None:
        """What became of a snapshot."""
        try:
            written = writing.result()
        except Exception as error:  # whatever it is, the watch goes on
            self._fail(*failure_of(error))
        else:
            self.trouble, self.latest = "", written.folder.name
            self.counted["snapshots"] += 1
            self.counted["removed"] += written.removed

    def _fail(self, cause: str, told: str) -> None:
        self.counted["failed"] += 1
        self.counted[f"failed/{cause}"] += 1
        self.trouble = f"no snapshot: {told}"

    # What it says -----------------------------------------------------------------------------------------

    @property
    def counters(self) -> dict[str, int]:
        """What was counted since it began, and what is in memory now."""
        ring = self._recent
        memory = {"memory/messages": len(ring), "memory/bytes": ring.bytes, "memory/dropped": ring.dropped}
        return {**self.counted, **memory}

    @property
    def note(self) -> str:
        """What became of snapshots, in a line."""
        if self._snapshots.pending is not None:
            return "a snapshot is being taken"
        if self._writing is not None:
            return "a snapshot is being written"
        if self.trouble:
            return self.trouble
        if taken := self.counted["snapshots"]:
            return f"{taken} snapshot{'s' * (taken > 1)}, the last is {self.latest}"
        return "no snapshot yet" if self._folder is not None else "reviews are counted; no folder was given"


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
