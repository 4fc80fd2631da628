"""The world model: encoders, RSSM, decoders and heads behind the field's own words.

Shapes: B rows, T ticks, D deter, S groups, K and P numbers per group of a sample and of a distribution
(`latents`), A actions, F = D + S K features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rssm_ros.world_model.decoder import ImageDecoder, VectorDecoder
from rssm_ros.world_model.encoder import ImageEncoder, VectorEncoder, absent_filled
from rssm_ros.world_model.errors import WorldModelError
from rssm_ros.world_model.grounded import GroundedHead
from rssm_ros.world_model.heads import ContinueHead, TargetHead, TwoHotHead
from rssm_ros.world_model.layers import symexp
from rssm_ros.world_model.rssm import RSSM, Evidence, State
from rssm_ros.world_model.sizes import CODE, Signals, Sizes


class Beliefs(NamedTuple):
    """A filtered sequence: deter [B, T, D], stoch [B, T, S, K], prior and posterior [B, T, S, P]."""

    deter: Tensor
    stoch: Tensor
    prior: Tensor
    posterior: Tensor

    @property
    def features(self) -> Tensor:
        """[B, T, F] of the posterior samples."""
        return State(self.deter, self.stoch).features


def systematic(log_weight: Tensor) -> Tensor:
    """Systematic resampling (Kitagawa 1996) with its one random number at 1/2: [B, N] -> ancestors [B, N]."""
    count = log_weight.shape[-1]
    edges = torch.softmax(log_weight.double(), -1).cumsum(-1)
    places = (torch.arange(count, dtype=torch.float64, device=edges.device) + 0.5) / count
    return torch.searchsorted(edges, places.expand_as(edges).contiguous()).clamp(max=count - 1)


def _anywhere(flags: Tensor) -> list[bool]:
    """[B, T] -> whether any row has it, per tick. On a GPU always yes: asking would wait for the device."""
    return flags.any(0).tolist() if flags.device.type == "cpu" else [True] * flags.shape[1]


class WorldModel(nn.Module):
    """An RSSM over any subset of the contract's modalities."""

    def __init__(self, signals: Signals, sizes: Sizes) -> None:
        super().__init__()
        if not signals.modalities:
            raise WorldModelError("a world model needs at least one observation")
        self.signals = signals
        self.sizes = sizes
        vectors, images = dict(signals.vectors), dict(signals.images)
        self.encoders = nn.ModuleDict()
        for name, length in vectors.items():
            self.encoders[name] = VectorEncoder(length, sizes)
        for name, shape in images.items():
            self.encoders[name] = ImageEncoder(shape, sizes)
        tokens = {name: int(self.encoders[name].outputs) for name in signals.modalities}  # type: ignore[arg-type]
        grids = {n: encoder.grid for n, encoder in self.encoders.items() if isinstance(encoder, ImageEncoder)}
        self.rssm = RSSM(sizes, signals.action_dim, tokens, grids)
        self.image_decoders = nn.ModuleDict({n: ImageDecoder(s, sizes) for n, s in images.items()})
        self.vector_decoders = nn.ModuleDict({n: VectorDecoder(v, sizes) for n, v in vectors.items()})
        self.reward_head = TwoHotHead(sizes.features, sizes.units, 1)
        self.continue_head = ContinueHead(sizes)
        self.target_heads = self._target_heads()

    def _target_heads(self) -> nn.ModuleDict:
        targets, sizes = self.signals.targets, self.sizes
        if not sizes.grounded:
            return nn.ModuleDict({name: TargetHead(length, sizes) for name, length in targets})
        lengths = [length for _, length in targets]
        if CODE * sum(lengths) != sizes.stoch:
            raise WorldModelError(
                f"sizes: a grounded latent of {sizes.stoch} groups, but the targets have {sum(lengths)} "
                f"numbers of {CODE} groups each"
            )
        starts = [sum(lengths[:index]) for index in range(len(lengths))]
        return nn.ModuleDict(
            {n: GroundedHead(length, sizes, at) for (n, length), at in zip(targets, starts, strict=True)}
        )

    # One tick ---------------------------------------------------------------------------------------------

    def initial_state(self, rows: int) -> State:
        """Zeros: State of [rows, D] and [rows, S, K]."""
        return self.rssm.initial(rows)

    def encode(self, name: str, raw: Tensor) -> Tensor:
        """Raw observation of one modality -> tokens [..., E_m].

        Images: uint8 [..., H, W, C]; vectors: float [..., d] in the contract's units. WorldModelError if
        unknown.
        """
        if name not in self.encoders:
            raise WorldModelError(f"no modality {name!r}, expected one of {list(self.encoders)}")
        images, vectors = dict(self.signals.images), dict(self.signals.vectors)
        shape = images[name] if name in images else (vectors[name],)
        kind = raw.dtype == torch.uint8 if name in images else raw.is_floating_point()
        if tuple(raw.shape[-len(shape) :]) != shape or not kind:
            raise WorldModelError(
                f"{name}: {str(raw.dtype).removeprefix('torch.')} {list(raw.shape)}, expected "
                f"{'uint8' if name in images else 'float'} [..., {', '.join(map(str, shape))}]"
            )
        result: Tensor = self.encoders[name](raw)
        return result

    def obs_step(
        self,
        state: State,
        action: Tensor,
        tokens: Mapping[str, Tensor],
        presence: Mapping[str, Tensor],
        is_first: Tensor,
        noise: Tensor,
    ) -> tuple[State, Tensor, Tensor]:
        """Predict and correct: action [B, A], is_first [B], noise [B, S] -> state, prior, posterior [B, S,
        P]."""
        self._check_rows(state, action, noise)
        deter, prior = self.rssm.predict(state.deter, state.stoch, action, is_first)
        posterior = self.rssm.correct(deter, prior, tokens, presence)
        return State(deter, self.rssm.latent.sample(posterior, noise)), prior, posterior

    def imagine_step(self, state: State, action: Tensor, noise: Tensor) -> tuple[State, Tensor]:
        """Predict only: action [B, A], noise [B, S] -> state (sampled from the prior), prior [B, S, P]."""
        self._check_rows(state, action, noise)
        never = torch.zeros(action.shape[0], dtype=torch.bool, device=action.device)
        deter, prior = self.rssm.predict(state.deter, state.stoch, action, never)
        return State(deter, self.rssm.latent.sample(prior, noise)), prior

    def _check_rows(self, state: State, action: Tensor, noise: Tensor) -> None:
        rows = len(state.deter)
        assert state.deter.shape == (rows, self.sizes.deter), state.deter.shape
        assert state.stoch.shape == (rows, self.sizes.stoch, self.sizes.classes), state.stoch.shape
        assert action.shape == (rows, self.signals.action_dim), action.shape
        assert noise.shape == (rows, self.sizes.stoch), noise.shape

    # Sequences --------------------------------------------------------------------------------------------

    def tokens(self, observations: Mapping[str, Tensor], presence: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encode {m: [B, T, ...]}; what an absent observation held never reaches arithmetic."""
        return {
            name: self.encode(name, absent_filled(observations[name], presence[name]))
            for name in self.signals.modalities
        }

    def observe(
        self,
        tokens: Mapping[str, Tensor],
        presence: Mapping[str, Tensor],
        action: Tensor,
        is_first: Tensor,
        noise: Tensor,
        state: State | None = None,
    ) -> Beliefs:
        """Filter a sequence.

        tokens {m: [B, T, E_m]}, presence {m: [B, T] bool}, action [B, T, A] applied *before* each tick,
        is_first [B, T] bool, noise [B, T, S] as the latent's `noise` makes it, state before tick 0 (zeros if
        None).
        """
        return self.filter(self.rssm.evidence(tokens, presence), action, is_first, noise, state)

    def filter(
        self,
        evidence: Evidence,
        action: Tensor,
        is_first: Tensor,
        noise: Tensor,
        state: State | None = None,
        particles: int = 1,
    ) -> Beliefs:
        """`observe` from the tokens' evidence [B, T, ...].

        particles: so many rows in succession are one filter's, to be chosen from by their weights, if they
        have any.
        """
        rows, ticks = is_first.shape
        assert action.shape == (rows, ticks, self.signals.action_dim), action.shape
        assert noise.shape == (rows, ticks, self.sizes.stoch), noise.shape
        rssm, something = self.rssm, evidence.something
        deter, stoch = self.initial_state(rows) if state is None else state
        assert deter.shape == (rows, self.sizes.deter), deter.shape
        assert stoch.shape == (rows, self.sizes.stoch, self.sizes.classes), stoch.shape
        first = is_first.bool()
        # All that does not depend on the state is one matrix product over the whole sequence.
        embedded = rssm.embed_action(torch.where(first.unsqueeze(-1), action.new_zeros(()), action)).unbind(1)
        seen, draws = evidence.unbind(), noise.unbind(1)
        resets, blanks = _anywhere(first), _anywhere(~something)
        deters, stochs, posteriors = [], [], []
        for t in range(ticks):
            if resets[t]:
                deter, stoch, _ = rssm.reset(deter, stoch, deter, first[:, t])
            deter = rssm.core(deter, stoch, embedded[t])
            prior = None
            if blanks[t]:
                prior = rssm.prior(deter)
            elif rssm.needs_prior:
                # Taken as given, unless it is all that a state says; the batched one below gets gradients.
                with torch.set_grad_enabled(rssm.weighs and torch.is_grad_enabled()):
                    prior = rssm.prior(deter)
            weight = None
            if rssm.weighs:
                assert prior is not None
                posterior, weight = rssm.weighed(prior, seen[t])
            else:
                posterior = rssm.posterior(deter, prior, seen[t])
            if prior is not None and blanks[t]:
                posterior = torch.where(something[:, t, None, None], posterior, prior)
            stoch = rssm.latent.sample(posterior, draws[t])
            if particles > 1 and weight is not None:
                begins = torch.arange(0, rows, particles, device=weight.device).unsqueeze(-1)
                here = begins + systematic(weight.reshape(-1, particles))
                deter, stoch, posterior = (part[here.flatten()] for part in (deter, stoch, posterior))
            deters.append(deter)
            stochs.append(stoch)
            posteriors.append(posterior)
        all_deter = torch.stack(deters, 1)
        batched, posterior = rssm.prior(all_deter), torch.stack(posteriors, 1)
        # The batched prior may differ from the looped one in its last bit; where nothing was seen it *is* the
        # prior.
        posterior = torch.where(something[..., None, None], posterior, batched)
        return Beliefs(all_deter, torch.stack(stochs, 1), batched, posterior)

    def imagine(self, state: State, actions: Tensor, noise: Tensor) -> State:
        """Open loop: actions [B, H, A], noise [B, H, S] -> State of [B, H, D] and [B, H, S, K]."""
        assert noise.shape[:2] == actions.shape[:2], (noise.shape, actions.shape)
        states = []
        for t in range(actions.shape[1]):
            state, _ = self.imagine_step(state, actions[:, t], noise[:, t])
            states.append(state)
        return State(torch.stack([s.deter for s in states], 1), torch.stack([s.stoch for s in states], 1))

    # Heads ------------------------------------------------------------------------------------------------

    def predict_target(self, features: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """[..., F] -> {name: (mean [..., d], std [..., d])} in the contract's units."""
        return {name: head(features) for name, head in self.target_heads.items()}

    def normalised_targets(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[..., F] -> means and stds of all targets side by side [..., S], in units of their spread."""
        said = []
        for head in self.target_heads.values():
            assert isinstance(head, TargetHead)
            said.append(head.normalised(features))
        means, stds = zip(*said, strict=True)
        return torch.cat(means, -1), torch.cat(stds, -1)

    def predict_reward(self, features: Tensor) -> Tensor:
        """[..., F] -> expected reward [...] of the tick that led here."""
        return self.reward_head.mean(self.reward_head(features))

    def predict_continue(self, features: Tensor) -> Tensor:
        """[..., F] -> probability [...] that the episode goes on, discount included."""
        return torch.sigmoid(self.continue_head(features))

    def decode(self, features: Tensor) -> dict[str, Tensor]:
        """[..., F] -> {image: [..., H, W, C] in 0..1}; `decode_vectors` has the vectors."""
        return {name: decoder(features) for name, decoder in self.image_decoders.items()}

    def decode_vectors(self, features: Tensor) -> dict[str, Tensor]:
        """[..., F] -> {vector: [..., d]} in the contract's units."""
        return {name: symexp(decoder(features)) for name, decoder in self.vector_decoders.items()}
