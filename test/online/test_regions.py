"""Regions of a mixture, and the map that says how far they reach."""

import math

import numpy as np
import pytest

from rssm_ros.online.belief import NEVER
from rssm_ros.online.errors import FilterError
from rssm_ros.online.regions import LEVELS, RegionMap, age_class, depth, log_density, spread
from test.online.streams import drive, new_filter

ONES = (1.0,) * 5
MAP = RegionMap(
    levels=LEVELS,
    log_std=(math.log(0.1), math.log(1.0)),
    base=((0.5, 1.0), (2.0, 4.0), (3.0, 6.0)),
    gain={"camera": ((1.0, 1.0, 1.0, 2.0, 3.0),) * 3, "odom": (ONES, ONES, ONES)},
)


def test_density_of_one_gaussian_and_of_two():
    mean, std = np.zeros((1, 2)), np.full((1, 2), 2.0)
    assert log_density(mean, std, np.zeros(2)) == pytest.approx(-math.log(2 * math.pi * 4))
    two = np.array([[-1.0, 0.0], [1.0, 0.0]])
    left = math.exp(log_density(two[:1], np.ones((1, 2)), [0.3, 0.1]))
    right = math.exp(log_density(two[1:], np.ones((1, 2)), [0.3, 0.1]))
    both = math.exp(log_density(two, np.ones((2, 2)), [0.3, 0.1]))
    assert both == pytest.approx((left + right) / 2)


def test_depth_is_half_the_squared_distance_of_one_gaussian():
    mean, std = np.zeros((3, 1, 2)), np.full((3, 1, 2), 0.5)
    points = np.array([[0.0, 0.0], [0.5, 0.0], [100.0, 0.0]])
    np.testing.assert_allclose(depth(mean, std, points), [0.0, 0.5, 0.5 * 200.0**2])


def test_a_region_of_two_stories_has_two_parts():
    """The place between two stories is further out than either of them."""
    mean, std = np.array([[-1.0, 0.0], [1.0, 0.0]]), np.full((2, 2), 0.1)
    inside = [float(depth(mean, std, [x, 0.0])) < 2.3 for x in (-1.0, 0.0, 1.0)]
    assert inside == [True, False, True]
    assert spread(mean, std) == pytest.approx(math.sqrt((2 * 0.01 + 1.0) / 2))


def test_levels_are_the_shares_of_a_mixtures_own_draws():
    """With the right map a region holds its level of what the mixture itself draws."""
    draw = np.random.default_rng(0)
    mean, std = draw.normal(size=(8, 2)), draw.uniform(0.1, 0.5, (8, 2))
    which = draw.integers(8, size=20_000)
    points = mean[which] + std[which] * draw.normal(size=(20_000, 2))
    deep = depth(np.broadcast_to(mean, (20_000, 8, 2)), np.broadcast_to(std, (20_000, 8, 2)), points)
    limit = np.quantile(deep[:10_000], 0.9)
    assert (deep[10_000:] <= limit).mean() == pytest.approx(0.9, abs=0.01)


def test_the_threshold_grows_with_std_and_with_age():
    ages = {"camera": 0, "odom": 0}
    assert MAP.threshold(0.9, 0.1, ages) == 2.0 and MAP.threshold(0.9, 0.01, ages) == 2.0
    assert MAP.threshold(0.9, math.sqrt(0.1), ages) == pytest.approx(3.0)
    assert MAP.threshold(0.9, 0.1, {"camera": 5, "odom": 0}) == 4.0
    assert MAP.threshold(0.9, 0.1, {"camera": NEVER, "odom": 0}) == 6.0
    assert MAP.threshold(0.9, 0.1, {"odom": 0}) == 6.0
    assert [age_class(age) for age in (0, 1, 2, 3, 4, 7, 8, 99, NEVER)] == [0, 1, 2, 2, 3, 3, 4, 4, 4]
    with pytest.raises(FilterError, match=r"0\.8"):
        MAP.threshold(0.8, 0.1, ages)


def test_a_belief_contains_its_own_particles_and_not_far_away():
    belief = drive(new_filter(4), 6)[-1]
    mean = belief.targets["package"].mean
    assert MAP.contains(0.9, belief, "package", mean[0])
    assert not MAP.contains(0.9, belief, "package", mean[0] + 10.0)


def test_a_map_survives_json_and_a_wrong_one_is_refused():
    import json

    data = json.loads(json.dumps(MAP.to_dict()))
    assert RegionMap.from_dict(data) == MAP
    with pytest.raises(FilterError, match="base"):
        RegionMap.from_dict({key: value for key, value in data.items() if key != "base"})
    with pytest.raises(FilterError, match=r"\(3, 5\) is expected"):
        RegionMap.from_dict({**data, "gain": {"camera": [[1.0, 1.0]] * 3}})
