"""Faults as pure transformations of streams: what each one changes, and that it changes nothing else."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.faults.streams import (
    chain,
    delay,
    drop,
    duplicate,
    during,
    freeze,
    in_order,
    jitter,
    not_finite,
    only,
    skew,
    stall,
    wrong_size,
)
from rssm_ros.recordings import Observation

MS = 1_000_000
NAMES = ("camera", "odom", "applied")


@st.composite
def streams(draw):
    """Messages of three kinds with latencies of their own; each with a content of its own."""
    facts = draw(
        st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 40), st.integers(0, 90)), max_size=40)
    )
    return in_order(
        Observation(name, stamp * 25 * MS, (stamp * 25 + late) * MS, content(name, index))
        for index, (name, stamp, late) in enumerate(facts)
    )


def content(name: str, index: int):
    if name == "camera":
        return np.full((2, 3, 3), index, np.uint8)
    return np.array([index, index + 0.5], np.float32)


def about(stream):
    """Everything in a stream that can be compared."""
    return [(*header(m), m.value.dtype.str, m.value.shape, m.value.tobytes()) for m in stream]


def header(message):
    return message.name, message.stamp_ns, message.received_ns


def contents(stream):
    return Counter((m.name, m.stamp_ns, m.value.tobytes()) for m in stream)


times = st.integers(0, 200).map(lambda ms: ms * MS)
shares = st.floats(0, 1)
seeds = st.integers(0, 5)
spells = st.tuples(st.integers(1, 300), st.floats(0, 1)).map(lambda s: (s[0] * MS, int(s[0] * MS * s[1])))
faults = st.one_of(
    st.builds(drop, shares, seeds),
    st.builds(delay, times),
    st.builds(jitter, times, seeds),
    spells.map(lambda s: stall(*s)),
    spells.map(lambda s: freeze(*s)),
    st.builds(duplicate, times),
    st.builds(skew, st.integers(-200, 200).map(lambda ms: ms * MS)),
    st.builds(not_finite, shares, seeds),
    st.builds(wrong_size, shares, seeds),
)


@given(streams(), faults, faults)
def test_faults_are_pure_in_order_and_compose(stream, one, other):
    before = about(stream)
    found = one(stream)
    assert about(stream) == before, "what was given is left alone"
    assert about(one(stream)) == about(found), "the same again"
    assert about(in_order(found)) == about(found), "as it is received"
    assert about(chain(one, other)(stream)) == about(other(found))
    assert about(chain()(stream)) == before


@given(streams(), faults, st.sampled_from(NAMES), times, times)
def test_a_fault_meets_only_what_it_is_given(stream, fault, name, begin, length):
    found = only([name], fault)(stream)
    others = [m for m in stream if m.name != name]
    assert about(m for m in found if m.name != name) == about(others)
    assert about(m for m in found if m.name == name) == about(
        fault(tuple(m for m in stream if m.name == name))
    )
    inside = [m for m in stream if begin <= m.received_ns < begin + length]
    outside = [m for m in stream if not begin <= m.received_ns < begin + length]
    met = Counter(about(during(begin, begin + length, fault)(stream)))
    assert met == Counter(about(outside)) + Counter(about(fault(tuple(inside))))


@given(streams(), shares, shares, seeds)
def test_drops_take_away_and_larger_ones_take_more(stream, one, other, seed):
    few, many = sorted((one, other))
    kept, fewer = about(drop(few, seed)(stream)), about(drop(many, seed)(stream))
    assert not Counter(fewer) - Counter(kept) and not Counter(kept) - Counter(about(stream))
    assert about(drop(0.0, seed)(stream)) == about(stream) and drop(1.0, seed)(stream) == ()


def test_a_drop_loses_its_share_and_other_seeds_lose_other_messages():
    stream = in_order(Observation("odom", k, k, np.zeros(1)) for k in range(4000))
    kept = [drop(0.3, seed)(stream) for seed in (1, 2)]
    assert all(0.67 < len(each) / 4000 < 0.73 for each in kept)
    both = {m.stamp_ns for m in kept[0]} & {m.stamp_ns for m in kept[1]}
    assert 0.45 < len(both) / 4000 < 0.53, "independent: 0.49"


@given(streams(), times, seeds, spells)
def test_what_is_late_is_late_and_the_same(stream, by, seed, spell):
    every, length = spell
    for fault, most in ((delay(by), by), (jitter(by, seed), by), (stall(every, length), length)):
        assert contents(fault(stream)) == contents(stream)
        assert all(0 <= lag <= most for lag in lags(stream, fault(stream)))
    assert set(lags(stream, delay(by)(stream))) <= {by}
    assert all(m.received_ns % every <= max(every - length - 1, 0) for m in stall(every, length)(stream))


def lags(stream, found):
    """How much later each message is received; they are told apart by their content."""
    received = {id(m.value): m.received_ns for m in found}
    return [received[id(m.value)] - m.received_ns for m in stream]


def test_jitter_reorders():
    stream = in_order(Observation("odom", k * MS, k * MS, np.zeros(1)) for k in range(100))
    stamps = [m.stamp_ns for m in jitter(50 * MS, 0)(stream)]
    assert stamps != sorted(stamps) and sorted(stamps) == [m.stamp_ns for m in stream]


@given(streams(), spells)
def test_frozen_content_stays_that_of_its_spells_first_message(stream, spell):
    every, length = spell
    found = freeze(every, length)(stream)
    assert [header(m) for m in found] == [header(m) for m in stream]
    first = {}
    for was, now in zip(stream, found, strict=True):
        if was.received_ns % every < length:
            expected = first.setdefault((was.name, was.received_ns // every), was.value)
            assert now.value is expected
        else:
            assert now.value is was.value


@given(streams(), times, st.integers(-200, 200))
def test_copies_and_clocks(stream, later, ms):
    assert Counter(about(duplicate(later)(stream))) == Counter(about(stream)) + Counter(
        about(delay(later)(stream))
    )
    shifted = skew(ms * MS)(stream)
    assert about(in_order(replace(m, stamp_ns=m.stamp_ns - ms * MS) for m in shifted)) == about(stream)
    assert [m.received_ns for m in shifted] == [m.received_ns for m in stream]


@given(streams(), shares, seeds)
def test_broken_messages_keep_their_stamps_and_are_what_a_drop_would_lose(stream, share, seed):
    lost = Counter(header(m) for m in stream) - Counter(header(m) for m in drop(share, seed)(stream))
    for fault in (not_finite(share, seed), wrong_size(share, seed)):
        found = fault(stream)
        assert [header(m) for m in found] == [header(m) for m in stream]
        broken = [now for was, now in zip(stream, found, strict=True) if now.value is not was.value]
        assert Counter(header(m) for m in broken) == lost
    assert all(np.isnan(m.value).all() for m in not_finite(1.0, seed)(stream))
    for was, now in zip(stream, wrong_size(1.0, seed)(stream), strict=True):
        assert now.value.shape == (*was.value.shape[:-1], was.value.shape[-1] - 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: drop(1.2, 0),
        lambda: not_finite(-0.1, 0),
        lambda: delay(-1),
        lambda: duplicate(-1),
        lambda: jitter(-1, 0),
        lambda: stall(100, 101),
        lambda: freeze(0, 0),
    ],
)
def test_nonsense_is_refused(make):
    with pytest.raises(EvaluationError):
        make()
