"""The steps of a trained model as modules with plain tensors in and out: what becomes one ONNX graph each.

Shapes: N particles, D deter, S groups, K and P numbers per group of a sample and of a distribution,
A actions, E_m tokens of modality m, H horizon, d of a target. At the border a sample is [N, S]: class indices
instead of one-hot vectors, or a Gaussian's numbers; noise is always an input. Where a tracker stands beside
the model, W numbers of its own follow deter's, and what its detector says of an image follows the tokens of
that one: D and E_m at the border are larger then.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rssm_ros.behavior import Actor, Critic
from rssm_ros.world_model import WorldModel
from rssm_ros.world_model.encoder import ImageEncoder
from rssm_ros.world_model.heads import TargetHead
from rssm_ros.world_model.latents import Latent
from rssm_ros.world_model.rssm import RSSM, State
from rssm_ros.world_model.tracking import Seen, Tracker

Named = dict[str, Tensor]


def one_hot(index: Tensor, classes: int) -> Tensor:
    """[N, S] class indices -> [N, S, K] float."""
    return (index.unsqueeze(-1) == torch.arange(classes)).float()


def opened(latent: Latent, stoch: Tensor) -> Tensor:
    """A sample as it crosses the border [N, S] -> as the model reads it [N, S, K]."""
    return stoch.unsqueeze(-1) if latent.width == 1 else one_hot(stoch, latent.width)


def drawn(latent: Latent, distribution: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """distribution [N, S, P], noise [N, S] -> sample for the border [N, S], for the model [N, S, K].

    Categorical: index = sum(u >= cdf[:K-1]).
    """
    if latent.width == 1:
        sample = latent.sample(distribution, noise)
        return sample.squeeze(-1), sample
    index = (noise.unsqueeze(-1) >= torch.cumsum(distribution, -1)[..., :-1]).to(torch.int32).sum(-1)
    return index.long(), one_hot(index, latent.width)


class Encode(nn.Module):
    """One observation -> its tokens."""

    def __init__(self, world_model: WorldModel, name: str, tracker: Tracker | None = None) -> None:
        super().__init__()
        self.encoder = world_model.encoders[name]
        self.detector = tracker.detector if tracker is not None and name == tracker.image else None

    def forward(self, value: Tensor) -> Named:
        """[1, H, W, C] uint8 or [1, d] float -> tokens [1, E_m]."""
        if self.detector is None:
            return {"tokens": self.encoder(value)}
        assert isinstance(self.encoder, ImageEncoder)
        maps = self.encoder.maps(value)
        said = self.detector.likeliest(self.detector(maps))
        return {"tokens": torch.cat([self.encoder.flat(maps), said.flatten(1)], -1)}


def own_part(deter: Tensor, size: int) -> Tensor:
    """The model's own part of what is carried as deter: [..., D + W] -> [..., D]."""
    return deter if deter.shape[-1] == size else deter[..., :size]


class Core(nn.Module):
    """The block GRU with the weights of its first layers side by side; a plain GRU as it is.

    The same function as `RSSM.predict`, laid out for few rows: no tensor is expanded over the blocks. The
    block linear is split into the part that reads its own block and the part that all blocks share.
    """

    def __init__(self, rssm: RSSM) -> None:
        super().__init__()
        self.rssm = rssm
        sizes = rssm.sizes
        if rssm.plain is not None:
            return
        own = sizes.deter // sizes.blocks
        weight = rssm.dynamics.weight.detach()  # [G, D/G + 3 hidden, D/G]
        self.own = nn.Parameter(weight[:, :own].contiguous())
        shared = weight[:, own:].permute(1, 0, 2).reshape(-1, sizes.deter)  # [3 hidden, D], columns by block
        self.shared = nn.Parameter(shared.contiguous())
        self.bias = nn.Parameter(rssm.dynamics.bias.detach().clone())

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        """deter [N, D], stoch [N, S, K], action [N, A] -> deter' [N, D]."""
        rssm, g = self.rssm, self.rssm.sizes.blocks
        if rssm.plain is not None:
            return rssm.core(deter, stoch, rssm.embed_action(action))
        width = self.rssm.sizes.deter // g
        shared = torch.cat(
            [rssm.input_deter(deter), rssm.input_stoch(stoch.flatten(1)), rssm.embed_action(action)], -1
        )
        own = deter.reshape(-1, g, width).transpose(0, 1)  # [G, N, D/G]
        x = torch.matmul(own, self.own).transpose(0, 1).reshape(-1, g * width)
        x = rssm.dynamics_norm(x + torch.addmm(self.bias, shared, self.shared))
        grouped = torch.matmul(x.reshape(-1, g, width).transpose(0, 1), rssm.gates.weight)
        gates = grouped + rssm.gates.bias.reshape(g, 1, -1)
        reset, candidate, update = torch.split(gates, width, -1)
        update = torch.sigmoid(update - 1.0)
        new = update * torch.tanh(torch.sigmoid(reset) * candidate) + (1.0 - update) * own
        return new.transpose(0, 1).reshape(-1, g * width)


