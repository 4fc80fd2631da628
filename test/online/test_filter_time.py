"""When ticks are computed, when time jumps or stands still, and what late data change."""

import numpy as np
import pytest

from rssm_ros.online.belief import NEVER
from rssm_ros.online.grid import tick_of
from test.online.streams import CONTRACT, MS, TICK, bits, drive, image, new_filter


def test_time_going_backwards_is_a_new_epoch():
    filter_ = new_filter()
    first = drive(filter_, 5)
    assert drive(filter_, 5)[-1].deter.tobytes() == first[-1].deter.tobytes()
    assert filter_.epoch == 1 and filter_.counters["reset"] == 1


def test_a_clock_at_zero_is_not_running_yet():
    filter_ = new_filter()
    assert filter_.advance(0) == [] and filter_.now_ns is None


def test_after_max_gap_it_is_lost_and_the_next_sight_restarts():
    beliefs = drive(new_filter(), 14, skip=range(24, 32))
    by_tick = {belief.tick: belief for belief in beliefs}
    assert [by_tick[tick].lost for tick in range(23, 33)] == [False] * 6 + [True] * 3 + [False]
    assert by_tick[32].first and not by_tick[33].first and by_tick[31].age["camera"] == 8
    fresh = {belief.tick: belief for belief in drive(new_filter(), 3, start=32)}
    assert fresh[32].deter.tobytes() == by_tick[32].deter.tobytes()
    assert fresh[32].age == {"camera": 0, "odom": 0} and NEVER < 0


def test_a_day_of_silence_costs_no_day_of_ticks():
    filter_ = new_filter()
    drive(filter_, 3)
    day = 24 * 3600 * 20
    beliefs = filter_.advance((22 + day) * TICK)
    assert sum(filter_.session.calls.values()) < 60
    assert beliefs[-1].lost and beliefs[-1].age["camera"] == beliefs[-1].tick - 22
    assert filter_.counters["skipped"] > day - 60


def test_catching_up_after_a_pause_returns_every_tick_in_order():
    filter_, steady = new_filter(), new_filter()
    expected = drive(steady, 8)
    drive(filter_, 3)
    filter_.advance(27 * TICK)
    for tick in range(23, 28):
        filter_.observe("odom", tick * TICK, [0.1 * tick, 1.0])
        filter_.observe("camera", tick * TICK, image(tick))
        filter_.applied(tick * TICK + 30 * MS, [0.01 * tick, -0.02 * tick])
    late = filter_.advance(27 * TICK + 30 * MS)
    assert late[-1].tick == 27
    assert bits(filter_.revised()[-1]) == bits(expected[-1])


def test_late_data_revise_the_ring_and_show_in_the_next_tick():
    late, steady = new_filter(4), new_filter(4)
    expected = drive(steady, 8)
    seen = drive(late, 7, skip=(23,))
    assert bits(seen[-1]) != bits(expected[-2])
    late.observe("odom", 23 * TICK, [0.1 * 23, 1.0])
    late.observe("camera", 23 * TICK, image(23))
    (belief,) = drive(late, 1, start=27)
    assert bits(belief) == bits(expected[-1])


def test_an_earlier_start_inside_the_window_moves_the_start():
    late, steady = new_filter(), new_filter()
    expected = drive(steady, 6, start=20)
    for tick in (22, 23, 24, 20, 21, 25):
        late.advance(25 * TICK)
        late.observe("odom", tick * TICK, [0.1 * tick, 1.0])
        late.observe("camera", tick * TICK, image(tick))
        late.applied(tick * TICK + 30 * MS, [0.01 * tick, -0.02 * tick])
    late.advance(25 * TICK + 26 * MS)
    assert [bits(belief) for belief in late.revised()] == [bits(belief) for belief in expected]


def test_tokens_are_computed_once_per_observation_that_counts():
    filter_ = new_filter()
    drive(filter_, 6)
    for tick in (23, 24):
        filter_.applied(tick * TICK, [0.3, 0.3])
    filter_.revised()
    assert filter_.session.calls["encode"] == 12 and filter_.session.calls["step"] == 6 + 2


# Real rates


