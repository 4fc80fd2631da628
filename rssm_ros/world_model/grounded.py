"""A grounded latent: a particle is one hypothesis of where things are and how they move, with its own doubt.

An RSSM's latent means what training makes of it, and its streams differ by next to nothing while something
is hidden: all doubt sits in the target's deviation, and no particle can be told to be wrong. Here the latent
*is* the target, in units of its spread: for every number of it a normal over place and velocity. Both halves
of a tick are learned by themselves from labels, and put together by Bayes' rule:

    motion   p(x_k | x_{k-1}, a)  a Kalman prediction whose drift and noises a network says
    seeing   p(x | o)             a mixture of normals, one to each cell of a picture's feature map

A particle's normal times the mixture is a mixture again; the particle goes on with its mean and variance
(probabilistic data association, Bar-Shalom and Tse 1975), so that "not there, or it would be seen" moves a
belief as much as a look does. What the product leaves out is the particle's weight, p(o | its past). A normal
wider than KERNEL is cut into narrower ones by chance: only doubt about *where* is left to the particles
(Rao-Blackwellised, Doucet et al. 2000), so few of them are enough. BIRTH of every belief is on an object of
which nothing is known: what was lost is found again. What the form takes for granted (one target, labels from
everywhere) is told in docs/explanation/world-model.md.

A sample says 5 numbers for each number of the target, 0 everywhere for one of which nothing is known:

    place | velocity where place is 0 | its slope over place | log variances of place and of velocity

the latter given the place. Velocities are in units of what a new object has (`KinematicCore.new_speed`). So a
place may be drawn by itself, and the velocity that goes with it follows.

Shapes: B rows, D deter, G of it recurrent, S numbers of all targets, M modalities, K components, n cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.world_model.heads import TargetHead
from rssm_ros.world_model.latents import Gaussian
from rssm_ros.world_model.layers import MLP, Linear, initialise, wide
from rssm_ros.world_model.plain import PlainGRU
from rssm_ros.world_model.sizes import CODE, Sizes

KERNEL = 0.22  # spreads: what a particle may leave undecided
BIRTH = 1e-3  # share of a belief
NEW_SPEED = 0.1  # spreads per tick that a new object has, until learned
DRIFT = 0.2  # spreads, of what a network says of size 1
SHOCK, LEAST_SHOCK = 0.1, 1e-3  # spreads: noise of a place in a tick, by a softplus
FASTER = 10.0  # times that, in new speeds: noise of a velocity
LEAST_STD = 0.003  # spreads, of a component
LEAST_VARIANCE = 1e-6  # of place and of velocity, so that rounding leaves them positive
SHARP = 4.0  # logits per unit of a layer's output: cells differ by tens of nats
HALF = math.sqrt(3.0)  # spreads that a picture reaches at first, as a uniform place does
POINTS = 8  # components of a modality that is no picture
NEVER = -1e9  # the logit of a component that is not there


class Motion(NamedTuple):
    """Independent normals over place (spreads) and velocity (new speeds): [..., S] each."""

    place: Tensor
    velocity: Tensor
    pp: Tensor
    pv: Tensor
    vv: Tensor


def opened(code: Tensor) -> Motion:
    """What a sample says, [..., 5 S]."""
    place, at_zero, slope, kept, rest = code.chunk(CODE, -1)
    pp = torch.exp(kept)
    vv = torch.exp(rest) + slope.square() * pp
    return Motion(place, at_zero + slope * place, pp, slope * pp, vv)


def coded(motion: Motion) -> Tensor:
    """The inverse: [..., 5 S]."""
    pp = motion.pp.clamp(min=LEAST_VARIANCE)
    slope = motion.pv / pp
    rest = (motion.vv - slope * motion.pv).clamp(min=LEAST_VARIANCE)
    at_zero = motion.velocity - slope * motion.place
    return torch.cat([motion.place, at_zero, slope, torch.log(pp), torch.log(rest)], -1)


def cut(code: Tensor) -> Tensor:
    """A belief [..., 5 S] -> the distribution [..., 5 S, 2] of its particles: means, deviations.

    Places are spread so that with the doubt each particle keeps the variance is the belief's; what goes with
    a place is the same for all.
    """
    place, at_zero, slope, log_pp, rest = code.chunk(CODE, -1)
    pp = torch.exp(log_pp)
    std = torch.sqrt((pp - KERNEL**2).clamp(min=1e-12))
    kept = torch.log(pp.clamp(max=KERNEL**2))
    none = torch.zeros_like(std)
    mean = torch.cat([place, at_zero, slope, kept, rest], -1)
    return torch.stack([mean, torch.cat([std, none, none, none, none], -1)], -1)


def whole(distribution: Tensor) -> Tensor:
    """The inverse: [..., 5 S, 2] -> [..., 5 S]."""
    mean, std = distribution.unbind(-1)
    place, at_zero, slope, kept, rest = mean.chunk(CODE, -1)
    log_pp = torch.log(torch.exp(kept) + std.chunk(CODE, -1)[0].square())
    return torch.cat([place, at_zero, slope, log_pp, rest], -1)


class GroundedLatent(Gaussian):
    """Particles of a belief. Divergence and entropy are those of the places, cut or not."""

    def sample(self, distribution: Tensor, noise: Tensor) -> Tensor:
        """[..., 5 S, 2], noise [..., 5 S] -> [..., 5 S, 1]. Without noise (0) a particle keeps all doubt."""
        mean, std = distribution.unbind(-1)
        still = noise.chunk(CODE, -1)[0] == 0.0
        everything = torch.cat([still.new_zeros(still.shape).tile(3), still, torch.zeros_like(still)], -1)
        return torch.where(everything, whole(distribution), mean + std * noise).unsqueeze(-1)

    def kl_by_group(self, left: Tensor, right: Tensor) -> Tensor:
        """See `Latent`: [..., 5 S, 2] x 2 -> [..., S]."""
        return super().kl_by_group(_places(left), _places(right))

    def entropy(self, distribution: Tensor) -> Tensor:
        """See `Latent`."""
        return super().entropy(_places(distribution))


def _places(distribution: Tensor) -> Tensor:
    code = whole(distribution)
    place, _, _, log_pp, _ = code.chunk(CODE, -1)
    return torch.stack([place, torch.exp(0.5 * log_pp)], -1)


class KinematicCore(nn.Module):
    """deter = [recurrent G | the predicted belief 5 S]: constant velocity, but for what is learned."""

    def __init__(self, sizes: Sizes, action_dim: int) -> None:
        super().__init__()
        self.places = sizes.stoch // CODE
        self.recurrent = sizes.deter - sizes.stoch
        inner = replace(sizes, deter=self.recurrent, stoch=2 * self.places, grounded=False)
        self.gru = PlainGRU(inner, action_dim)
        self.mlp = MLP(self.recurrent + 4 * self.places, sizes.hidden, 2)
        self.out = Linear(sizes.hidden, 4 * self.places, 0.1)
        self.log_new_speed = nn.Parameter(torch.full((self.places,), math.log(NEW_SPEED)))

    @property
    def new_speed(self) -> Tensor:
        """Deviation of the velocity of a thing of which nothing is known, spreads per tick [S]."""
        return torch.exp(self.log_new_speed)

    def of_action(self, action: Tensor) -> Tensor:
        """[..., A] -> [..., hidden]."""
        result: Tensor = self.gru.of_action(action)
        return result

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        """deter [B, D], stoch [B, 5 S, 1], embedded action [B, hidden] -> deter' [B, D].

        First the velocity changes, then the place by the new velocity; each has a noise of its own.
        """
        place, velocity, pp, pv, vv = opened(stoch.squeeze(-1))
        means = torch.cat([place, velocity], -1)
        hidden = self.gru(deter[..., : self.recurrent], means.unsqueeze(-1), action)
        doubts = torch.cat([torch.log(pp), torch.log(vv)], -1) * 0.25
        change, raw = wide(self.out(self.mlp(torch.cat([hidden, means, doubts], -1)))).chunk(2, -1)
        shift, push = change.chunk(2, -1)
        of_place, of_velocity = (SHOCK * F.softplus(raw - 2.0) + LEAST_SHOCK).square().chunk(2, -1)
        velocity, vv = velocity + push, vv + FASTER**2 * of_velocity
        speed = self.new_speed
        place = place + speed * velocity + DRIFT * shift
        pp = pp + 2.0 * speed * pv + speed.square() * vv + of_place
        return torch.cat([hidden, coded(Motion(place, velocity, pp, pv + speed * vv, vv))], -1)

    def prior(self, deter: Tensor) -> Tensor:
        """deter [..., D] -> distribution [..., 5 S, 2]."""
        return cut(deter[..., self.recurrent :])


class GroundedPosterior(nn.Module):
    """What every modality says of places, by itself, and the belief that follows.

    grids: [height, width] of the feature maps among the tokens; what is none is one vector. Targets whose
    first two numbers run as a picture's columns and rows are at home at once; anchors are learned for the
    others.
    """

    def __init__(self, sizes: Sizes, tokens: Mapping[str, int], grids: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.places = sizes.stoch // CODE
        self.grids = dict(grids)
        numbers = 2 * self.places
        self.readers, self.anchors = nn.ModuleDict(), nn.ParameterDict()
        self.shares, self.normals = nn.ModuleDict(), nn.ModuleDict()
        for name, size in tokens.items():
            if name in grids:
                height, width = grids[name]
                channels = size // (height * width)
                self.shares[name] = nn.Linear(channels, 1, bias=False)  # all cells would have the same one
                initialise(self.shares[name].weight, channels, 0.1)  # type: ignore[arg-type]
                self.normals[name] = Linear(channels, numbers, 0.1)
                self.anchors[name] = nn.Parameter(_lattice(height, width, self.places))
            else:
                self.readers[name] = MLP(size, sizes.units, 1)
                self.shares[name] = Linear(sizes.units, POINTS, 0.1)
                self.normals[name] = Linear(sizes.units, POINTS * numbers, 0.1)
                self.anchors[name] = nn.Parameter(torch.zeros(POINTS, self.places))

    def evidence(self, tokens: Mapping[str, Tensor], presence: Tensor) -> Tensor:
        """{m: [..., E_m]}, presence [..., M] -> [..., M, K, 1 + 2 S]: log share, means, deviations."""
        found = []
        for index, (name, anchors) in enumerate(self.anchors.items()):
            value = wide(tokens[name])
            value = torch.where(presence[..., index, None], value, value.new_zeros(()))
            by_component, step = (*value.shape[:-1], len(anchors), -1), 1.0  # [..., K, .]
            if name in self.grids:
                step = 2.0 * HALF / max(self.grids[name])
                value = value.reshape(by_component)
            else:
                value = self.readers[name](value)
            logit = wide(self.shares[name](value)).reshape(by_component)
            offset, raw = wide(self.normals[name](value)).reshape(by_component).chunk(2, -1)
            share = torch.log_softmax(SHARP * logit, -2)
            std = step * F.softplus(raw + math.log(math.e - 1.0)) + LEAST_STD  # a cell's width at first
            found.append(torch.cat([share, anchors + step * offset, std], -1))
        most = max(part.shape[-2] for part in found)
        return torch.stack([_padded(part, most) for part in found], -3)

    def log_density(self, evidence: Tensor, place: Tensor) -> Tensor:
        """log p(x | o) of each modality: [..., M, K, 1 + 2 S], places [..., S] -> [..., M] nats.

        Numbers that are NaN are left out: the density of the others.
        """
        share, mean, std = self._parts(evidence)
        value = place[..., None, None, :]
        known = ~torch.isnan(value)
        error = torch.where(known, value - mean, mean.new_zeros(())) / std
        scale = torch.where(known, torch.log(std) + 0.5 * math.log(2.0 * math.pi), std.new_zeros(()))
        return torch.logsumexp(share - (0.5 * error.square() + scale).sum(-1), -1)

    def forward(self, deter: Tensor, prior: Tensor, evidence: Tensor, presence: Tensor) -> Tensor:
        """prior [B, 5 S, 2], evidence [B or 1, M, K, .], presence [B or 1, M] -> posterior [B, 5 S, 2]."""
        return self.weighed(prior, evidence, presence)[0]

    def weighed(self, prior: Tensor, evidence: Tensor, presence: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior [B, 5 S, 2] and the weight [B] of `update`."""
        motion, nats = self.update(prior, evidence, presence)
        return cut(coded(motion)), nats

    def update(self, prior: Tensor, evidence: Tensor, presence: Tensor) -> tuple[Motion, Tensor]:
        """-> the belief after all that was seen, and the weight of who had the prior: [B] nats."""
        motion = opened(whole(prior))
        nothing = torch.zeros_like(evidence[:, 0, 0, : self.places])  # [B or 1, S]
        new = Motion(nothing, nothing, torch.ones_like(nothing), nothing, torch.ones_like(nothing))
        known, of_known = self._seen(motion, evidence, presence)
        born, of_new = self._seen(new, evidence, presence)
        mixed, nats = _mixed(known, of_known + math.log(1.0 - BIRTH), born, of_new + math.log(BIRTH))
        here = presence.any(-1)
        motion = Motion(*(torch.where(here.unsqueeze(-1), a, b) for a, b in zip(mixed, motion)))
        return motion, torch.where(here, nats, nats.new_zeros(()))

    def _seen(self, motion: Motion, evidence: Tensor, presence: Tensor) -> tuple[Motion, Tensor]:
        """A belief after what is present, one modality after the other; and how well it had expected that."""
        place, pp = motion.place, motion.pp
        nats = torch.zeros_like(place[..., 0])
        for index in range(evidence.shape[-3]):
            here = presence[..., index]
            there, width, area = self._matched(place, pp, evidence[..., index, :, :])
            place, pp = (
                torch.where(here.unsqueeze(-1), there, place),
                torch.where(here.unsqueeze(-1), width, pp),
            )
            nats = nats + torch.where(here, area, area.new_zeros(()))
        slope = motion.pv / motion.pp
        velocity = motion.velocity + slope * (place - motion.place)
        vv = motion.vv + slope.square() * (pp - motion.pp)
        return Motion(place, velocity, pp, slope * pp, vv), nats

    def _matched(self, place: Tensor, pp: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normals [B, S] times the mixture [B or 1, K, .]: mean and variance [B, S], log of the area [B]."""
        share, mean, std = self._parts(evidence)
        prior = pp.unsqueeze(-2)
        total = prior + std.square()  # [B, K, S]
        error = mean - place.unsqueeze(-2)
        nats = share - 0.5 * (error.square() / total + torch.log(total)).sum(-1)  # [B, K]
        area = torch.logsumexp(nats, -1)
        each = torch.exp(nats - area.unsqueeze(-1)).unsqueeze(-1)
        gain = prior / total
        shift = gain * error
        mean_shift = (each * shift).sum(-2)
        variance = (each * (prior * (1.0 - gain) + (shift - mean_shift.unsqueeze(-2)).square())).sum(-2)
        return place + mean_shift, variance.clamp(min=LEAST_VARIANCE), area

    def _parts(self, evidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share, mean, std = torch.split(evidence, [1, self.places, self.places], -1)
        return share.squeeze(-1), mean, std


def told(place: Tensor, std: Tensor) -> Tensor:
    """The evidence of one modality that says one place: [..., S] x 2 -> [..., M = 1, K = 1, 1 + 2 S]."""
    return torch.cat([torch.zeros_like(place[..., :1]), place, std], -1)[..., None, None, :]


def _lattice(height: int, width: int, places: int) -> Tensor:
    """Middles of a map's cells, row by row: [h w, S]; columns are the first number, rows the second."""
    rows = ((torch.arange(height) + 0.5) / height * 2.0 - 1.0) * HALF
    columns = ((torch.arange(width) + 0.5) / width * 2.0 - 1.0) * HALF
    down, right = torch.meshgrid(rows, columns, indexing="ij")
    more = [torch.zeros(height * width)] * max(places - 2, 0)
    return torch.stack([right.flatten(), down.flatten(), *more][:places], -1)


def _padded(part: Tensor, count: int) -> Tensor:
    """Components [..., K, .] -> [..., count, .], the new ones without any share."""
    missing = count - part.shape[-2]
    if missing == 0:
        return part
    more = torch.ones_like(part[..., :1, :]).expand(*part.shape[:-2], missing, -1)
    share = torch.full_like(more[..., :1], NEVER)
    return torch.cat([part, torch.cat([share, more[..., 1:]], -1)], -2)


def _mixed(one: Motion, nats: Tensor, other: Motion, of_other: Tensor) -> tuple[Motion, Tensor]:
    """Two beliefs [B, S] of log weights [B], as one normal; and the log of the weights' sum [B]."""
    total = torch.logsumexp(torch.stack([nats, of_other.expand_as(nats)]), 0)
    share = torch.exp(nats - total).unsqueeze(-1)
    rest = torch.exp(of_other - total).unsqueeze(-1)
    place = share * one.place + rest * other.place
    velocity = share * one.velocity + rest * other.velocity
    pp, pv, vv = torch.zeros_like(place), torch.zeros_like(place), torch.zeros_like(place)
    for part, weight in ((one, share), (other, rest)):
        off, faster = part.place - place, part.velocity - velocity
        pp = pp + weight * (part.pp + off.square())
        pv = pv + weight * (part.pv + off * faster)
        vv = vv + weight * (part.vv + faster.square())
    return Motion(place, velocity, pp, pv, vv), total


class GroundedHead(TargetHead):
    """A target read off the sample: a particle's own normal."""

    def __init__(self, length: int, sizes: Sizes, start: int) -> None:
        super().__init__(length, sizes)
        del self.mlp, self.out
        self.start = sizes.deter + start
        self.doubt = self.start + 3 * (sizes.stoch // CODE)

    def normalised(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """See `TargetHead`."""
        mean = features[..., self.start : self.start + self.length]
        return mean, torch.exp(0.5 * features[..., self.doubt : self.doubt + self.length])
