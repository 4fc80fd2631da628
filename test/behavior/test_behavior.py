"""Actor, critic and returns on cases worked out by hand."""

import pytest
import torch

from rssm_ros.behavior import Actor, Critic, ReturnRange, lambda_returns
from rssm_ros.behavior.actor import imitation_loss
from rssm_ros.world_model import preset

SIZES = preset("debug")


def test_actor_starts_near_zero_within_bounds():
    mean, std = Actor(SIZES, 6)(torch.randn(5, SIZES.features))
    assert mean.shape == std.shape == (5, 6)
    assert (mean.abs() < 0.2).all() and ((std >= 0.1) & (std <= 1.0)).all()


def test_imitation_pulls_the_mean_to_the_expert_whatever_the_std():
    mean = torch.tensor([[0.5]], requires_grad=True)
    pulls = []
    for std in (0.1, 1.0):
        loss = imitation_loss(mean, torch.tensor([[std]]), torch.tensor([[0.0]]))
        pulls.append(float(torch.autograd.grad(loss.sum(), mean)[0]))
    assert pulls[0] == pytest.approx(pulls[1]) and pulls[0] > 0


def test_lambda_returns_by_hand():
    reward = torch.tensor([[9.0, 1.0, 2.0]])  # the first belongs to a tick before imagination
    live = torch.tensor([[1.0, 0.5, 0.5]])
    value = torch.tensor([[0.0, 4.0, 8.0]])
    last = 2.0 + 0.5 * 8.0
    first = 1.0 + 0.5 * (0.1 * 4.0 + 0.9 * last)
    assert torch.allclose(lambda_returns(reward, live, value, lam=0.9), torch.tensor([[first, last]]))


def test_the_range_of_returns_is_averaged_from_zero_without_bias_correction():
    """0, 10 ... 1000: P5 = 50, P95 = 950; each batch moves the range 1 % of the way from where it was."""
    spread, returns = ReturnRange(), torch.linspace(0, 1000, 101)
    assert float(spread.update(returns)) == pytest.approx(0.01 * 900)
    assert float(spread.update(returns)) == pytest.approx(900 * (1 - 0.99**2))
    for _ in range(3):
        divisor = spread.update(returns + 70)  # both ends move, the distance goes on
    assert float(divisor) == pytest.approx(900 * (1 - 0.99**5), rel=1e-5)
    assert float(spread.low) == pytest.approx(50 * (1 - 0.99**5) + 70 * (1 - 0.99**3), rel=1e-5)


def test_advantages_are_never_scaled_up():
    """Bias-corrected it would be 90; DreamerV3 divides by 1 until the averages say more."""
    assert float(ReturnRange().update(torch.zeros(100))) == 1.0
    assert float(ReturnRange().update(torch.linspace(0, 100, 101))) == 1.0


def test_percentiles_lie_between_the_returns():
    """Five returns: P5 is 0.2 of the way from the first to the second, P95 0.8 of the way to the last."""
    spread = ReturnRange(rate=1.0)
    assert float(spread.update(torch.tensor([8.0, 0.0, 10.0, 2.0, 4.0]))) == pytest.approx(9.6 - 0.4)


def test_slow_critic_moves_two_percent_per_update():
    critic = Critic(SIZES)
    with torch.no_grad():
        critic.fast.out.bias.fill_(1.0)
    critic.update_slow()
    assert torch.allclose(critic.slow.out.bias, torch.full_like(critic.slow.out.bias, 0.02))
    critic.update_slow()
    assert torch.allclose(critic.slow.out.bias, torch.full_like(critic.slow.out.bias, 1 - 0.98**2))
    assert torch.equal(critic.fast.out.bias, torch.ones_like(critic.fast.out.bias))
    assert not any(p.requires_grad for p in critic.slow.parameters())
