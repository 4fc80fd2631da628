"""What a tick is computed from: observations, actions, noise; and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rssm_ros.online.errors import FilterError
from rssm_ros.online.filter import WAITING_LIMIT, Filter
from test.online.model import TinyModel
from test.online.streams import CONTRACT, MS, TICK, bits, drive, image, new_filter


def test_one_belief_per_tick_as_soon_as_the_trigger_is_in():
    filter_ = new_filter()
    assert filter_.advance(20 * TICK) == []
    assert filter_.observe("odom", 20 * TICK, [0, 0]) == "accepted"
    assert filter_.advance(20 * TICK + MS) == []
    assert filter_.observe("camera", 20 * TICK, image(1)) == "accepted"
    (belief,) = filter_.advance(20 * TICK + 2 * MS)
    assert belief.tick == 20 and belief.first and not belief.lost
    assert belief.presence == {"camera": True, "odom": True} and belief.age == {"camera": 0, "odom": 0}
    assert filter_.advance(20 * TICK + 3 * MS) == []


def test_a_tick_whose_trigger_is_missing_is_computed_after_its_wait():
    filter_ = new_filter()
    drive(filter_, 3)
    filter_.observe("odom", 23 * TICK, [1, 1])
    assert filter_.advance(23 * TICK + 24 * MS) == []
    (belief,) = filter_.advance(23 * TICK + 25 * MS)
    assert belief.presence == {"camera": False, "odom": True} and belief.age == {"camera": 1, "odom": 0}


def test_nothing_seen_is_the_prior_exactly_and_has_no_surprise():
    filter_ = new_filter(particles=4)
    (*_, last) = drive(filter_, 5)
    predicted = filter_.ahead(last)
    (belief,) = filter_.advance(25 * TICK + 30 * MS)
    assert belief.presence == {"camera": False, "odom": False} and math.isnan(belief.surprise)
    assert belief.deter.tobytes() == predicted.deter.tobytes()
    assert belief.stoch.tobytes() == predicted.stoch.tobytes()
    assert belief.age == predicted.age == {"camera": 1, "odom": 1}


def test_particle_zero_is_the_one_particle_filter():
    one, many = drive(new_filter(1), 6), drive(new_filter(8), 6)
    for left, right in zip(one, many, strict=True):
        np.testing.assert_array_equal(left.stoch[0], right.stoch[0])
        np.testing.assert_allclose(left.deter[0], right.deter[0], atol=1e-5)


def test_target_mixture_adds_the_spread_between_particles():
    belief = drive(new_filter(8), 6)[-1].targets["package"]
    np.testing.assert_allclose(belief.point(), belief.mean.mean(0), atol=1e-6)
    expected = np.cov(belief.mean.T.astype(float), bias=True) + 0.01 * np.eye(2)
    np.testing.assert_allclose(belief.covariance(), expected, atol=1e-6)


def test_the_action_of_a_tick_is_the_last_applied_before_it_began():
    filter_ = new_filter()
    drive(filter_, 1)
    filter_.applied(20 * TICK + 1, [0.5, 0.5])  # superseded on both channels before the next tick begins
    filter_.applied(21 * TICK, [0.25, math.nan])  # at t_21: acts over [21, 22), into tick 22; one channel
    filter_.advance(23 * TICK)
    for tick, expected in ((21, [0, 0]), (22, [0.25, -0.2]), (23, [0.25, -0.2])):
        np.testing.assert_allclose(filter_._action_into(tick)[0], expected, atol=1e-7)


def test_before_any_applied_command_the_safe_one_stands_in_and_is_counted():
    filter_ = new_filter()
    for tick in (20, 21, 22):
        filter_.advance(tick * TICK)
        filter_.observe("camera", tick * TICK, image(1))
        filter_.advance(tick * TICK + 1)
    assert filter_.counters["safe_assumed"] == 2  # the first tick has no action at all


def test_ahead_goes_through_the_commands_already_applied():
    filter_ = new_filter()
    (*_, last) = drive(filter_, 4)
    ahead = filter_.ahead(last)
    assert ahead.tick == last.tick + 1 and ahead.stamp_ns == last.stamp_ns + TICK
    filter_.applied(last.stamp_ns, [-0.9, 0.9])
    assert filter_.ahead(last).deter.tobytes() != ahead.deter.tobytes()
    still = Filter(TinyModel(CONTRACT), replace(CONTRACT, actuation_delay=0), 1)
    assert still.ahead(last) is last


@pytest.mark.parametrize("delay", [1, 3])
def test_ahead_is_what_unseen_ticks_turn_out_to_be_also_where_the_filter_gets_lost(delay):
    """Six ticks after the last observation it starts from nowhere; the belief ahead must do so, too."""
    contract = replace(CONTRACT, actuation_delay=delay)
    filter_ = Filter(TinyModel(contract), contract, 2)
    drive(filter_, 3)
    beliefs = {}
    for tick in range(23, 36):
        for belief in filter_.advance(tick * TICK + 30 * MS):
            beliefs[belief.tick] = belief
    assert [beliefs[tick].lost for tick in (27, 28, 29)] == [False, True, True]
    for tick, belief in beliefs.items():
        ahead = filter_.ahead(belief)
        if later := beliefs.get(tick + delay):
            assert ahead.deter.tobytes() == later.deter.tobytes() and ahead.lost == later.lost
            assert (ahead.tick, ahead.age) == (later.tick, later.age)


def test_the_belief_ahead_says_that_the_filter_restarted():
    """The planner knows nothing else by which to forget its last plan."""
    filter_ = new_filter()
    beliefs = drive(filter_, 3)
    assert [filter_.ahead(belief).first for belief in beliefs] == [True, False, False]


# What is refused


def test_what_is_refused_is_counted_by_cause_and_changes_nothing():
    filter_ = new_filter()
    drive(filter_, 4)
    before = [bits(belief) for belief in filter_.revised()]
    now = filter_.now_ns
    assert filter_.observe("camera", 0, image(1)) == "unset"
    assert filter_.observe("camera", now + 101 * MS, image(1)) == "future"
    assert filter_.observe("camera", now - 450 * MS, image(1)) == "too_old"
    assert filter_.observe("odom", now, [1.0, math.nan]) == "non_finite"
    assert filter_.observe("odom", now, [1.0]) == "shape"
    assert filter_.observe("camera", now, np.zeros((4, 4, 3), np.uint8)) == "shape"
    assert filter_.observe("camera", now, np.zeros((4, 4, 1), np.float32)) == "encoding"
    assert filter_.applied(now, [1.0]) == "shape"
    assert filter_.applied(now, [math.inf, 0]) == "non_finite"
    causes = ("unset", "future", "too_old", "non_finite", "shape", "encoding")
    assert [filter_.counters[cause] for cause in causes] == [1, 1, 1, 2, 3, 1]
    assert filter_.counters["camera/shape"] == 1
    assert [bits(belief) for belief in filter_.revised()] == before
    with pytest.raises(KeyError):
        filter_.observe("lidar", now, [1.0])
    with pytest.raises(FilterError, match="particles"):
        new_filter(particles=0)


def test_a_bad_frame_never_shadows_a_good_one():
    filter_ = new_filter()
    drive(filter_, 3)
    filter_.advance(23 * TICK)
    assert filter_.observe("odom", 23 * TICK, [math.nan, 0]) == "non_finite"
    assert filter_.observe("odom", 23 * TICK + 9 * MS, [1, 0]) == "accepted"


def test_the_nearest_to_the_tick_counts_then_the_earlier_then_the_lower_digest():
    filter_ = new_filter()
    filter_.advance(20 * TICK)
    stamp = 20 * TICK
    assert filter_.observe("odom", stamp + 9 * MS, [1, 1]) == "accepted"
    assert filter_.observe("odom", stamp + 10 * MS, [2, 2]) == "superseded"
    assert filter_.observe("odom", stamp - 9 * MS, [3, 3]) == "accepted"
    assert filter_.observe("odom", stamp + 9 * MS, [1, 1]) == "duplicate"  # also of one that lost
    assert filter_.observe("odom", stamp + 9 * MS, [1, 2]) == "conflict"
    assert filter_.observe("odom", stamp - 9 * MS, [3, 3]) == "duplicate"
    assert filter_.observe("odom", stamp - 9 * MS, [4, 4]) == "conflict"


def test_messages_before_the_first_advance_wait_for_the_time():
    filter_ = new_filter()
    assert filter_.observe("camera", 20 * TICK, image(1)) == "waiting"
    assert filter_.observe("camera", 2 * TICK, image(2)) == "waiting"
    (belief,) = filter_.advance(20 * TICK)
    assert belief.tick == 20 and filter_.counters["too_old"] == 1
    full = new_filter()
    for index in range(WAITING_LIMIT + 5):
        full.observe("odom", 20 * TICK + index, [0, 0])
    assert full.counters["waiting_overflow"] == 5
