"""Encoders: one per modality, raw observation -> tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.world_model.errors import WorldModelError
from rssm_ros.world_model.layers import MLP, NormSiLU, initialise, symlog, wide
from rssm_ros.world_model.sizes import Sizes


class VectorEncoder(nn.Module):
    """symlog -> Layers."""

    def __init__(self, length: int, sizes: Sizes) -> None:
        super().__init__()
        self.outputs = sizes.units
        self.mlp = MLP(length, sizes.units, sizes.encoder_layers)

    def forward(self, raw: Tensor) -> Tensor:
        """[..., length] float in the contract's units -> tokens [..., units]."""
        result: Tensor = self.mlp(symlog(raw.to(next(self.parameters()).dtype)))
        return result


class ImageEncoder(nn.Module):
    """x / 255 - 0.5 -> stages [convolution, (max-pool), RMSNorm over channels, SiLU] -> flat (h, w, c).

    Every stage halves; of a "map" the first alone, and the others are 3 x 3. `grid`: height and width at the
    end.
    """

    def __init__(self, shape: tuple[int, int, int], sizes: Sizes) -> None:
        super().__init__()
        self.pooled = sizes.conv == "exact"
        channels = [shape[2], *(sizes.depth * m for m in sizes.multipliers)]
        self.channels = tuple(channels[1:])
        stages = len(sizes.multipliers)
        self.halvings = halvings = 1 if sizes.conv == "map" else stages
        if shape[0] % 2**halvings or shape[1] % 2**halvings:
            raise WorldModelError(f"image {shape[1]} x {shape[0]} cannot be halved {halvings} times")
        self.grid = (shape[0] // 2**halvings, shape[1] // 2**halvings)
        kernels = [sizes.kernel if i < halvings else 3 for i in range(stages)]
        strides = [2 if i < halvings and not self.pooled else 1 for i in range(stages)]
        self.convs = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], kernels[i], strides[i], kernels[i] // 2)
            for i in range(stages)
        )
        for conv in self.convs:
            initialise(conv.weight, conv.weight[0].numel())  # type: ignore[arg-type, index]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.norms = nn.ModuleList(NormSiLU(size) for size in channels[1:])
        self.outputs = self.grid[0] * self.grid[1] * channels[-1]

    def forward(self, raw: Tensor) -> Tensor:
        """[..., H, W, C] uint8 -> tokens [..., h * w * channels]."""
        return self.flat(self.maps(raw)).reshape(*raw.shape[:-3], -1)

    def maps(self, raw: Tensor) -> list[Tensor]:
        """[..., H, W, C] uint8 -> every stage's map, finest first: [N, channels, h, w] each."""
        x = raw.flatten(0, -4) if raw.dim() > 3 else raw.unsqueeze(0)
        x = x.permute(0, 3, 1, 2)  # a channels-last view, no copy of the bytes
        x = x.to(next(self.parameters()).dtype) / 255.0 - 0.5
        found = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x)
            if self.pooled:
                x = F.max_pool2d(x, 2)
            x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            found.append(x)
        return found

    @staticmethod
    def flat(maps: list[Tensor]) -> Tensor:
        """The last of the maps as tokens [N, h * w * channels]."""
        return wide(maps[-1]).permute(0, 2, 3, 1).flatten(1)


def absent_filled(raw: Tensor, present: Tensor) -> Tensor:
    """raw [..., *one observation], present [...] bool -> raw, with zeros for what is absent.

    Before any arithmetic, so that what an absent one held (a NaN) changes no bit.
    """
    shape = present.shape + (1,) * (raw.dim() - present.dim())
    return torch.where(present.reshape(shape), raw, raw.new_zeros(()))
