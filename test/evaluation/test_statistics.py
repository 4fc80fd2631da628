import numpy as np
import pytest

from rssm_ros.evaluation.statistics import Estimate, chi_squared, estimate, mean, ratio, root_ratio


def test_a_ratio_without_spread_has_an_interval_without_width() -> None:
    found = estimate(ratio, [2, 4, 6], [4, 8, 12])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_pairing_by_seed_cancels_what_seeds_have_in_common() -> None:
    """Easy and hard seeds differ tenfold; the ratio between two policies on them does not."""
    rng = np.random.default_rng(3)
    difficulty = rng.uniform(1, 10, 12)
    paired = estimate(ratio, 0.8 * difficulty, difficulty)
    shuffled = estimate(ratio, 0.8 * difficulty, rng.permutation(difficulty))
    assert paired.high - paired.low < 1e-9
    assert shuffled.high - shuffled.low > 0.1


def test_the_interval_of_a_mean_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    found = estimate(mean, values)
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(found.value - half, abs=0.04)
    assert found.high == pytest.approx(found.value + half, abs=0.04)
    assert estimate(mean, values) == found


def test_rmse_weighs_seeds_by_their_ticks() -> None:
    assert estimate(root_ratio, [9.0, 0.0], [1, 8]).value == pytest.approx(1.0)


def test_nothing_to_measure_is_none_in_json() -> None:
    assert estimate(ratio, [0, 0], [0, 0]).to_dict() == {"value": None, "ci95": [None, None]}
    assert Estimate(1.0, 0.5, 2.0).to_dict() == {"value": 1.0, "ci95": [0.5, 2.0]}


def test_arrays_must_have_one_number_per_seed() -> None:
    with pytest.raises(ValueError, match="one number per seed"):
        estimate(ratio, [1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("dim", "known"),  # quantiles of 50, 90 and 95 %, from a printed table
    [
        (1, (0.455, 2.706, 3.841)),
        (2, (1.386, 4.605, 5.991)),
        (3, (2.366, 6.251, 7.815)),
        (6, (5.348, 10.645, 12.592)),
    ],
)
def test_chi_squared(dim: int, known: tuple[float, ...]) -> None:
    assert [chi_squared(dim, level) for level in (0.5, 0.9, 0.95)] == pytest.approx(known, abs=5e-4)
