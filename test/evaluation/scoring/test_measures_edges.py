"""Measures where the simple cases of test_measures do not reach: each of these was once wrong unnoticed."""

import numpy as np
import pytest

from rssm_ros.evaluation.baselines.classical import WINDOW, Told, constant_velocity
from rssm_ros.evaluation.scoring import measures as m


def bools(text):
    return np.array([letter == "x" for letter in text])


def test_an_object_seen_in_its_first_tick_was_seen():
    identity = np.array([0, 0, 0, 1, 1])
    assert m.seen_before(identity, bools("x...x")).tolist() == [True, True, True, False, True]


def two_runs(error_of_the_second):
    """The first is visible for 30 ticks after it is back, off by 1; the second for 3 ticks, then hidden."""
    hidden = bools("..xxxxx" + "." * 30 + "xxxxx...xxxxxxxxxx")
    square = np.where(hidden, 81.0, 1.0)
    square[42:45] = error_of_the_second**2
    zero = np.zeros(len(hidden), np.int64)
    _, runs = m.hidden_runs(hidden, ~hidden, zero, zero)
    assert runs.visible.tolist() == [7, 42]
    return square, runs, np.repeat([0, 1], [30, len(hidden) - 30]), ~hidden


def test_errors_after_a_reappearance_leave_out_what_is_hidden_again():
    square, runs, blocks, visible = two_runs(7.0)
    after = m.after_reappearance(square, runs, blocks, visible)
    assert after["2"].value == pytest.approx(5.0)  # root of (1 + 49) / 2
    assert after["3"].value == after["5"].value == pytest.approx(1.0)


def test_what_was_not_in_view_long_enough_is_not_lost():
    square, runs, blocks, visible = two_runs(7.0)
    _, median, lost = m.ticks_to_reacquire(square, runs, blocks, visible, 20)
    assert lost == 0 and median.value == 0  # of the first alone
    square[7:27] = 49.0
    assert m.ticks_to_reacquire(square, runs, blocks, visible, 20)[2] == 1


def test_a_ratio_is_over_the_ticks_that_both_know():
    square, other = np.array([1.0, 9.0, np.nan]), np.array([4.0, np.nan, 1.0])
    found = m.rmse_ratio(square, other, np.array([0, 0, 1]), np.ones(3, bool))
    assert found.value == pytest.approx(0.5)


def test_constant_velocity_is_the_mean_of_its_window():
    x = np.array([0.0, 5.0, 6.0, 7.0, 8.0, 9.0, 12.0, np.nan, np.nan])  # 5 to 12 in the last five ticks
    place = np.stack([x, np.zeros(9)], -1)
    path = constant_velocity(Told(place, np.isfinite(x), np.zeros(9, np.int64), 0.05))
    assert WINDOW == 5
    np.testing.assert_allclose(path[7:, 0], [12 + 7 / 5, 12 + 14 / 5])