class Predict(nn.Module):
    """The prior half of a tick, with every head."""

    def __init__(self, world_model: WorldModel, tracker: Tracker | None = None) -> None:
        super().__init__()
        self.world_model, self.tracker = world_model, tracker
        self.latent = world_model.rssm.latent
        self.core = Core(world_model.rssm)

    @property
    def carried(self) -> int:
        """Numbers of deter at the border, D + W."""
        return self.world_model.sizes.deter + (0 if self.tracker is None else self.tracker.width)

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor, noise: Tensor) -> Named:
        """deter [N, D], stoch [N, S], action [N, A], is_first [N] bool, noise [N, S] -> outputs by name."""
        after, prior = self.prior(deter, stoch, action, is_first)
        out, features = self.outcome(after, prior, noise)
        out = self.tracked(out, features, deter, action, is_first)
        return {**out, "prior": prior, "prior_entropy": self.latent.entropy(prior)}

    def prior(self, deter: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """-> the model's own deter', prior [N, S, P]."""
        rssm, deter = self.world_model.rssm, own_part(deter, self.world_model.sizes.deter)
        deter, sample, action = rssm.reset(deter, opened(self.latent, stoch), action, is_first)
        deter = self.core(deter, sample, action)
        return deter, rssm.prior(deter)

    def outcome(self, deter: Tensor, distribution: Tensor, noise: Tensor) -> tuple[Named, Tensor]:
        """The sampled state and what the heads say of it; and its features [N, F]."""
        stoch, sample = drawn(self.latent, distribution, noise)
        features = torch.cat([deter, sample.flatten(1)], -1)
        out = {
            "next_deter": deter,
            "next_stoch": stoch,
            "reward": self.world_model.predict_reward(features),
            "continue": self.world_model.predict_continue(features),
        }
        for name, (mean, std) in self.world_model.predict_target(features).items():
            out |= {f"target_{name}_mean": mean, f"target_{name}_std": std}
        return out, features

    def tracked(
        self,
        out: Named,
        features: Tensor,
        before: Tensor,
        action: Tensor,
        is_first: Tensor,
        seen: Seen | None = None,
    ) -> Named:
        """`outcome` with the tracker's targets instead of the heads', and its numbers behind deter.

        before: what was carried as deter [N, D + W]; seen: None where nothing was.
        """
        tracker = self.tracker
        if tracker is None:
            return out
        first = is_first.unsqueeze(-1)
        track = before[..., self.world_model.sizes.deter :]
        track, action = (torch.where(first, part.new_zeros(()), part) for part in (track, action))
        track = self.followed(track, features, action, tracker.unseen() if seen is None else seen)
        return out | {"next_deter": torch.cat([out["next_deter"], track], -1)} | self.places(track)

    def followed(self, track: Tensor, features: Tensor, action: Tensor, seen: Seen) -> Tensor:
        """One tick of the tracker: [N, W]."""
        assert self.tracker is not None
        heads = self.world_model.normalised_targets(features)
        result: Tensor = self.tracker(track, features, heads, action, seen)
        return result

    def places(self, track: Tensor) -> Named:
        """[N, W] -> target_<name>_mean and _std [N, d] in the contract's units."""
        tracker = self.tracker
        assert tracker is not None
        heads = [head for head in self.world_model.target_heads.values() if isinstance(head, TargetHead)]
        scale, offset = (torch.cat([getattr(head, part) for head in heads]) for part in ("scale", "offset"))
        place, log_variance, _ = tracker.parts(track)
        sides = {"mean": place * scale + offset, "std": torch.exp(0.5 * log_variance) * scale}
        names = [name for name, _ in self.world_model.signals.targets]
        return {
            f"target_{name}_{side}": value
            for side, values in sides.items()
            for name, value in zip(names, torch.split(values, tracker.length, -1), strict=True)
        }


class Filter(Predict):
    """Predict and correct. Tokens [M, E_m] and presence [M]: one row for all particles, or one for each.

    The concat posterior's first layer is linear in [deter, tokens of each modality, absence flags], so each
    modality adds its own product, or, where absent, one constant vector. The product posterior is as it is.
    """

    def __init__(self, world_model: WorldModel, tracker: Tracker | None = None) -> None:
        super().__init__(world_model, tracker)
        rssm = world_model.rssm
        self.names = list(rssm.tokens)
        if rssm.product is not None:
            return
        linear, sizes = rssm.posterior_layer.linear, [rssm.sizes.deter, *rssm.tokens.values()]
        of_deter, *of_tokens, flags = torch.split(linear.weight.detach(), [*sizes, len(rssm.tokens)], 1)
        self.of_deter = nn.Parameter(of_deter.T.contiguous())
        self.bias = nn.Parameter(linear.bias.detach().clone())
        self.of_tokens, self.of_absence = nn.ParameterDict(), nn.ParameterDict()
        for index, (name, weight) in enumerate(zip(rssm.tokens, of_tokens, strict=True)):
            self.of_tokens[name] = nn.Parameter(weight.T.contiguous())
            constant = weight @ rssm.absent[name].detach() + flags[:, index]
            self.of_absence[name] = nn.Parameter(constant.unsqueeze(0))

    def forward(
        self, deter: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor, noise: Tensor, *seen: Tensor
    ) -> Named:
        """As `Predict`, then tokens [M, E_m] and presence [M] bool per modality, in the model's order."""
        presence = dict(zip(self.names, seen[1::2]))
        tokens, found = self.split(dict(zip(self.names, seen[0::2])), presence)
        after, prior = self.prior(deter, stoch, action, is_first)
        posterior, weight = self.weighed(after, prior, tokens, presence)
        out, features = self.outcome(after, posterior, noise)
        return {
            **self.tracked(out, features, deter, action, is_first, found),
            **weight,
            "prior": prior,
            "prior_entropy": self.latent.entropy(prior),
            "posterior": posterior,
            "surprise": self.latent.kl(posterior, prior),
            "posterior_entropy": self.latent.entropy(posterior),
        }

    def split(self, tokens: Named, presence: Named) -> tuple[Named, Seen | None]:
        """Tokens as they cross the border -> the model's own, and what is the tracker's, if there is one."""
        tracker = self.tracker
        if tracker is None:
            return tokens, None
        size, image = self.world_model.rssm.tokens[tracker.image], tracker.image
        detections = tracker.detections(tokens[image][..., size:])
        tokens = {**tokens, image: tokens[image][..., :size]}
        there = torch.stack([presence[name] for name in self.names], -1)
        vectors = tracker.vectors(tokens, presence)
        return tokens, Seen(detections, vectors, there, presence[image].unsqueeze(-1))

    def posterior(
        self, deter: Tensor, prior: Tensor, tokens: Mapping[str, Tensor], presence: Mapping[str, Tensor]
    ) -> Tensor:
        """Posterior [N, S, P]; the prior, exactly, where nothing is present."""
        return self.weighed(deter, prior, tokens, presence)[0]

    def weighed(
        self, deter: Tensor, prior: Tensor, tokens: Mapping[str, Tensor], presence: Mapping[str, Tensor]
    ) -> tuple[Tensor, Named]:
        """The posterior, and the particles' weights by name, if they have any: one update for both."""
        rssm = self.world_model.rssm
        anything = torch.stack([presence[name] for name in self.names]).any(0)[:, None, None]
        if rssm.weighs:
            posterior, nats = rssm.weighed(prior, rssm.evidence(tokens, presence))
            return torch.where(anything, posterior, prior), {"log_weight": nats}
        if rssm.product is not None:
            posterior = rssm.posterior(deter, prior, rssm.evidence(tokens, presence))
            return torch.where(anything, posterior, prior), {}
        evidence = self.bias.unsqueeze(0)
        for name, weight in self.of_tokens.items():
            here = presence[name].unsqueeze(-1)
            evidence = evidence + torch.where(here, tokens[name] @ weight, self.of_absence[name])
        hidden = rssm.posterior_layer.norm(deter @ self.of_deter + evidence)
        return torch.where(anything, self.latent.distribution(rssm.posterior_logits(hidden)), prior), {}


class Rollout(Predict):
    """Candidate plans, imagined without looking."""

    def __init__(
        self, world_model: WorldModel, critic: Critic, horizon: int, tracker: Tracker | None = None
    ) -> None:
        super().__init__(world_model, tracker)
        self.critic, self.horizon = critic, horizon

    def forward(self, deter: Tensor, stoch: Tensor, actions: Tensor, noise: Tensor) -> Named:  # type: ignore[override]
        """deter [N, D], stoch [N, S], actions [N, H, A], noise [N, H, S] -> returns, values [N], paths [N,
        H, d].

        returns = r_1 + c_1 r_2 + c_1 c_2 r_3 ... over H ticks; values = c_1 ... c_H v(last state).
        """
        rssm, sample, features = self.world_model.rssm, opened(self.latent, stoch), []
        carried, deter = deter, own_part(deter, self.world_model.sizes.deter)
        for tick in range(self.horizon):
            deter = self.core(deter, sample, actions[:, tick])
            _, sample = drawn(self.latent, rssm.prior(deter), noise[:, tick])
            features.append(torch.cat([deter, sample.flatten(1)], -1))
        flat = torch.stack(features, 1).flatten(
            0, 1
        )  # [N H, F]: a matrix, so that the heads' weights stay shared

        def ticks(values: Tensor) -> Tensor:
            return values.reshape(-1, self.horizon, *values.shape[1:])

        discount = torch.exp(
            torch.cumsum(torch.log(ticks(self.world_model.predict_continue(flat))), 1)
        )  # c_1 ... c_h
        before = torch.cat([torch.ones_like(discount[:, :1]), discount[:, :-1]], 1)
        out = {
            "returns": (before * ticks(self.world_model.predict_reward(flat))).sum(1),
            "values": discount[:, -1] * self.critic(features[-1]),
        }
        if self.tracker is None:
            targets = self.world_model.predict_target(flat)
            return out | {f"target_{name}": ticks(mean) for name, (mean, _) in targets.items()}
        track, paths = carried[..., self.world_model.sizes.deter :], []
        for tick, feature in enumerate(features):
            track = self.followed(track, feature, actions[:, tick], self.tracker.unseen())
            paths.append(self.places(track))
        names = [name for name, _ in self.world_model.signals.targets]
        return out | {
            f"target_{name}": torch.stack([path[f"target_{name}_mean"] for path in paths], 1)
            for name in names
        }


class Act(nn.Module):
    """The actor on a state."""

    def __init__(self, world_model: WorldModel, actor: Actor) -> None:
        super().__init__()
        self.latent, self.actor, self.size = world_model.rssm.latent, actor, world_model.sizes.deter

    def forward(self, deter: Tensor, stoch: Tensor) -> Named:
        """deter [N, D], stoch [N, S] -> mean, std [N, A]."""
        mean, std = self.actor(State(own_part(deter, self.size), opened(self.latent, stoch)).features)
        return {"mean": mean, "std": std}


class Decode(nn.Module):
    """What the cameras should show."""

    def __init__(self, world_model: WorldModel) -> None:
        super().__init__()
        self.world_model = world_model

    def forward(self, deter: Tensor, stoch: Tensor) -> Named:
        """deter [N, D], stoch [N, S] -> {image: [N, H, W, C] in 0..1}."""
        own, latent = own_part(deter, self.world_model.sizes.deter), self.world_model.rssm.latent
        state = State(own, opened(latent, stoch))
        return self.world_model.decode(state.features)
