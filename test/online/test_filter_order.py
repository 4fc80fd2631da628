"""DESIGN 6: the belief is a function of what was accepted, not of when or in which order it came."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from rssm_ros.online.grid import tick_of
from test.online.streams import CONTRACT, MS, TICK, bits, image, new_filter


def _messages(draw):
    """What a robot sent over 30 ticks at its own rates, jittered, with gaps, copies and contradictions."""
    ticks = draw(st.integers(4, 30))
    dead = draw(st.sets(st.sampled_from(["camera", "odom", "all"]), max_size=1))
    silent = set(range(draw(st.integers(0, 30)), 30)) if dead else set()
    gap = draw(st.integers(0, 30))
    length = draw(st.integers(0, 9))
    messages = []
    for tick in range(ticks):
        base = (20 + tick) * TICK
        quiet = gap <= tick < gap + length
        jitter = draw(st.integers(-20, 20)) * MS
        if not quiet and not (tick in silent and dead & {"camera", "all"}) and draw(st.booleans()):
            messages.append(("camera", base + jitter, draw(st.integers(0, 3))))
        if not quiet and not (tick in silent and dead & {"odom", "all"}):
            for part in range(draw(st.integers(0, 3))):
                messages.append(("odom", base + part * 17 * MS + jitter, draw(st.integers(0, 3))))
        if draw(st.booleans()):
            messages.append(("applied", base + draw(st.integers(0, 49)) * MS, draw(st.integers(-3, 3))))
    for index in draw(st.lists(st.integers(0, max(0, len(messages) - 1)), max_size=4)):
        if messages:
            name, stamp, value = messages[index]
            messages.append((name, stamp, value + draw(st.integers(0, 1))))
    return messages


@st.composite
def _histories(draw):
    """Messages with arrival times, and the moments at which the filter was advanced."""
    messages = _messages(draw)
    delays = st.sampled_from([0, 0, 0, 3, 20, 60, 120, 250, 340, 375, 390, 399])
    arrivals = [(stamp + draw(delays) * MS, i) for i, (_, stamp, _) in enumerate(messages)]
    nudges = draw(st.lists(st.integers(0, 40 * 50), max_size=30))
    return messages, arrivals, sorted((19 * TICK + n * MS) for n in nudges), draw(st.sampled_from([1, 3]))


def _put(filter_, message) -> str:
    name, stamp, value = message
    if name == "applied":
        return filter_.applied(stamp, [0.1 * value, math.nan if value == 3 else -0.1 * value])
    if name == "odom":
        return filter_.observe("odom", stamp, [value, 1.0])
    return filter_.observe("camera", stamp, image(value))


def _collect(filter_):
    final: dict[int, object] = {}
    filter_.on_final = lambda belief: final.__setitem__(belief.tick, bits(belief))
    return final


@settings(max_examples=400, deadline=None)
@given(_histories())
def test_any_arrival_order_gives_bitwise_the_same_beliefs(history):
    messages, arrivals, nudges, particles = history
    live = new_filter(particles)
    live_final = _collect(live)
    accepted, now = [], 19 * TICK
    live.advance(now)
    events = sorted([(at, 1, i) for at, i in arrivals] + [(at, 0, -1) for at in nudges])
    for at, kind, index in events:
        if kind == 0 or index % 3 == 0:  # not every arrival moves the clock
            now = max(now, at)
            live.advance(now)
        if kind == 1:
            verdict = _put(live, messages[index])
            assert verdict in ("accepted", "superseded", "duplicate", "conflict", "too_old", "future")
            if verdict not in ("too_old", "future"):
                accepted.append(messages[index])
    end = max([now, *(stamp for _, stamp, _ in messages)]) + 30 * MS
    live.advance(end)

    # The oracle sorts first and never has to look back.
    oracle = new_filter(particles)
    oracle_final = _collect(oracle)
    oracle.advance(19 * TICK)
    for message in sorted(accepted, key=lambda m: (m[1], m[0], m[2])):
        oracle.advance(max(oracle.now_ns, message[1] - 90 * MS))
        assert _put(oracle, message) not in ("too_old", "future")
    oracle.advance(end)

    ring, expected = live.revised(), oracle.revised()
    assert [bits(belief) for belief in ring] == [bits(belief) for belief in expected]
    common = live_final.keys() & oracle_final.keys()
    assert all(live_final[tick] == oracle_final[tick] for tick in common)
    assert not ring or ring[-1].tick >= tick_of(end, CONTRACT.rate) - 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=30), st.integers(1, 10**12))
def test_any_stamps_and_any_clock_are_survived(stamps, now):
    filter_ = new_filter()
    for index, stamp in enumerate(stamps):
        filter_.observe("camera", stamp, image(index % 5))
        filter_.applied(stamp, [0.1, 0.1])
        filter_.advance(stamp if index % 2 else now)
    assert len(filter_._memory.snapshots) <= filter_._history + 5
    assert sum(filter_.session.calls.values()) < 100 * (len(stamps) + 1)
