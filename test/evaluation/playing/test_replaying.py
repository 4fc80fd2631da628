"""A recording offline: the final beliefs of the robot's own filter, bit for bit."""

import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rssm_ros.evaluation.playing.replaying import FinalFilter, Replay, final_beliefs
from rssm_ros.online.filter import Filter
from rssm_ros.recordings import APPLIED, RESET, Event, Observation, Truth
from test.online.model import TinyModel
from test.online.streams import CONTRACT, MODEL, MS, TICK, bits, image


class Made:
    """Messages in log order, from (log time, observation)."""

    contract, counts, truth, reward = CONTRACT, Counter(), {"package": Truth.none(2)}, Truth.none(1)

    def __init__(self, items, events=()):
        self._items, self.events = sorted(items, key=lambda item: item.received_ns), events
        self.start_ns, self.end_ns = self._items[0].received_ns, self._items[-1].received_ns

    def observations(self):
        return iter(self._items)


def stream(seed, ticks=60, gap=(0, 0), hangs=range(0)):
    """A robot's messages with losses, latencies up to five ticks, and a duplicate now and then; at the ticks
    of `hangs` the camera shows the same.
    """
    rng, items = np.random.default_rng(seed), []
    for tick in range(20, 20 + ticks):
        stamp = tick * TICK
        for name, value in (
            ("odom", np.array([0.1 * tick, 1.0], np.float32)),
            ("camera", image(0 if tick in hangs else tick)),
        ):
            if rng.random() < 0.1 or gap[0] <= tick < gap[1]:
                continue
            stamped = stamp + int(rng.integers(-8, 9)) * MS
            for _ in range(1 + (rng.random() < 0.1)):
                arrives = stamped + int(rng.exponential(1.2) * TICK)
                items.append(Observation(name, stamped, arrives, value))
        command = np.array([0.01 * tick, -0.02 * tick])
        items.append(
            Observation(APPLIED, stamp + 30 * MS, stamp + 30 * MS + int(rng.exponential(10)) * MS, command)
        )
    return items


def online(recording, particles=2, seed=3):
    """The finals and counters of the online filter, told the same in the same order."""
    filter_, finals = Filter(TinyModel(CONTRACT), CONTRACT, particles, seed), []
    filter_.on_final = finals.append
    now = 0
    for item in recording.observations():
        now = max(now, item.received_ns)
        filter_.advance(now)
        if item.name == APPLIED:
            filter_.applied(item.stamp_ns, item.value)
        else:
            filter_.observe(item.name, item.stamp_ns, item.value)
    for later in range(now + TICK, now + 12 * TICK, TICK):
        filter_.advance(later)
    return finals, filter_.counters


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([range(0), range(45, 65)]))
def test_offline_is_the_online_filters_final_word(seed, hangs):
    recording = Made(stream(seed, hangs=hangs))
    expected, counters = online(recording)
    replay = Replay(MODEL, CONTRACT, recording, 2, 3)
    found = [belief for belief, _ in replay]
    by_tick = {belief.tick: bits(belief) for belief in expected}
    assert [bits(belief) for belief in found] == [by_tick[belief.tick] for belief in found]
    assert len(found) >= 58
    for belief, taken in Replay(MODEL, CONTRACT, recording, 2, 3):
        assert belief.presence == {name: name in taken.values for name in belief.presence}
    assert bool(replay.counters.get("frozen")) == bool(hangs) == bool(counters["frozen"])
    told = {"repeated", "frozen"}  # of ticks: as they were published, or as they turned out to be
    left_out = {"replayed", "safe_assumed", "skipped", *told, *(f"camera/{name}" for name in told)}
    assert {k: v for k, v in replay.counters.items() if k not in left_out} == {
        k: v for k, v in counters.items() if k not in left_out
    }
    assert counters["late"] > 0 and counters["replayed"] > 0, "the stream must be worth it"
    assert len({belief.tick for belief in found}) == len(found)


class Counting(FinalFilter):
    """Counts how often each tick is computed."""

    def __init__(self, *args):
        super().__init__(*args)
        self.computed = Counter()

    def _tick(self, tick, before):
        self.computed[tick] += 1
        return super()._tick(tick, before)


