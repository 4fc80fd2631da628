"""The steps of a trained model as modules with plain tensors in and out: what becomes one ONNX graph each.

Shapes: N particles, D deter, S groups, K classes, A actions, E_m tokens of modality m, H horizon, d of a
target. Class indices instead of one-hot vectors at the border; noise is always an input.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rssm_ros.behavior import Actor, Critic
from rssm_ros.world_model import WorldModel
from rssm_ros.world_model.categorical import categorical_kl, entropy, mixed
from rssm_ros.world_model.rssm import RSSM, State

Named = dict[str, Tensor]


def one_hot(index: Tensor, classes: int) -> Tensor:
    """[N, S] class indices -> [N, S, K] float."""
    return (index.unsqueeze(-1) == torch.arange(classes)).float()


def drawn(probs: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """index = sum(u >= cdf[:K-1]): probs [N, S, K], uniform [N, S] -> indices [N, S], one-hot [N, S, K]."""
    index = (uniform.unsqueeze(-1) >= torch.cumsum(probs, -1)[..., :-1]).to(torch.int32).sum(-1)
    return index.long(), one_hot(index, probs.shape[-1])


class Encode(nn.Module):
    """One observation -> its tokens."""

    def __init__(self, world_model: WorldModel, name: str) -> None:
        super().__init__()
        self.encoder = world_model.encoders[name]

    def forward(self, value: Tensor) -> Named:
        """[1, H, W, C] uint8 or [1, d] float -> tokens [1, E_m]."""
        return {"tokens": self.encoder(value)}


class Core(nn.Module):
    """The recurrent core with the weights of its first layers side by side.

    The same function as `RSSM.predict`, laid out for few rows: no tensor is expanded over the blocks. The
    block linear is split into the part that reads its own block and the part that all blocks share.
    """

    def __init__(self, rssm: RSSM) -> None:
        super().__init__()
        self.rssm = rssm
        sizes = rssm.sizes
        own = sizes.deter // sizes.blocks
        weight = rssm.dynamics.weight.detach()  # [G, D/G + 3 hidden, D/G]
        self.own = nn.Parameter(weight[:, :own].contiguous())
        shared = weight[:, own:].permute(1, 0, 2).reshape(-1, sizes.deter)  # [3 hidden, D], columns by block
        self.shared = nn.Parameter(shared.contiguous())
        self.bias = nn.Parameter(rssm.dynamics.bias.detach().clone())

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        """deter [N, D], one-hot stoch [N, S, K], action [N, A] -> deter' [N, D]."""
        rssm, g = self.rssm, self.rssm.sizes.blocks
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

    def __init__(self, world_model: WorldModel) -> None:
        super().__init__()
        self.world_model = world_model
        self.core = Core(world_model.rssm)

    def forward(self, deter: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor, noise: Tensor) -> Named:
        """deter [N, D], stoch [N, S], action [N, A], is_first [N] bool, noise [N, S] -> outputs by name."""
        deter, prior = self.prior(deter, stoch, action, is_first)
        return {**self.outcome(deter, prior, noise), "prior": prior, "prior_entropy": entropy(prior)}

    def prior(self, deter: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """-> deter' [N, D], prior [N, S, K]."""
        rssm = self.world_model.rssm
        deter, hot, action = rssm.reset(deter, one_hot(stoch, rssm.sizes.classes), action, is_first)
        deter = self.core(deter, hot, action)
        return deter, rssm.prior(deter)

    def outcome(self, deter: Tensor, probs: Tensor, noise: Tensor) -> Named:
        """The sampled state and what the heads say of it."""
        stoch, hot = drawn(probs, noise)
        features = torch.cat([deter, hot.flatten(1)], -1)
        out = {
            "next_deter": deter,
            "next_stoch": stoch,
            "reward": self.world_model.predict_reward(features),
            "continue": self.world_model.predict_continue(features),
        }
        for name, (mean, std) in self.world_model.predict_target(features).items():
            out |= {f"target_{name}_mean": mean, f"target_{name}_std": std}
        return out


class Filter(Predict):
    """Predict and correct. Tokens and presence [1] are shared by all particles.

    The posterior's first layer is linear in [deter, tokens of each modality, absence flags], so each
    modality adds its own product, or, where absent, one constant vector.
    """

    def __init__(self, world_model: WorldModel) -> None:
        super().__init__(world_model)
        rssm = world_model.rssm
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
        """As `Predict`, then tokens [1, E_m] and presence [1] bool per modality, in the model's order."""
        names = list(self.of_tokens)
        tokens, presence = dict(zip(names, seen[0::2])), dict(zip(names, seen[1::2]))
        deter, prior = self.prior(deter, stoch, action, is_first)
        posterior = self.posterior(deter, prior, tokens, presence)
        return {
            **self.outcome(deter, posterior, noise),
            "prior": prior,
            "prior_entropy": entropy(prior),
            "posterior": posterior,
            "surprise": categorical_kl(posterior, prior),
            "posterior_entropy": entropy(posterior),
        }

    def posterior(
        self, deter: Tensor, prior: Tensor, tokens: Mapping[str, Tensor], presence: Mapping[str, Tensor]
    ) -> Tensor:
        """Posterior probabilities [N, S, K]; the prior, exactly, where nothing is present."""
        rssm = self.world_model.rssm
        evidence = self.bias.unsqueeze(0)
        for name, weight in self.of_tokens.items():
            here = presence[name].unsqueeze(-1)
            evidence = evidence + torch.where(here, tokens[name] @ weight, self.of_absence[name])
        hidden = rssm.posterior_layer.norm(deter @ self.of_deter + evidence)
        logits = rssm.posterior_logits(hidden).unflatten(-1, (rssm.sizes.stoch, rssm.sizes.classes))
        anything = torch.stack(list(presence.values())).any(0)
        return torch.where(anything[:, None, None], mixed(logits, rssm.sizes.unimix), prior)


class Rollout(Predict):
    """Candidate plans, imagined without looking."""

    def __init__(self, world_model: WorldModel, critic: Critic, horizon: int) -> None:
        super().__init__(world_model)
        self.critic, self.horizon = critic, horizon

    def forward(self, deter: Tensor, stoch: Tensor, actions: Tensor, noise: Tensor) -> Named:  # type: ignore[override]
        """deter [N, D], stoch [N, S], actions [N, H, A], noise [N, H, S] -> returns, values [N], paths [N,
        H, d].

        returns = r_1 + c_1 r_2 + c_1 c_2 r_3 ... over H ticks; values = c_1 ... c_H v(last state).
        """
        rssm, hot, features = self.world_model.rssm, one_hot(stoch, self.world_model.sizes.classes), []
        for tick in range(self.horizon):
            deter = self.core(deter, hot, actions[:, tick])
            _, hot = drawn(rssm.prior(deter), noise[:, tick])
            features.append(torch.cat([deter, hot.flatten(1)], -1))
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
        targets = self.world_model.predict_target(flat)
        return out | {f"target_{name}": ticks(mean) for name, (mean, _) in targets.items()}


class Act(nn.Module):
    """The actor on a state."""

    def __init__(self, world_model: WorldModel, actor: Actor) -> None:
        super().__init__()
        self.classes, self.actor = world_model.sizes.classes, actor

    def forward(self, deter: Tensor, stoch: Tensor) -> Named:
        """deter [N, D], stoch [N, S] -> mean, std [N, A]."""
        mean, std = self.actor(State(deter, one_hot(stoch, self.classes)).features)
        return {"mean": mean, "std": std}


class Decode(nn.Module):
    """What the cameras should show."""

    def __init__(self, world_model: WorldModel) -> None:
        super().__init__()
        self.world_model = world_model

    def forward(self, deter: Tensor, stoch: Tensor) -> Named:
        """deter [N, D], stoch [N, S] -> {image: [N, H, W, C] in 0..1}."""
        state = State(deter, one_hot(stoch, self.world_model.sizes.classes))
        return self.world_model.decode(state.features)
