"""Faulty streams through the filter and through "latest frame wins", with the shipped bundle."""

from pathlib import Path

import numpy as np
import pytest

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.faults.runs import RememberedTokens, episode_of, latest_frame_wins, play
from rssm_ros.evaluation.faults.streams import (
    chain,
    delay,
    drop,
    duplicate,
    during,
    freeze,
    jitter,
    not_finite,
    only,
    skew,
    stall,
    wrong_size,
)
from rssm_ros.evaluation.playing.filtering import filter_episode
from rssm_ros.online import noise
from rssm_ros.online.filter import Filter
from rssm_ros.online.limits import Limits
from rssm_ros.online.session import Session
from rssm_ros.online.steps import State
from test.episodes import NAMES, made_up_episode

MS, SECOND, TICKS, SEED = 1_000_000, 1_000_000_000, 45, 5
ONSET = SECOND + 15 * 50 * MS  # the stamp of row 15
COMMANDS_TOO = (*NAMES, "applied")


@pytest.fixture(scope="module")
def session(checkout: Path):
    return Session(checkout / "models" / "manipulator", prove=False)


@pytest.fixture(scope="module")
def arrays():
    return made_up_episode(0, TICKS)


@pytest.fixture(scope="module")
def episode(session, arrays):
    return episode_of(arrays, session.bundle.contract, complete=True)


@pytest.fixture(scope="module")
def runs(session, episode):
    """play(fault) and latest(fault): the fault begins at row 15."""
    steps, threshold = RememberedTokens(session), session.bundle.surprise_threshold

    def run(method, fault):
        stream = during(ONSET, 2**62, fault)(episode.stream)
        return method(steps, episode, stream, 2, SEED, threshold)

    class Runs:
        play = staticmethod(lambda fault: run(play, fault))
        latest = staticmethod(lambda fault: run(latest_frame_wins, fault))

    return Runs


@pytest.fixture(scope="module")
def nominal(runs):
    return runs.play(chain())


def same_points(one, other, rows=slice(None)):
    return all(np.array_equal(one.points[name][rows], other.points[name][rows]) for name in one.points)


def test_without_a_fault_it_is_the_filter_in_lockstep_and_so_are_the_others(session, arrays, nominal, runs):
    whole = arrays | {f"present_{name}": np.ones(TICKS, bool) for name in NAMES}
    found = filter_episode(session, whole, 2, SEED)
    for name, track in found.tracks.items():
        np.testing.assert_array_equal(nominal.online.points[name], track.mean.mean(1, dtype=np.float64))
    np.testing.assert_array_equal(nominal.online.surprise, found.surprise)
    assert same_points(nominal.online, nominal.final) and nominal.bits.keys() == set(range(TICKS))
    assert not nominal.counted and nominal.missed is None
    assert same_points(runs.latest(chain()), nominal.online)
    assert set(nominal.online.age) == {0} and (np.diff(nominal.online.when) == 50 * MS).all()


LATE = {
    "50 ms": only(NAMES, delay(50 * MS)),
    "200 ms": only(NAMES, delay(200 * MS)),
    "500 ms": only(NAMES, delay(500 * MS)),
    "camera 500 ms": only(["camera"], delay(500 * MS)),
    "commands too": only(COMMANDS_TOO, delay(200 * MS)),
    "out of order": only(COMMANDS_TOO, jitter(400 * MS, 3)),
    "stalls": only(NAMES, stall(1000 * MS, 600 * MS)),
}


@pytest.mark.parametrize("name", LATE)
def test_final_beliefs_are_bitwise_those_without_a_delay(name, runs, nominal):
    found = runs.play(LATE[name])
    assert found.bits == nominal.bits
    assert found.counters["late"] > 0 and found.counters["accepted"] == nominal.counters["accepted"]
    assert not same_points(found.online, nominal.online), "what is not there yet cannot be known"
    assert same_points(found.online, nominal.online, slice(0, 15))
    if name.endswith("00 ms"):
        assert found.missed == ONSET + 25 * MS, "as soon as a tick has been waited for"
        assert found.counted == {"late": ONSET + int(name.split()[-2]) * MS}


def test_a_filter_that_does_not_replay_is_found_out(runs, nominal, monkeypatch):
    """The mutation: late data are put into the ring, and nothing is computed again."""
    monkeypatch.setattr(Filter, "_revise", lambda self, source, tick: None)
    found = runs.play(LATE["200 ms"])
    assert sum(found.bits[row] != nominal.bits[row] for row in range(TICKS)) == TICKS - 15


def test_online_beliefs_know_how_old_their_picture_is_and_others_do_not(runs):
    fault = only(["camera"], delay(200 * MS))
    online, latest = runs.play(fault).online, runs.latest(fault)
    for told in (online, latest):
        assert set(told.age[20:]) == {4}
    assert np.isfinite(latest.surprise).all(), "an old picture passes for a new one"
    nothing = only(NAMES, delay(200 * MS))
    assert np.isnan(runs.play(nothing).online.surprise[15:]).all()


