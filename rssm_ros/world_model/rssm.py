"""The recurrent state-space model: core, prior and posterior.

Shapes: B rows, M modalities, D deter, S groups, K numbers per group of a sample, P per group of a
distribution (`latents`), A actions, E_m tokens of modality m, G blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rssm_ros.world_model.errors import WorldModelError
from rssm_ros.world_model.grounded import GroundedLatent, GroundedPosterior, KinematicCore
from rssm_ros.world_model.latents import Latent, latent_of
from rssm_ros.world_model.layers import BlockLinear, Layer, Linear, NormSiLU, affine, blockwise, wide
from rssm_ros.world_model.plain import PlainGRU
from rssm_ros.world_model.product import ProductPosterior
from rssm_ros.world_model.sizes import Sizes


class State(NamedTuple):
    """A latent state: deter [..., D], stoch [..., S, K], float: one-hot, or K = 1 number of a Gaussian."""

    deter: Tensor
    stoch: Tensor

    @property
    def features(self) -> Tensor:
        """concat[deter, flat stoch], [..., D + S K]: what every head reads."""
        return torch.cat([self.deter, self.stoch.flatten(-2)], -1)


class Evidence(NamedTuple):
    """What the observations say before any state is known, worked out once for a whole sequence.

    said: [..., hidden] (concat), [..., M, hidden] (product) or [..., M, K, 1 + 2 S] (`grounded`);
    presence [..., M] bool.
    """

    said: Tensor
    presence: Tensor

    @property
    def something(self) -> Tensor:
        """Whether any modality is present, [...] bool."""
        return self.presence.any(-1)

    def unbind(self) -> list[Evidence]:
        """[B, T, ...] -> T of [B, ...]."""
        return [Evidence(*parts) for parts in zip(self.said.unbind(1), self.presence.unbind(1), strict=True)]

    def repeated(self, particles: int) -> Evidence:
        """Every row `particles` times: [B, ...] -> [B N, ...]."""
        return Evidence(*(part.repeat_interleave(particles, 0) for part in self))


class RSSM(nn.Module):
    """predict() is the prior half, correct() the posterior half of one tick."""

    def __init__(
        self,
        sizes: Sizes,
        action_dim: int,
        tokens: Mapping[str, int],
        grids: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        """grids: height and width of the feature maps that some of the tokens are (for a grounded latent)."""
        super().__init__()
        self.sizes = sizes
        self.action_dim = action_dim
        self.tokens = dict(tokens)
        self.latent: Latent = GroundedLatent(sizes.stoch) if sizes.grounded else latent_of(sizes)
        d, h, style = sizes.deter, sizes.hidden, (sizes.activation, sizes.normed)
        self.plain: PlainGRU | KinematicCore | None = None
        self.product: ProductPosterior | GroundedPosterior | None = None
        if sizes.grounded:
            self.plain = KinematicCore(sizes, action_dim)
            self.product = GroundedPosterior(sizes, self.tokens, grids or {})
            return
        if sizes.blocks:
            self._build_block_gru()
        else:
            self.plain = PlainGRU(sizes, action_dim)
        self.prior_layers = nn.Sequential(
            *(Layer(h if i else d, h, *style) for i in range(sizes.prior_layers))
        )
        self.prior_logits = Linear(h, sizes.stoch_raw)
        if sizes.posterior == "product":
            self.product = ProductPosterior(sizes, self.latent, self.tokens)
        else:
            self._build_concat()

    def _build_block_gru(self) -> None:
        """DreamerV3's core."""
        d, h, g = self.sizes.deter, self.sizes.hidden, self.sizes.blocks
        self.input_deter = Layer(d, h)
        self.input_stoch = Layer(self.sizes.stoch_flat, h)
        self.input_action = Layer(self.action_dim, h)
        self.dynamics = BlockLinear(d + 3 * h * g, d, g)
        self.dynamics_norm = NormSiLU(d)
        self.gates = BlockLinear(d, 3 * d, g)

    def _build_concat(self) -> None:
        """Dreamer's posterior, on concat[deter, tokens of every modality, one absence flag per modality]."""
        sizes = self.sizes
        self.posterior_layer = Layer(
            sizes.deter + sum(self.tokens.values()) + len(self.tokens),
            sizes.hidden,
            sizes.activation,
            sizes.normed,
        )
        self.posterior_logits = Linear(sizes.hidden, sizes.stoch_raw)
        self.absent = nn.ParameterDict({m: nn.Parameter(torch.zeros(e)) for m, e in self.tokens.items()})

    def initial(self, rows: int) -> State:
        """Zeros, on the device of the parameters."""
        like = next(self.parameters())
        shape = (rows, self.sizes.stoch, self.sizes.classes)
        return State(like.new_zeros(rows, self.sizes.deter), like.new_zeros(shape))

    # The prior half ---------------------------------------------------------------------------------------

    def predict(
        self, deter: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advance one tick with the action applied since the last one.

        deter [B, D], stoch [B, S, K], action [B, A] in [-1, 1], is_first [B] bool (zeroes all three)
        -> deter' [B, D], prior distribution [B, S, P].
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
        """[..., A] -> [..., hidden]: the action's part of the core's input.

        DreamerV3 scales what is beyond 1 back, elementwise, without symlog; the plain core takes it as it is.
        """
        if self.plain is not None:
            result: Tensor = self.plain.of_action(action)
            return result
        bounded = action / torch.clamp(action.abs(), min=1.0).detach()
        embedded: Tensor = self.input_action(bounded)
        return embedded

    def core(self, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
        """deter [B, D], stoch [B, S, K], embedded action [B, hidden] -> deter' [B, D]."""
        if self.plain is not None:
            result: Tensor = self.plain(deter, stoch, action)
            return result
        g, rows = self.sizes.blocks, deter.shape[0]
        x0, x1 = self.input_deter(deter), self.input_stoch(stoch.flatten(-2))
        shared = torch.cat([x0, x1, action], -1)  # [B, 3 hidden]
        own = deter.reshape(rows, g, -1).transpose(0, 1)  # [G, B, D/G]
        # Every block reads concat[own, shared]; apart, `shared` need not be copied for each of them.
        of_own, of_shared = torch.split(self.dynamics.weight, [own.shape[-1], shared.shape[-1]], 1)
        x = blockwise(own, of_own).transpose(0, 1).reshape(rows, -1)
        x = x + affine(shared, of_shared.transpose(1, 2).flatten(0, 1), self.dynamics.bias)
        x = self.dynamics_norm(x)  # the norm spans *all* of deter
        x = self.gates.grouped(x.reshape(rows, g, -1).transpose(0, 1))  # [G, B, 3 D/G]
        reset, candidate, update = x.chunk(3, -1)  # split *inside* each block
        update = torch.sigmoid(update - 1.0)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        mixed_blocks = update * candidate + (1.0 - update) * own
        return mixed_blocks.transpose(0, 1).reshape(rows, -1)

    def prior(self, deter: Tensor) -> Tensor:
        """deter [..., D] -> prior distribution [..., S, P]."""
        if isinstance(self.plain, KinematicCore):
            return self.plain.prior(deter)
        return self.latent.distribution(self.prior_logits(self.prior_layers(deter)))

    # The posterior half -----------------------------------------------------------------------------------

    def evidence(self, tokens: Mapping[str, Tensor], presence: Mapping[str, Tensor]) -> Evidence:
        """The observations' share of the posterior: all that does not depend on the state.

        tokens {m: [..., E_m]}, presence {m: [...] bool}. A training sequence does it in one product, and
        particles that share one observation pass tokens [1, E_m] and broadcast.
        """
        if set(tokens) != set(self.tokens):
            raise WorldModelError(f"tokens for {sorted(tokens)}, expected {sorted(self.tokens)}")
        here = torch.stack([presence[name].bool() for name in self.tokens], -1)
        if self.product is not None:
            return Evidence(self.product.evidence(tokens, here), here)
        parts = [
            torch.where(here[..., i, None], wide(tokens[name]), self.absent[name])
            for i, name in enumerate(self.tokens)
        ]
        linear = self.posterior_layer.linear
        weight = linear.weight[:, self.sizes.deter :]
        inputs = torch.cat([*parts, (~here).to(parts[0].dtype)], -1)
        return Evidence(affine(inputs, weight, linear.bias), here)

    def posterior(self, deter: Tensor, prior: Tensor | None, evidence: Evidence) -> Tensor:
        """deter [B, D], evidence [B or 1, ...] -> posterior [B, S, P], whether anything is present or not.

        The prior [B, S, P] is asked for by the product posterior only (`needs_prior`).
        """
        if self.product is not None:
            assert prior is not None
            result: Tensor = self.product(deter, prior, evidence.said, evidence.presence)
            return result
        weight = self.posterior_layer.linear.weight[:, : self.sizes.deter]
        hidden = self.posterior_layer.norm(affine(deter, weight) + evidence.said)
        return self.latent.distribution(self.posterior_logits(hidden))

    def weighed(self, prior: Tensor, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """The posterior [B, S, P], and what the observation says for a particle: log p(o | its past) [B].

        prior [B, S, P], evidence [B or 1, ...]. The weight is in nats, up to what all have in common; 0 where
        nothing is present. Both come of one update. Of a grounded latent only (`weighs`).
        """
        assert isinstance(self.product, GroundedPosterior)
        return self.product.weighed(prior, *evidence)

    @property
    def weighs(self) -> bool:
        """Whether particles have weights."""
        return self.sizes.grounded

    @property
    def needs_prior(self) -> bool:
        """Whether the posterior is an update of the prior."""
        return self.product is not None

    def correct(
        self, deter: Tensor, prior: Tensor, tokens: Mapping[str, Tensor], presence: Mapping[str, Tensor]
    ) -> Tensor:
        """Posterior distribution [B, S, P]; exactly `prior` in rows where nothing is present.

        deter [B, D] and prior [B, S, P] from `predict`, tokens {m: [B or 1, E_m]}, presence {m: [B or 1]
        bool}.
        """
        evidence = self.evidence(tokens, presence)
        posterior = self.posterior(deter, prior, evidence)
        return torch.where(evidence.something[..., None, None], posterior, prior)
