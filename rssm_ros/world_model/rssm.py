"""The recurrent state-space model: block GRU core, prior, and DreamerV3's (concat) posterior.

Shapes: B rows, D deter, S groups, K classes, A actions, E_m tokens of modality m, G blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.world_model.categorical import mixed
from rssm_ros.world_model.errors import WorldModelError
from rssm_ros.world_model.layers import BlockLinear, Layer, Linear, NormSiLU
from rssm_ros.world_model.sizes import Sizes


class State(NamedTuple):
    """A latent state: deter [..., D] float, stoch [..., S, K] one-hot float."""

    deter: Tensor
    stoch: Tensor

    @property
    def features(self) -> Tensor:
        """concat[deter, flat stoch], [..., D + S K]: what every head reads."""
        return torch.cat([self.deter, self.stoch.flatten(-2)], -1)


class RSSM(nn.Module):
    """predict() is the prior half, correct() the posterior half of one tick."""

    def __init__(self, sizes: Sizes, action_dim: int, tokens: Mapping[str, int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.action_dim = action_dim
        self.tokens = dict(tokens)
        d, h, z, g = sizes.deter, sizes.hidden, sizes.stoch_flat, sizes.blocks
        self.input_deter = Layer(d, h)
        self.input_stoch = Layer(z, h)
        self.input_action = Layer(action_dim, h)
        self.dynamics = BlockLinear(d + 3 * h * g, d, g)
        self.dynamics_norm = NormSiLU(d)
        self.gates = BlockLinear(d, 3 * d, g)
        self.prior_layers = nn.Sequential(Layer(d, h), Layer(h, h))
        self.prior_logits = Linear(h, z)
        # Posterior input: concat[deter, tokens of every modality, one absence flag per modality].
        self.posterior_layer = Layer(d + sum(self.tokens.values()) + len(self.tokens), h)
        self.posterior_logits = Linear(h, z)
        self.absent = nn.ParameterDict({m: nn.Parameter(torch.zeros(e)) for m, e in self.tokens.items()})

    def initial(self, rows: int) -> State:
        """Zeros, on the device of the parameters."""
        like = self.prior_logits.bias
        shape = (rows, self.sizes.stoch, self.sizes.classes)
        return State(like.new_zeros(rows, self.sizes.deter), like.new_zeros(shape))

    def predict(
        self, deter: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advance one tick with the action applied since the last one.

        deter [B, D], stoch [B, S, K], action [B, A] in [-1, 1], is_first [B] bool (zeroes all three)
        -> deter' [B, D], prior probabilities [B, S, K].
        """
        deter, stoch, action = self.reset(deter, stoch, action, is_first)
        deter = self.core(deter, stoch, self.embed_action(action))
        return deter, self.prior(deter)

    @staticmethod
    def reset(
        deter: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Zero state and action where an episode begins; `where`, so that a NaN before a reset is gone."""
        first = is_first.bool().reshape(-1, 1)
        zero = deter.new_zeros(())
        return (
            torch.where(first, zero, deter),
            torch.where(first.unsqueeze(-1), zero, stoch),
            torch.where(first, zero, action),
        )

    def embed_action(self, action: Tensor) -> Tensor:
        """[..., A] -> [..., hidden]; actions beyond 1 are scaled back elementwise, no symlog."""
        bounded = action / torch.clamp(action.abs(), min=1.0).detach()
        result: Tensor = self.input_action(bounded)
        return result

    def core(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        """deter [B, D], stoch [B, S, K], embedded action [B, hidden] -> deter' [B, D]."""
        g, rows = self.sizes.blocks, deter.shape[0]
        x0, x1 = self.input_deter(deter), self.input_stoch(stoch.flatten(-2))
        shared = torch.cat([x0, x1, action], -1).unsqueeze(0).expand(g, -1, -1)  # [G, B, 3 hidden]
        own = deter.reshape(rows, g, -1).transpose(0, 1)  # [G, B, D/G]
        x = self.dynamics.grouped(torch.cat([own, shared], -1))  # [G, B, D/G]
        x = self.dynamics_norm(x.transpose(0, 1).reshape(rows, -1))  # the norm spans *all* of deter
        x = self.gates.grouped(x.reshape(rows, g, -1).transpose(0, 1))  # [G, B, 3 D/G]
        reset, candidate, update = x.chunk(3, -1)  # split *inside* each block
        update = torch.sigmoid(update - 1.0)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        mixed_blocks = update * candidate + (1.0 - update) * own
        return mixed_blocks.transpose(0, 1).reshape(rows, -1)

    def prior(self, deter: Tensor) -> Tensor:
        """deter [..., D] -> prior probabilities [..., S, K]."""
        logits = self.prior_logits(self.prior_layers(deter))
        return mixed(self._groups(logits), self.sizes.unimix)

    def evidence(self, tokens: Mapping[str, Tensor], presence: Mapping[str, Tensor]) -> Tensor:
        """The observations' share of the posterior's first layer, before norm: [..., hidden].

        Split off because it does not depend on the state: a training sequence does it in one product, and
        particles that share one observation pass tokens [1, E_m] and broadcast.
        """
        parts = []
        for name in self.tokens:
            here = presence[name].bool().unsqueeze(-1)
            parts.append(torch.where(here, tokens[name].float(), self.absent[name]))
        parts += [(~presence[name].bool()).unsqueeze(-1).to(parts[0].dtype) for name in self.tokens]
        linear = self.posterior_layer.linear
        weight = linear.weight[:, self.sizes.deter :]
        return F.linear(torch.cat(parts, -1), weight, linear.bias)

    def posterior(self, deter: Tensor, evidence: Tensor) -> Tensor:
        """deter [..., D], evidence [..., hidden] -> posterior probabilities, ignoring presence."""
        weight = self.posterior_layer.linear.weight[:, : self.sizes.deter]
        hidden = self.posterior_layer.norm(F.linear(deter, weight) + evidence)
        return mixed(self._groups(self.posterior_logits(hidden)), self.sizes.unimix)

    def correct(
        self, deter: Tensor, prior: Tensor, tokens: Mapping[str, Tensor], presence: Mapping[str, Tensor]
    ) -> Tensor:
        """Posterior probabilities [B, S, K]; exactly `prior` in rows where nothing is present.

        deter [B, D] and prior [B, S, K] from `predict`, tokens {m: [B or 1, E_m]}, presence {m: [B or 1]
        bool}.
        """
        if set(tokens) != set(self.tokens):
            raise WorldModelError(f"tokens for {sorted(tokens)}, expected {sorted(self.tokens)}")
        probs = self.posterior(deter, self.evidence(tokens, presence))
        return torch.where(self.anything(presence)[..., None, None], probs, prior)

    def anything(self, presence: Mapping[str, Tensor]) -> Tensor:
        """Whether any modality is present, [...] bool."""
        return torch.stack([presence[name].bool() for name in self.tokens]).any(0)

    def _groups(self, logits: Tensor) -> Tensor:
        return logits.reshape(*logits.shape[:-1], self.sizes.stoch, self.sizes.classes)
