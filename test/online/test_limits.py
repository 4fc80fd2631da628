import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.contract import find_contract
from rssm_ros.online.limits import Limits

CONTRACT = find_contract("manipulator")
LIMITS = Limits(CONTRACT)
UNIT = st.lists(st.floats(-1, 1), min_size=6, max_size=6).map(np.array)
ANY = st.lists(st.floats(-100, 100), min_size=6, max_size=6).map(np.array)
DT = st.floats(0, 1)


@given(UNIT)
def test_scale_and_normalise_are_inverse_inside_the_range(unit):
    np.testing.assert_allclose(LIMITS.normalise(LIMITS.scale(unit)), unit, atol=1e-12)


@given(ANY)
def test_scale_never_leaves_the_range(values):
    si = LIMITS.scale(values)
    assert (si >= CONTRACT.low - 1e-12).all() and (si <= CONTRACT.high + 1e-12).all()


@given(UNIT, ANY, DT)
def test_a_step_stays_within_range_and_slew(unit, wanted, dt):
    before = LIMITS.scale(unit)
    after = LIMITS.step(before, wanted, dt)
    assert (np.abs(after - before) <= CONTRACT.slew * dt + 1e-9).all()
    assert (after >= CONTRACT.low - 1e-9).all() and (after <= CONTRACT.high + 1e-9).all()


@given(UNIT, UNIT, DT)
def test_stepping_again_changes_nothing_that_was_already_reachable(unit, wanted, dt):
    before = LIMITS.scale(unit)
    once = LIMITS.step(before, LIMITS.scale(wanted), dt)
    np.testing.assert_allclose(LIMITS.step(before, once, dt), once, atol=1e-12)


@given(ANY, UNIT)
def test_a_robot_outside_its_range_is_led_back_at_slew_speed(before, wanted):
    after = LIMITS.step(before, LIMITS.scale(wanted), 0.05)
    assert (np.abs(after - before) <= CONTRACT.slew * 0.05 + 1e-9).all()
    middle = (CONTRACT.low + CONTRACT.high) / 2
    outside = (before < CONTRACT.low) | (before > CONTRACT.high)
    assert (np.abs(after - middle)[outside] <= np.abs(before - middle)[outside]).all()


@pytest.mark.parametrize("bad", [np.nan])
def test_a_step_refuses_what_is_not_a_number(bad):
    with pytest.raises(ValueError, match="finite"):
        LIMITS.step(np.zeros(6), np.full(6, bad), 0.05)


@given(ANY, st.booleans())
def test_safe_stops_the_base_and_holds_the_arm(applied, measured):
    where = LIMITS.scale(np.full(6, 0.2))[2:]
    safe = LIMITS.safe({"arm": where} if measured else None, applied)
    np.testing.assert_array_equal(safe[:2], 0)
    expected = where if measured else np.clip(applied[2:], CONTRACT.low[2:], CONTRACT.high[2:])
    np.testing.assert_allclose(safe[2:], expected)
