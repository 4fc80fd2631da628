"""Resampling by weights: as many copies as they are worth, nothing else changed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rssm_ros.online import noise
from rssm_ros.online.filter import Filter
from rssm_ros.online.session import Session
from rssm_ros.online.steps import State
from rssm_ros.online.weights import ancestors, survivors
from test.bundles import tiny_bundle
from test.online.model import TinyModel
from test.online.streams import CONTRACT

NATS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-60, 60, width=32))
OFFSETS = st.floats(0.0, 1.0, exclude_max=True)


@given(nats=NATS, offset=OFFSETS)
def test_a_particle_is_drawn_as_often_as_it_is_worth_to_within_one(nats, offset):
    chosen, count = ancestors(nats, offset), len(nats)
    share = np.exp(nats.astype(np.float64) - nats.max())
    worth = count * share / share.sum()
    copies = np.bincount(chosen, minlength=count)
    assert len(copies) == len(chosen) == count and (np.diff(chosen) >= 0).all()
    assert (copies >= np.floor(worth - 1e-5)).all() and (copies <= np.ceil(worth + 1e-5)).all()


@given(count=st.integers(1, 64), nats=st.floats(-1e6, 1e6, width=32), offset=OFFSETS)
def test_equal_weights_leave_everything_as_it_is(count, nats, offset):
    np.testing.assert_array_equal(ancestors(np.full(count, nats, np.float32), offset), np.arange(count))


def test_on_average_every_particle_gets_exactly_its_share():
    nats = np.log(np.array([0.5, 0.02, 0.3, 0.18], np.float32))
    offsets = (np.arange(2000) + 0.5) / 2000
    copies = np.mean([np.bincount(ancestors(nats, offset), minlength=4) for offset in offsets], 0)
    np.testing.assert_allclose(copies / 4, [0.5, 0.02, 0.3, 0.18], atol=1e-3)


def test_what_is_no_number_weighs_nothing():
    chosen = ancestors(np.array([0.0, np.nan, 0.0, -np.inf], np.float32), 0.5)
    np.testing.assert_array_equal(chosen, [0, 0, 2, 2])
    for hopeless in (np.nan, -np.inf):
        np.testing.assert_array_equal(ancestors(np.full(3, hopeless, np.float32), 0.5), [0, 1, 2])


@settings(max_examples=30)
@given(chosen=st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_survivors_keep_all_that_is_theirs(chosen):
    model = TinyModel(CONTRACT, weighs=True)
    draw = np.random.default_rng(1)
    latent = model.latent
    tokens = {name: draw.normal(size=(1, 3)).astype(np.float32) for name in model.tokens}
    deter = draw.normal(size=(5, latent.deter)).astype(np.float32)
    state = State(deter, draw.integers(0, latent.classes, (5, latent.stoch)))
    drawn = noise.draw(latent, 3, 7, 5)
    step = model.step(state, np.zeros(latent.action, np.float32), tokens, False, drawn)
    after, chosen = survivors(step, np.array(chosen)), np.array(chosen)
    assert after.log_weight is None and step.log_weight is not None
    for name in (
        "prior",
        "posterior",
        "prior_entropy",
        "posterior_entropy",
        "surprise",
        "reward",
        "continue_",
    ):
        np.testing.assert_array_equal(getattr(after, name), getattr(step, name)[chosen])
    np.testing.assert_array_equal(after.state.deter, step.state.deter[chosen])
    np.testing.assert_array_equal(after.state.stoch, step.state.stoch[chosen])
    np.testing.assert_array_equal(after.targets["package"].mean, step.targets["package"].mean[chosen])
    np.testing.assert_array_equal(after.targets["package"].std, step.targets["package"].std[chosen])


def test_resampling_reads_noise_of_its_own():
    told = {noise.offset(seed, tick) for seed in (0, 1, 2**63) for tick in range(-2, 30)}
    assert len(told) == 3 * 32 and all(0.0 <= value < 1.0 for value in told)
    assert noise.offset(5, 9) == noise.offset(5, 9)
    drawn = noise.words(5, 9, 32, 4) >> np.uint64(11)
    assert noise.offset(5, 9) not in set((drawn.astype(np.float64) * 2.0**-53).ravel())


@pytest.mark.parametrize("particles", [1, 8])
def test_a_filter_s_particles_are_survivors_and_one_alone_is_left_in_peace(particles):
    """A grounded bundle with weights, and the same without them: they differ only where there is a choice."""
    session = Session(tiny_bundle("grounded"), prove=False)
    assert session.latent.weighs and not Session(tiny_bundle("gaussian"), prove=False).latent.weighs

    def track(steps):
        filter_ = Filter(steps, session.bundle.contract, particles, seed=2)
        draw = np.random.default_rng(0)
        for tick in range(12):
            filter_.observe("odom", tick * 50_000_000, draw.normal(size=2).astype(np.float32))
            filter_.advance((tick + 2) * 50_000_000)
        return filter_.revised()[-1].stoch

    class Weightless:
        def __getattr__(self, name):
            return getattr(session, name)

        def step(self, *args):
            return replace(session.step(*args), log_weight=None)

    same = np.array_equal(track(session), track(Weightless()))
    assert same == (particles == 1)
