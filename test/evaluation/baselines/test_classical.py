"""Classical trackers: odometry, holding, extrapolating, and a Kalman filter against the textbook one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rssm_ros.contract import find_contract
from rssm_ros.evaluation.baselines import classical as c
from rssm_ros.online.baselines import EgoMotion, hold_last

DT = 0.05


def told(place, seen, episode=None):
    place, seen = np.asarray(place, float), np.asarray(seen, bool)
    return c.Told(place, seen, np.zeros(len(seen), np.int64) if episode is None else episode, DT)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_to_rest_and_back_is_nothing(seed):
    rng = np.random.default_rng(seed)
    motion = EgoMotion.of(rng.normal(size=(20, 2)), np.zeros(20, int), DT)
    points = rng.normal(size=(20, 2))
    np.testing.assert_allclose(motion.from_rest(motion.to_rest(points)), points, atol=1e-12)


def held_tick_by_tick(truth, seen, twist, reset):
    """The last seen place, moved by the chord of the arc driven in each tick, then by its turn."""
    place, held = np.full(2, np.nan), []
    for at, (forward, turned) in enumerate(twist * DT):
        place = np.full(2, np.nan) if reset[at] else place
        moved = place - forward * np.array([np.cos(turned / 2), np.sin(turned / 2)])
        cosine, sine = np.cos(turned), np.sin(turned)
        place = np.array([cosine * moved[0] + sine * moved[1], cosine * moved[1] - sine * moved[0]])
        place = truth[at] if seen[at] else place
        held.append(place)
    return np.array(held)


def test_holding_is_the_baseline_of_the_summary():
    """The same word means the same thing in the demo's summary and here, and what it means is this."""
    rng = np.random.default_rng(0)
    truth, seen = rng.normal(size=(50, 2)), rng.random(50) < 0.4
    seen[0], seen[25:28] = True, False
    twist, episode = rng.normal(size=(50, 2)), np.repeat([0, 1], 25)
    reset = np.r_[True, episode[1:] != episode[:-1]]
    expected = held_tick_by_tick(truth, seen, twist, reset)
    assert np.isnan(expected[25:28]).all() and np.isfinite(expected[1:25]).all()
    motion = EgoMotion.of(twist, episode, DT)
    found = motion.from_rest(c.hold_last(told(motion.to_rest(truth), seen, episode)))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    summary = hold_last(truth, np.where(seen, 1.0, 0.0), twist, DT, reset)
    np.testing.assert_allclose(summary, expected, atol=1e-9)


def test_constant_velocity_goes_on_as_it_went():
    x = np.r_[np.arange(10) * 0.1, np.full(10, 77.0)]  # then hidden: the truth is not looked at
    place, seen = np.stack([x, -2 * x], -1), np.r_[np.ones(10, bool), np.zeros(10, bool)]
    found = c.constant_velocity(told(place, seen))
    np.testing.assert_allclose(found[10:, 0], np.arange(10, 20) * 0.1)
    np.testing.assert_allclose(found[10:, 1], -np.arange(10, 20) * 0.2)


def test_constant_velocity_forgets_another_object():
    x = np.r_[np.arange(200) * 0.01, 50.0, np.full(5, np.nan)]
    seen = np.r_[np.ones(201, bool), np.zeros(5, bool)]
    found = c.constant_velocity(told(np.stack([x, 0 * x], -1), seen))
    np.testing.assert_allclose(found[-1], [50.0, 0.0])


def test_carried_knows_the_belt():
    speed = np.r_[np.full(10, 0.4), np.zeros(5), np.full(5, 0.2)]
    x = np.cumsum(speed) * DT
    place, velocity = np.stack([x, 0 * x], -1), np.stack([speed, 0 * speed], -1)
    seen = np.arange(20) < 3
    np.testing.assert_allclose(c.carried(told(place, seen), velocity), place, atol=1e-12)


def test_nothing_is_told_of_what_is_hidden():
    """Changing the truth of hidden ticks changes no tracker; settings stay as they were."""
    rng = np.random.default_rng(1)
    place, seen = np.cumsum(rng.normal(size=(60, 2)), 0), np.arange(60) % 12 < 5
    other = np.where(seen[:, None], place, 1e3)
    settings_ = c.candidates(told(place, seen)).only(3)
    for tracker in (c.hold_last, c.constant_velocity, lambda t: c.kalman(t, settings_)[0]):
        np.testing.assert_array_equal(tracker(told(place, seen)), tracker(told(other, seen)))


def textbook(place, seen, q, r, speed):
    """One axis at a time, with matrices."""
    path = np.full(place.shape, np.nan)
    F = np.array([[1, DT], [0, 1]])
    Q = q * np.array([[DT**3 / 3, DT**2 / 2], [DT**2 / 2, DT]])
    for axis in range(place.shape[1]):
        x, P = None, np.diag([r, speed**2])
        for tick in range(len(place)):
            if x is not None:
                x, P = F @ x, F @ P @ F.T + Q
            if seen[tick]:
                if x is None:
                    x = np.array([place[tick, axis], 0.0])
                else:
                    K = P[:, :1] / (P[0, 0] + r)
                    x, P = x + K[:, 0] * (place[tick, axis] - x[0]), P - K @ P[:1]
            if x is not None:
                path[tick, axis] = x[0]
    return path


