"""The categorical latent: unimix, sampling by inverse CDF, straight-through, KL."""

from __future__ import annotations

import torch
from torch import Tensor

from rssm_ros.world_model.layers import wide


def mixed(logits: Tensor, unimix: float) -> Tensor:
    """(1 - unimix) softmax(logits) + unimix / K in float32 at least; [..., S, K] -> [..., S, K]."""
    probs = torch.softmax(wide(logits), -1)
    if unimix == 0.0:
        return lively(probs)
    return probs * (1.0 - unimix) + unimix / logits.shape[-1]


def lively(probs: Tensor) -> Tensor:
    """[..., K] without zeros: a class that underflows to 0 would make KL and entropy 0 log 0."""
    return probs.clamp(min=torch.finfo(probs.dtype).tiny)


def sample_categorical(probs: Tensor, uniform: Tensor) -> Tensor:
    """One-hot sample: index = sum(u >= cdf[:K-1]); probs [..., S, K], uniform [..., S] in [0, 1).

    The same rule in numpy, torch and ONNX: noise is always an input, so every backend draws the same class.
    """
    cdf = torch.cumsum(probs, -1)[..., :-1]  # [..., S, K-1]
    below = (uniform.unsqueeze(-1) >= cdf).to(probs.dtype)  # 1 for every class before the drawn one
    one = torch.ones_like(below[..., :1])
    # below = 1..1 0..0, so the difference of [1, below] and [below, 0] is the one-hot itself.
    return torch.cat([one, below], -1) - torch.cat([below, torch.zeros_like(one)], -1)


def straight_through(one_hot: Tensor, probs: Tensor) -> Tensor:
    """sg(one_hot) + p - sg(p), with the *mixed* probabilities."""
    return one_hot.detach() + (probs - probs.detach())


def categorical_kl(left: Tensor, right: Tensor) -> Tensor:
    """KL(left || right) in nats, summed over groups: [..., S, K] x 2 -> [...]."""
    return (left * (torch.log(left) - torch.log(right))).sum((-2, -1))


def entropy(probs: Tensor) -> Tensor:
    """Entropy in nats, summed over groups: [..., S, K] -> [...]."""
    return -(probs * torch.log(probs)).sum((-2, -1))
