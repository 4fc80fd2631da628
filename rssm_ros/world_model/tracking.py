"""A tracker beside an RSSM: where each target is, by a Bayes filter of its own.

An RSSM squeezes a place through its sampled latent, so a package in plain view is known to a pixel, not to a
fraction of one, and its deviation hardly tells seen from hidden. Here two small networks stand beside it, and
nothing of the RSSM changes:

    seeing    p(x | o)                     `Detector`: a mixture of normals, one to each cell of the picture
    motion    p(x_k | x_{k-1}, what the RSSM believes, what was done and felt)   `Tracker`

A target's belief is one normal, independent in its numbers. A tick moves it, multiplies it with the mixture
and goes on with mean and variance of the product: probabilistic data association (Bar-Shalom and Tse 1975),
whose learned `nothing` says how likely it is that the picture shows nothing of the target. With a learned
probability it is a new object instead, which then lies where the RSSM's own head has it: so what an RSSM is
good at (what comes next, which of two places is meant) corrects what a filter of places cannot know.

The belief, `track`, is carried as the last numbers of the deterministic state. It draws nothing: particles
differ by their RSSM's samples. Place and deviation are in units of the target's spread.

Shapes: B rows, T targets of d numbers, S = T d, C cells, K of them, H recurrent, W track, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.world_model.encoder import ImageEncoder
from rssm_ros.world_model.errors import WorldModelError
from rssm_ros.world_model.heads import TargetHead
from rssm_ros.world_model.layers import MLP, Linear, NormSiLU, wide
from rssm_ros.world_model.model import WorldModel

WIDTH = 32  # channels of the pyramid
LIKELIEST = 32  # cells that a tick looks at, K; what they leave out weighs next to nothing
RECURRENT, CONTEXT, FELT, HIDDEN = 96, 64, 32, 128
SHARP = 4.0  # logits per unit of a layer's output: cells differ by tens of nats
ANCHOR = 3.0  # spreads per unit of what a cell's middle is learned in
OFFSET, WIDEST, LEAST = 0.5, 0.5, 0.004  # spreads, of a component
LEAST_STD = 0.01  # spreads, of a belief
MOVED, SHOCK, LEAST_SHOCK = 0.1, 0.1, 5e-4  # spreads in a tick: a shift, its noise
DOUBT = 0.05  # spreads that a picture is trusted less by than it claims
ELSEWHERE = 0.2  # spreads from the RSSM's place to a new object's
NOTHING, NEW = -3.0, -5.0  # nats that these begin with
NEVER = -1e9  # nats of a cell where there is no picture
FRESH = 0.25  # of a logarithm, as a network reads it


class Detector(nn.Module):
    """Where each target is by one picture alone: log share, means and deviations [B, T, C, 1 + 2 d].

    A feature pyramid (Lin et al. 2017) over the maps inside an image encoder, at a quarter of the picture's
    resolution: what it adds to an encoder's cost is little.
    """

    def __init__(self, encoder: ImageEncoder, targets: int, length: int) -> None:
        """length: numbers of a target, d."""
        super().__init__()
        if len(encoder.channels) < 2 or encoder.halvings != len(encoder.channels):
            raise WorldModelError("a tracker needs an image encoder that halves at least twice (not `map`)")
        finest, same, *coarser = encoder.channels
        scale = 2 ** (len(encoder.channels) - 2)
        cells = encoder.grid[0] * encoder.grid[1] * scale**2
        self.targets, self.length, numbers = targets, length, targets * length
        self.kept = min(LIKELIEST, cells)
        self.outputs = targets * self.kept * (1 + 2 * length)
        self.finest, self.same = nn.Conv2d(finest, WIDTH, 2, 2), nn.Conv2d(same, WIDTH, 1)
        self.coarser = nn.ModuleList(nn.Conv2d(channels, WIDTH, 1) for channels in coarser)
        self.convs = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1) for _ in range(2))
        self.norms = nn.ModuleList(NormSiLU(WIDTH) for _ in range(3))
        self.out = nn.Conv2d(WIDTH, targets + 2 * numbers, 1)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        self.anchors = nn.Parameter(torch.zeros(cells, numbers))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """`ImageEncoder.maps` [B, channels, h, w] -> [B, T, C, 1 + 2 d]."""
        x: Tensor | None = None
        for conv, coarse in zip(reversed(self.coarser), reversed(maps[2:])):
            x = conv(coarse) if x is None else F.interpolate(x, scale_factor=2.0) + conv(coarse)
        here = self.same(maps[1]) + self.finest(maps[0])
        x = here if x is None else here + F.interpolate(x, scale_factor=2.0)
        x = _normed(self.norms[0], x)
        for conv, norm in zip(self.convs, self.norms[1:]):
            x = _normed(norm, conv(x))
        said = wide(self.out(x)).flatten(2).transpose(1, 2)  # [B, C, T + 2 S]
        numbers = self.targets * self.length
        logit, offset, raw = torch.split(said, [self.targets, numbers, numbers], -1)
        mean = ANCHOR * self.anchors + OFFSET * offset
        std = WIDEST * F.softplus(2.0 * raw) + LEAST
        parts = torch.log_softmax(SHARP * logit, -2), mean, std
        each = [part.reshape(*part.shape[:2], self.targets, -1).transpose(1, 2) for part in parts]
        return torch.cat(each, -1)

    def likeliest(self, said: Tensor) -> Tensor:
        """Each target's K cells of the largest shares, in their order: [B, T, C, .] -> [B, T, K, .]."""
        best = torch.topk(said[..., 0], self.kept, -1).indices.sort(-1).values
        return torch.gather(said, -2, best.unsqueeze(-1).expand(-1, -1, -1, 1 + 2 * self.length))


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return result


