"""A deterministic filter: the mode instead of a draw, and no claim about the spread."""

import numpy as np
import pytest

from rssm_ros.bundle import Latent
from rssm_ros.online.errors import FilterError
from rssm_ros.online.filter import Filter
from rssm_ros.online.mode import noise_of_mode
from rssm_ros.online.session import Session
from test.bundles import tiny_bundle
from test.online.model import TinyModel
from test.online.streams import CONTRACT, bits, drive

LATENT = Latent(4, 3, 5, {}, 1, {}, 1)


def _filter(seed=3):
    return Filter(TinyModel(CONTRACT), CONTRACT, 1, seed, deterministic=True)


def test_the_noise_of_the_mode_draws_the_mode():
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.full(5, 0.3), (100, 3)).astype(np.float32)
    noise = noise_of_mode(LATENT, probabilities)
    drawn = (noise[..., None] >= np.cumsum(probabilities, -1)[..., :-1]).sum(-1)
    np.testing.assert_array_equal(drawn, probabilities.argmax(-1))
    assert noise.dtype == np.float32 and ((noise >= 0) & (noise < 1)).all()


def test_a_normal_latent_is_at_its_mean():
    gaussian = Latent(4, 3, 1, {}, 1, {}, 1, "gaussian")
    np.testing.assert_array_equal(noise_of_mode(gaussian, np.ones((2, 3, 2), np.float32)), np.zeros((2, 3)))


def test_every_tick_is_at_the_mode_of_its_distribution():
    filter_ = _filter()
    drive(filter_, 8, skip=(24, 25))
    for snapshot in filter_._memory.snapshots.values():
        step = snapshot.step
        probabilities = step.prior if step.posterior is None else step.posterior
        np.testing.assert_array_equal(step.state.stoch, probabilities.argmax(-1))


def test_the_seed_does_not_matter_and_there_is_no_covariance():
    left, right = drive(_filter(1), 6), drive(_filter(2), 6)
    assert [bits(a) for a in left] == [bits(b) for b in right]
    target = left[-1].targets["package"]
    assert np.isnan(target.std).all() and np.isnan(np.diag(target.covariance())).all()
    assert np.isfinite(target.point()).all()


def test_ahead_goes_to_the_mode_too():
    filter_ = _filter()
    (*_, last) = drive(filter_, 4)
    ahead, again = filter_.ahead(last), _filter(9)
    assert np.isnan(ahead.targets["package"].std).all()
    assert again.ahead(last).stoch.shape == ahead.stoch.shape


def test_more_than_one_particle_makes_no_sense():
    with pytest.raises(FilterError, match="deterministic filter has 1"):
        Filter(TinyModel(CONTRACT), CONTRACT, 2, 0, deterministic=True)


def test_a_saved_drawing_filter_is_not_a_deterministic_one():
    filter_ = _filter()
    drive(filter_, 3)
    with pytest.raises(FilterError, match="deterministic is True"):
        Filter(TinyModel(CONTRACT), CONTRACT).load_state(filter_.save_state())


def test_onnxruntime_draws_the_mode_exactly():
    """Same graph, same distributions, other noise."""
    session = Session(tiny_bundle(), prove=False)
    contract = session.bundle.contract
    filter_ = Filter(session, contract, 1, 5, deterministic=True)
    draw = np.random.default_rng(1)
    for tick in range(20, 30):
        stamp = tick * 50_000_000
        filter_.advance(stamp)
        for spec in contract.observations:
            picture = spec.kind == "image"
            value = draw.integers(0, 256, spec.shape) if picture else draw.normal(size=spec.shape)
            filter_.observe(spec.name, stamp, value.astype(np.uint8) if picture else value)
        filter_.advance(stamp)
    for snapshot in filter_._memory.snapshots.values():
        np.testing.assert_array_equal(snapshot.step.state.stoch, snapshot.step.posterior.argmax(-1))
