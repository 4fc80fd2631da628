"""Loss definitions on cases worked out by hand."""

import math

import pytest
import torch

from rssm_ros.world_model import Sizes, losses
from rssm_ros.world_model.categorical import mixed, straight_through
from rssm_ros.world_model.heads import BINS, TargetHead, TwoHotHead

SIZES = Sizes(8, 8, 2, 2, 2, 2, 8)


def probabilities_with_kl(values: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior and prior [1, len, 1, 16] whose KL is each value: the posterior is nearly certain."""
    posterior = torch.zeros(1, len(values), 1, 16, dtype=torch.float64)
    prior = torch.zeros_like(posterior)
    for i, kl in enumerate(values):
        p = math.exp(-kl)
        posterior[0, i, 0, 0], prior[0, i, 0, 0] = 1.0 - 1e-12, p
        posterior[0, i, 0, 1:], prior[0, i, 0, 1:] = 1e-12 / 15, (1.0 - p) / 15
    return posterior, prior


def test_free_nats_come_after_the_groups_and_before_the_mean():
    """(0.2, 2.6) -> (1.0 + 2.6) / 2 = 1.8; clamping after the mean would say 1.4."""
    posterior, prior = probabilities_with_kl([0.2, 2.6])
    dyn, rep = losses.kl_losses(posterior, prior, 1.0)
    assert float(dyn.mean()) == pytest.approx(1.8, abs=1e-6)
    assert float(rep.mean()) == pytest.approx(1.8, abs=1e-6)


def test_groups_are_summed_before_the_clamp():
    """Two groups of 0.6 nats make 1.2, not 2 x 1."""
    one = probabilities_with_kl([0.6])
    posterior, prior = (torch.cat([p, p], 2) for p in one)
    assert float(losses.kl_losses(posterior, prior, 1.0)[0]) == pytest.approx(1.2, abs=1e-6)


def test_dyn_moves_the_prior_and_rep_the_posterior():
    left, right = (torch.randn(1, 1, 3, 5, requires_grad=True) for _ in range(2))
    for index, (one, other) in enumerate(((right, left), (left, right))):
        loss = losses.kl_losses(mixed(left, 0.01), mixed(right, 0.01), 0.0)[index].sum()
        moved, held = torch.autograd.grad(loss, [one, other], materialize_grads=True, allow_unused=True)
        assert moved.abs().sum() > 0 and held.abs().sum() == 0


def test_straight_through_uses_the_mixed_probabilities():
    logits = torch.randn(2, 3, requires_grad=True)
    one_hot = torch.eye(3)[:2]
    probs = mixed(logits, 0.01)
    weights = torch.randn(2, 3)
    through = torch.autograd.grad(
        (straight_through(one_hot, probs) * weights).sum(), logits, retain_graph=True
    )[0]
    direct = torch.autograd.grad((probs * weights).sum(), logits)[0]
    assert torch.equal(straight_through(one_hot, probs).detach(), one_hot)
    assert torch.allclose(through, direct)


def test_target_likelihood_is_masked_on_nan_and_is_the_mixture_density():
    head = TargetHead(2, SIZES)
    features = torch.randn(3, 4, SIZES.features)
    label = torch.tensor([[0.1, -0.3], [float("nan"), 0.0], [0.0, 0.0], [1.0, 2.0]])
    loss, known = losses.target_loss(head, features, label, beta=0.5)
    assert known.tolist() == [True, False, True, True] and loss[1].item() == 0.0
    mean, std = head.normalised(features)
    density = torch.distributions.Normal(mean[:, 0], std[:, 0]).log_prob(label[0]).sum(-1).exp().mean()
    assert loss[0].item() == pytest.approx(-math.log(density.item()), abs=1e-5)
    gradient = torch.autograd.grad(loss.sum(), list(head.parameters()))
    assert all(bool(torch.isfinite(g).all()) for g in gradient)


def test_target_head_works_in_the_contract_s_units():
    head = TargetHead(1, SIZES)
    head.offset.fill_(5.0)
    head.scale.fill_(2.0)
    features = torch.randn(4, SIZES.features)
    inner, (mean, std) = head.normalised(features), head(features)
    assert torch.allclose(mean, inner[0] * 2 + 5) and torch.allclose(std, inner[1] * 2)
    assert torch.allclose(head.normalise(torch.tensor([7.0])), torch.tensor([1.0]))


def test_two_hot_is_exactly_zero_at_the_start_and_interpolates_in_raw_space():
    head = TwoHotHead(4, 8, 1)
    assert head.bins.shape == (BINS,) and torch.equal(head.bins, -head.bins.flip(0))
    assert (head.mean(head(torch.randn(5, 4))) == 0.0).all()
    low, high = head.bins[130], head.bins[131]
    value = 0.25 * low + 0.75 * high
    logits = torch.zeros(BINS)
    logits[130], logits[131] = 1.0, 2.0
    log_probs = torch.log_softmax(logits, -1)
    expected = -(0.25 * log_probs[130] + 0.75 * log_probs[131])
    assert torch.allclose(head.loss(logits, value), expected, atol=1e-5)


def test_only_the_present_is_reconstructed():
    loss, mask = torch.tensor([1.0, float("inf"), 3.0, 4.0]), torch.tensor([True, False, True, False])
    assert float(losses.masked_mean(loss, mask)) == 1.0
