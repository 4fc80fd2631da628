"""A saved filter goes on as if nothing had happened."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rssm_ros.online.errors import FilterError
from rssm_ros.online.filter import Filter
from rssm_ros.online.memory import MAGIC
from test.online.model import TinyModel
from test.online.streams import CONTRACT, MS, TICK, bits, drive, image, new_filter, small_contract


@pytest.mark.parametrize("particles", [1, 4])
def test_a_saved_state_continues_bitwise(particles):
    filter_ = new_filter(particles)
    drive(filter_, 12)
    data = filter_.save_state()
    other = new_filter(particles, seed=99)
    other.load_state(data)
    assert other.counters == filter_.counters
    late = (28 * TICK, image(200))
    assert filter_.observe("camera", *late) == other.observe("camera", *late) == "conflict"
    left, right = drive(filter_, 10, start=32), drive(other, 10, start=32)
    assert [bits(belief) for belief in left] == [bits(belief) for belief in right]


def _feed(filter_, first, last, late, hangs=99):
    """The middle of a recording: some frames and commands come 3 ticks late, and from the tick `hangs` on the
    camera shows the same. Returns what was published.
    """
    beliefs = []
    for tick in range(first, last):
        now = tick * TICK
        filter_.advance(now)
        filter_.observe("odom", now, [0.1 * tick, 1.0])
        for shift in (0, 3):
            seen = tick - shift
            if (seen in late) == (shift == 3):
                filter_.observe("camera", seen * TICK, image(min(seen, hangs)))
                filter_.applied(seen * TICK - 20 * MS, [0.01 * seen, -0.02 * seen])
        beliefs += filter_.advance(now + 26 * MS)
    return [bits(belief) for belief in beliefs]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(21, 44),
    st.sets(st.integers(20, 45), max_size=8),
    st.sampled_from([1, 3]),
    st.integers(20, 50),
)
def test_from_the_middle_equals_from_the_start(middle, late, particles, hangs):
    """Whatever was on its way when the state was saved, and whatever it saves: nothing, a part, all of it."""
    whole = new_filter(particles)
    before = _feed(whole, 20, middle, late, hangs)
    data = whole.save_state()
    after = _feed(whole, middle, 48, late, hangs)
    seek = new_filter(particles, seed=77)
    seek.load_state(data)
    assert _feed(seek, middle, 48, late, hangs) == after
    steady = new_filter(particles)
    assert _feed(steady, 20, 48, late, hangs) == before + after
    assert whole.counters["frozen"] or hangs > 36
    assert seek.counters == whole.counters and seek.epoch == whole.epoch


def test_final_beliefs_go_on_where_they_stopped():
    filter_, other = new_filter(), new_filter()
    told, continued = [], []
    filter_.on_final = lambda belief: told.append(bits(belief))
    drive(filter_, 14)
    data, count = filter_.save_state(), len(told)
    other.on_final = lambda belief: continued.append(bits(belief))
    other.load_state(data)
    drive(filter_, 10, start=34)
    drive(other, 10, start=34)
    assert continued == told[count:] and continued


def test_saving_changes_nothing():
    filter_, other = new_filter(3), new_filter(3)
    drive(filter_, 6)
    drive(other, 6)
    filter_.observe("camera", 24 * TICK + MS, image(77))
    other.observe("camera", 24 * TICK + MS, image(77))
    assert filter_.save_state() == filter_.save_state()
    assert [bits(b) for b in drive(filter_, 4, start=26)] == [bits(b) for b in drive(other, 4, start=26)]


def test_a_saved_state_of_another_filter_is_refused_by_name():
    filter_ = new_filter(2)
    with pytest.raises(FilterError, match="nothing to save"):
        filter_.save_state()
    drive(filter_, 2)
    data = filter_.save_state()
    with pytest.raises(FilterError, match="particles is 2, this filter has 3"):
        new_filter(3).load_state(data)
    with pytest.raises(FilterError, match="contract is 'small"):
        new_filter(2, contract=small_contract(history=0.5)).load_state(data)
    model = TinyModel(CONTRACT)
    model.fingerprint = "another"
    with pytest.raises(FilterError, match="bundle is 'tiny', this filter has 'another'"):
        Filter(model, CONTRACT, 2).load_state(data)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: b"", "not a saved filter state"),
        (lambda data: b"nonsense", "not a saved filter state"),
        (lambda data: data[len(MAGIC) :], "not a saved filter state"),
        (lambda data: data[: len(data) // 2], "damaged or cut short"),
        (lambda data: data[:-1], "damaged or cut short"),
        (lambda data: data[:-500] + bytes([data[-500] ^ 1]) + data[-499:], "damaged or cut short"),
        (lambda data: MAGIC + hashlib.sha256(b"x").digest() + b"x", "cannot be read"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage, told):
    """A truncated file once came through as numpy's BadZipFile."""
    filter_ = new_filter()
    drive(filter_, 6)
    data = filter_.save_state()
    before = [bits(belief) for belief in filter_.revised()]
    with pytest.raises(FilterError, match=told):
        filter_.load_state(damage(data))
    assert [bits(belief) for belief in filter_.revised()] == before