def _camera_at(rate_hz, jitter, ticks=60, seed=0):
    """A camera of its own rate and jitter (share of its period), odometry at 50 Hz; one call per message."""
    draw, filter_ = np.random.default_rng(seed), new_filter()
    period = 1000 * MS // rate_hz
    frames = range(ticks * TICK // period)
    stamps = [20 * TICK + i * period + int(jitter * period * draw.uniform(-1, 1)) for i in frames]
    sent = [(stamp, "camera", image(i % 250)) for i, stamp in enumerate(stamps)]
    sent += [(20 * TICK + i * 20 * MS, "odom", [0.01 * i, 1.0]) for i in range(ticks * 50 // 20)]
    beliefs = []
    for stamp, name, value in sorted(sent, key=lambda item: item[0]):
        beliefs += filter_.advance(stamp)
        assert filter_.observe(name, stamp, value) in ("accepted", "superseded")
        beliefs += filter_.advance(stamp)
    return filter_, beliefs, sent


@pytest.mark.parametrize("rate_hz", [15, 20, 30])
def test_any_camera_rate_and_jitter_gives_one_belief_per_tick(rate_hz):
    _, beliefs, sent = _camera_at(rate_hz, 0.4)
    ticks = [belief.tick for belief in beliefs]
    assert ticks == list(range(20, 20 + len(ticks))) and len(ticks) >= 57
    seen = {tick_of(stamp, CONTRACT.rate) for stamp, name, _ in sent if name == "camera"}
    assert {belief.tick for belief in beliefs if belief.presence["camera"]} == seen & set(ticks)
    assert not any(belief.lost for belief in beliefs)


def test_a_camera_at_15_hz_is_missing_in_a_quarter_of_the_ticks_and_its_age_says_so():
    _, beliefs, _ = _camera_at(15, 0.0)
    absent = [belief.age["camera"] for belief in beliefs if not belief.presence["camera"]]
    assert len(absent) == pytest.approx(len(beliefs) / 4, abs=2) and set(absent) == {1}


def test_of_a_camera_at_30_hz_the_frame_nearest_to_the_tick_counts():
    filter_, beliefs, _ = _camera_at(30, 0.0)
    assert all(belief.presence["camera"] for belief in beliefs)
    counts = filter_.counters
    # Both frames of a tick are taken in turn while it is still to be computed; none is an error.
    assert counts["camera/accepted"] + counts["camera/superseded"] == 90
    assert filter_.session.calls["step"] - counts["replayed"] == len(beliefs)


@pytest.mark.parametrize("missed", [1, 3, 7])
def test_a_scheduler_that_missed_ticks_catches_up_in_one_call(missed):
    """Nothing came either: predicted, each tick published once, in order."""
    filter_ = new_filter()
    drive(filter_, 6)
    before = filter_.session.calls["predict"]
    beliefs = filter_.advance((25 + missed) * TICK + 25 * MS)
    assert [belief.tick for belief in beliefs] == list(range(26, 26 + missed))
    assert filter_.session.calls["predict"] - before == missed <= filter_.most_steps


@pytest.mark.parametrize("pause", [5, 9, 14, 30, 10_000])
def test_one_call_is_bounded_however_long_the_pause_and_however_late_the_data(pause):
    """The window before the pause is dirty, the gap is predicted until lost, then the new window."""
    filter_ = new_filter()
    drive(filter_, 12)
    filter_.applied(24 * TICK + MS, [0.5, 0.5])  # replays all of the ring
    filter_.observe("odom", 33 * TICK, [1.0, 1.0])  # ahead of its time
    before = sum(filter_.session.calls[name] for name in ("step", "predict"))
    beliefs = filter_.advance((31 + pause) * TICK + 25 * MS)
    cost = sum(filter_.session.calls[name] for name in ("step", "predict")) - before
    assert cost <= filter_.most_steps == 2 * 8 + 4 + 5
    due = 31 + pause
    given_up = filter_.counters["skipped"]
    assert len(beliefs) + given_up == due - 31, "every tick is either published or counted"
    assert [b.tick for b in beliefs] == sorted(b.tick for b in beliefs) and beliefs[-1].tick == due
    assert given_up == 0 or all(b.lost for b in beliefs if b.tick > due - 8)


def test_late_data_replay_the_window_from_cached_tokens():
    """A command as old as the window: every tick after it again, no frame encoded twice."""
    filter_ = new_filter()
    drive(filter_, 12)
    calls = dict(filter_.session.calls)
    filter_.applied(filter_.now_ns - 7 * TICK, [0.7, 0.7])
    (belief,) = drive(filter_, 1, start=32)
    assert filter_.session.calls["encode"] - calls["encode"] == 2, "the new tick's own"
    assert filter_.counters["replayed"] == filter_.session.calls["step"] - calls["step"] - 1 == 6
    assert filter_.counters["late"] == 1 and filter_.counters["applied/late"] == 1 and belief.tick == 32


# Wrong clocks and stamps, each counted by its cause


def test_backward_jumps_of_now_are_epochs_stamps_alone_are_not():
    filter_ = new_filter()
    drive(filter_, 5)
    assert filter_.observe("camera", 3 * TICK, image(1)) == "too_old"
    assert filter_.epoch == 0
    filter_.advance(10 * TICK)
    assert filter_.epoch == 1 and filter_.counters["reset"] == 1
    assert filter_.observe("camera", 24 * TICK, image(1)) == "future"  # of the epoch before
    assert filter_.observe("camera", 10 * TICK, image(1)) == "accepted"
    (belief,) = filter_.advance(10 * TICK)
    assert belief.first and belief.tick == 10
    filter_.advance(10 * TICK - 1)
    assert filter_.epoch == 2


def test_stamps_from_the_future_never_move_time():
    filter_ = new_filter()
    drive(filter_, 3)
    now = filter_.now_ns
    assert filter_.observe("odom", now + 100 * MS, [1.0, 1.0]) == "accepted"
    assert filter_.observe("odom", now + 100 * MS + 1, [1.0, 1.0]) == "future"
    assert filter_.observe("odom", 10**18, [1.0, 1.0]) == "future"
    assert filter_.now_ns == now and filter_.counters["odom/future"] == 2


def test_the_window_ends_where_design_says():
    """tick(now) - H < tick(s): the oldest tick of the window is taken, the one before is not."""
    filter_ = new_filter()
    drive(filter_, 12)
    newest = tick_of(filter_.now_ns, CONTRACT.rate)
    edge = (newest - 7) * TICK - 25 * MS  # exactly between two ticks it is the later one
    assert filter_.observe("odom", edge - 1, [9.0, 9.0]) == "too_old"
    assert filter_.observe("odom", edge, [9.0, 9.0]) == "superseded"


def test_unset_stamps_are_refused_and_counted():
    filter_ = new_filter()
    drive(filter_, 3)
    assert [filter_.observe("odom", stamp, [1.0, 1.0]) for stamp in (0, -5)] == ["unset", "unset"]
    assert filter_.applied(0, [0.0, 0.0]) == "unset"
    assert filter_.counters["odom/unset"] == 2 and filter_.counters["applied/unset"] == 1


def test_unstamped_commands_are_counted_and_used():
    """Twist and Float64MultiArray of foreign bags: the caller gives the time of receipt."""
    filter_ = new_filter()
    drive(filter_, 2)
    assert filter_.applied(filter_.now_ns, [0.3, 0.3], stamped=False) == "accepted"
    assert filter_.counters["unstamped"] == 1 and filter_.counters["applied/accepted"] == 3


def test_late_data_of_tick_zero_are_replayed_before_it_is_frozen():
    """Tick 0 once counted as "nothing to replay" where a clock began at zero."""
    late, steady = new_filter(), new_filter()
    final: dict[str, list] = {"late": [], "steady": []}
    late.on_final = lambda belief: final["late"].append(bits(belief))
    steady.on_final = lambda belief: final["steady"].append(bits(belief))
    for filter_, delay in ((steady, 0), (late, 6)):
        for tick in range(12):
            filter_.advance(tick * TICK + 2)
            filter_.observe("camera", tick * TICK + 1, image(tick))
            filter_.advance(tick * TICK + 20 * MS)
            if tick == delay:
                filter_.observe("odom", 1, [3.0, 3.0])
        filter_.advance(12 * TICK)
    assert final["late"] == final["steady"] and final["late"]
