"""Recorded episodes through the online filter."""

from dataclasses import replace

import numpy as np
import pytest

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.filtering import (
    Filtered,
    drive,
    episode_files,
    filter_episode,
    hash_of,
    read_episode,
    thinned,
)
from rssm_ros.evaluation.runs.learned import LearnedPolicy
from rssm_ros.online.session import Session
from test.bundles import tiny_bundle
from test.episodes import NAMES, made_up_episode
from test.online.streams import bits, image, new_filter, small_contract


def test_every_tick_has_a_belief_with_what_was_seen(session):
    arrays = made_up_episode(0)
    found = filter_episode(session, arrays, 2, 5, index=7)
    here = np.stack([arrays[f"present_{name}"] for name in NAMES], -1)
    np.testing.assert_array_equal(found.ages == 0, here)
    assert found.first.tolist() == [True] + [False] * 29 and (found.episode == 7).all()
    np.testing.assert_array_equal(np.isnan(found.surprise), ~here.any(-1))
    assert found.patterns[0] == "camera+joints+odom"
    track = found.tracks["package"]
    assert track.mean.shape == (30, 2, 2) and track.truth.shape == (30, 2)
    assert np.isnan(found.tracks["destination"].truth).all(), "older data have no such label"


def test_it_is_what_the_robot_would_have_believed(session):
    """Against the lockstep policy's own filter, which hears the same through its own code."""
    arrays = made_up_episode(1)
    policy = LearnedPolicy(session, particles=2, seed=0)
    policy.reset(5)
    found = filter_episode(session, arrays, 2, 5)
    for row in range(30):
        seen = {name: arrays[name][row] for name in NAMES if arrays[f"present_{name}"][row]}
        policy.act(seen, {"applied": arrays["action"][row]})
        policy.told(arrays["action"][min(row + 1, 29)])
        if row:  # at the first, the policy has not heard of any command
            assert policy.belief.stamp_ns == 1_000_000_000 + row * 50_000_000
        mean = policy.belief.targets["package"].mean
        np.testing.assert_allclose(mean, found.tracks["package"].mean[row], atol=1e-4)


@pytest.mark.parametrize("wait", [0.0, 0.04, 0.05, 0.12])
def test_beliefs_do_not_depend_on_how_long_a_trigger_is_waited_for(wait):
    """Once a wait beyond a tick made the next `now` a step back, and the filter forgot everything every tick;
    and without a wait ticks were lost."""
    camera, odom = small_contract().observations
    contract = small_contract(observations=(replace(camera, wait=wait), odom), history=0.1)
    filter_, draw = new_filter(2, contract=contract), np.random.default_rng(0)
    actions, without = draw.uniform(-1, 1, (30, 2)), {3, 4, 5, 6, 9, 20, 29}
    beliefs = drive(filter_, actions, lambda row: seen_at(row, row not in without))
    assert [belief.tick for belief in beliefs] == list(range(20, 50))
    assert [belief.first for belief in beliefs] == [True] + [False] * 29
    assert not {"reset", "too_old", "future", "skipped"} & set(filter_.counters)
    plain = drive(new_filter(2), actions, lambda row: seen_at(row, row not in without))
    assert [bits(belief) for belief in beliefs] == [bits(belief) for belief in plain]


def seen_at(row, camera):
    return {"odom": np.array([0.1 * row, 1.0])} | ({"camera": image(row)} if camera else {})


def test_an_episode_is_the_same_with_a_long_wait(session):
    bundle, arrays = session.bundle, made_up_episode(2)
    patient = tuple(replace(spec, wait=0.12) for spec in bundle.contract.observations)
    waiting = Session(tiny_bundle(), prove=False)
    waiting.bundle = replace(bundle, contract=replace(bundle.contract, observations=patient))
    one, other = (filter_episode(each, arrays, 2, 5) for each in (session, waiting))
    assert other.first.tolist() == [True] + [False] * 29
    np.testing.assert_array_equal(one.tracks["package"].mean, other.tracks["package"].mean)


def test_thinned_presence_only_removes_and_shows_every_pattern():
    present = {name: np.ones(4000, bool) for name in NAMES}
    present["odom"][100:110] = False
    left = thinned(present, 3)
    assert not left["odom"][100:110].any() and all(values[0] for values in left.values())
    table = np.stack(list(left.values()), -1)
    codes = (table * [1, 2, 4]).sum(-1)
    shares = np.bincount(codes, minlength=8) / 4000
    assert 0.4 < shares[7] < 0.6 and (shares[:7] > 0.04).all()
    again = thinned(present, 3)
    assert all((left[name] == again[name]).all() for name in NAMES)


def test_joined_keeps_the_order(session):
    parts = [filter_episode(session, made_up_episode(seed, 5), 2, seed, index=seed) for seed in (1, 2)]
    whole = Filtered.joined(parts)
    assert whole.episode.tolist() == [1] * 5 + [2] * 5
    np.testing.assert_array_equal(whole.tracks["package"].std[5:], parts[1].tracks["package"].std)


def test_files_are_named_hashed_and_refused(tmp_path, session):
    with pytest.raises(EvaluationError, match="holds no episode"):
        episode_files([tmp_path])
    path = tmp_path / "episode-00000001-expert.npz"
    np.savez(path, **made_up_episode(0, 3))
    assert episode_files([tmp_path]) == [path]
    before = hash_of([path])
    np.savez(path, **made_up_episode(1, 3))
    assert hash_of([path]) != before
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EvaluationError, match="episode-00000001"):
        read_episode(path)
    arrays = made_up_episode(0, 3)
    del arrays["joints"]
    with pytest.raises(EvaluationError, match="joints"):
        filter_episode(session, arrays, 1, 0)
