"""A grounded latent: the sample is the target itself, and a particle one hypothesis of where things are.

An RSSM's latent means what training makes of it, and its streams differ by next to nothing while something
is hidden: all doubt sits in the target's deviation, and no particle can be told to be wrong. Here the latent
*is* the target, in units of its spread. Three things follow, each learned by itself from labelled sequences:

    prior       p(z_k | h_k)     how targets move, from true places alone: no filter has to work first
    expert      e(z | o)         a normal, what the observation alone says of the place (`product`'s expert)
    likelihood  C(o, z)          what the expert's normal cannot say: "not here, or it would be seen"

The posterior is the product prior x expert, a Kalman update with a learned measurement. What it leaves out
are the particles' weights,

    w = p(o | past) = Z exp C(o, z),    Z = integral of p(z | h) e(z | o) dz   (closed: both are normal)

so that particles which expected the dot where it is not are given up: a particle filter with learned parts
(Gordon et al. 1993; Jonschkowski et al., Differentiable Particle Filters, 2018). C is learned by telling
the true place among others that a belief could have taken for it; the logit that does this best is the
logarithm of the likelihood, up to a constant (van den Oord et al. 2018, section 2.3).

Shapes: B rows, D deter, G of it recurrent, S numbers of all targets, M modalities, n candidates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.world_model.heads import MINIMUM_STD as KERNEL
from rssm_ros.world_model.heads import TargetHead
from rssm_ros.world_model.layers import MLP, Linear, wide
from rssm_ros.world_model.plain import PlainGRU
from rssm_ros.world_model.sizes import Sizes

MINIMUM_STD = 0.004  # of prior and expert, in units of the target's spread
SPEED = 5.0  # what displacements of a tick are multiplied by, to be as large as places
WAVES = 8  # of the place, along each axis: down to 3.5 / 8 of its spread
REACH = 3.5  # spreads: half the longest wave
SURPRISING = 4.0  # deviations of prior and expert together, beyond which the prior is wider than it says
BOUND = 8.0  # nats: more than C never says


class KinematicCore(nn.Module):
    """deter = [recurrent G | last sample S | its displacement S | how much of both is known 1].

    The prior goes on as the last two places say (constant velocity); what is learned is the deviation.
    """

    def __init__(self, sizes: Sizes, action_dim: int) -> None:
        super().__init__()
        self.places = sizes.stoch
        self.recurrent = sizes.deter - 2 * sizes.stoch - 1
        self.gru = PlainGRU(
            replace(sizes, deter=self.recurrent, stoch=2 * sizes.stoch, grounded=False), action_dim
        )
        self.mlp = MLP(sizes.deter, sizes.hidden, 2)
        self.out = Linear(sizes.hidden, 2 * sizes.stoch, 0.1)

    def of_action(self, action: Tensor) -> Tensor:
        """[..., A] -> [..., hidden]."""
        result: Tensor = self.gru.of_action(action)
        return result

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        """deter [B, D], stoch [B, S, 1], embedded action [B, hidden] -> deter' [B, D].

        After a reset neither place nor displacement is known (0), after the first sample the place (1/2).
        """
        hidden, before, _, known = self._parts(deter)
        place = stoch.squeeze(-1)
        moved = SPEED * (place - before) * torch.clamp(2.0 * known - 1.0, min=0.0)
        hidden = self.gru(hidden, torch.cat([place, moved], -1).unsqueeze(-1), action)
        return torch.cat([hidden, place, moved, torch.clamp(known + 0.5, max=1.0)], -1)

    def sequence(self, places: Tensor, action: Tensor) -> Tensor:
        """From nothing, over true places: [B, T, S], embedded actions [B, T, hidden] -> deter [B, T, D].

        deter of a tick knows the places of the ticks before it, as everywhere.
        """
        rows, ticks, _ = places.shape
        nothing = places.new_zeros(rows, 1, self.places)
        place = torch.cat([nothing, places[:, :-1]], 1)
        moved = torch.cat([nothing, nothing, SPEED * places[:, :-1].diff(dim=1)], 1)[:, :ticks]
        hidden = self.gru.sequence(
            places.new_zeros(rows, self.recurrent), torch.cat([place, moved], -1).unsqueeze(-1), action
        )
        known = 0.5 * (torch.arange(ticks, device=places.device) + 1.0).clamp(max=2.0)
        return torch.cat([hidden, place, moved, known[None, :, None].expand(rows, ticks, 1)], -1)

    def _parts(self, deter: Tensor) -> tuple[Tensor, ...]:
        return torch.split(deter, [self.recurrent, self.places, self.places, 1], -1)

    def prior(self, deter: Tensor) -> Tensor:
        """deter [..., D] -> mean and std [..., S, 2]."""
        _, place, moved, _ = self._parts(deter)
        shift, raw = wide(self.out(self.mlp(deter))).chunk(2, -1)
        mean = place + moved / SPEED + 0.1 * shift
        return torch.stack([mean, 0.2 * F.softplus(raw - 2.0) + MINIMUM_STD], -1)


class GroundedPosterior(nn.Module):
    """Every modality's expert and likelihood, from its tokens alone: what was seen knows no past."""

    def __init__(self, sizes: Sizes, tokens: Mapping[str, int]) -> None:
        super().__init__()
        self.places, units = sizes.stoch, sizes.units
        self.experts = nn.ModuleDict({m: MLP(size, units, 1) for m, size in tokens.items()})
        self.said = nn.ModuleDict({m: Linear(units, 2 * sizes.stoch, 0.1) for m in tokens})
        self.keys = nn.ModuleDict({m: Linear(size, units) for m, size in tokens.items()})
        waves = (torch.arange(WAVES) + 1.0) * math.pi / REACH
        self.register_buffer("waves", waves, persistent=False)
        self.query = nn.Sequential(MLP(sizes.stoch * (1 + 2 * WAVES), units, 1), Linear(units, units))
        self.judge = nn.Sequential(MLP(units, units // 2, 1), Linear(units // 2, 1, 0.1))

    waves: Tensor

    def evidence(self, tokens: Mapping[str, Tensor], presence: Tensor) -> Tensor:
        """{m: [..., E_m]}, presence [..., M] -> [..., M, 2 S + units]: mean, raw precision, key."""
        rows = []
        for index, name in enumerate(self.experts):
            value = wide(tokens[name])
            value = torch.where(presence[..., index, None], value, value.new_zeros(()))
            rows.append(
                torch.cat([wide(self.said[name](self.experts[name](value))), self.keys[name](value)], -1)
            )
        return torch.stack(rows, -2)

    def expert(self, evidence: Tensor, presence: Tensor) -> tuple[Tensor, Tensor]:
        """The present modalities' experts as one normal: mean, variance [..., S]; infinite where none is."""
        mean, raw, _ = self._parts(evidence)
        precision = (F.softplus(raw) + MINIMUM_STD).reciprocal().square()
        here = presence.unsqueeze(-1)
        precision = torch.where(here, precision, precision.new_zeros(()))
        total = precision.sum(-2)
        pull = torch.where(here, precision * mean, mean.new_zeros(())).sum(-2)
        return pull / total.clamp(min=1e-12), total.clamp(min=1e-12).reciprocal()

    def forward(self, deter: Tensor, prior: Tensor, evidence: Tensor, presence: Tensor) -> Tensor:
        """prior [B, S, 2], evidence [B or 1, M, .], presence [B or 1, M] -> posterior [B, S, 2]."""
        mean, std = prior.detach().unbind(-1)
        measured, variance = self.expert(evidence, presence)
        # What lies further off than the prior can mean is news of its own error: believed as far as it goes.
        error = (measured - mean).square()
        width = torch.maximum(std.square(), error / SURPRISING**2 - variance)
        total = width + variance
        mean = mean + width / total * (measured - mean)
        return torch.stack([mean, torch.sqrt(width * variance / total)], -1)

    def agreement(self, prior: Tensor, evidence: Tensor, presence: Tensor) -> Tensor:
        """log Z up to what all particles share: [B, S, 2] -> [B] nats."""
        mean, std = prior.unbind(-1)
        measured, variance = self.expert(evidence, presence)
        total = std.square() + variance
        return (-0.5 * (measured - mean).square() / total - 0.5 * torch.log(total / variance)).sum(-1)

    def likelihood(self, evidence: Tensor, presence: Tensor, place: Tensor) -> Tensor:
        """C of places [B, n, S] by evidence [B or 1, M, .] -> [B, n] nats, summed over what is present."""
        _, _, keys = self._parts(evidence)
        angle = place.unsqueeze(-1) * self.waves
        waves = torch.cat([place, torch.sin(angle).flatten(-2), torch.cos(angle).flatten(-2)], -1)
        match = self.query(waves).unsqueeze(-2) * keys.unsqueeze(-3)  # [B, n, M, units]
        nats = BOUND * torch.tanh(wide(self.judge(match)).squeeze(-1) / BOUND)
        return torch.where(presence.unsqueeze(-2), nats, nats.new_zeros(())).sum(-1)

    def _parts(self, evidence: Tensor) -> tuple[Tensor, ...]:
        width = evidence.shape[-1] - 2 * self.places
        return torch.split(evidence, [self.places, self.places, width], -1)


class GroundedHead(TargetHead):
    """A target read off the sample: a particle claims one place, and that as narrowly as any head may."""

    def __init__(self, length: int, sizes: Sizes, start: int) -> None:
        super().__init__(length, sizes)
        del self.mlp, self.out
        self.start = sizes.deter + start

    def normalised(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """See `TargetHead`."""
        mean = features[..., self.start : self.start + self.length]
        return mean, torch.full_like(mean, KERNEL)
