"""Imposed occlusion: the schedule, the covers and the covered recording."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.imposed import (
    BLACKOUT,
    DROP,
    LEAD,
    PATCH,
    Cover,
    ImposedRecording,
    Imposition,
    Schedule,
    covered,
    parse_imposed,
)
from rssm_ros.recordings import APPLIED, Observation, Truth
from test.online.streams import CONTRACT, TICK


class Made:
    """120 ticks of camera, odometry and commands."""

    contract, events, counts = CONTRACT, (), Counter()
    truth, reward = {"package": Truth.none(2)}, Truth.none(1)
    start_ns, end_ns = 20 * TICK, 139 * TICK

    def observations(self):
        for tick in range(20, 140):
            yield Observation(APPLIED, (tick - 1) * TICK, tick * TICK, np.zeros(2))
            yield Observation("odom", tick * TICK, tick * TICK, np.array([0.1, 0.2], np.float32))
            yield Observation("camera", tick * TICK, tick * TICK, np.full((8, 8, 1), 200, np.uint8))


def test_the_words_of_a_schedule():
    assert parse_imposed("blackout:4-8@0.1") == (Imposition(BLACKOUT, 4, 8, 0.1),)
    assert parse_imposed("drop:3@0.2+patch:1-2@0.05:0.3") == (
        Imposition(DROP, 3, 3, 0.2),
        Imposition(PATCH, 1, 2, 0.05, 0.3),
    )
    assert parse_imposed("patch:5@0.1")[0].size == 0.5


@pytest.mark.parametrize(
    "text",
    ["", "blackout", "fog:4@0.1", "blackout:0@0.1", "blackout:8-4@0.1", "blackout:4@0", "blackout:4@1.5"]
    + ["patch:4@0.1:2", "drop:4@0.1:0.5", "blackout:4@0.5+drop:4@0.5", "blackout:4@0.1.2", "patch:4@.1:."],
)
def test_other_words_are_refused_with_an_example(text):
    with pytest.raises(EvaluationError, match=r"--impose"):
        parse_imposed(text)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="blackoutdrp:-@.+0123456789", max_size=20))
def test_any_text_is_a_schedule_or_refused(text):
    try:
        for item in parse_imposed(text):
            assert parse_imposed(str(item)) == (item,)
    except EvaluationError:
        pass


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 12), st.sampled_from([0.05, 0.2, 0.5]))
def test_spells_have_their_lengths_and_their_share(seed, low, more, share):
    schedule = Schedule((Imposition(BLACKOUT, low, low + more, share),), seed)
    ticks = 8_000
    mask = np.array([schedule(tick) is not None for tick in range(ticks)])
    assert not mask[:LEAD].any()
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(int)]))
    lengths = np.diff(edges)[::2]
    assert low <= lengths.min() and lengths[:-1].max() <= low + more
    assert mask.mean() == pytest.approx(share, rel=0.35)


def test_the_schedule_depends_on_seed_and_tick_alone():
    items = parse_imposed("blackout:2-6@0.2+patch:1-3@0.1")
    one, other = Schedule(items, 5), Schedule(items, 5)
    late = [other(tick) for tick in (900, 100, 500)]
    assert late == [one(tick) for tick in (900, 100, 500)]
    assert [one(t) for t in range(500)] != [Schedule(items, 6)(t) for t in range(500)]
    assert one(-3) is None


def test_covers_by_hand():
    image = np.full((10, 20, 3), 200, np.uint8)
    assert not covered(image, Cover(BLACKOUT, 0, 0, 1, 1)).any()
    patched = covered(image, Cover(PATCH, 0.5, 0.25, 0.5, 0.5))
    assert (patched != 200).all(-1).sum() == 5 * 10 and (patched[5:, 5:15] == 96).all()
    assert (image == 200).all(), "the recording's own picture stays as it was"


def test_only_pictures_are_covered_and_dropped_ones_are_gone():
    for kind, share in ((BLACKOUT, 1.0), (DROP, 1.0), (PATCH, 0.5)):
        size = f":{share}" if kind == PATCH else ""
        recording = ImposedRecording(Made(), parse_imposed(f"{kind}:3-5@0.3{size}"), 2)
        items = list(recording.observations())
        others = [item for item in items if item.name != "camera"]
        assert len(others) == 240
        pictures = {item.stamp_ns // TICK: item.value for item in items if item.name == "camera"}
        for tick in range(20, 140):
            cover = recording.cover(tick)
            if cover is None:
                assert (pictures[tick] == 200).all()
            elif kind == DROP:
                assert tick not in pictures
            else:
                assert (pictures[tick] != 200).mean() == pytest.approx(share, abs=0.15)
        last = max(tick for tick in range(20, 140) if recording.cover(tick))
        assert (recording.uncovered(last)["camera"] == 200).all()
        assert len(recording._uncovered) < 80, "memory does not grow with the recording"


def test_the_first_second_stays_as_it_was():
    schedule = Schedule(parse_imposed("blackout:1-2@0.9"), 0)
    assert all(schedule(tick) is None for tick in range(20))
    assert any(schedule(tick) is not None for tick in range(20, 40))
