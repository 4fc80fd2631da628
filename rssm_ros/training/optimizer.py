"""DreamerV3's optimizer: adaptive gradient clipping -> RMS scaling -> momentum -> learning rate.

Clipping by each tensor's own norm is AGC's (Brock et al. 2021), momentum after the scaling LaProp's (Ziyin et
al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

CLIP = 0.3
NORM_FLOOR = 1e-3
BETA_SQUARE, BETA_MOMENTUM = 0.999, 0.9
EPSILON = 1e-20


class Optimizer:
    """One for all parameters; every stage is one fused call over the whole list.

    A tensor without a gradient is left alone, and its bias corrections count its own updates only: one whose
    loss begins late starts as if it were new, instead of with steps that are nine times too large.
    """

    def __init__(self, named: Sequence[tuple[str, Tensor]]) -> None:
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.momentum = [torch.zeros_like(p) for p in self.parameters]
        self.counts = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], rate: float, fine: Tensor | None = None) -> Tensor:
        """Apply one update; returns the global norm of the unclipped gradients as a scalar tensor.

        `fine` (a bool scalar) goes down in place with the first gradient that is not finite, and once it is
        down nothing moves any more; on a GPU without the host having to know.
        """
        assert len(gradients) == len(self.parameters)
        given = [gradient for gradient in gradients if gradient is not None]
        gradient_norms = torch._foreach_norm(given)
        total: Tensor = torch.linalg.vector_norm(torch.stack(gradient_norms))
        if fine is not None:
            fine &= torch.isfinite(total)
            if fine.device.type == "cpu" and not bool(fine):
                return total
        active = [index for index, gradient in enumerate(gradients) if gradient is not None]
        for index in active:
            self.counts[index] += 1
        counts = [self.counts[index] for index in active]
        parameters, square, momentum = (
            [group[index] for index in active] for group in (self.parameters, self.square, self.momentum)
        )
        ceilings = torch._foreach_norm(parameters)
        torch._foreach_clamp_min_(ceilings, NORM_FLOOR)
        torch._foreach_mul_(ceilings, CLIP)
        # 1 / max(1, |g| / (0.3 max(|p|, 1e-3))) per tensor
        ratios = torch._foreach_div(gradient_norms, ceilings)
        torch._foreach_clamp_min_(ratios, 1.0)
        updates = torch._foreach_div(given, ratios)
        torch._foreach_mul_(square, BETA_SQUARE)
        torch._foreach_addcmul_(square, updates, updates, 1.0 - BETA_SQUARE)
        scales = torch._foreach_div(square, [1.0 - BETA_SQUARE**count for count in counts])
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, EPSILON)
        torch._foreach_div_(updates, scales)
        torch._foreach_lerp_(momentum, updates, 1.0 - BETA_MOMENTUM)
        steps = torch._foreach_mul(momentum, [-rate / (1.0 - BETA_MOMENTUM**count) for count in counts])
        if fine is not None and fine.device.type != "cpu":
            steps = tuple(torch.where(fine, step, step.new_zeros(())) for step in steps)
        torch._foreach_add_(parameters, steps)
        return total

    def state(self) -> dict[str, Tensor]:
        """All state as named tensors, for safetensors."""
        result = {"count": torch.tensor(self.counts, dtype=torch.int64)}
        for name, square, momentum in zip(self.names, self.square, self.momentum, strict=True):
            result[f"square/{name}"], result[f"momentum/{name}"] = square, momentum
        return result

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`; KeyError if a tensor is missing."""
        for name, square, momentum in zip(self.names, self.square, self.momentum, strict=True):
            square.copy_(state[f"square/{name}"])
            momentum.copy_(state[f"momentum/{name}"])
        count = state["count"]
        if count.dim():
            self.counts = [int(value) for value in count.tolist()]
        else:  # an older checkpoint counted for all at once; what never moved has no second moment
            self.counts = [int(count) if bool(square.any()) else 0 for square in self.square]


def learning_rate(peak: float, step: int, warmup: int, progress: float, decay: bool) -> float:
    """Linear warm-up, then constant, or a cosine down to 2 % of the peak over `progress` 0..1 of the
    budget.

    As DreamerV3's: update `step`, counted from 0, has step / warmup of the peak, so the first moves nothing.
    """
    rate = peak * (step / warmup if step < warmup else 1.0)
    if decay:
        rate *= 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    return rate