def test_a_belief_under_a_delay_is_the_one_of_then_predicted_on(session, arrays, episode):
    """With all that was applied since, and nothing else: the filter adds no error of its own."""
    contract, late = session.bundle.contract, only(NAMES, delay(200 * MS))
    steps = RememberedTokens(session)
    online: dict[bool, dict] = {}
    for delayed in (False, True):
        filter_ = Filter(steps, contract, 2, SEED)
        stream = during(ONSET, 2**62, late if delayed else chain())(episode.stream)
        beliefs = online[delayed] = {}
        for now in sorted({m.received_ns for m in stream}):
            for message in (m for m in stream if m.received_ns == now):
                if message.name == "applied":
                    filter_.applied(message.stamp_ns, message.value)
                else:
                    filter_.observe(message.name, message.stamp_ns, message.value)
            for at in (now, now + 26 * MS):
                beliefs |= {belief.tick: belief for belief in filter_.advance(at)}
    limits, first = Limits(contract), episode.begin
    actions = limits.normalise(limits.scale(arrays["action"])).astype(np.float32)
    compared = 0
    for tick in range(first + 20, first + TICKS - 1):
        then, now = online[False][tick - 4], online[True][tick]
        assert now.age == dict.fromkeys(NAMES, 4)
        state = State(then.deter, then.stoch)
        for k in range(tick - 3, tick + 1):
            drawn = noise.draw(session.latent, SEED, k, 2)
            step = session.predict(state, actions[k - first], False, drawn)
            state = step.state
        compared += now.deter.tobytes() == state.deter.tobytes()
        assert now.targets["package"].mean.tobytes() == step.targets["package"].mean.tobytes()
    assert compared == TICKS - 21


def test_what_comes_twice_changes_nothing(runs, nominal):
    found = runs.play(only(COMMANDS_TOO, duplicate(30 * MS)))
    assert found.bits == nominal.bits and same_points(found.online, nominal.online)
    assert found.counters["duplicate"] == 4 * (TICKS - 15) - 1  # the last command is the last but one tick's
    assert found.counted == {"duplicate": ONSET + 30 * MS} and found.missed is None


@pytest.mark.parametrize("broken", [not_finite, wrong_size])
def test_broken_messages_are_counted_and_do_no_more_than_lost_ones(broken, runs):
    names = ["odom", "joints"] if broken is not_finite else NAMES
    found, lost = runs.play(only(names, broken(0.4, 7))), runs.play(only(names, drop(0.4, 7)))
    assert found.bits == lost.bits and same_points(found.online, lost.online)
    cause = "non_finite" if broken is not_finite else "shape"
    refused = found.counters[cause]
    assert refused == lost_messages(lost) > 10 and set(found.counted) == {cause}
    assert np.isfinite(found.online.points["package"]).all()
    assert np.isfinite(runs.latest(only(names, broken(0.4, 7))).points["package"]).all()


def lost_messages(played):
    return (len(NAMES) + 1) * TICKS - played.counters["accepted"]


def test_what_is_too_late_or_from_the_future_is_refused(runs, nominal):
    found = runs.play(only(["camera"], delay(2500 * MS)))
    assert found.counters["too_old"] == TICKS - 15 and found.bits != nominal.bits
    assert found.counted["too_old"] == ONSET + 2500 * MS
    without = runs.play(only(["camera"], drop(1.0, 0)))
    assert same_points(found.online, without.online) and found.bits == without.bits
    ahead = runs.play(only(["camera"], skew(300 * MS)))
    assert ahead.counters["future"] == TICKS - 15 and ahead.bits == without.bits
    assert set(ahead.counted) == {"future"}


def test_a_frozen_camera_is_noticed_and_no_longer_looked_at(runs, nominal):
    found = runs.play(only(["camera"], freeze(2**62, 2**62)))
    assert set(found.counted) == {"frozen"} and found.counted["frozen"] >= ONSET + 5 * 50 * MS
    assert found.counters["frozen"] > 0 and not nominal.counters["frozen"] and not nominal.counted
    frozen = found.counters["frozen"] - 1  # one more tick is told, after the last row
    assert found.missed == found.counted["frozen"] and found.bits != nominal.bits
    assert found.online.age.tolist() == [0] * (TICKS - frozen) + [*range(1, frozen + 1)]
    assert not runs.latest(only(["camera"], freeze(2**62, 2**62))).age.any(), "others believe what they see"


def test_an_episode_without_its_gaps_and_with_them(session, arrays, episode):
    gaps = sum(int((~arrays[f"present_{name}"]).sum()) for name in NAMES)
    assert gaps > 0 and len(episode.stream) == 4 * TICKS
    assert len(episode_of(arrays, session.bundle.contract).stream) == 4 * TICKS - gaps
    with pytest.raises(EvaluationError, match="joints"):
        episode_of({"action": arrays["action"], "camera": 0, "odom": 0}, session.bundle.contract)
