"""The scorecard's measures against hand-computed cases and invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rssm_ros.evaluation.playing.pictures import psnr, ssim
from rssm_ros.evaluation.scoring import measures as m

FEW = settings(max_examples=60, deadline=None)
ZERO = np.zeros


def bools(text: str):
    return np.array([letter == "x" for letter in text])


def test_groups_split_at_the_contracts_thresholds():
    groups = m.groups_of(np.array([0.0, 0.05, 0.06, 0.49, 0.5, 1.0, np.nan]))
    assert groups["hidden"].tolist() == [True, True] + [False] * 5
    assert groups["partly"].tolist() == [False, False, True, True, False, False, False]
    assert groups["visible"].tolist() == [False] * 4 + [True, True, False]


@FEW
@given(hnp.arrays(float, 30, elements=st.floats(0, 1) | st.just(float("nan"))))
def test_every_known_tick_is_in_exactly_one_group_and_one_fraction(visibility):
    for masks in (m.groups_of(visibility), m.fraction_masks(visibility)):
        np.testing.assert_array_equal(
            sum(mask.astype(int) for mask in masks.values()), np.isfinite(visibility)
        )


def test_ticks_in_a_row_by_hand():
    mask, episode = bools("..xxx.xxxx.x"), np.array([0] * 8 + [1] * 4)
    assert m.ticks_in_row(mask, episode).tolist() == [0, 0, 1, 2, 3, 0, 1, 2, 1, 2, 0, 1]


@FEW
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=40))
def test_ticks_in_a_row_against_a_loop(rows):
    mask = np.array([row[0] for row in rows], bool)
    episode = np.sort(np.array([row[1] for row in rows], np.int64))
    expected, count = [], 0
    for at, here in enumerate(mask):
        same = at > 0 and episode[at] == episode[at - 1]
        count = (count + 1 if same else 1) if here else 0
        expected.append(count)
    found = m.ticks_in_row(mask, episode)
    assert found.tolist() == expected
    masks = m.length_masks(found)
    np.testing.assert_array_equal(sum(part.astype(int) for part in masks.values()), mask)


def test_blocks_are_episodes_or_stretches_of_them():
    episode = np.array([0] * 5 + [1] * 3)
    assert m.blocks_of(episode, 5.0).tolist() == [0, 0, 0, 1, 1, 2, 2, 3], "25 s and 15 s"
    assert m.blocks_of(episode, 0.05).tolist() == [0] * 5 + [1] * 3
    many = np.repeat(np.arange(3, 13), 700)
    assert m.blocks_of(many, 0.05).tolist() == (many - 3).tolist()


def test_one_stretch_has_no_interval():
    found = m.rmse(np.array([4.0, 9.0]), np.zeros(2, int), np.array([True, False]))
    assert found.to_dict() == {"value": 2.0, "ci95": [None, None]}


def test_identities_change_with_gaps_jumps_and_episodes():
    x = np.arange(400) * 0.01
    x[100:] += 3.0  # a jump
    x[200] = np.nan  # a gap
    episode = np.r_[np.zeros(300, int), np.ones(100, int)]
    found = m.identities(np.stack([x, ZERO(400)], -1), episode)
    assert found[[0, 99, 100, 199, 200, 201, 299, 300, 399]].tolist() == [0, 0, 1, 1, -1, 2, 2, 3, 3]


def test_seen_before_starts_anew_with_every_object():
    identity = np.array([0, 0, 0, 1, 1, 1, -1, 2, 2])
    seen = bools(".x....x.x")
    assert m.seen_before(identity, seen).tolist() == bools(".xx.....x").tolist()


def test_hidden_runs_by_hand():
    """Seen again as the same; seen again as another; never seen again."""
    hidden = bools("..xx...xxx..xx")
    visible = bools("xx...xx...xx..")
    identity = np.array([0] * 9 + [1] * 5)
    count, runs = m.hidden_runs(hidden, visible, ZERO(14, int), identity)
    assert count == 3
    assert (runs.begin.tolist(), runs.back.tolist(), runs.visible.tolist()) == ([2, 7], [4, 10], [5, 10])
    identity = np.array([0] * 10 + [1] * 4)  # now another one comes out at tick 10
    assert m.hidden_runs(hidden, visible, ZERO(14, int), identity)[1].begin.tolist() == [2]


def test_a_run_that_is_hidden_again_before_it_is_visible_has_no_visible_tick():
    hidden, visible = bools("xx.xx.."), bools(".....xx")
    count, runs = m.hidden_runs(hidden, visible, ZERO(7, int), ZERO(7, int))
    assert count == 2 and runs.visible.tolist() == [-1, 5] and runs.back.tolist() == [2, 5]


def test_rmse_and_ratio_by_hand():
    square, blocks = np.array([1.0, 9.0, np.nan, 4.0]), np.array([0, 0, 1, 1])
    mask = np.array([True, True, True, False])
    assert m.rmse(square, blocks, mask).value == pytest.approx(np.sqrt(5.0))
    assert np.isnan(m.rmse(square, blocks, np.zeros(4, bool)).value)
    other = np.array([4.0, 36.0, 1.0, 1.0])
    assert m.rmse_ratio(square, other, blocks, mask).value == pytest.approx(0.5)


@FEW
@given(hnp.arrays(float, 24, elements=st.floats(0, 100)), st.floats(0.1, 10))
def test_errors_scale_with_the_unit_and_lie_in_their_interval(square, factor):
    blocks, mask = np.repeat(np.arange(6), 4), np.ones(24, bool)
    one, other = m.rmse(square, blocks, mask), m.rmse(factor**2 * square, blocks, mask)
    assert other.value == pytest.approx(factor * one.value, abs=1e-9)
    assert one.value**2 == pytest.approx(square.mean(), abs=1e-9)
    means = np.sqrt(square.reshape(6, 4).mean(1))
    assert means.min() - 1e-9 <= one.low <= one.high <= means.max() + 1e-9


@FEW
@given(hnp.arrays(float, (2, 30), elements=st.floats(-5, 5)))
def test_correlation_is_numpys(pair):
    x, y = pair
    found = m.correlation(x, y, np.repeat(np.arange(5), 6))
    if np.std(x) < 1e-3 or np.std(y) < 1e-3:
        return
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


def test_correlation_of_nothing_and_of_a_constant_says_nothing():
    x, blocks = np.array([1.0, 2.0, np.nan]), ZERO(3, int)
    assert np.isnan(m.correlation(x, np.full(3, np.nan), blocks).value)
    assert np.isnan(m.correlation(x, np.ones(3), blocks).value)
    assert m.correlation(x, -2 * x, blocks).value == pytest.approx(-1.0)


def test_groups_of_equal_doubt():
    nan = np.nan
    visibility = np.array([1.0, 0.6, 0.4, 0.1, 0.0, 0.05, nan, 0.0, 0.0])
    hidden_for = np.array([0, 0, 0, 0, 1, 2, 0, 1, 20])
    before = np.array([1, 0, 1, 1, 1, 1, 1, 0, 0], bool)
    groups = m.doubts(visibility, hidden_for, before)
    assert groups[6] == -1 and len(set(groups[[0, 1, 2, 3, 4, 5, 7, 8]])) == 8
    again = m.doubts(visibility, hidden_for, np.ones(9, bool))
    assert groups[1] == again[1], "what is seen is seen: its history tells nothing"
    assert again[7] == again[4] and groups[7] != groups[4]


@FEW
@given(hnp.arrays(float, (2, 30), elements=st.floats(0.01, 5)), st.permutations(range(30)))
def test_a_deviation_honest_by_groups_of_one_is_the_error_itself(pair, order):
    error, y = pair
    if np.ptp(error) < 1e-3 or np.ptp(y) < 1e-3:
        return
    found = m.correlation_by_group(error**2, y, np.array(order), np.repeat(np.arange(5), 6))
    assert found.value == pytest.approx(np.corrcoef(np.log(error), y)[0, 1], abs=1e-6)
    same = m.correlation_by_group(9 * error**2, y, np.array(order), np.repeat(np.arange(5), 6))
    assert same.value == pytest.approx(found.value, abs=1e-6), "the unit tells nothing"


def test_a_deviation_honest_by_group_by_hand():
    group, blocks = np.array([0, 0, 1, 1, 1, -1]), np.array([0, 1, 0, 1, 1, 0])
    square, y = np.array([1.0, 3.0, 8.0, 9.0, 10.0, 1e6]), np.array([1.0, 0.8, 0.0, 0.1, np.nan, 0.5])
    claim = np.log(np.sqrt([2.0, 2.0, 8.5, 8.5]))  # the tick without y counts nowhere, nor does no group
    found = m.correlation_by_group(square, y, group, blocks)
    assert found.value == pytest.approx(np.corrcoef(claim, y[:4])[0, 1])
    nothing = m.correlation_by_group(square, y, np.where(group == 1, -1, group), blocks)
    assert np.isnan(nothing.value) and np.isnan(nothing.low), "one group has nothing to follow"
    exact = m.correlation_by_group(np.where(group == 0, 0.0, square), y, group, blocks)
    assert np.isnan(exact.value), "no error has no logarithm"
    assert np.isnan(m.correlation_by_group(square, np.full(6, np.nan), group, blocks).value)


def test_the_claim_by_group_follows_the_error_by_group_where_it_is_honest():
    rng = np.random.default_rng(1)
    group, blocks = rng.integers(8, size=20_000), np.repeat(np.arange(20), 1000)
    y = 1 - group / 8 + rng.normal(0, 0.1, 20_000)
    std = np.exp(0.3 * group + rng.normal(0, 1.0, 20_000))  # it tells ticks of a group apart as well
    error = rng.normal(0, std)
    claimed, honest = (m.correlation_by_group(part**2, y, group, blocks) for part in (std, error))
    by_tick = m.correlation(np.log(std), y, blocks)
    assert claimed.value == pytest.approx(honest.value, abs=0.03) and honest.value < -0.9
    assert honest.low <= honest.value <= honest.high and honest.high - honest.low < 0.1
    assert by_tick.value > honest.value + 0.3, "which costs it correlation, though it is no less honest"
    even = m.correlation_by_group(np.exp(0.05 * group), y, group, blocks)
    wrong = m.correlation_by_group(std**2 * np.where(group > 3, 0.02, 1), y, group, blocks)
    assert even.value < -0.9, "a correlation does not see by how much it widens"
    assert wrong.value > honest.value + 0.3, "a claim that is too sure of what is hidden stands out"


def reappearing(errors_after, runs=20, calm=1.0):
    """Runs of 5 hidden ticks, then visible ones with these errors, then `calm`."""
    one = np.r_[np.full(5, 9.0), errors_after, np.full(30 - len(errors_after), calm)]
    hidden = np.tile(np.r_[np.ones(5, bool), np.zeros(30, bool)], runs)
    square, episode = np.tile(one, runs) ** 2, np.zeros(35 * runs, np.int64)
    _, found = m.hidden_runs(hidden, ~hidden, episode, episode)
    blocks = np.repeat(np.arange(runs), 35)
    return square, found, blocks, ~hidden


@pytest.mark.parametrize(
    ("errors", "ticks"), [([1.0], 0), ([3.0, 1.0], 1), ([3.0, 3.0, 2.0, 1.0], 3), ([], 0)]
)
def test_ticks_until_found_again_by_hand(errors, ticks):
    square, runs, blocks, visible = reappearing(errors)
    curve, median, lost = m.ticks_to_reacquire(square, runs, blocks, visible, 20)
    assert (curve.value, median.value, lost) == (ticks, ticks, 0)
    after = m.after_reappearance(square, runs, blocks, visible)
    assert after["0"].value == pytest.approx(errors[0] if errors else 1.0)
    assert after["10"].value == pytest.approx(1.0)


def test_what_is_never_found_again_is_lost():
    square, runs, blocks, visible = reappearing([])
    begin = int(runs.visible[3])
    square[begin : begin + 25] = 100.0
    _, median, lost = m.ticks_to_reacquire(square, runs, blocks, visible, 20)
    assert lost == 1 and median.value == 0


def test_nothing_hidden_nothing_to_find_again():
    square = np.ones(10)
    _, runs = m.hidden_runs(ZERO(10, bool), np.ones(10, bool), ZERO(10, int), ZERO(10, int))
    curve, _, lost = m.ticks_to_reacquire(square, runs, ZERO(10, int), np.ones(10, bool), 20)
    assert np.isnan(curve.value) and lost == 0


def test_a_belief_that_stays_with_the_old_object_is_a_swap():
    place = np.r_[np.tile([[5.0, 0.0]], (10, 1)), np.tile([[0.0, 0.0]], (10, 1))]
    identity, visible = np.repeat([0, 1], 10), np.ones(20, bool)
    stays, follows = np.tile([[5.0, 0.0]], (20, 1)), place
    assert m.identity_swaps(stays, place, identity, visible, 5) == 1
    assert m.identity_swaps(follows, place, identity, visible, 5) == 0
    late = place.copy()
    late[10:13] = [5.0, 0.0]  # three ticks late is no swap
    assert m.identity_swaps(late, place, identity, visible, 5) == 0


def test_pictures_by_hand():
    black, white = ZERO((8, 8, 1)), np.ones((8, 8, 1))
    assert psnr(black, white) == 0.0 and psnr(black, black) == 100.0
    assert psnr(black, black + 0.1) == pytest.approx(20.0)
    assert ssim(white, white) == pytest.approx(1.0)
    c1 = 0.01**2  # constant pictures: only the means differ
    assert ssim(black, white) == pytest.approx(c1 / (1 + c1))


@FEW
@given(hnp.arrays(float, (2, 9, 8, 2), elements=st.floats(0, 1)))
def test_similarity_is_symmetric_and_at_most_one(pair):
    one, other = pair
    assert ssim(one, other) == pytest.approx(ssim(other, one), abs=1e-9)
    assert -1.0 - 1e-9 <= ssim(one, other) <= 1.0 + 1e-9