def test_kalman_is_the_textbook_filter():
    rng = np.random.default_rng(2)
    place = np.cumsum(rng.normal(scale=0.02, size=(80, 2)), 0)
    seen = np.arange(80) % 20 < 12
    seen[0] = False
    settings_ = c.KalmanSettings(
        np.array([0.3, 1.0]), np.array([1e-4, 1e-3]), np.array([np.inf, np.inf]), 0.5, 1e9
    )
    found = c.kalman(told(place, seen), settings_)
    for k in range(2):
        expected = textbook(place, seen, settings_.shock[k], settings_.noise[k], 0.5)
        np.testing.assert_allclose(found[k], expected, atol=1e-9)


def test_kalman_runs_episodes_as_if_alone():
    rng = np.random.default_rng(3)
    place, seen = np.cumsum(rng.normal(size=(50, 2)), 0), rng.random(50) < 0.7
    episode = np.repeat([0, 1], [20, 30])
    settings_ = c.candidates(told(place, seen, episode)).only(10)
    both = c.kalman(told(place, seen, episode), settings_)[0]
    alone = c.kalman(told(place[20:], seen[20:]), settings_)[0]
    np.testing.assert_array_equal(both[20:], alone)


def test_tuning_finds_what_suits():
    """Something that keeps its velocity while hidden, and something that stops at once."""
    ticks = np.arange(2000)
    seen = ticks % 40 < 20
    keeps = np.stack([np.abs((ticks * 0.01) % 8 - 4), 0.0 * ticks], -1)
    stops = np.stack([np.cumsum(np.where(seen, 0.02, 0.0)), 0.0 * ticks], -1)
    long, short = (c.tuned(told(place, seen), ~seen).memory[0] for place in (keeps, stops))
    assert long >= 2.0 and short <= 0.1
    errors = [
        np.square(c.kalman(told(stops, seen), setting)[0] - stops)[~seen].sum()
        for setting in (c.tuned(told(stops, seen), ~seen), c.candidates(told(stops, seen)).only(107))
    ]
    assert errors[0] < errors[1]


def test_fading_into_the_constant_guess():
    place, seen = np.zeros((41, 2)) + 3.0, np.arange(41) == 0
    guess, one = np.tile([1.0, 1.0], (41, 1)), told(place, seen)
    found = c.faded(c.hold_last(one), one, guess, 1.0)
    np.testing.assert_allclose(found[[0, 20, 40], 0], 1.0 + 2.0 * np.exp([0.0, -1.0, -2.0]))
    np.testing.assert_array_equal(c.faded(place, one, guess, np.inf), place)
    away = place.copy()
    away[1:] = [1.0, 1.0]  # it is back at the guess as soon as nobody looks
    assert c.tuned(told(away, seen), ~seen, guess).fade == c.FADES[0]


def test_odometry_is_found_in_the_contract():
    contract = find_contract("manipulator")
    assert c.odometry_of(contract, contract.targets[0]) == ("odom", (0, 1))
    dot = find_contract("dot")
    assert c.odometry_of(dot, dot.targets[0]) is None, "pixels do not move with a robot"


def test_missing_odometry_goes_on_as_before():
    twist = np.array([[1.0, 0.0], [np.nan, np.nan], [1.0, 0.0]])
    assert EgoMotion.of(twist, np.zeros(3, int), DT).position[-1, 0] == pytest.approx(0.15)


def test_detections_are_tuned_for_what_is_hidden_but_not_at_the_cost_of_what_is_seen():
    """A thing at rest, hidden half of the time; the detector's noise is 1 cm, and below 1 nat it dreams."""
    rng = np.random.default_rng(0)
    truth = np.tile([0.4, 0.1], (400, 1))
    seen = np.arange(400) % 20 < 10
    dreams = rng.random(400) < 0.3
    detected = truth + rng.normal(0, 0.01, (400, 2)) + np.where((~seen & dreams)[:, None], 0.5, 0.0)
    nats = np.where(seen, 1.7, np.where(dreams, 0.7, -2.0))

    def at(threshold):
        return c.Told(detected, nats >= threshold, np.zeros(400, np.int64), DT)

    guess = np.tile([0.0, 0.0], (400, 1))
    found = c.tuned_detections(at, truth, ~seen, seen, guess)
    assert 0.7 < found.threshold <= 1.7, "no dreams, and something to see"
    path = c.faded(
        c.kalman(at(found.threshold), found.kalman)[0], at(found.threshold), guess, found.kalman.fade
    )
    off = np.linalg.norm(path - truth, axis=-1)
    assert off[~seen].max() < 0.03 and np.sqrt(np.square(off[seen]).mean()) < 0.01, (
        "better than one detection"
    )
