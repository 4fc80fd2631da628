"""Any subset of the modalities at any tick: what was not seen is not invented, and the belief says so."""

import math

import numpy as np
import pytest

from rssm_ros.online.belief import NEVER
from rssm_ros.online.frozen import AFTER
from test.online.streams import MS, TICK, bits, image, new_filter


class Spy:
    """The tiny model, and which modalities each tick's call was given."""

    def __init__(self, model):
        self._model, self.given = model, []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def step(self, state, action, tokens, first, noise):
        self.given.append(sorted(tokens))
        return self._model.step(state, action, tokens, first, noise)

    def predict(self, state, action, first, noise):
        self.given.append([])
        return self._model.predict(state, action, first, noise)


def _drive(present, particles=1):
    """present: tick after tick which modalities are seen, from tick 20 on."""
    filter_ = new_filter(particles)
    spy = filter_.session = Spy(filter_.session)
    beliefs = []
    for tick, names in enumerate(present, 20):
        filter_.advance(tick * TICK)
        if "camera" in names:
            filter_.observe("camera", tick * TICK, image(tick))
        if "odom" in names:
            filter_.observe("odom", tick * TICK, [0.1 * tick, 1.0])
        beliefs += filter_.advance(tick * TICK + 26 * MS)
    return filter_, spy, beliefs


ALL, CAMERA, ODOM, NONE = ("camera", "odom"), ("camera",), ("odom",), ()


@pytest.mark.parametrize("names", [CAMERA, ODOM])
def test_one_modality_alone_is_a_belief(names):
    _, spy, beliefs = _drive([names] * 6)
    assert spy.given == [list(names)] * 6
    other = ({"camera", "odom"} - set(names)).pop()
    for belief in beliefs:
        assert belief.presence == {names[0]: True, other: False}
        assert belief.age == {names[0]: 0, other: NEVER} and not belief.lost
        assert math.isfinite(belief.surprise)


def test_nothing_ever_seen_is_no_belief_at_all():
    filter_, spy, beliefs = _drive([NONE] * 40)
    assert beliefs == [] and spy.given == [] and filter_.advance(100 * TICK) == []


def test_a_modality_that_dies_ages_and_one_that_returns_is_young_again():
    _, spy, beliefs = _drive([ALL] * 3 + [ODOM] * 4 + [ALL] * 2)
    assert spy.given == [["camera", "odom"]] * 3 + [["odom"]] * 4 + [["camera", "odom"]] * 2
    assert [belief.age["camera"] for belief in beliefs] == [0, 0, 0, 1, 2, 3, 4, 0, 0]
    assert [belief.presence["camera"] for belief in beliefs] == [True] * 3 + [False] * 4 + [True] * 2
    assert all(belief.age["odom"] == 0 for belief in beliefs)
    assert not any(belief.first for belief in beliefs[1:]), "one modality is enough not to be lost"


def test_a_dead_trigger_costs_its_wait_and_nothing_else():
    filter_, _, _ = _drive([ALL] * 3)
    filter_.observe("odom", 23 * TICK, [1.0, 1.0])
    assert filter_.advance(23 * TICK + 24 * MS) == []
    (belief,) = filter_.advance(23 * TICK + 25 * MS)
    assert belief.tick == 23 and belief.age == {"camera": 1, "odom": 0}


def test_both_dead_is_prior_after_prior_then_lost_and_back():
    """Five ticks are `max_gap` here."""
    _, spy, beliefs = _drive([ALL] * 3 + [NONE] * 8 + [ODOM])
    assert spy.given[3:11] == [[]] * 8 and spy.given[11] == ["odom"]
    assert [belief.lost for belief in beliefs] == [False] * 8 + [True] * 3 + [False]
    assert [belief.first for belief in beliefs] == [True] + [False] * 7 + [True] * 4
    assert all(math.isnan(belief.surprise) for belief in beliefs[3:11])
    assert beliefs[10].age == {"camera": 8, "odom": 8}
    assert beliefs[11].age == {"camera": 9, "odom": 0}


