"""One update: world model and imitation together, and actor-critic in imagination."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.behavior import Actor, Critic, ReturnRange
from rssm_ros.behavior.actor import imitation_loss
from rssm_ros.behavior.losses import imagination_losses, replay_value_loss
from rssm_ros.contract import HIDDEN, Contract
from rssm_ros.training.distributed import World
from rssm_ros.training.grounding import followed, motion_loss, seeing_loss
from rssm_ros.training.options import Options
from rssm_ros.training.overshooting import Ahead, overshoot
from rssm_ros.training.replay import Batch
from rssm_ros.world_model import Beliefs, Signals, Sizes, State, WorldModel, losses
from rssm_ros.world_model.ensemble import Ensemble
from rssm_ros.world_model.heads import MINIMUM_STD, TargetHead, continue_target
from rssm_ros.world_model.latents import Latent
from rssm_ros.world_model.layers import MLP, Linear, wide
from rssm_ros.world_model.representation import Representation
from rssm_ros.world_model.rssm import Evidence

Terms = dict[str, Tensor]
Add = Callable[[str, float, Tensor], None]  # takes in a loss term: name, scale, value


class Perception(nn.Module):
    """Training only: a target read straight off the image tokens, so that the encoder learns to see early on.

    Belief needs perception first, and gradients through sampled latents teach a convolution slowly.
    """

    def __init__(self, tokens: int, units: int, length: int) -> None:
        super().__init__()
        self.mlp = MLP(tokens, units, 1)
        self.out = Linear(units, 2 * length, 0.1)

    def loss(self, tokens: Tensor, goal: Tensor) -> Tensor:
        """tokens [..., E], normalised label [..., d] -> [...].

        Its gradient is that of `losses.target_loss` with beta 0.5.
        """
        mean, raw = wide(self.out(self.mlp(tokens))).chunk(2, -1)
        std = F.softplus(raw) + MINIMUM_STD
        log_normal = -0.5 * ((goal - mean) / std).square() - torch.log(std)
        loss: Tensor = -(std.detach() * log_normal).sum(-1)
        return loss

    def of(
        self, target: str, image: str, head: TargetHead, batch: Batch, tokens: Tensor, known: Tensor
    ) -> Tensor:
        """The loss of one target over a batch, wherever a part of it is in sight: a mean.

        tokens [B, T, E] of `image`, known [B, T]: there is a label.
        """
        label = batch[f"target_{target}"]
        seen = known & (batch[f"visibility_{target}"] > HIDDEN) & batch[f"present_{image}"]
        goal = torch.where(seen.unsqueeze(-1), head.normalise(label), label.new_zeros(()))
        return losses.masked_mean(self.loss(tokens, goal), seen)


class Update(NamedTuple):
    """What one pass over a batch gives: the loss to descend, every term unweighted, the state to carry on."""

    loss: Tensor
    terms: Terms
    last: State
    beliefs: Beliefs  # of the whole batch, for figures and replay latents; no gradient


def follow(previous: Tensor, wanted: Tensor, slew: Tensor) -> Tensor:
    """`online.limits.Limits.step` on normalised actions [..., A]: range first, slew [A] per tick last."""
    inside = wanted.clamp(-1.0, 1.0)
    return previous + torch.clamp(inside - previous, -slew, slew)


def normalised_slew(contract: Contract) -> list[float]:
    """Largest change per tick of each of a contract's actions, where low..high is -1..1; [A]."""
    return [float(v) for v in 2.0 * contract.slew * contract.dt / (contract.high - contract.low)]


