from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.online.grid import SECOND, stamp_of, tick_from, tick_of

RATES = st.one_of(
    st.sampled_from([Fraction(20), Fraction(30000, 1001), Fraction(1, 3), Fraction(1000)]),
    st.fractions(min_value=Fraction(1, 100), max_value=1000, max_denominator=1001),
)
TICKS = st.integers(0, 10**11)
STAMPS = st.integers(0, 2**62)


@given(TICKS, RATES)
def test_a_tick_s_own_stamp_belongs_to_it(tick, rate):
    assert tick_of(stamp_of(tick, rate), rate) == tick


@given(STAMPS, RATES)
def test_the_nearest_tick_wins_and_half_way_is_the_later_one(stamp, rate):
    exact = stamp * rate / SECOND  # in ticks, as a fraction
    tick = tick_of(stamp, rate)
    assert -Fraction(1, 2) <= exact - tick < Fraction(1, 2)


@given(STAMPS, RATES)
def test_tick_from_is_the_first_one_not_before(stamp, rate):
    tick = tick_from(stamp, rate)
    assert stamp_of(tick, rate) >= stamp and stamp_of(tick - 1, rate) < stamp


def test_floats_would_be_wrong_here():
    rate, far = Fraction(20), 1_800_000_000 * SECOND  # wall time: beyond 2**53 ns
    assert tick_of(far + 24_999_999, rate) == 1_800_000_000 * 20
    assert tick_of(far + 25_000_000, rate) == 1_800_000_000 * 20 + 1