def test_each_tick_is_computed_once():
    filter_ = Counting(MODEL, CONTRACT, 1, 0)
    for item in Made(stream(1)).observations():
        if item.name == APPLIED:
            filter_.applied(item.stamp_ns, item.value)
        else:
            filter_.observe(item.name, item.stamp_ns, item.value)
        filter_.advance(item.received_ns)
    filter_.rest()
    assert set(filter_.computed.values()) == {1} and len(filter_.computed) > 45


def told(filter_, items):
    """The messages -> (bits, what went into it, where in the stream) of every belief as it comes out."""
    out = []
    for at, item in enumerate(items):
        found = filter_.advance(item.received_ns)
        if item.name == APPLIED:
            filter_.applied(item.stamp_ns, item.value)
        elif item.name == RESET:
            filter_.begin_episode(item.stamp_ns)
        else:
            filter_.observe(item.name, item.stamp_ns, item.value)
        out += [(bits(belief), filter_.taken[belief.tick], at) for belief in found]
    return out + [(bits(belief), filter_.taken[belief.tick], len(items)) for belief in filter_.rest()]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([range(0), range(45, 65)]),
    st.sampled_from([(0, 0), (40, 90)]),
    st.sampled_from([2, 7, 64]),
)
def test_ticks_in_a_row_are_the_same_bits_as_each_when_it_is_final(seed, hangs, gap, together):
    """Through losses, a hung camera, a silence longer than max_gap, a reset, and a clock that is set back."""
    rng, items = np.random.default_rng(seed), stream(seed, 100, gap, hangs)
    reset = int(rng.integers(25, 115)) * TICK
    items.append(Observation(RESET, reset, reset + int(rng.integers(0, 5)) * TICK, np.zeros(0)))
    items.sort(key=lambda item: item.received_ns)
    items += Made(stream(seed + 1, 60)).observations()  # from tick 20 on, again
    one, many = (FinalFilter(MODEL, CONTRACT, 2, 3, together=n) for n in (1, together))
    expected, found = told(one, items), told(many, items)
    assert [line[0] for line in found] == [line[0] for line in expected] and len(found) > 120
    for (_, taken, _), (_, other, _) in zip(found, expected, strict=True):
        assert np.array_equal(taken.action, other.action)
        assert {n: v.tobytes() for n, v in taken.values.items()} == {
            n: v.tobytes() for n, v in other.values.items()
        }
        assert taken.tokens.keys() == other.tokens.keys()
    assert many.counters == one.counters and many.counters["reset"] == 1 and many.counters["late"] > 0
    assert bool(many.counters["frozen"]) == bool(hangs) or gap != (0, 0)
    waits = [at for _, _, at in found]
    assert len(set(waits)) < len({at for _, _, at in expected}), "they came in a row"


def test_what_was_seen_is_encoded_one_modality_after_the_other():
    model, order = TinyModel(CONTRACT), []
    encode = model.encode
    model.encode = lambda name, value: (order.append(name), encode(name, value))[1]
    recording = Made(stream(2, 60))
    assert len(list(final_beliefs(model, recording))) >= 58
    switches = sum(a != b for a, b in pairwise(order))
    assert len(order) > 100 and switches < 10


def test_a_gap_leaves_lost_ticks_out_or_says_that_they_are_lost():
    recording = Made(stream(4, 200, gap=(60, 160)))
    found = list(final_beliefs(MODEL, recording, 1, 0))
    expected = {belief.tick: bits(belief) for belief in online(recording, 1, 0)[0]}
    assert all(bits(belief) == expected[belief.tick] for belief in found if not belief.lost)
    assert any(belief.first and belief.tick >= 160 for belief in found)


