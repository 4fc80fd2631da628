import numpy as np

from rssm_ros.online.baselines import climatology, hold_last

DT = 0.05


def package_at_rest(speed: np.ndarray, turning: np.ndarray) -> np.ndarray:
    """Where a package at rest is, [T, 2] in the base frame; speed and turning [T] are means over [t-1, t)."""
    heading = np.cumsum(np.r_[0.0, turning[1:]] * DT)
    middle = heading - np.r_[0.0, turning[1:]] * DT / 2
    steps = speed[:, None] * DT * np.stack([np.cos(middle), np.sin(middle)], 1)
    steps[0] = 0.0
    offset = np.array([1.0, 0.3]) - np.cumsum(steps, 0)
    cosine, sine = np.cos(heading), np.sin(heading)
    return np.stack(
        [cosine * offset[:, 0] + sine * offset[:, 1], cosine * offset[:, 1] - sine * offset[:, 0]], 1
    )


def only_first_seen(ticks: int) -> np.ndarray:
    return np.where(np.arange(ticks) == 0, 1.0, 0.0)


def test_hold_last_stays_put_in_the_world_while_the_base_drives_and_turns() -> None:
    """Odometry moves the guess in the base frame: one glued to the robot is too easy to beat."""
    speed, turning = np.full(40, 0.4), np.full(40, 0.5)
    truth = package_at_rest(speed, turning)
    held = hold_last(truth, only_first_seen(40), np.stack([speed, turning], 1), DT)
    np.testing.assert_allclose(held, truth, atol=1e-12)


def test_odometry_is_the_mean_over_the_tick_before() -> None:
    """A base that starts and stops tells a half-tick lag from none, which a steady one cannot."""
    speed = np.r_[np.zeros(5), np.full(5, 0.6), np.zeros(5)]
    turning = np.r_[np.zeros(7), np.full(5, -0.8), np.zeros(3)]
    truth = package_at_rest(speed, turning)
    held = hold_last(truth, only_first_seen(15), np.stack([speed, turning], 1), DT)
    np.testing.assert_allclose(held, truth, atol=1e-12)


def test_whatever_is_not_hidden_is_seen_and_an_episode_s_start_forgets() -> None:
    truth = np.arange(6.0)[:, None] * np.ones(2)
    reset = [True, False, False, True, False, False]
    held = hold_last(truth, [0.06, 0.05, 0.0, 0.05, 0.06, 0.0], np.zeros((6, 2)), DT, reset)
    np.testing.assert_array_equal(held[:, 0], [0.0, 0.0, 0.0, np.nan, 4.0, 4.0])


def test_hold_last_knows_nothing_before_the_first_sight_and_jumps_to_the_next() -> None:
    truth = np.array([[np.nan, np.nan], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    held = hold_last(truth, [np.nan, 1.0, 0.0, 0.6], np.zeros((4, 2)), DT)
    assert np.isnan(held[0]).all()
    np.testing.assert_array_equal(held[1:], [[1.0, 0.0], [1.0, 0.0], [3.0, 0.0]])


def test_climatology_is_the_mean_of_what_there_was() -> None:
    np.testing.assert_array_equal(climatology([[0.0, 0.0], [np.nan, np.nan], [2.0, 4.0]]), [1.0, 2.0])
    assert np.isnan(climatology(np.zeros((0, 2)))).all()
