"""Lambda returns and the range that normalises advantages."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rssm_ros.world_model.layers import wide


def lambda_returns(
    reward: Tensor, continue_: Tensor, value: Tensor, lam: float = 0.95, last: Tensor | None = None
) -> Tensor:
    """Lambda returns of imagined trajectories, or of replayed sequences.

    reward, continue_, value [N, H + 1], where entry t belongs to state t (reward[t] led to it) -> [N, H]:
    R_t = r_{t+1} + c_{t+1} ((1 - lambda) v_{t+1} + lambda R_{t+1}), R_H = v_H.
    `last` [N, H + 1] bool marks states after which a replayed sequence belongs to another episode.
    """
    assert reward.shape == continue_.shape == value.shape, (reward.shape, continue_.shape, value.shape)
    trace = torch.full_like(value, lam) if last is None else lam * (1.0 - last.to(value.dtype))
    following = value[:, -1]
    returns = []
    for t in range(reward.shape[1] - 2, -1, -1):
        mix = (1.0 - trace[:, t + 1]) * value[:, t + 1] + trace[:, t + 1] * following
        following = reward[:, t + 1] + continue_[:, t + 1] * mix
        returns.append(following)
    return torch.stack(returns[::-1], 1)


class ReturnRange(nn.Module):
    """Moving P95 - P5 of returns: the divisor of advantages, which never get louder than their raw scale.

    As DreamerV3's: EMA 0.01 from zero, *not* bias-corrected, so that the first few batches, whose returns an
    untrained critic makes up, divide by 1.
    """

    low: Tensor
    high: Tensor

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        self.rate = rate
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Take in a batch of returns [...]; the divisor max(1, P95 - P5) as a scalar tensor."""
        flat = wide(returns).flatten()
        for held, share in ((self.low, 0.05), (self.high, 0.95)):  # one by one: a list would wait for a GPU
            held.lerp_(torch.quantile(flat, share).to(held.dtype), self.rate)
        return (self.high - self.low).clamp(min=1.0)
