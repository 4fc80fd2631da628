"""When ticks are computed, when time jumps or stands still, and what late data change."""

from rssm_ros.online.belief import NEVER
from test.online.streams import MS, TICK, bits, drive, image, new_filter


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
