"""Imagination and replay losses on cases worked out by hand: the recorded run of DreamerV3 has neither."""

import math

import pytest
import torch
from torch import Tensor

from rssm_ros.behavior import Actor, Critic, ReturnRange, imagination_losses, replay_value_loss
from rssm_ros.world_model import preset
from rssm_ros.world_model.heads import BINS

SIZES = preset("debug")
DISCOUNT = 1.0 - 1.0 / 333.0
MIDDLE = BINS // 2  # the bin at 0


class Given(Critic):
    """A critic whose values are given; its loss is the target itself, plus whatever features carry."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(SIZES)
        self.values = values

    def forward(self, features: Tensor) -> Tensor:
        return self.values

    def loss(self, features: Tensor, returns: Tensor) -> Tensor:
        return returns + features.sum(-1)


def actor(mean: float, std: float) -> Actor:
    """One that says the same in every state; one action."""
    model = Actor(SIZES, 1)
    with torch.no_grad():
        for head in (model.mean, model.std):
            head.weight.zero_()
        model.mean.bias.fill_(math.atanh(mean))
        share = (std - 0.1) / 0.9
        model.std.bias.fill_(math.log(share / (1.0 - share)) - 2.0)
    return model


def test_imagination_loss_by_hand() -> None:
    """Two steps from one start; the start's own chance of going on counts, its reward does not."""
    features = torch.zeros(1, 3, SIZES.features)
    actions = torch.tensor([[[0.5], [1.6]]])
    reward, goes_on = torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([[0.9, 0.8, 0.5]])
    spread = ReturnRange()
    spread.high.fill_(4.0)
    loss = imagination_losses(
        actor(0.5, 0.55), Given(torch.tensor([[3.0, 4.0, 10.0]])), spread, features, actions, reward, goes_on
    )
    second = 2.0 + 0.5 * 10.0  # bootstrapped with the value of the last state
    first = 1.0 + 0.8 * (0.05 * 4.0 + 0.95 * second)
    assert loss.returns[0].tolist() == pytest.approx([first, second]) == [6.48, 7.0]
    ends = [first + 0.05 * (second - first), first + 0.95 * (second - first)]
    divisor = 0.99 * 4.0 + 0.01 * (ends[1] - ends[0])
    weight = [0.9, 0.9 * 0.8]
    entropy = math.log(0.55) + 0.5 * math.log(2.0 * math.pi * math.e)
    at_mean = -math.log(0.55) - 0.5 * math.log(2.0 * math.pi)
    two_off = at_mean - 0.5 * 2.0**2  # 1.6 is two standard deviations from 0.5
    expected = [
        -weight[0] * (at_mean * (first - 3.0) / divisor + 3e-4 * entropy),
        -weight[1] * (two_off * (second - 4.0) / divisor + 3e-4 * entropy),
    ]
    assert loss.policy[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert loss.value[0].tolist() == pytest.approx([weight[0] * first, weight[1] * second], rel=1e-5)


def test_the_divisor_is_that_of_all_processes_returns() -> None:
    """Percentiles of one process alone would scale its advantages differently from the others'."""
    features, actions = torch.zeros(1, 2, SIZES.features), torch.zeros(1, 1, 1)
    model, critic = actor(0.5, 0.55), Given(torch.zeros(1, 2))
    given = (model, critic, ReturnRange(1.0), features, actions, torch.tensor([[0.0, 2.0]]), torch.ones(1, 2))
    alone = imagination_losses(*given, entropy_scale=0.0)
    other = torch.tensor([[22.0]])  # P95 - P5 of 2 and 22: 18
    together = imagination_losses(*given, entropy_scale=0.0, gather=lambda mine: torch.cat([mine, other]))
    assert (alone.policy / together.policy).item() == pytest.approx(18.0, rel=1e-5)


def test_the_actor_alone_gets_the_policy_s_gradient() -> None:
    features = torch.randn(2, 4, SIZES.features)
    critic, model = Critic(SIZES), actor(0.1, 0.5)
    with torch.no_grad():
        critic.fast.out.bias.normal_()
    goes_on = torch.full((2, 4), 0.9)
    loss = imagination_losses(
        model, critic, ReturnRange(), features, torch.randn(2, 3, 1), torch.randn(2, 4), goes_on
    )
    wanted = [*model.parameters(), *critic.fast.parameters()]
    for part, owner in ((loss.policy, model), (loss.value, critic.fast)):
        own = {id(parameter) for parameter in owner.parameters()}
        gradients = torch.autograd.grad(part.sum(), wanted, allow_unused=True, retain_graph=True)
        for parameter, gradient in zip(wanted, gradients, strict=True):
            assert (gradient is not None) == (id(parameter) in own)
    assert not loss.returns.requires_grad


def test_replay_value_loss_by_hand() -> None:
    """Rewards of four ticks; a time limit after tick 1 bootstraps, a terminal tick does not."""
    features, reward = torch.zeros(1, 4, SIZES.features), torch.tensor([[5.0, 3.0, 1.0, 2.0]])
    bootstrap = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    never = torch.zeros(1, 4, dtype=torch.bool)
    critic = Given(torch.zeros(1, 4))
    third = 2.0 + DISCOUNT * 40.0
    second = 1.0 + DISCOUNT * (0.05 * 30.0 + 0.95 * third)
    first = 3.0 + DISCOUNT * (0.05 * 20.0 + 0.95 * second)
    whole = replay_value_loss(critic, features, reward, never, never, bootstrap)
    assert whole[0].tolist() == pytest.approx([first, second, third])
    last = torch.tensor([[False, True, False, False]])
    limit = replay_value_loss(critic, features, reward, last, never, bootstrap)
    assert limit[0].tolist() == pytest.approx([3.0 + DISCOUNT * 20.0, 0.0, third])
    terminal = replay_value_loss(critic, features, reward, last, last, bootstrap)
    assert terminal[0].tolist() == pytest.approx([3.0, 0.0, third])


def test_replay_value_loss_reaches_the_world_model_but_not_through_its_targets() -> None:
    features = torch.randn(1, 4, SIZES.features, requires_grad=True)
    bootstrap = torch.randn(1, 4, requires_grad=True)
    critic = Critic(SIZES)
    with torch.no_grad():
        critic.fast.out.weight.normal_()
    last = torch.tensor([[False, True, False, False]])
    loss = replay_value_loss(critic, features, torch.randn(1, 4), last, last, bootstrap)
    into, target = torch.autograd.grad(loss.sum(), [features, bootstrap], allow_unused=True)
    assert target is None
    assert into is not None and [bool(row.any()) for row in into[0]] == [True, False, True, False]


def test_critic_loss_is_to_the_return_plus_to_the_slow_critic() -> None:
    """The slow critic's logits are equal: its mean is exactly 0, the middle bin."""
    critic = Critic(SIZES)
    with torch.no_grad():
        critic.fast.out.bias[200], critic.fast.out.bias[MIDDLE] = 3.0, 1.5
    total = math.log(BINS - 2 + math.exp(3.0) + math.exp(1.5))
    target = critic.fast.bins[200:201]  # a return that is exactly one bin
    loss = critic.loss(torch.randn(1, SIZES.features), target)
    assert loss.item() == pytest.approx((total - 3.0) + (total - 1.5), rel=1e-5)
