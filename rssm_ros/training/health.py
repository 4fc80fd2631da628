"""NaN and Inf: noticed without waiting for a GPU at every step, and led back to the first tensor with one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rssm_ros.training.replay import Batch
from rssm_ros.world_model import Signals


class Health:
    """Whether every update so far was finite, kept on the device until somebody asks.

    From the first bad one on nothing moves any more: neither parameters nor what the streams carry. So
    whoever asks later can make the bad update once more, from the same place, and look at it.
    """

    def __init__(self, device: torch.device, step: int = 0) -> None:
        """`step`: the update that comes next."""
        self.fine = torch.ones((), dtype=torch.bool, device=device)
        self.good = torch.zeros((), dtype=torch.int64, device=device)
        self.since = step

    def check(self, value: Tensor) -> None:
        """Take in a scalar that is NaN or Inf if anything of an update was."""
        self.fine &= torch.isfinite(value)

    def count(self) -> None:
        """An update is over."""
        self.good += self.fine

    def hold(self, last: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`last` if all is fine, otherwise what the streams carried before (zeros if nothing); contiguous."""
        return {
            name: torch.where(self.fine, value, before[name] if before else torch.zeros_like(value))
            for name, value in last.items()
        }

    def ask(self, step: int) -> int | None:
        """The first bad update of those before and at `step`; None if all were fine. Waits for the device."""
        if bool(self.fine):
            self.good.zero_()
            self.since = step
            return None
        return self.since + int(self.good)


def culprit(
    batch: Batch, signals: Signals, terms: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None]
) -> str | None:
    """The first tensor of an update with a NaN or Inf, as "group: name"; None if there is none.

    Labels are NaN where there is none, and so may be what an absent observation holds: neither counts.
    """
    labels = [f"{kind}_{name}" for kind in ("target", "visibility") for name, _ in signals.targets]
    labels += ["expert_action", "expert_before"]
    checked = {name: value for name, value in batch.items() if name not in labels}
    for name in signals.modalities:
        here = batch[f"recorded_{name}"].reshape(*batch["is_first"].shape, *[1] * (batch[name].dim() - 2))
        checked[name] = torch.where(here, batch[name], torch.zeros((), dtype=batch[name].dtype))
    groups = {
        "batch": checked,
        "loss term": {name: value for name, value in terms.items() if name != "loss"}
        | {"sum": terms["loss"]},
        "gradient": {name: gradient for name, gradient in gradients.items() if gradient is not None},
    }
    return _first_non_finite(groups)


def _first_non_finite(groups: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                return f"{group}: {name}"
    return None


def save_batch(batch: Batch, run: Path, step: int, rank: int = 0) -> Path:
    """RUN/bad-batch-STEP.safetensors (with the rank of a process beside the first)."""
    place = run / f"bad-batch-{step:08d}{f'-rank{rank}' if rank else ''}.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.cpu().contiguous() for name, value in batch.items()}, place)
    return place
