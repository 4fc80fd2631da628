import numpy as np

from rssm_ros.evaluation.baselines import climatology, hold_last

DT = 0.05


def test_hold_last_stays_put_in_the_world_while_the_base_drives_and_turns() -> None:
    """Odometry moves the guess in the base frame: one glued to the robot is too easy to beat."""
    ticks = 40
    odometry = np.tile([0.4, 0.5], (ticks, 1))
    heading = np.arange(ticks) * 0.5 * DT
    turn = np.diff(heading, prepend=0.0)
    middle = heading - turn / 2
    steps = 0.4 * DT * np.stack([np.cos(middle), np.sin(middle)], 1)
    steps[0] = 0.0
    base = np.cumsum(steps, 0)
    offset = np.array([1.0, 0.3]) - base  # a package at rest in the world
    cosine, sine = np.cos(heading), np.sin(heading)
    truth = np.stack(
        [cosine * offset[:, 0] + sine * offset[:, 1], cosine * offset[:, 1] - sine * offset[:, 0]], 1
    )
    visibility = np.zeros(ticks)
    visibility[0] = 1.0
    np.testing.assert_allclose(hold_last(truth, visibility, odometry, DT), truth, atol=1e-12)


def test_hold_last_knows_nothing_before_the_first_sight_and_jumps_to_the_next() -> None:
    truth = np.array([[np.nan, np.nan], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    held = hold_last(truth, [np.nan, 1.0, 0.0, 0.6], np.zeros((4, 2)), DT)
    assert np.isnan(held[0]).all()
    np.testing.assert_array_equal(held[1:], [[1.0, 0.0], [1.0, 0.0], [3.0, 0.0]])


def test_climatology_is_the_mean_of_what_there_was() -> None:
    np.testing.assert_array_equal(climatology([[0.0, 0.0], [np.nan, np.nan], [2.0, 4.0]]), [1.0, 2.0])
    assert np.isnan(climatology(np.zeros((0, 2)))).all()