def test_what_ends_a_silence_does_not_come_from_the_future():
    """A camera of 3 Hz lost nearly every frame: each was judged by the `now` of the one before."""
    slow = [item for item in stream(7, 90) if item.name == "camera" and (item.stamp_ns // TICK) % 7 == 0]
    recording = Made(sorted(slow, key=lambda item: item.received_ns))
    replay = Replay(MODEL, CONTRACT, recording)
    seen = [belief for belief, taken in replay if taken.values]
    assert len(seen) > 8 and replay.counters.get("future", 0) == 0


def test_a_reset_begins_a_new_episode():
    stamp = 50 * TICK
    recording = Made(stream(5), (Event(stamp, stamp, "reset"), Event(stamp, stamp, "terminal")))
    firsts = [belief.tick for belief in final_beliefs(MODEL, recording)]
    begun = [b.tick for b in final_beliefs(MODEL, recording) if b.first and not b.lost]
    assert begun in ([firsts[0], 50], [firsts[0], 51]), "51 where nothing came at 50"


def slow(ticks=range(20, 80, 4), offset=0):
    """A robot that says something five times a second. offset: of the stamps' clock to the log's."""
    items = []
    for tick in ticks:
        stamp = tick * TICK + offset
        items.append(Observation("odom", stamp, tick * TICK + MS, np.array([0.1 * tick, 1.0], np.float32)))
        items.append(Observation("camera", stamp, tick * TICK + 2 * MS, image(tick)))
    return items


@pytest.mark.parametrize("offset", [0, 10**6 * TICK], ids=["one clock", "the log has another clock"])
def test_a_reset_that_ends_a_silence_does_not_come_from_the_future(offset):
    """It was judged by the `now` of the message before it, and the old episode's belief went on."""
    event = Event(40 * TICK + offset, 40 * TICK, "reset")  # logged before what is seen at this tick
    replay = Replay(MODEL, CONTRACT, Made(slow(offset=offset), [event]))
    firsts = [belief.tick - offset // TICK for belief, _ in replay if belief.first]
    assert firsts == [20, 40] and replay.counters["episode/accepted"] == 1


def test_a_reset_before_a_long_silence_counts_and_a_late_one_holds_back_no_other():
    """Resets come by stamp, but time goes by when they were logged."""
    early, late = Event(37 * TICK, 60 * TICK, "reset"), Event(41 * TICK, 41 * TICK, "reset")
    replay = Replay(MODEL, CONTRACT, Made(slow(), [early, late]))
    assert [belief.tick for belief, _ in replay if belief.first and not belief.lost] == [20, 44]
    assert replay.counters["episode/accepted"] == 1 and replay.counters["episode/too_old"] == 1


def test_what_came_in_disorder_is_counted():
    items = stream(6, 20)
    swapped = [item for item in items if item.name == "odom"]
    replay = Replay(MODEL, CONTRACT, Made([*items]), 1, 0)
    list(replay)
    assert replay.backward.get("odom", 0) >= 1 and len(swapped) > 10


def test_nothing_is_predicted_beyond_the_last_message():
    recording = Made(stream(7, 30))
    last = max(item.stamp_ns for item in recording.observations() if item.name != APPLIED)
    assert max(belief.stamp_ns for belief in final_beliefs(MODEL, recording)) <= last + TICK // 2


def test_no_messages_no_beliefs():
    assert list(final_beliefs(MODEL, Made([Observation("odom", 0, TICK, np.zeros(2, np.float32))]))) == []


@pytest.mark.parametrize("name", ["action", "values", "tokens", "seconds"])
def test_what_went_in_is_told(name):
    replay = Replay(MODEL, CONTRACT, Made(stream(8, 20)), 1, 0)
    for belief, taken in replay:
        assert set(taken.values) == set(taken.tokens) == {n for n, here in belief.presence.items() if here}
        assert taken.action.shape == (2,) and taken.seconds >= 0
        assert getattr(taken, name) is not None


class Filmed(Made):
    """Its pictures come in the camera's own size: 192 times a side."""

    def observations(self):
        for item in self._items:
            if item.name == "camera":
                large = np.repeat(np.repeat(item.value, 192, axis=0), 192, axis=1)
                item = replace(item, value=large)
            yield item


def test_pictures_are_not_held_in_the_cameras_own_size():
    """Of the first thousand messages, whose stamps say which clock counts, too."""
    small = [bits(belief) for belief in final_beliefs(MODEL, Made(stream(5, 100)), 1, 0)]
    recording = Filmed(stream(5, 100))
    (whole,) = {item.value.nbytes for item in recording.observations() if item.name == "camera"}
    tracemalloc.start()
    large = [bits(belief) for belief in final_beliefs(MODEL, recording, 1, 0)]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert large == small and len(large) >= 95, "the mean over a pixel's area is that pixel"
    assert most < 20 * whole, "a hundred came"
