"""Actor and critic losses of DreamerV3 (danijar/dreamerv3 at e3f0224): in imagination, and on replay.

Shapes: N imagined trajectories of H steps from a start (H + 1 states), B rows and T ticks of replay,
F features, A actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rssm_ros.behavior.actor import Actor, entropy, log_probability
from rssm_ros.behavior.critic import Critic
from rssm_ros.behavior.returns import ReturnRange, lambda_returns
from rssm_ros.world_model.heads import continue_target

LAMBDA = 0.95
ENTROPY_SCALE = 3e-4


class ImaginationLosses(NamedTuple):
    """policy and value [N, H], weighted, to be averaged; returns [N, H], without a gradient."""

    policy: Tensor
    value: Tensor
    returns: Tensor


def imagination_losses(
    actor: Actor,
    critic: Critic,
    spread: ReturnRange,
    features: Tensor,
    actions: Tensor,
    reward: Tensor,
    continue_: Tensor,
    *,
    entropy_scale: float = ENTROPY_SCALE,
    lam: float = LAMBDA,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> ImaginationLosses:
    """REINFORCE with entropy for the actor, cross-entropy to the lambda return for the critic.

    features [N, H + 1, F] and actions [N, H, A] of a rollout, no gradient in either; reward and continue_
    [N, H + 1] that the world model predicts for the states. Returns use the *fast* critic. Every term weighs
    what the chance of still being there is: cumprod(continue), the start's own included. `spread` takes in
    the returns, of all processes if `gather` ([N, H] -> [all N, H]) is given, before it divides.
    """
    rows, states, _ = features.shape
    assert actions.shape[:2] == (rows, states - 1), (actions.shape, features.shape)
    assert reward.shape == continue_.shape == (rows, states), (reward.shape, continue_.shape, features.shape)
    with torch.no_grad():
        value = critic(features)
        returns = lambda_returns(reward, continue_, value, lam)  # [N, H]
        divisor = spread.update(returns if gather is None else gather(returns))
        weight = torch.cumprod(continue_, 1)[:, :-1]
        advantage = (returns - value[:, :-1]) / divisor
    mean, std = actor(features[:, :-1])
    gain = log_probability(mean, std, actions) * advantage + entropy_scale * entropy(std)
    return ImaginationLosses(-weight * gain, weight * critic.loss(features[:, :-1], returns), returns)


def replay_value_loss(
    critic: Critic,
    features: Tensor,
    reward: Tensor,
    is_last: Tensor,
    is_terminal: Tensor,
    bootstrap: Tensor,
    *,
    lam: float = LAMBDA,
) -> Tensor:
    """The critic's loss on replayed ticks; its gradient flows into `features`, so into the world model.

    features [B, T, F] of the posteriors, reward [B, T], is_last and is_terminal [B, T] bool, bootstrap
    [B, T]: the imagined lambda return from every one of these ticks -> [B, T - 1], 0 at an episode's last
    tick, whose successor belongs to another one.
    """
    for flags in (is_last, is_terminal):
        assert flags.shape == features.shape[:2], (flags.shape, features.shape)
    returns = lambda_returns(reward, continue_target(is_terminal), bootstrap.detach(), lam, is_last)
    loss = critic.loss(features[:, :-1], returns)
    return torch.where(is_last[:, :-1].bool(), loss.new_zeros(()), loss)
