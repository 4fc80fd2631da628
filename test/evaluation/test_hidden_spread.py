"""The shipped bundle in the simulated cell: what it cannot see it is less sure of, until it sees it again."""

import numpy as np
import pytest

from rssm_ros import paths
from rssm_ros.evaluation.playing.filtering import filter_episode
from rssm_ros.online.regions import spread
from rssm_ros.online.session import Session

pytest.importorskip("mujoco")
BLACKOUT, BACK = 14, 4  # ticks without the camera; ticks of sight after which all should be as before


def _blackouts(arrays):
    """First ticks of black-outs in which the package goes on lying in the open."""
    labelled, seen = np.isfinite(arrays["target_package"]).all(-1), arrays["visibility_package"]
    starts, tick = [], 30
    while tick < len(seen) - BLACKOUT - 20:
        part = slice(tick - 3, tick + BLACKOUT + BACK + 1)
        if labelled[part].all() and seen[tick - 1] >= 0.5 and seen[tick + BLACKOUT : part.stop].min() >= 0.3:
            starts.append(tick)
            tick += BLACKOUT + 30
        tick += 1
    return starts


def test_the_covariance_grows_in_a_blackout_and_shrinks_on_sight():
    from rssm_ros.envs.manipulator import ManipulatorEnv
    from rssm_ros.training.collect_manipulator import EpisodePlan, record_episode

    session, env = (
        Session(paths.share_path("models", "manipulator"), prove=False),
        ManipulatorEnv(episode_seconds=18.0),
    )
    before, during, after = [], [], []
    for seed in (740_000, 740_001):
        arrays = record_episode(EpisodePlan(seed, "expert", 18.0), env)
        present = {name: np.ones(len(arrays["reward"]), bool) for name in ("camera", "odom", "joints")}
        starts = _blackouts(arrays)
        for start in starts:
            present["camera"][start : start + BLACKOUT] = False
        track = filter_episode(session, arrays, 8, seed, present).tracks["package"]
        sigma = spread(track.mean, track.std)  # [T] m
        before += [sigma[start - 1] for start in starts]
        during += [sigma[start + BLACKOUT - 1] for start in starts]
        after += [sigma[start + BLACKOUT + BACK - 1] for start in starts]
    env.close()
    assert len(before) >= 3
    told = [round(float(np.median(values)), 4) for values in (before, during, after)]
    assert told[1] > 1.25 * told[0], told
    assert told[2] < 0.85 * told[1], told
