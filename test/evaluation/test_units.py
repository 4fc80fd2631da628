"""How figures are said: never so short that a figure seems to lie on the other side of what was asked for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.evaluation.units import PERCENT, RATIO, Scale, bounds_of, checked

NEAR = st.floats(-1e-3, 1e-3, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "bound", "told"),
    [
        (0.9200992555831266, "0.88 to 0.92", "0.9201"),
        (0.90123, "0.88 to 0.92", "0.901"),
        (0.5000001, "<= 0.5", "0.5000001"),
        (0.5, "<= 0.5", "0.5"),
        (10.0, "<= 2", "10"),
        (-0.69999, "<= -0.7", "-0.69999"),
        (1.0, "<= 0", "1"),
    ],
)
def test_a_check_that_fails_does_not_look_as_if_it_passed(value, bound, told):
    assert checked(value, bound) == told


@given(st.sampled_from(["0.88 to 0.92", "<= 0.5", "<= -0.7", "<= 2", "<= 1.15"]), NEAR, st.booleans())
def test_what_is_shown_is_on_the_same_side(bound, off, at_low):
    low, high = bounds_of(bound)
    value = (low if at_low and math.isfinite(low) else high) + off
    assert (low <= float(checked(value, bound)) <= high) == (low <= value <= high)
    for scale in (PERCENT, RATIO, Scale.of("m")):
        shown = float(scale.telling(value, low, high).value(value)) / scale.factor
        tolerance = 1e-11  # of the division
        if abs(value - low) > 1e-8 and abs(value - high) > 1e-8:
            assert (low - tolerance <= shown <= high + tolerance) == (low <= value <= high)


def test_digits_are_added_where_they_are_needed_only():
    assert PERCENT.telling(0.92009, 0.88, 0.92).with_unit(0.92009) == "92.01 %"
    assert PERCENT.telling(0.9101, 0.88, 0.92).with_unit(0.9101) == "91.0 %"
    assert RATIO.telling(0.39, -math.inf, 0.5) == RATIO
    assert Scale.of("m").telling(0.0973, -math.inf, math.inf).with_unit(0.0973) == "9.7 cm"