def test_what_is_missing_makes_a_difference_only_from_there_on():
    _, _, whole = _drive([ALL] * 8, particles=3)
    _, _, partly = _drive([ALL] * 5 + [ODOM] + [ALL] * 2, particles=3)
    same = [bits(a) == bits(b) for a, b in zip(whole, partly, strict=True)]
    assert same == [True] * 5 + [False] * 3


def test_an_unseen_modality_and_a_black_picture_are_not_the_same():
    """Nothing missing is ever filled with zeros: the model is told what it was given, and nothing else."""
    (filter_, spy, _), (other, seeing, _) = _drive([ALL] * 3), _drive([ALL] * 3)
    for each in (filter_, other):
        each.advance(23 * TICK)
        each.observe("odom", 23 * TICK, [0.0, 0.0])
    other.observe("camera", 23 * TICK, np.zeros((4, 4, 1), np.uint8))
    (left,), (right,) = (each.advance(23 * TICK + 26 * MS) for each in (filter_, other))
    assert spy.given[-1] == ["odom"] and seeing.given[-1] == ["camera", "odom"]
    assert left.age["camera"] == 1 and right.age["camera"] == 0


def _hang(ticks, hangs, deaf=(), told=0.4):
    """A robot that drives; at the ticks of `hangs` the camera shows the first of them again; nothing comes of
    it at those of `deaf`.
    """
    filter_, finals, beliefs = new_filter(3), [], []
    filter_.on_final = finals.append
    for tick in range(20, 20 + ticks):
        filter_.observe("odom", tick * TICK, [told, 0.0])
        if tick not in deaf:
            filter_.observe("camera", tick * TICK, image(hangs[0] if tick in hangs else tick))
        beliefs += filter_.advance(tick * TICK + 26 * MS)
    return filter_, beliefs, finals


def test_pictures_of_a_frozen_camera_do_not_count():
    hangs = range(25, 45)
    filter_, beliefs, finals = _hang(40, hangs)
    refused = range(25 + AFTER, 45)  # 2 cm a tick
    assert [b.tick for b in beliefs if not b.presence["camera"]] == list(refused)
    assert [b.age["camera"] for b in beliefs if b.tick in refused] == [*range(1, len(refused) + 1)]
    counted = {"repeated": AFTER - 1, "frozen": len(refused)}
    assert {name: filter_.counters[name] for name in counted} == counted
    assert {name: filter_.counters[f"camera/{name}"] for name in counted} == counted
    assert not filter_.frozen_cameras and filter_.counters["accepted"] == 80
    # They are as good as never sent, bit for bit.
    without = _hang(40, hangs, deaf=refused)
    assert [bits(b) for b in beliefs] == [bits(b) for b in without[1]]
    assert len(finals) > 25 and [bits(b) for b in finals] == [bits(b) for b in without[2]]


def test_a_camera_that_shows_the_same_of_a_robot_at_rest_is_looked_at():
    filter_, beliefs, _ = _hang(40, range(25, 60), told=0.0)
    assert all(belief.presence["camera"] for belief in beliefs)
    assert filter_.counters["repeated"] == 34 and not filter_.counters["frozen"]


def test_a_new_episode_is_no_repetition():
    filter_ = new_filter()
    for tick in range(20, 60):
        if tick % 4 == 0:
            filter_.begin_episode(tick * TICK)
        filter_.observe("odom", tick * TICK, [0.4, 0.0])
        filter_.observe("camera", tick * TICK, image(7))
        filter_.advance(tick * TICK + 26 * MS)
    assert filter_.counters["repeated"] == 30 and not filter_.counters["frozen"]


def test_who_wants_to_look_at_frozen_pictures_can():
    filter_ = new_filter(frozen_after=0)
    for tick in range(20, 60):
        filter_.observe("odom", tick * TICK, [0.4, 0.0])
        filter_.observe("camera", tick * TICK, image(7))
        assert filter_.advance(tick * TICK + 26 * MS)[0].presence["camera"]
    assert not filter_.counters["repeated"] and not filter_.counters["frozen"]
