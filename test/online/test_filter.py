"""DESIGN 6: the belief is a function of what was accepted, not of when or in which order it came."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rssm_ros.contract import ActionSpec, Contract, ObservationSpec
from rssm_ros.online.belief import NEVER, Belief
from rssm_ros.online.errors import FilterError
from rssm_ros.online.filter import WAITING_LIMIT, Filter
from rssm_ros.online.grid import tick_of
from test.online.model import TinyModel

MS = 1_000_000
TICK = 50 * MS


def small_contract(**changes) -> Contract:
    """Camera (the trigger), odometry and one action of two channels; 8 ticks of history."""
    contract = Contract(
        name="small",
        rate=Fraction(20),
        frame="base_link",
        history=0.4,
        max_gap=0.25,
        actuation_delay=1,
        observations=(
            ObservationSpec(
                "camera", "sensor_msgs/msg/Image", "image", (4, 4), 1, "stretch", trigger=True, wait=0.025
            ),
            ObservationSpec("odom", "nav_msgs/msg/Odometry", "odom", fields=("v", "w")),
        ),
        actions=(
            ActionSpec(
                "base",
                "geometry_msgs/msg/Twist",
                "cmd_vel",
                low=(-1.0, -2.0),
                high=(1.0, 2.0),
                slew=(9.0, 9.0),
                safe="zero",
                timeout=0.3,
                fields=("v", "w"),
            ),
        ),
    )
    return replace(contract, **changes)


CONTRACT = small_contract()
MODEL = TinyModel(CONTRACT)


def new_filter(particles=1, seed=3, contract=CONTRACT) -> Filter:
    return Filter(TinyModel(contract), contract, particles, seed)


def image(value: int):
    return np.full((4, 4, 1), value, np.uint8)


def bits(belief: Belief):
    """Everything in a belief, as bytes where it is an array."""
    target = belief.targets["package"]
    arrays = (belief.deter, belief.stoch, belief.reward, belief.continue_, target.mean, target.std)
    numbers = np.array([belief.surprise, belief.prior_entropy, belief.posterior_entropy]).tobytes()
    about = (belief.tick, belief.stamp_ns, belief.lost, belief.first, belief.presence, belief.age)
    return (*about, numbers, *(array.tobytes() for array in arrays))


def drive(filter_: Filter, ticks, start=20, skip=(), latency=0):
    """A nominal stream: camera and odometry at every tick, a command after it. Returns the online beliefs."""
    beliefs = []
    for tick in range(start, start + ticks):
        stamp = tick * TICK
        filter_.advance(stamp + latency)
        if tick not in skip:
            filter_.observe("odom", stamp, [0.1 * tick, 1.0])
            filter_.observe("camera", stamp, image(tick))
        beliefs += filter_.advance(stamp + latency + 26 * MS)
        filter_.applied(stamp + 30 * MS, [0.01 * tick, -0.02 * tick])
    return beliefs


# Ticks, particles, noise


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
    assert filter_.observe("odom", stamp + 9 * MS, [1, 1]) == "superseded"
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


# Time


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


# Save and load


@pytest.mark.parametrize("particles", [1, 4])
def test_a_saved_state_continues_bitwise(particles):
    filter_ = new_filter(particles)
    drive(filter_, 12)
    data = filter_.save_state()
    other = new_filter(particles, seed=99)
    other.load_state(data)
    assert other.counters == filter_.counters
    late = (28 * TICK, image(200))
    assert filter_.observe("camera", *late) == other.observe("camera", *late) == "conflict"
    left, right = drive(filter_, 10, start=32), drive(other, 10, start=32)
    assert [bits(belief) for belief in left] == [bits(belief) for belief in right]


def test_a_saved_state_of_another_filter_is_refused_by_name():
    filter_ = new_filter(2)
    with pytest.raises(FilterError, match="nothing to save"):
        filter_.save_state()
    drive(filter_, 2)
    with pytest.raises(FilterError, match="particles is 2, this filter has 3"):
        new_filter(3).load_state(filter_.save_state())
    with pytest.raises(FilterError, match="cannot be read"):
        new_filter(3).load_state(b"nonsense")


# The guarantee


def _messages(draw):
    """What a robot sent over 30 ticks at its own rates, jittered, with gaps, copies and contradictions."""
    ticks = draw(st.integers(4, 30))
    dead = draw(st.sets(st.sampled_from(["camera", "odom", "all"]), max_size=1))
    silent = set(range(draw(st.integers(0, 30)), 30)) if dead else set()
    gap = draw(st.integers(0, 30))
    length = draw(st.integers(0, 9))
    messages = []
    for tick in range(ticks):
        base = (20 + tick) * TICK
        quiet = gap <= tick < gap + length
        jitter = draw(st.integers(-20, 20)) * MS
        if not quiet and not (tick in silent and dead & {"camera", "all"}) and draw(st.booleans()):
            messages.append(("camera", base + jitter, draw(st.integers(0, 3))))
        if not quiet and not (tick in silent and dead & {"odom", "all"}):
            for part in range(draw(st.integers(0, 3))):
                messages.append(("odom", base + part * 17 * MS + jitter, draw(st.integers(0, 3))))
        if draw(st.booleans()):
            messages.append(("applied", base + draw(st.integers(0, 49)) * MS, draw(st.integers(-3, 3))))
    for index in draw(st.lists(st.integers(0, max(0, len(messages) - 1)), max_size=4)):
        if messages:
            name, stamp, value = messages[index]
            messages.append((name, stamp, value + draw(st.integers(0, 1))))
    return messages


@st.composite
def _histories(draw):
    """Messages with arrival times, and the moments at which the filter was advanced."""
    messages = _messages(draw)
    delays = st.sampled_from([0, 0, 0, 3, 20, 60, 120, 250, 340, 375, 390, 399])
    arrivals = [(stamp + draw(delays) * MS, i) for i, (_, stamp, _) in enumerate(messages)]
    nudges = draw(st.lists(st.integers(0, 40 * 50), max_size=30))
    return messages, arrivals, sorted((19 * TICK + n * MS) for n in nudges), draw(st.sampled_from([1, 3]))


def _put(filter_, message) -> str:
    name, stamp, value = message
    if name == "applied":
        return filter_.applied(stamp, [0.1 * value, math.nan if value == 3 else -0.1 * value])
    if name == "odom":
        return filter_.observe("odom", stamp, [value, 1.0])
    return filter_.observe("camera", stamp, image(value))


def _collect(filter_):
    final: dict[int, object] = {}
    filter_.on_final = lambda belief: final.__setitem__(belief.tick, bits(belief))
    return final


@settings(max_examples=400, deadline=None)
@given(_histories())
def test_any_arrival_order_gives_bitwise_the_same_beliefs(history):
    messages, arrivals, nudges, particles = history
    live = new_filter(particles)
    live_final = _collect(live)
    accepted, now = [], 19 * TICK
    live.advance(now)
    events = sorted([(at, 1, i) for at, i in arrivals] + [(at, 0, -1) for at in nudges])
    for at, kind, index in events:
        if kind == 0 or index % 3 == 0:  # not every arrival moves the clock
            now = max(now, at)
            live.advance(now)
        if kind == 1:
            verdict = _put(live, messages[index])
            assert verdict in ("accepted", "superseded", "duplicate", "conflict", "too_old", "future")
            if verdict not in ("too_old", "future"):
                accepted.append(messages[index])
    end = max([now, *(stamp for _, stamp, _ in messages)]) + 30 * MS
    live.advance(end)

    # The oracle sorts first and never has to look back.
    oracle = new_filter(particles)
    oracle_final = _collect(oracle)
    oracle.advance(19 * TICK)
    for message in sorted(accepted, key=lambda m: (m[1], m[0], m[2])):
        oracle.advance(max(oracle.now_ns, message[1] - 90 * MS))
        assert _put(oracle, message) not in ("too_old", "future")
    oracle.advance(end)

    ring, expected = live.revised(), oracle.revised()
    assert [bits(belief) for belief in ring] == [bits(belief) for belief in expected]
    common = live_final.keys() & oracle_final.keys()
    assert all(live_final[tick] == oracle_final[tick] for tick in common)
    assert not ring or ring[-1].tick >= tick_of(end, CONTRACT.rate) - 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=30), st.integers(1, 10**12))
def test_any_stamps_and_any_clock_are_survived(stamps, now):
    filter_ = new_filter()
    for index, stamp in enumerate(stamps):
        filter_.observe("camera", stamp, image(index % 5))
        filter_.applied(stamp, [0.1, 0.1])
        filter_.advance(stamp if index % 2 else now)
    assert len(filter_._memory.snapshots) <= filter_._history + 5
    assert sum(filter_.session.calls.values()) < 100 * (len(stamps) + 1)