class Seen(NamedTuple):
    """What a tick brought. Every part has B rows, or one for all.

    detections: [., T, K, 1 + 2 d], None where no picture can have come; tokens [., E] of the vector
    modalities side by side, zeros where absent; presence [., M] bool, vectors before images; picture [., 1]
    bool, that there are detections.
    """

    detections: Tensor | None
    tokens: Tensor
    presence: Tensor
    picture: Tensor


class Tracker(nn.Module):
    """track = [place S | log variance S | recurrent H] -> the next tick's."""

    least: Tensor  # [S] spreads: no deviation is smaller

    def __init__(self, world_model: WorldModel) -> None:
        """Beside a world model, whose first image it looks at. WorldModelError where that cannot be."""
        super().__init__()
        signals, sizes = world_model.signals, world_model.sizes
        encoder = world_model.encoders[signals.images[0][0]] if signals.images else None
        if not signals.targets or not isinstance(encoder, ImageEncoder):
            raise WorldModelError("a tracker needs a target to follow and an image to see it in")
        self.signals, self.image = signals, signals.images[0][0]
        lengths = {length for _, length in signals.targets}
        if len(lengths) > 1:
            raise WorldModelError(f"a tracker needs targets of one length, these have {sorted(lengths)}")
        t, d = len(signals.targets), lengths.pop()
        self.numbers, self.targets, self.length = (s := t * d), t, d
        self.width = 2 * s + RECURRENT
        self.detector = Detector(encoder, t, d)
        self.register_buffer("least", torch.full((s,), LEAST_STD))
        self.vector_tokens = len(signals.vectors) * sizes.units
        self.context = Linear(sizes.features, CONTEXT)
        self.felt = Linear(self.vector_tokens, FELT) if self.vector_tokens else None
        inputs = CONTEXT + len(signals.modalities) + signals.action_dim + 4 * s
        inputs += FELT if self.vector_tokens else 0
        self.inputs = Linear(inputs, RECURRENT)
        self.of_input, self.of_state = Linear(RECURRENT, 3 * RECURRENT), Linear(RECURRENT, 3 * RECURRENT)
        self.mlp = MLP(RECURRENT + inputs, HIDDEN, 2)
        self.out = Linear(HIDDEN, 5 * s + 2 * t, 0.1)

    def forward(
        self, track: Tensor, features: Tensor, heads: tuple[Tensor, Tensor], action: Tensor, seen: Seen
    ) -> Tensor:
        """track [B, W], the RSSM's features after this tick [B, F], its heads' normalised mean and std
        [B, S], the action before it [B, A] -> track [B, W].
        """
        s, t = self.numbers, self.targets
        place, log_variance, recurrent = self.parts(track)
        mean, std = heads
        every = torch.ones_like(action[:, :1])  # rows: what one observation says is said to each
        parts = [F.silu(self.context(features))]
        if self.felt is not None:
            parts.append(every * F.silu(self.felt(seen.tokens)))
        parts += [every * seen.presence.to(track.dtype), action]
        parts += [mean, FRESH * torch.log(std), place, FRESH * log_variance]
        read = torch.cat(parts, -1)
        recurrent = self._remembered(read, recurrent)
        said = wide(self.out(self.mlp(torch.cat([recurrent, read], -1))))
        shift, shock, doubt, wider, off, nothing, new = torch.split(said, [s, s, s, s, s, t, t], -1)
        moved = torch.exp(log_variance) + (SHOCK * F.softplus(shock - 3.0) + LEAST_SHOCK).square()
        # [B, 2, T, 1, d]: the object of before, or another one that the RSSM expects.
        place = self._pairs(place + MOVED * shift, mean + ELSEWHERE * off, self.length)
        variance = self._pairs(moved, (std * torch.exp(wider)).square(), self.length)
        odds = new + NEW  # that it is the other one, nats [B, T]
        if seen.detections is not None:
            doubted = (DOUBT * F.softplus(doubt - 3.0)).square().reshape(-1, 1, t, 1, self.length)
            blank = torch.where(seen.picture, nothing + NOTHING, nothing.new_zeros(()))
            place, variance, expected = self._seen(
                place, variance, seen, doubted, self._pairs(blank, blank, 1)
            )
            odds = odds + expected[:, 1] - expected[:, 0]
        share = torch.sigmoid(self._pairs(-odds, odds, 1))
        mixed = (share * place).sum(1, keepdim=True)
        variance = (share * (variance + (place - mixed).square())).sum(1)
        variance = torch.maximum(variance.reshape(-1, s), self.least.square())
        return torch.cat([mixed.reshape(-1, s), torch.log(variance), recurrent], -1)

    def _pairs(self, known: Tensor, new: Tensor, length: int) -> Tensor:
        """[B, T length] x 2 -> [B, 2, T, 1, length]."""
        return torch.cat([known, new], -1).reshape(-1, 2, self.targets, 1, length)

    def parts(self, track: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., W] -> places, logarithms of variances [..., S], what is remembered besides [..., H]."""
        place, log_variance, recurrent = torch.split(track, [self.numbers, self.numbers, RECURRENT], -1)
        return place, log_variance, recurrent

    def _remembered(self, read: Tensor, recurrent: Tensor) -> Tensor:
        """A GRU."""
        x, h = self.of_input(F.silu(self.inputs(read))), self.of_state(recurrent)
        reset, candidate, update = torch.split(x, RECURRENT, -1)
        reset_h, candidate_h, update_h = torch.split(h, RECURRENT, -1)
        candidate = torch.tanh(candidate + torch.sigmoid(reset + reset_h) * candidate_h)
        update = torch.sigmoid(update + update_h)
        return update * recurrent + (1.0 - update) * candidate

    def _seen(
        self, place: Tensor, variance: Tensor, seen: Seen, doubt: Tensor, nothing: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normals [B, 2, T, 1, d] times the mixture, again as normals; and how well that had been expected,
        nats [B, 2, T].

        doubt [B, 1, T, 1, d]: variance that a picture is trusted less by; nothing [B, 2, T, 1, 1]: nats of a
        picture that says nothing of the target, 0 where there is none.
        """
        assert seen.detections is not None
        here = seen.picture.reshape(-1, 1, 1, 1, 1)
        never = torch.tensor([NEVER, *[0.0] * self.length, *[1.0] * self.length], device=place.device)
        said = torch.where(here, seen.detections.unsqueeze(1), never)  # [., 1, T, K, 1 + 2 d]
        share, mean, std = torch.split(said, [1, self.length, self.length], -1)
        total = variance + (std.square() + doubt)  # [B, 2, T, K, d]
        error = mean - place
        nats = share - 0.5 * (error.square() / total + torch.log(total)).sum(-1, keepdim=True)
        nats = torch.cat([nats, nothing], -2)  # [B, 2, T, K + 1, 1]
        each = torch.softmax(nats, -2)
        cells, blank = each[..., :-1, :], each[..., -1:, :]
        gain = variance / total
        moved = gain * error
        by = (cells * moved).sum(-2, keepdim=True)
        spread = (cells * (variance * (1.0 - gain) + (moved - by).square())).sum(-2, keepdim=True)
        after = spread + blank * (variance + by.square())
        return place + by, after, torch.logsumexp(nats, -2).reshape(-1, 2, self.targets)

    def vectors(self, tokens: Mapping[str, Tensor], presence: Mapping[str, Tensor]) -> Tensor:
        """Tokens of the vector modalities side by side [..., E], zeros where absent."""
        parts = [
            torch.where(presence[name].unsqueeze(-1), wide(tokens[name]), tokens[name].new_zeros(()))
            for name, _ in self.signals.vectors
        ]
        like = next(iter(tokens.values()))
        return torch.cat(parts, -1) if parts else like[..., :0]

    def scaled(self, heads: Mapping[str, nn.Module]) -> None:
        """Sets the least deviations: one length for all numbers of a target, LEAST_STD of the spread of the
        one that is spread most. A number that hardly varies would ask for tenths of millimetres.
        """
        for index, (name, _) in enumerate(self.signals.targets):
            head = heads[name]
            assert isinstance(head, TargetHead)
            here = slice(index * self.length, (index + 1) * self.length)
            self.least[here] = LEAST_STD * head.scale.max() / head.scale

    def initial(self, rows: int) -> Tensor:
        """Of which nothing is known: [rows, W]."""
        return self.out.weight.new_zeros(rows, self.width)

    def unseen(self) -> Seen:
        """A tick that brought nothing."""
        like = self.out.weight
        none = torch.zeros(1, len(self.signals.modalities), dtype=torch.bool, device=like.device)
        return Seen(None, like.new_zeros(1, self.vector_tokens), none, none[:, -1:])

    def detections(self, flat: Tensor) -> Tensor:
        """What follows an image's tokens: [B, T K (1 + 2 d)] -> [B, T, K, 1 + 2 d]."""
        return flat.reshape(-1, self.targets, self.detector.kept, 1 + 2 * self.length)


def seeing_loss(said: Tensor, label: Tensor) -> Tensor:
    """-log density of labels in what one picture says: [B, T, C, 1 + 2 d], [B, T, d] -> [B, T] nats, 0 where
    a label is NaN.
    """
    length = label.shape[-1]
    share, mean, std = said[..., 0], said[..., 1 : 1 + length], said[..., 1 + length :]
    known = ~torch.isnan(label).any(-1)
    goal = torch.where(known.unsqueeze(-1), label, label.new_zeros(()))
    error = (goal.unsqueeze(-2) - mean) / std
    log_normal = -(0.5 * error.square() + torch.log(std)).sum(-1)
    nats = -torch.logsumexp(share + log_normal, -1)
    return torch.where(known, nats, nats.new_zeros(()))
