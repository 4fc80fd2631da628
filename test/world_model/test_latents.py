"""Distributions against torch's own, and the Bayes update against its closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from rssm_ros.world_model.categorical import mixed
from rssm_ros.world_model.latents import MINIMUM_STD, Categorical, Gaussian

G = Gaussian(6)
C = Categorical(4, 5, 0.01)


def normals(distribution: torch.Tensor) -> Independent:
    mean, std = distribution.unbind(-1)
    return Independent(Normal(mean, std), 1)


def some(latent, rows: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return latent.distribution(torch.randn(rows, latent.groups * latent.parameters, generator=draw))


def test_gaussian_kl_and_entropy_are_torch_s():
    left, right = some(G, 7), some(G, 7, 1)
    assert torch.allclose(G.kl(left, right), kl_divergence(normals(left), normals(right)), atol=1e-5)
    assert torch.allclose(G.entropy(left), normals(left).entropy(), atol=1e-5)
    assert (G.kl(left, left) == 0.0).all()
    assert left[..., 1].min() > MINIMUM_STD


def test_gaussian_samples_carry_gradients_and_have_the_right_moments():
    raw = torch.tensor([[0.5, -2.0, 0.0, 1.0]], requires_grad=True)
    latent = Gaussian(2)
    one = latent.distribution(raw)
    noise = latent.noise(200_000, generator=torch.Generator().manual_seed(0))
    samples = latent.sample(one.expand(200_000, -1, -1), noise)
    assert samples.shape == (200_000, 2, 1)
    assert torch.allclose(samples.mean((0, 2)), one[0, :, 0], atol=0.02)
    assert torch.allclose(samples.squeeze(-1).std(0), one[0, :, 1], rtol=0.02)
    samples.sum().backward()
    assert raw.grad is not None and (raw.grad[:, :2] > 0).all()


def test_one_gaussian_expert_is_a_kalman_update():
    prior = some(G, 3)
    experts = torch.randn(3, 1, 12)
    discount, here = torch.full((3, 1), 0.8), torch.ones(3, 1, dtype=torch.bool)
    posterior = G.combine(prior, experts, discount, here)
    mean, std = prior.unbind(-1)
    measured, raw = experts[:, 0].chunk(2, -1)
    noise = 1.0 / (0.8 * torch.nn.functional.softplus(raw))  # the measurement's variance
    gain = std**2 / (std**2 + noise)
    assert torch.allclose(posterior[..., 0], mean + gain * (measured - mean), atol=1e-5)
    assert torch.allclose(posterior[..., 1], torch.sqrt(1 - gain) * std, atol=1e-5)
    assert (posterior[..., 1] <= std).all()


def test_categorical_experts_add_bounded_log_likelihoods():
    prior = some(C, 2)
    experts = torch.tensor([[[100.0] + [0.0] * 19]]).expand(2, 2, -1)  # far beyond the bound, twice
    discount, here = torch.ones(2, 2), torch.tensor([[True, True], [True, False]])
    posterior = C.combine(prior, experts, discount, here)
    odds = torch.log(posterior[:, 0, 0] / posterior[:, 0, 1]) - torch.log(prior[:, 0, 0] / prior[:, 0, 1])
    assert torch.allclose(odds, torch.tensor([16.0, 8.0]), atol=1e-3)
    assert torch.allclose(posterior[:, 1:], prior[:, 1:], atol=1e-6)


@given(st.integers(0, 10_000), st.sampled_from(["categorical", "gaussian"]))
def test_no_evidence_leaves_the_prior(seed, kind):
    latent = C if kind == "categorical" else G
    prior = some(latent, 2, seed)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    experts = torch.full((2, 3, latent.groups * latent.parameters), math.nan)
    posterior = latent.combine(prior, experts, torch.full((2, 3), 0.9), nothing)
    if kind == "gaussian":
        assert torch.equal(posterior, prior)
    else:
        assert torch.allclose(posterior, prior, atol=1e-6)


def test_the_update_sends_no_gradient_into_the_prior_and_mixes_no_uniform_in():
    """With one, the representation term pushes the prior *against* the evidence."""
    raw = torch.randn(2, 20, requires_grad=True)
    prior = C.distribution(raw)
    experts = torch.zeros(2, 1, 20)
    experts[..., 0] = 50.0
    posterior = C.combine(prior, experts.requires_grad_(), torch.ones(2, 1), torch.ones(2, 1).bool())
    loss = C.kl(posterior, prior.detach()).sum()
    (into_prior, into_experts) = torch.autograd.grad(loss, [raw, experts], allow_unused=True)
    assert into_prior is None or not into_prior.any()
    assert into_experts.any()
    # Unimix on the posterior would leave at least 0.01 / K for every class.
    certain = mixed(torch.tensor([[[40.0, 0, 0, 0, 0]] * 4]), 0.01)
    sharper = C.combine(certain, experts[:1].detach(), torch.ones(1, 1), torch.ones(1, 1).bool())
    assert sharper[0, 0, 1] < 0.01 / 5 / 100


def test_certainty_without_unimix_is_finite():
    """DreamerV2's latent has none: a logit 120 above the rest made KL and entropy 0 log 0."""
    latent = Categorical(1, 3, 0.0)
    sure, other = (latent.distribution(torch.tensor([row])) for row in ([120.0, 0, 0], [0.0, 120, 0]))
    assert torch.isfinite(latent.kl(sure, other)).all() and torch.isfinite(latent.entropy(sure)).all()
    assert latent.kl(sure, other) > 50


def test_evidence_against_what_is_all_but_impossible_is_finite():
    """Without unimix in the prior, or with many experts, a class could vanish: again 0 log 0."""
    latent = Categorical(1, 3, 0.0)
    prior = latent.distribution(torch.tensor([[120.0, 0, 0]]))
    experts = torch.tensor([[[50.0, -50, -50]] * 2], requires_grad=True)
    posterior = latent.combine(prior, experts, torch.ones(1, 2), torch.ones(1, 2).bool())
    loss = latent.kl(posterior, prior) + latent.entropy(posterior)
    assert torch.isfinite(loss).all() and float(posterior.detach().sum()) == pytest.approx(1.0)
    assert torch.isfinite(torch.autograd.grad(loss.sum(), experts)[0]).all()


@pytest.mark.parametrize("latent", [C, G], ids=["categorical", "gaussian"])
def test_noise_is_the_generator_s(latent):
    one, two = (latent.noise(5, 3, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert one.shape == (5, 3, latent.groups) and torch.equal(one, two)
