"""What a belief has to beat: networks without a latent, of the bundle's own encoders, widths and heads.

`recurrent` is a GRU as wide as the model's deterministic state: it remembers, but cannot predict without
looking, and knows one place with one deviation instead of samples. `frames` sees the newest tick alone.

Shapes: B rows, T ticks, D deter, H hidden, E_m tokens of modality m, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rssm_ros.training import checkpoint
from rssm_ros.training.distributed import World
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.learner import Perception
from rssm_ros.training.options import Options
from rssm_ros.training.replay import Batch
from rssm_ros.world_model import Signals, Sizes, losses
from rssm_ros.world_model.encoder import ImageEncoder, VectorEncoder, absent_filled
from rssm_ros.world_model.heads import TargetHead
from rssm_ros.world_model.layers import Layer, wide

KINDS = ("recurrent", "frames")


class BaselineNetwork(nn.Module):
    """Observations, and what was done, to features that the target heads read.

    Encoders, learnt stand-ins for absent tokens, flags and heads are the world model's; an embedding of this
    tick, as wide as the layers inside the RSSM, stands where the latent is there. At the manipulator's sizes
    that is 1.8 million parameters, beside 1.9 of a filter's encoders, core and heads.
    """

    def __init__(self, kind: str, signals: Signals, sizes: Sizes) -> None:
        super().__init__()
        if kind not in KINDS:
            raise TrainingError(f"baseline {kind!r} is unknown, expected one of {', '.join(KINDS)}")
        if not signals.targets:
            raise TrainingError("the contract has no target: there is nothing that a baseline could say")
        self.kind, self.signals, self.sizes = kind, signals, sizes
        self.encoders = nn.ModuleDict(
            {name: VectorEncoder(length, sizes) for name, length in signals.vectors}
            | {name: ImageEncoder(shape, sizes) for name, shape in signals.images}
        )
        self.tokens = {name: int(self.encoders[name].outputs) for name in signals.modalities}  # type: ignore[arg-type]
        self.absent = nn.ParameterDict({m: nn.Parameter(torch.zeros(e)) for m, e in self.tokens.items()})
        seen = sum(self.tokens.values()) + len(self.tokens)  # one flag per modality
        read = replace(sizes, latent="categorical", stoch=1, classes=sizes.hidden)  # so much beside deter
        if kind == "recurrent":
            self.embed = Layer(seen + signals.action_dim, sizes.hidden)
            self.gru = nn.GRU(sizes.hidden, sizes.deter, batch_first=True)
        else:
            self.embed = Layer(seen, read.features)
        self.target_heads = nn.ModuleDict({name: TargetHead(d, read) for name, d in signals.targets})

    def initial(self, rows: int) -> Tensor:
        """What is remembered before anything was seen, [B, D]; of `frames` always."""
        like: Tensor = self.absent[self.signals.modalities[0]]
        return like.new_zeros(rows, self.sizes.deter)

    def encode(self, observations: Mapping[str, Tensor], presence: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{m: [B, T, ...]} raw, presence {m: [B, T] bool} -> tokens {m: [B, T, E_m]}."""
        return {
            name: encoder(absent_filled(observations[name], presence[name]))
            for name, encoder in self.encoders.items()
        }

    def features(
        self,
        tokens: Mapping[str, Tensor],
        presence: Mapping[str, Tensor],
        action: Tensor,
        is_first: Tensor,
        state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens {m: [B, T, E_m]}, presence {m: [B, T] bool}, action [B, T, A] applied *before* each tick,
        is_first [B, T] bool, state [B, D] before the first one -> features [B, T, D + H], state [B, D] after.
        """
        rows, ticks = is_first.shape
        assert action.shape == (rows, ticks, self.signals.action_dim), action.shape
        state = self.initial(rows) if state is None else state
        assert state.shape == (rows, self.sizes.deter), state.shape
        here = torch.stack([presence[name].bool() for name in self.tokens], -1)
        parts = [
            torch.where(here[..., i, None], wide(tokens[name]), self.absent[name])
            for i, name in enumerate(self.tokens)
        ]
        parts.append((~here).to(parts[0].dtype))
        if self.kind == "frames":
            result: Tensor = self.embed(torch.cat(parts, -1))
            return result, state
        first = is_first.bool()
        parts.append(torch.where(first.unsqueeze(-1), action.new_zeros(()), action))
        embedded = self.embed(torch.cat(parts, -1))
        deter, state = self._remembered(embedded, first, state)
        return torch.cat([deter, embedded], -1), state

    def _remembered(self, embedded: Tensor, first: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The GRU over [B, T, H], from zeros wherever an episode begins: one call between two such ticks."""
        resets = [tick for tick, any_row in enumerate(first.any(0).tolist()) if any_row and tick > 0]
        borders, parts = [0, *resets, first.shape[1]], []
        for begin, end in pairwise(borders):
            state = torch.where(first[:, begin, None], state.new_zeros(()), state)
            part, last = self.gru(embedded[:, begin:end], state.unsqueeze(0))
            state = last.squeeze(0)
            parts.append(part)
        return torch.cat(parts, 1), state

    def claims(self, features: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """[..., D + H] -> {target: mean, std [..., d]} in the contract's units."""
        return {name: head(features) for name, head in self.target_heads.items()}


class BaselineUpdate(NamedTuple):
    """The loss to descend, every term unweighted, what is remembered after the batch [B, D]."""

    loss: Tensor
    terms: dict[str, Tensor]
    last: Tensor


class BaselineLearner(nn.Module):
    """The network and what only training needs: targets read off image tokens, as where bundles are made."""

    def __init__(self, kind: str, signals: Signals, options: Options) -> None:
        super().__init__()
        self.options, self.signals = options, signals
        self.world = World()  # the run's, where several processes train as one
        self.network = BaselineNetwork(kind, signals, options.sizes())
        image = signals.images[0][0] if signals.images and options.scales.perception else None
        self.perception = nn.ModuleDict(
            {
                name: Perception(self.network.tokens[image], self.network.sizes.units, d)
                for name, d in signals.targets
            }
            if image is not None
            else {}
        )

    def forward(self, batch: Batch, state: Tensor | None) -> BaselineUpdate:
        """Loss of one batch [B, T, ...]; `state` [B, D] is what the streams carry."""
        network, opt = self.network, self.options
        presence = {name: batch[f"present_{name}"] for name in self.signals.modalities}
        raw = {name: batch.get(f"seen_{name}", batch[name]) for name in self.signals.modalities}
        device = batch["action"].device.type
        with torch.autocast(device, torch.bfloat16, enabled=opt.autocast):
            tokens = {name: wide(value) for name, value in network.encode(raw, presence).items()}
        features, last = network.features(tokens, presence, batch["action"], batch["is_first"], state)
        terms: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        with torch.autocast(device, torch.bfloat16, enabled=opt.autocast):
            for name, head in network.target_heads.items():
                assert isinstance(head, TargetHead)
                label = batch[f"target_{name}"]
                loss, known = losses.target_loss(head, features.unsqueeze(0), label, opt.target_beta)
                share = self.world.mean(known.to(loss.dtype).mean()).clamp(min=1e-3)
                value = loss.mean() / share
                terms[f"target_{name}"] = value.detach()
                weighted.append(opt.scales.target * value)
                if name in self.perception:
                    image, reader = self.signals.images[0][0], self.perception[name]
                    assert isinstance(reader, Perception)
                    read = reader.of(name, image, head, batch, tokens[image], known) / share
                    terms[f"perception_{name}"] = read.detach()
                    weighted.append(opt.scales.perception * read)
        total = torch.stack(weighted).sum()
        terms["loss"] = total.detach()
        return BaselineUpdate(total, terms, last.detach())


def load_baseline(directory: Path) -> tuple[BaselineNetwork, dict[str, Any]]:
    """The network of a run or checkpoint directory, in eval mode on the CPU, and its `state.json`.

    TrainingError if there is none, it is damaged, or it is no baseline's.
    """
    saved = checkpoint.read_baseline(directory)
    network = BaselineNetwork(
        saved.state[checkpoint.BASELINE],
        Signals.from_dict(saved.state["signals"]),
        Sizes.from_dict(saved.state["sizes"]),
    )
    own = {k.removeprefix("network."): v for k, v in saved.model.items() if k.startswith("network.")}
    checkpoint.fill(network, own, str(directory))
    network.eval().requires_grad_(False)
    return network, saved.state