class Learner(nn.Module):
    """World model, actor, critic and what only training needs.

    slew: largest change of each normalised action per tick [A] (`normalised_slew`); unlimited if None.
    """

    slew: Tensor

    def __init__(
        self, signals: Signals, sizes: Sizes, options: Options, slew: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.options = options
        self.world = World()  # the trainer's, where several processes train as one
        limits = [math.inf] * signals.action_dim if slew is None else list(slew)
        assert len(limits) == signals.action_dim
        self.register_buffer("slew", torch.tensor(limits, dtype=torch.float32), persistent=False)
        self.world_model = WorldModel(signals, sizes)
        self.actor = Actor(sizes, signals.action_dim)
        self.critic = Critic(sizes)
        self.returns = ReturnRange()
        images = [name for name, _ in signals.images]
        tokens = self.world_model.rssm.tokens
        kind = options.representation
        self.representation = nn.ModuleDict(
            {name: Representation(kind, sizes.features, tokens[name]) for name in images}
            if kind != "reconstruction"
            else {}
        )
        self.ensemble = Ensemble(sizes, signals.action_dim) if options.scales.ensemble else None
        if options.freeze_encoders:
            self.world_model.encoders.requires_grad_(False)
        self.perception = nn.ModuleDict(
            {name: Perception(tokens[images[0]], sizes.units, length) for name, length in signals.targets}
            if images and not sizes.grounded  # whose posterior itself reads targets off the tokens
            else {}
        )

    def trained(self) -> list[tuple[str, Tensor]]:
        """Named parameters that the optimizer moves (the slow critic follows on its own)."""
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    def forward(
        self,
        batch: Batch,
        state: State | None,
        noise: torch.Generator,
        imagine: bool,
        motion: Batch | None = None,
    ) -> Update:
        """Loss of one batch [B, T, ...]; `state` is what the streams carry, `noise` is keyed by the step.

        motion: labels alone, for a grounded latent (`Replay.motion`).
        """
        wm, scales = self.world_model, self.options.scales
        rows, ticks = batch["is_first"].shape
        presence = {name: batch[f"present_{name}"] for name in wm.signals.modalities}
        tokens = self._tokens(batch, presence)
        evidence = wm.rssm.evidence(tokens, presence)
        shock = self.world.draw(partial(_draw, wm.rssm.latent, ticks, noise), rows)
        beliefs, last = self._believed(batch, evidence, shock, state, noise)
        prior_features = torch.stack(
            self._samples(beliefs.deter, beliefs.prior, self.options.particles, noise)
        )  # [M, B, T, F]
        weighted: list[tuple[float, Tensor]] = []
        terms: Terms = {}

        def add(name: str, scale: float, value: Tensor) -> None:
            terms[name] = value.detach()
            weighted.append((scale, value))

        self._dynamics(beliefs, evidence.something, add)
        terms |= _nats(wm.rssm.latent, beliefs)
        if self.ensemble is not None:
            divergence = self.ensemble.loss(
                beliefs.features, batch["action"], beliefs.posterior, batch["is_first"]
            )
            add("ensemble", scales.ensemble, divergence.mean())
        ahead = self._overshoot(batch, beliefs, noise)
        # The recurrence stays in float32; everything that is one large product over the batch need not.
        with torch.autocast(noise.device.type, torch.bfloat16, enabled=self.options.autocast):
            self._representation(beliefs.features, tokens, presence, add)
            self._reconstruction(batch, beliefs.features, noise, add)
            self._task(batch, beliefs.features, add)
            if wm.sizes.grounded:
                add("target", scales.target, seeing_loss(wm, batch, evidence))
            else:
                self._targets(batch, beliefs, prior_features, tokens, noise, add)
            if ahead is not None:
                self._ahead(batch, ahead, add)
            if scales.imitation:
                self._imitation(batch, prior_features[0], add)
        if motion is not None:
            add("motion", scales.motion, motion_loss(wm, motion, self.world, noise))
        if imagine:
            self._imagination(beliefs, batch, noise, add, terms)
        total = torch.stack([scale * value for scale, value in weighted]).sum()
        terms["loss"] = total.detach()
        held = Beliefs(*(part.detach() for part in beliefs))
        return Update(total, terms, last, held)

    # World model ------------------------------------------------------------------------------------------

    def _believed(
        self, batch: Batch, evidence: Evidence, shock: Tensor, state: State | None, noise: torch.Generator
    ) -> tuple[Beliefs, State]:
        """What heads learn from, and the state that the streams go on from, without a gradient."""
        wm = self.world_model
        if not wm.sizes.grounded:
            beliefs = wm.filter(evidence, batch["action"], batch["is_first"], shock, state)
            return beliefs, State(beliefs.deter[:, -1].detach(), beliefs.stoch[:, -1].detach())
        # For the heads alone, which are to read what a particle is; what it rests on learns by itself.
        with torch.no_grad():
            beliefs = followed(wm, batch, self.world, noise, state)
            drawn = wm.rssm.latent.sample(beliefs.posterior, shock)
        return beliefs._replace(stoch=drawn), State(beliefs.deter[:, -1], beliefs.stoch[:, -1])

    def _overshoot(self, batch: Batch, beliefs: Beliefs, noise: torch.Generator) -> Ahead | None:
        """Some beliefs rolled on by the prior, if that is taught."""
        opt, wm = self.options, self.world_model
        if not opt.scales.overshoot or not len(wm.target_heads):
            return None
        return overshoot(
            wm,
            beliefs,
            batch["action"],
            batch["is_first"],
            opt.overshoot_horizon,
            opt.overshoot_starts,
            opt.particles,
            self.world,
            noise,
        )

    def _tokens(self, batch: Batch, presence: dict[str, Tensor]) -> dict[str, Tensor]:
        wm = self.world_model
        raw = {name: batch.get(f"seen_{name}", batch[name]) for name in wm.signals.modalities}
        with torch.autocast(batch["action"].device.type, torch.bfloat16, enabled=self.options.autocast):
            tokens = wm.tokens(raw, presence)
        return {name: wide(value) for name, value in tokens.items()}

    def _samples(
        self, deter: Tensor, distribution: Tensor, count: int, noise: torch.Generator
    ) -> list[Tensor]:
        """Features [B, T, F] with each of `count` samples of the latents."""
        (rows, ticks), latent = deter.shape[:2], self.world_model.rssm.latent
        draw = partial(_draw, latent, ticks, noise)
        stochs = (latent.sample(distribution, self.world.draw(draw, rows)) for _ in range(count))
        return [State(deter, stoch).features for stoch in stochs]

    def _dynamics(self, beliefs: Beliefs, seen: Tensor, add: Add) -> None:
        """KL terms of the ticks at which something was seen; elsewhere the posterior *is* the prior.

        A grounded latent has none: its posterior is what Bayes' rule makes of the prior.
        """
        if self.world_model.sizes.grounded:
            return
        opt, latent = self.options, self.world_model.rssm.latent
        by_tick = opt.free_nats if opt.free_nats_of == "tick" else 0.0
        pair = losses.kl_losses(beliefs.posterior, beliefs.prior, by_tick, latent.kl)
        dyn, rep = (torch.where(seen, term, term.new_zeros(())).mean() for term in pair)
        if opt.free_nats_of == "batch":
            floor = dyn.new_full((), opt.free_nats)
            dyn, rep = (torch.where(self.world.mean(term) > floor, term, floor) for term in (dyn, rep))
        add("dyn", opt.scales.dyn, dyn)
        add("rep", opt.scales.rep, rep)

    def _representation(
        self, features: Tensor, tokens: dict[str, Tensor], presence: dict[str, Tensor], add: Add
    ) -> None:
        for name, module in self.representation.items():
            here = self.world.gather(presence[name].flatten().to(torch.uint8)).bool()
            pair = (self.world.gather(side.flatten(0, 1)) for side in (features, tokens[name]))
            loss = module(*pair, here)
            add(f"{self.options.representation}_{name}", self.options.scales.representation, loss)

    def _reconstruction(self, batch: Batch, features: Tensor, noise: torch.Generator, add: Add) -> None:
        """Of all that was recorded, also where augmentation kept it from the model.

        Beside a decoder-free representation the image decoder is a mere onlooker, for people's eyes.
        """
        wm, scales, stride = self.world_model, self.options.scales, self.options.decode_stride
        offset = noise.initial_seed() % stride  # goes round with the step; drawing one would wait for a GPU
        some = features[:, offset::stride]
        if len(self.representation):
            some = some.detach()
        presence = {
            name: batch.get(f"recorded_{name}", batch[f"present_{name}"]) for name in wm.signals.modalities
        }
        for name, decoder in wm.image_decoders.items():
            error = losses.image_loss(decoder(some), batch[name][:, offset::stride])
            add(f"image_{name}", scales.image, losses.masked_mean(error, presence[name][:, offset::stride]))
        for name, decoder in wm.vector_decoders.items():
            raw = torch.where(presence[name].unsqueeze(-1), batch[name], batch[name].new_zeros(()))
            error = losses.vector_loss(decoder(features), raw)
            add(f"vector_{name}", scales.vector, losses.masked_mean(error, presence[name]))

    def _task(self, batch: Batch, features: Tensor, add: Add) -> None:
        """Reward and continue; what weighs nothing is not computed."""
        wm, scales = self.world_model, self.options.scales
        if scales.reward:
            loss = wm.reward_head.loss(wm.reward_head(features), batch["reward"])
            add("reward", scales.reward, loss.mean())
        if scales.continue_:
            loss = losses.continue_loss(wm.continue_head(features), continue_target(batch["is_terminal"]))
            add("continue", scales.continue_, loss.mean())

    def _targets(
        self,
        batch: Batch,
        beliefs: Beliefs,
        prior_features: Tensor,
        tokens: dict[str, Tensor],
        noise: torch.Generator,
        add: Add,
    ) -> None:
        """Likelihoods of the labels, each the mean over samples: given what was seen, and before it was."""
        wm, scales = self.world_model, self.options.scales
        more = self._samples(beliefs.deter, beliefs.posterior, self.options.particles - 1, noise)
        particles, beta = torch.stack([beliefs.features, *more]), self.options.target_beta
        for name, module in wm.target_heads.items():
            assert isinstance(module, TargetHead)
            label = batch[f"target_{name}"]
            loss, known = losses.target_loss(module, particles, label, beta)
            share = self.world.mean(known.to(loss.dtype).mean()).clamp(min=1e-3)
            add(f"target_{name}", scales.target, loss.mean() / share)
            loss, known = losses.target_loss(module, prior_features, label, beta)
            add(f"target_{name}_prior", scales.target_prior, loss.mean() / share)
            if scales.perception and name in self.perception:
                image = wm.signals.images[0][0]
                reader = self.perception[name]
                assert isinstance(reader, Perception)
                read = reader.of(name, image, module, batch, tokens[image], known)
                add(f"perception_{name}", scales.perception, read / share)

    def _ahead(self, batch: Batch, ahead: Ahead, add: Add) -> None:
        """What prediction alone says of targets, several ticks after the last belief."""
        opt, wm = self.options, self.world_model
        for name, module in wm.target_heads.items():
            assert isinstance(module, TargetHead)
            label = batch[f"target_{name}"].flatten(0, 1)[ahead.places]
            loss, known = losses.target_loss(module, ahead.features, label, opt.target_beta)
            counted = known & ahead.within
            share = self.world.mean(counted.to(loss.dtype).mean()).clamp(min=1e-3)
            value = torch.where(counted, loss, loss.new_zeros(()))
            add(f"target_{name}_ahead", opt.scales.overshoot, value.mean() / share)

    # Behavior ---------------------------------------------------------------------------------------------

    def _imitation(self, batch: Batch, prior_features: Tensor, add: Add) -> None:
        """The actor sees the belief ahead (prior at t + 1) and repeats what the expert decided at t."""
        scales = self.options.scales
        expert = batch["expert_before"]
        known = ~torch.isnan(expert).any(-1) & ~batch["is_first"]
        expert = torch.where(known.unsqueeze(-1), expert, expert.new_zeros(()))
        held = prior_features.detach()
        features = held + scales.imitation_gradient * (prior_features - held)
        mean, std = self.actor(features)
        add("imitation", scales.imitation, losses.masked_mean(imitation_loss(mean, std, expert), known))

    def _imagination(
        self, beliefs: Beliefs, batch: Batch, noise: torch.Generator, add: Add, terms: Terms
    ) -> None:
        """REINFORCE on lambda returns in imagination, from a random share of the batch's posteriors.

        Where that is all of them, the critic learns on the replayed ticks too, as DreamerV3's does.
        """
        opt, scales = self.options, self.options.scales
        deter, stoch = beliefs.deter.detach().flatten(0, 1), beliefs.stoch.detach().flatten(0, 1)
        rows, ticks = batch["is_first"].shape
        here = self.world.choose(noise, rows, ticks, opt.starts)
        start = State(deter[here], stoch[here])
        standing = batch["action"].flatten(0, 1)[here]
        features, actions = self._rollout(start, standing, noise)
        with torch.no_grad():
            reward = self.world_model.predict_reward(features)
            continue_ = self.world_model.predict_continue(features)
        found = imagination_losses(
            self.actor,
            self.critic,
            self.returns,
            features,
            actions,
            reward,
            continue_,
            entropy_scale=scales.entropy,
            gather=self.world.gather,
        )
        add("policy", scales.policy, found.policy.mean())
        add("critic", scales.critic, found.value.mean())
        terms["imagined_return"] = found.returns.mean()
        if scales.replay_value and opt.starts >= rows * self.world.size * ticks:
            bootstrap = found.returns.new_zeros(rows * ticks)
            bootstrap[here] = found.returns[:, 0]  # from every tick there is one
            loss = replay_value_loss(
                self.critic,
                beliefs.features,
                batch["reward"],
                batch["is_last"],
                batch["is_terminal"],
                bootstrap.reshape(rows, ticks),
            )
            add("replay_value", scales.replay_value, loss.mean())

    @torch.no_grad()
    def _rollout(self, state: State, standing: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """H steps of the actor in the prior: features [N, H + 1, F], the actor's samples [N, H, A].

        The model is shown what the limits would let through after `standing` [N, A], the action that was
        applied before: it has never seen anything else, and the robot never does anything else.
        """
        wm, count = self.world_model, len(standing)
        features, actions = [state.features], []
        for _ in range(self.options.horizon):
            mean, std = self.actor(features[-1])
            shock = self.world.draw(partial(_normals, mean.shape[1], noise), count)
            actions.append(mean + std * shock)
            standing = follow(standing, actions[-1], self.slew)
            draw = self.world.draw(partial(wm.rssm.latent.noise, generator=noise), count)
            state, _ = wm.imagine_step(state, standing, draw)
            features.append(state.features)
        return torch.stack(features, 1), torch.stack(actions, 1)


@torch.no_grad()
def _nats(latent: Latent, beliefs: Beliefs) -> Terms:
    """Figures that nothing is taught by."""
    return {
        "kl": latent.kl(beliefs.posterior, beliefs.prior).mean(),
        "prior_entropy": latent.entropy(beliefs.prior).mean(),
        "posterior_entropy": latent.entropy(beliefs.posterior).mean(),
    }


def _draw(latent: Latent, ticks: int, noise: torch.Generator, rows: int) -> Tensor:
    return latent.noise(rows, ticks, generator=noise)


def _normals(width: int, noise: torch.Generator, rows: int) -> Tensor:
    return torch.randn(rows, width, generator=noise, device=noise.device)
