"""`now` of a recording: log time, or the headers' running maximum."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.online.clock import CONFIRMATIONS, JUMP_NS, HeaderClock, RecordingClock, clocks_differ
from test.online.streams import MS

S = 1000 * MS


def _told(*seconds):
    clock = HeaderClock()
    return clock, [None if now is None else now / S for now in map(clock.tell, (int(s * S) for s in seconds))]


START = (9.7, 9.8, 9.9, 10.0)  # one stamp and the three that confirm it


def test_now_is_the_running_maximum():
    clock, now = _told(*START, 10.1, 10.05, 10.2, 9.5)
    assert now == [None] * 3 + [10.0, 10.1, 10.1, 10.2, 10.2] and not clock.counters


def test_one_outlier_never_counts():
    clock, now = _told(*START, 500.0, 10.1, 3.0, 10.2, 900.0, 20.0, 10.3)
    assert now[3:] == [10.0, 10.0, 10.1, 10.1, 10.2, 10.2, 10.2, 10.3]
    assert clock.counters == {"outlier": 3, "late": 1}


def test_three_successors_confirm_a_jump_forth():
    clock, now = _told(*START, 60.0, 60.1, 60.05, 60.2, 60.3)
    assert now[3:] == [10.0, 10.0, 10.0, 10.0, 60.2, 60.3] and CONFIRMATIONS == 3
    assert clock.counters == {"jump": 1}


def test_two_outliers_do_not_confirm_each_other():
    clock, now = _told(*START, 60.0, 300.0, 60.0, 300.0, 10.1)
    assert now[-1] == 10.1 and clock.counters["outlier"] == 4


def test_a_wild_first_stamp_is_not_taken():
    """Once it was, and all that followed was behind it: three of them took `now` back, and reset a filter."""
    clock, now = _told(500.0, *START, 10.1)
    assert now == [None] * 4 + [10.0, 10.1] and clock.counters == {"outlier": 1}


def test_late_messages_do_not_take_now_back():
    """Once four in a row that were more than a second late did. Here 9 s of them come at once."""
    clock, now = _told(*START, *np.arange(10.1, 30.0, 0.1), *np.arange(20.0, 29.0, 0.05), 30.1)
    assert (np.diff(now[3:]) >= 0).all() and now[-1] == 30.1
    assert clock.counters["late"] > 100 and set(clock.counters) == {"late"}


def test_a_recording_that_plays_again_takes_it_back_after_ten_seconds():
    clock, _ = _told(*START, *np.arange(10.1, 60.0, 0.1))
    end_ns = clock.now_ns
    again = [clock.tell(int(s * S)) / S for s in np.arange(5.0, 20.0, 0.1)]
    assert set(again[:100]) == {end_ns / S} and again[101:] == pytest.approx(np.arange(15.1, 20.0, 0.1))
    assert clock.counters["restart"] == 1 and clock.counters["jump"] == 0


def test_a_small_step_back_is_waited_for():
    clock, _ = _told(*START, *np.arange(10.1, 60.0, 0.1))
    again = [clock.tell(int(s * S)) / S for s in np.arange(53.0, 63.0, 0.1)]
    assert (np.diff(again) >= 0).all() and again[-1] == pytest.approx(62.9)
    assert clock.counters["restart"] == 0


def test_stamp_zero_says_nothing():
    clock, now = _told(0.0, *START, 0.0, 10.1)
    assert now == [None] * 4 + [10.0, 10.0, 10.1] and clock.counters == {"unset": 2}


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
        assert now is None or now in stamps[: index + 1]
        if before is not None:  # 10 s of stamps: no restart can be in them
            assert before <= now and (clock.counters["jump"] > jumps or now <= before + JUMP_NS)
        before = now


def test_a_recording_is_read_by_the_log_where_the_headers_agree_with_it():
    """Late and unset stamps do not move it, and a log that steps back does not take it back."""
    log = [i * 50 * MS + S for i in range(1, 30)]
    clock = RecordingClock.of((at, at - 5 * MS) for at in log)
    told = [clock.tell(at, stamp) for at, stamp in ((log[0], 0), (log[1], log[0] - S), (log[0], None))]
    assert not clock.by_headers and told == [log[0], log[1], log[1]] and clock.offset_ns == 0


def test_a_recording_is_read_by_the_headers_where_the_log_is_another_clock_s():
    wall = 1_700_000_000 * S
    pairs = [(wall + i * 50 * MS, 10 * S + i * 50 * MS) for i in range(40)]
    clock = RecordingClock.of(pairs)
    told = [clock.tell(*pair) for pair in pairs]
    assert clock.offset_ns == 10 * S - wall
    assert clock.by_headers and told[:3] == [None] * 3 and told[3:] == [stamp for _, stamp in pairs[3:]]
    assert clock.tell(wall + 60 * S, None) == pairs[-1][1]  # no header, no news
    assert clock.tell(wall + 60 * S, 900 * S) == pairs[-1][1]  # one wild stamp
