"""`now` of a recording: log time, or the headers' running maximum."""

from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.online.clock import CONFIRMATIONS, JUMP_NS, HeaderClock, clocks_differ
from test.online.streams import MS

S = 1000 * MS


def _told(*seconds):
    clock = HeaderClock()
    return clock, [None if now is None else now / S for now in map(clock.tell, (int(s * S) for s in seconds))]


def test_now_is_the_running_maximum():
    clock, now = _told(10.0, 10.1, 10.05, 10.2, 9.5)
    assert now == [10.0, 10.1, 10.1, 10.2, 10.2] and not clock.counters


def test_one_outlier_never_counts():
    clock, now = _told(10.0, 500.0, 10.1, 3.0, 10.2, 900.0, 20.0, 10.3)
    assert now == [10.0, 10.0, 10.1, 10.1, 10.2, 10.2, 10.2, 10.3]
    assert clock.counters["outlier"] == 4 and clock.counters["jump"] == 0


def test_three_successors_confirm_a_jump_forth_and_back():
    clock, now = _told(10.0, 60.0, 60.1, 60.05, 60.2, 60.3)
    assert now == [10.0, 10.0, 10.0, 10.0, 60.2, 60.3] and CONFIRMATIONS == 3
    back = [clock.tell(int(s * S)) for s in (5.0, 5.1, 5.2, 5.3, 5.4)]
    assert [now / S for now in back] == [60.3, 60.3, 60.3, 5.3, 5.4]
    assert clock.counters == {"jump": 2}


def test_two_outliers_do_not_confirm_each_other():
    clock, now = _told(10.0, 60.0, 300.0, 60.0, 300.0, 10.1)
    assert now[-1] == 10.1 and clock.counters["outlier"] == 4


def test_stamp_zero_says_nothing():
    clock, now = _told(0.0, 10.0, 0.0, 10.1)
    assert now == [None, 10.0, 10.0, 10.1] and clock.counters["unset"] == 2


def test_clocks_differ_by_the_median_not_by_one():
    log = [i * 50 * MS + 10**18 for i in range(1, 20)]
    late = [stamp - 80 * MS for stamp in log]
    assert not clocks_differ(log, late)
    late[3] -= 3600 * S
    assert not clocks_differ(log, late)
    assert clocks_differ(log, [i * 50 * MS for i in range(1, 20)])
    assert not clocks_differ(log, [0] * 19) and not clocks_differ([], [])


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=40))
def test_now_is_always_a_stamp_that_came_and_moves_far_only_by_a_jump(stamps):
    clock, before = HeaderClock(), None
    for index, stamp in enumerate(stamps):
        jumps = clock.counters["jump"]
        now = clock.tell(stamp)
        assert now in stamps[: index + 1]
        if before is not None and clock.counters["jump"] == jumps:
            assert before <= now <= before + JUMP_NS
        before = now
