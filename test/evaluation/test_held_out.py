"""The held-out set: losses of every length, what only the simulator knows, seeds that nobody trains on."""

import argparse

import numpy as np
import pytest

pytest.importorskip("mujoco")
from rssm_ros.cli.collect import add_parser, what_to_record
from rssm_ros.envs.cell import Truth
from rssm_ros.evaluation.held_out import FIRST_SEED, HELD_OUT, SPELLS, Watched, camera_losses


def test_the_camera_is_lost_for_every_length():
    lost = np.concatenate([camera_losses(601, seed) for seed in range(60)])
    edges = np.flatnonzero(np.diff(np.r_[0, lost.astype(int), 0]))
    lengths = np.diff(edges)[::2]
    assert lengths.min() >= 1 and lengths.max() <= SPELLS[-1][1]
    counts = [((lengths >= low) & (lengths <= high)).sum() for low, high in SPELLS]
    assert min(counts) > 0.5 * max(counts), counts
    assert not camera_losses(601, 3)[0] and (camera_losses(601, 3) == camera_losses(601, 3)).all()


def truth(x, belt, heading=0.0, package=True):
    where = (x, 0.0, 0.39) if package else None
    rest = {"joints": (0.0,) * 4, "paddle": (5.0, 5.0, 0.4), "bin": 0, "serial": 1}
    base = (0.0, -0.55, heading)
    return Truth(time=0.0, base=base, base_velocity=(0.0, 0.0), belt_velocity=belt, package=where, **rest)


class Conveyor:
    """A package on a belt that stops and goes, seen for three ticks; the robot is turned by 90 degrees."""

    contract = None

    def __init__(self):
        self.speeds = [0.2] * 5 + [0.0] * 4 + [0.3] * 6
        self.row, self.x = 0, -0.4

    def _info(self):
        seen = 1.0 if self.row < 3 else 0.0
        return {"truth": truth(self.x, self.speeds[self.row], np.pi / 2), "visibility": seen}

    def reset(self, seed):
        return {}, self._info()

    def step(self, action):
        self.row += 1
        self.x += self.speeds[self.row] * 0.05
        return {}, 0.0, False, False, self._info()


def test_the_belt_informed_tracker_knows_what_the_belt_does():
    env = Conveyor()
    watched = Watched(env)
    watched.reset(0)
    places = [env.x]
    for _ in range(14):
        watched.step(None)
        places.append(env.x)
    world = np.array(places)
    expected = np.stack([np.full(15, 0.55), -world], -1)  # x ahead is the world's y
    np.testing.assert_allclose(watched.tracked(np.ones(15, bool)), expected, atol=1e-6)
    np.testing.assert_allclose(watched.velocities()[:, 1], -np.array(env.speeds), atol=1e-7)
    dark = watched.tracked(np.arange(15) >= 2)  # without a picture nothing is seen, whatever the label says
    assert np.isnan(dark[:2]).all() and np.isfinite(dark[2:]).all()


def test_the_command_plans_other_seeds():
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    words = ["collect", "manipulator", "--held-out", "--out", "x", "--ticks", "6010"]
    source, plans = what_to_record(parser.parse_args(words))
    assert source is HELD_OUT and min(plan.seed for plan in plans) == FIRST_SEED and len(plans) == 10
    assert {plan.kind for plan in plans} == {"expert", "perturbed", "random"}
