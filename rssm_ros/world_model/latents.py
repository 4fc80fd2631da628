"""The stochastic latent: what a distribution over it is, how it is sampled, compared and updated.

A latent has S groups. A distribution is one tensor [..., S, P], a sample is [..., S, K]:
categorical: P = K probabilities, one-hot samples; Gaussian: P = 2 (mean, std), K = 1.
Noise is always given, one number per group [..., S]: a uniform or a standard normal.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from rssm_ros.world_model.categorical import (
    categorical_kl,
    entropy,
    lively,
    mixed,
    sample_categorical,
    straight_through,
)
from rssm_ros.world_model.layers import wide
from rssm_ros.world_model.sizes import Sizes

MINIMUM_STD = 0.1  # of a Gaussian latent (PlaNet, DreamerV1)
BOUND = 8.0  # nats by which one expert can move a log-probability (product posterior)


class Latent(Protocol):
    """What the RSSM needs of its stochastic part."""

    groups: int  # S
    width: int  # K: numbers per group in a sample
    parameters: int  # P: numbers per group in a distribution

    def distribution(self, raw: Tensor) -> Tensor:
        """A linear layer's output [..., S P] -> distribution [..., S, P]."""

    def sample(self, distribution: Tensor, noise: Tensor) -> Tensor:
        """[..., S, P], noise [..., S] -> sample [..., S, K], with a gradient into the distribution."""

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise [*shape, S] for `sample`, on the generator's device."""

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL(left || right) in nats, summed over groups: [..., S, P] x 2 -> [...]."""

    def kl_by_group(self, left: Tensor, right: Tensor) -> Tensor:
        """The same, of each group by itself: [..., S, P] x 2 -> [..., S]."""

    def entropy(self, distribution: Tensor) -> Tensor:
        """In nats, summed over groups: [..., S, P] -> [...]. Differential for a Gaussian."""

    def combine(self, prior: Tensor, experts: Tensor, discount: Tensor, presence: Tensor) -> Tensor:
        """Bayes' rule with learned likelihoods: the prior times every present modality's expert.

        prior [..., S, P], experts [..., M, S P] raw, discount [..., M] in (0, 1], presence [..., M] bool
        -> posterior [..., S, P]. The prior is taken as given: no gradient flows into it, otherwise the
        representation term would push it against the evidence.
        """


class Categorical:
    """S groups of K classes, `unimix` of a uniform mixed into what a linear layer says (DreamerV2, V3)."""

    def __init__(self, groups: int, classes: int, unimix: float) -> None:
        self.groups, self.width, self.parameters, self.unimix = groups, classes, classes, unimix

    def distribution(self, raw: Tensor) -> Tensor:
        """Logits -> mixed probabilities, in float32."""
        return mixed(self._groups(raw), self.unimix)

    def sample(self, distribution: Tensor, noise: Tensor) -> Tensor:
        """One-hot by inverse CDF; straight-through with the *mixed* probabilities."""
        return straight_through(sample_categorical(distribution.detach(), noise), distribution)

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Uniforms in [0, 1)."""
        return torch.rand(*shape, self.groups, generator=generator, device=_device(generator))

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """On the mixed probabilities."""
        return categorical_kl(left, right)

    def kl_by_group(self, left: Tensor, right: Tensor) -> Tensor:
        """On the mixed probabilities."""
        return categorical_kl(left.unsqueeze(-2), right.unsqueeze(-2))

    def entropy(self, distribution: Tensor) -> Tensor:
        """Of the mixed probabilities."""
        return entropy(distribution)

    def combine(self, prior: Tensor, experts: Tensor, discount: Tensor, presence: Tensor) -> Tensor:
        """softmax(log p + sum of bounded evidence); no unimix, the prior's keeps every class alive."""
        bounded = discount.unsqueeze(-1) * (BOUND * torch.tanh(wide(experts) / BOUND))
        evidence = torch.where(presence.unsqueeze(-1), bounded, bounded.new_zeros(())).sum(-2)
        return lively(torch.softmax(torch.log(prior.detach()) + self._groups(evidence), -1))

    def _groups(self, flat: Tensor) -> Tensor:
        return flat.reshape(*flat.shape[:-1], self.groups, self.width)


class Gaussian:
    """S independent normals (PlaNet, DreamerV1): std = softplus(.) + 0.1."""

    def __init__(self, groups: int) -> None:
        self.groups, self.width, self.parameters = groups, 1, 2

    def distribution(self, raw: Tensor) -> Tensor:
        """[..., 2 S] -> [..., S, 2]: means, then raw standard deviations."""
        mean, std = wide(raw).chunk(2, -1)
        return torch.stack([mean, F.softplus(std) + MINIMUM_STD], -1)

    def sample(self, distribution: Tensor, noise: Tensor) -> Tensor:
        """mean + std * noise: reparameterised."""
        mean, std = distribution.unbind(-1)
        return (mean + std * noise).unsqueeze(-1)

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normals."""
        return torch.randn(*shape, self.groups, generator=generator, device=_device(generator))

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """Between normals; exactly 0 for equal ones."""
        return self.kl_by_group(left, right).sum(-1)

    def kl_by_group(self, left: Tensor, right: Tensor) -> Tensor:
        """Between normals; exactly 0 for equal ones."""
        (mean_l, std_l), (mean_r, std_r) = left.unbind(-1), right.unbind(-1)
        ratio = (std_l / std_r).square()
        return 0.5 * (ratio - 1.0 - torch.log(ratio) + ((mean_l - mean_r) / std_r).square())

    def entropy(self, distribution: Tensor) -> Tensor:
        """log(std sqrt(2 pi e)), summed."""
        return (torch.log(distribution[..., 1]) + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)

    def combine(self, prior: Tensor, experts: Tensor, discount: Tensor, presence: Tensor) -> Tensor:
        """Precisions add up: a Kalman update with learned measurements. The variance can only shrink."""
        mean, std = prior.detach().unbind(-1)
        measured, raw = wide(experts).chunk(2, -1)  # [..., M, S] each
        precision = (discount.unsqueeze(-1) * F.softplus(raw)).clamp(max=MINIMUM_STD**-2)
        pulls = precision * (measured - mean.unsqueeze(-2))
        # Chosen, never multiplied by a flag: what an absent expert says may be a NaN.
        here, none = presence.unsqueeze(-1), precision.new_zeros(())
        shrink = 1.0 + std.square() * torch.where(here, precision, none).sum(-2)
        pull = torch.where(here, pulls, none).sum(-2)
        return torch.stack([mean + std.square() * pull / shrink, std / torch.sqrt(shrink)], -1)


def latent_of(sizes: Sizes) -> Latent:
    """The latent that a model of these sizes has."""
    if sizes.latent == "gaussian":
        return Gaussian(sizes.stoch)
    return Categorical(sizes.stoch, sizes.classes, sizes.unimix)


def _device(generator: torch.Generator | None) -> torch.device | None:
    return None if generator is None else generator.device
