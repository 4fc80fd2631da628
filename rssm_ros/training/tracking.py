"""What teaches a tracker beside a trained RSSM: labels. The RSSM stays as it is.

Shapes: B rows, T ticks, W track, C cells, S numbers of all targets, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from rssm_ros.training.grounding import labels_of, normal_loss
from rssm_ros.training.learner import Learner
from rssm_ros.training.options import Options
from rssm_ros.training.replay import Batch
from rssm_ros.world_model import Signals, Sizes, State, losses
from rssm_ros.world_model.encoder import ImageEncoder, absent_filled
from rssm_ros.world_model.layers import wide
from rssm_ros.world_model.tracking import Seen, Tracker, seeing_loss


class TrackerUpdate(NamedTuple):
    """The loss to descend, every term unweighted, what the streams carry on: {name: [B, ...]}."""

    loss: Tensor
    terms: dict[str, Tensor]
    carried: dict[str, Tensor]


class Known(NamedTuple):
    """What the RSSM makes of a batch, without a gradient; the first image's maps [B T, channels, h, w]."""

    maps: list[Tensor]
    tokens: Tensor  # of the vector modalities [B, T, E], zeros where absent
    presence: Tensor  # [B, T, M]
    features: Tensor  # [B, T, F]
    heads: tuple[Tensor, Tensor]  # normalised mean, std [B, T, S]
    last: State


class TrackerLearner(Learner):
    """A learner whose RSSM, actor and critic have learnt all they will, and a tracker that has not."""

    def __init__(self, signals: Signals, sizes: Sizes, options: Options) -> None:
        super().__init__(signals, sizes, options)
        self.requires_grad_(False)
        self.image = signals.images[0][0] if signals.images else ""
        self.tracker = Tracker(self.world_model)
        if options.freeze_encoders:
            self.tracker.detector.requires_grad_(False)

    def track(
        self, batch: Batch, carried: Mapping[str, Tensor] | None, noise: torch.Generator
    ) -> TrackerUpdate:
        """Loss of one batch [B, T, ...]; carried: by the streams; noise: keyed by the step."""
        rows, ticks = batch["is_first"].shape
        state = State(carried["deter"], carried["stoch"]) if carried else None
        with torch.no_grad():
            known = self._known(batch, state, noise)
        label, _ = labels_of(self.world_model, batch)
        detector = self.tracker.detector
        said = detector(known.maps)  # [B T, targets, C, .]
        # Where targets are by single pictures; what follows them takes it as given.
        nats = seeing_loss(said, label.reshape(*said.shape[:2], -1)).sum(-1)
        seeing = losses.masked_mean(nats, batch[f"present_{self.image}"].flatten())
        detections = detector.likeliest(said.detach())
        detections = detections.reshape(rows, ticks, *detections.shape[1:])
        before = carried["track"] if carried else self.tracker.initial(rows)
        tracks = self._followed(known, batch, detections, before)
        place, log_variance, _ = self.tracker.parts(tracks)
        tracking = normal_loss(place, log_variance, label, ~torch.isnan(label))
        loss = seeing + tracking
        last = {"deter": known.last.deter, "stoch": known.last.stoch, "track": tracks[:, -1].detach()}
        return TrackerUpdate(
            loss, {"seeing": seeing.detach(), "tracking": tracking.detach(), "loss": loss.detach()}, last
        )

    def _known(self, batch: Batch, state: State | None, noise: torch.Generator) -> Known:
        wm, rows, ticks = self.world_model, *batch["is_first"].shape
        presence = {name: batch[f"present_{name}"] for name in wm.signals.modalities}
        raw = {
            name: absent_filled(batch.get(f"seen_{name}", batch[name]), presence[name])
            for name in wm.signals.modalities
        }
        encoder = wm.encoders[self.image]
        assert isinstance(encoder, ImageEncoder)
        maps = encoder.maps(raw[self.image])
        tokens = {self.image: encoder.flat(maps).reshape(rows, ticks, -1)}
        tokens |= {name: wide(wm.encode(name, raw[name])) for name in raw if name != self.image}
        draw = partial(_draw, self, ticks, noise)
        shock = self.world.draw(draw, rows)
        beliefs = wm.observe(tokens, presence, batch["action"], batch["is_first"], shock, state)
        return Known(
            maps,
            self.tracker.vectors(tokens, presence),
            torch.stack([presence[name] for name in wm.signals.modalities], -1),
            beliefs.features,
            wm.normalised_targets(beliefs.features),
            State(beliefs.deter[:, -1], beliefs.stoch[:, -1]),
        )

    def _followed(self, known: Known, batch: Batch, detections: Tensor, track: Tensor) -> Tensor:
        """The tracks [B, T, W] from the one before."""
        first = batch["is_first"].bool().unsqueeze(-1)
        action = torch.where(first, batch["action"].new_zeros(()), batch["action"])
        picture = batch[f"present_{self.image}"].unsqueeze(-1)
        mean, std = known.heads
        found = []
        for t in range(first.shape[1]):
            track = torch.where(first[:, t], track.new_zeros(()), track)
            seen = Seen(detections[:, t], known.tokens[:, t], known.presence[:, t], picture[:, t])
            track = self.tracker(track, known.features[:, t], (mean[:, t], std[:, t]), action[:, t], seen)
            found.append(track)
        return torch.stack(found, 1)


def _draw(learner: Learner, ticks: int, noise: torch.Generator, rows: int) -> Tensor:
    return learner.world_model.rssm.latent.noise(rows, ticks, generator=noise)
