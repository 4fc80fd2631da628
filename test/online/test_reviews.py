"""The ring of recent messages, when a snapshot is taken, and what makes room: for any course of events."""

from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.online import reviews
from rssm_ros.online.grid import SECOND
from rssm_ros.online.reviews import (
    BACK_NS,
    HAND,
    OVER,
    STILL,
    STOPPED,
    SURPRISE,
    TAKING,
    TOO_SOON,
    Asked,
    Message,
    RecentMessages,
    Snapshots,
    Standing,
    Surprise,
    to_remove,
)

NOTHING = Surprise(0, float("nan"), float("nan"))
# Steps of the clock in ns: mostly forward, sometimes put right by a little, sometimes begun anew.
STEPS = st.one_of(
    st.integers(0, SECOND // 2), st.integers(-BACK_NS // 2, 0), st.just(-5 * SECOND), st.just(3 * SECOND)
)


@given(st.lists(st.tuples(STEPS, st.integers(0, 3000))), st.floats(0.5, 4.0), st.integers(1000, 20_000))
def test_the_ring_is_the_newest_of_one_run_within_both_bounds(
    told: list[tuple[int, int]], seconds: float, most: int
) -> None:
    ring, log_ns, run = RecentMessages(seconds, most), 10 * SECOND, list[Message]()
    for number, (step, size) in enumerate(told):
        newest = max((message.log_ns for message in run), default=0)
        log_ns = max(1, log_ns + step)
        message = Message(str(number), log_ns, bytes(size))
        anew = log_ns < newest - BACK_NS
        assert ring.of_another_run(log_ns) == anew
        dropped = ring.dropped
        ring.add(message)
        run = [message] if anew else [*run, message]
        kept = ring.between(0, 2**62)
        assert list(kept) == run[len(run) - len(kept) :]  # the last ones, in order, of this run alone
        assert ring.bytes == sum(item.cost for item in kept) <= most and len(ring) == len(kept)
        newest = max(item.log_ns for item in run)
        oldest = newest - round(seconds * SECOND)
        assert not kept or kept[0].log_ns >= oldest
        gone = run[: len(run) - len(kept)]
        if gone and gone[-1].log_ns >= oldest:  # given up although recent: only for lack of room
            assert ring.dropped > 0 and ring.short_ns >= gone[-1].log_ns
        if ring.dropped > dropped:  # and no more than had to be
            last = next(item for item in run if item.log_ns == ring.short_ns)
            assert ring.bytes + last.cost + max(item.cost for item in run) > most


@given(
    st.lists(st.integers(0, SECOND // 10), min_size=1, max_size=60), st.integers(0, 60), st.integers(0, 60)
)
def test_a_window_has_exactly_what_came_in_it(steps: list[int], left: int, right: int) -> None:
    ring, log_ns, stamps = RecentMessages(1e6, 10**9), SECOND, []
    for step in steps:
        log_ns += step
        stamps.append(log_ns)
        ring.add(Message("t", log_ns, b""))
    begin, end = (stamps[min(at, len(stamps) - 1)] for at in (left, right))
    assert [m.log_ns for m in ring.between(begin, end)] == [s for s in stamps if begin <= s <= end]


@given(
    st.lists(st.tuples(st.sampled_from(["ask", "look"]), STEPS, st.floats(0.0, 4.0)), max_size=80),
    st.floats(0.0, 3.0),
    st.floats(1.0, 20.0),
)
def test_snapshots_are_never_nearer_than_the_pause_and_each_is_taken_once(
    told: list[tuple[str, int, float]], after: float, pause: float
) -> None:
    plan, now_ns, steady = Snapshots(10.0, after, pause), 100 * SECOND, 1000.0
    heard: list[float] = []
    taken, moved = 0, steady
    for what, step, passed in told:
        steady += passed
        before_ns, now_ns = now_ns, max(SECOND, now_ns + step)
        pending = plan.pending
        if what == "ask":
            refusal = plan.ask(Asked(HAND, now_ns, 0.0, NOTHING, 0), steady)
            if refusal:
                too_soon = bool(heard) and steady < heard[-1] + pause
                assert refusal == (TAKING if pending else TOO_SOON) and (pending or too_soon)
            else:
                assert pending is None and (not heard or steady - heard[-1] >= pause)
                heard.append(steady)
                moved = steady
            now_ns = now_ns if not refusal else before_ns  # time is seen by `due` alone
            continue
        due = plan.due(now_ns, steady)
        moved = steady if now_ns != before_ns else moved
        if pending is None:
            assert not due
            continue
        over = now_ns >= pending.now_ns + round(after * SECOND)
        lost = now_ns < pending.now_ns - BACK_NS or steady - moved > STILL
        assert due == (OVER if over else STOPPED if lost else "")
        if due:
            asked, begin_ns, end_ns = plan.take()
            assert asked is pending and plan.pending is None and begin_ns >= 1
            assert begin_ns <= asked.now_ns <= end_ns
            taken += 1
    assert taken == len(heard) - (plan.pending is not None)


@given(st.lists(st.sampled_from([HAND, SURPRISE]), max_size=30), st.integers(1, 25), st.randoms())
def test_the_oldest_make_room_but_never_one_taken_by_hand(
    causes: list[str], most: int, chance: object
) -> None:
    standing = [Standing(number, cause) for number, cause in enumerate(causes, 1)]
    shuffled = list(standing)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    removed = to_remove(shuffled, most)
    by_hand = [item.number for item in standing if item.cause == HAND]
    if len(by_hand) >= most:
        assert removed is None
        return
    assert removed is not None and not set(removed) & set(by_hand)
    assert len(standing) - len(removed) + 1 <= most or not removed
    assert len(removed) == max(0, len(standing) + 1 - most)
    left = [item.number for item in standing if item.cause == SURPRISE and item.number not in removed]
    assert not removed or not left or max(removed) < min(left)


def test_a_snapshot_waits_for_a_clock_that_is_slow_but_not_for_one_that_stands() -> None:
    plan = Snapshots(10.0, 3.0, 1.0)
    assert plan.ask(Asked(SURPRISE, 50 * SECOND, 0.0, NOTHING, 10), 0.0) == ""
    for tick in range(1, 60):  # a tenth of a second of ROS time in 4 s of wall time
        due = plan.due(50 * SECOND + tick * SECOND // 10, 4.0 * tick)
        assert due == (OVER if tick >= 30 else "")
    assert (
        plan.due(51 * SECOND, 500.0) == "" and plan.due(51 * SECOND, 500.0 + reviews.STILL + 0.1) == STOPPED
    )
    # Asked for again while it still stands, it may yet move.
    plan.take()
    assert plan.ask(Asked(HAND, 51 * SECOND, 0.0, NOTHING, 0), 600.0) == ""
    assert plan.due(51 * SECOND, 604.0) == "" and plan.due(51 * SECOND, 605.1) == STOPPED
