"""Decoders: features -> observations, for training signals and for people to look at."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.world_model.errors import WorldModelError
from rssm_ros.world_model.layers import MLP, BlockLinear, Layer, Linear, NormSiLU, initialise, wide
from rssm_ros.world_model.sizes import Sizes


class ImageDecoder(nn.Module):
    """DreamerV3's: a spatial start from deter (block linear) plus one from stoch, then doubling stages."""

    def __init__(self, shape: tuple[int, int, int], sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.strided = sizes.conv != "exact"
        stages = len(sizes.multipliers)
        if shape[0] % 2**stages or shape[1] % 2**stages:
            raise WorldModelError(f"image {shape[1]} x {shape[0]} cannot be doubled to in {stages} stages")
        channels = [sizes.depth * m for m in reversed(sizes.multipliers)] + [shape[2]]
        self.start = (shape[0] // 2**stages, shape[1] // 2**stages, channels[0])
        flat = self.start[0] * self.start[1] * self.start[2]
        self.groups = max(1, sizes.blocks)
        self.from_deter = BlockLinear(sizes.deter, flat, self.groups)
        self.from_stoch = nn.Sequential(
            Layer(sizes.stoch_flat, 2 * sizes.units), Linear(2 * sizes.units, flat)
        )
        self.start_norm = NormSiLU(channels[0])
        self.convs = nn.ModuleList(self._stage(channels[i], channels[i + 1], sizes) for i in range(stages))
        for conv in self.convs:
            weight = conv.weight
            assert isinstance(weight, Tensor) and isinstance(conv.bias, Tensor)
            fan_in = weight[:, 0].numel() if self.strided else weight[0].numel()
            initialise(weight, fan_in)
            nn.init.zeros_(conv.bias)
        self.norms = nn.ModuleList(NormSiLU(size) for size in channels[1:-1])

    def _stage(self, inputs: int, outputs: int, sizes: Sizes) -> nn.Module:
        if self.strided:
            return nn.ConvTranspose2d(inputs, outputs, sizes.kernel, 2, sizes.kernel // 2, output_padding=1)
        return nn.Conv2d(inputs, outputs, sizes.kernel, 1, sizes.kernel // 2)

    def forward(self, features: Tensor) -> Tensor:
        """[..., D + S K] -> [..., H, W, C] in 0..1, float32."""
        flat = features.reshape(-1, features.shape[-1])
        height, width, channels = self.start
        g = self.groups
        deter, stoch = flat[:, : self.sizes.deter], flat[:, self.sizes.deter :]
        x = self.from_deter(deter).reshape(-1, g, height, width, channels // g)
        x = x.permute(0, 2, 3, 1, 4).reshape(-1, height, width, channels)  # (g h w c) -> h w (g c)
        x = x + self.from_stoch(stoch).reshape(-1, height, width, channels)
        x = self.start_norm(x).permute(0, 3, 1, 2)
        for index, conv in enumerate(self.convs):
            if not self.strided:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = conv(x)
            if index < len(self.norms):
                x = self.norms[index](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return torch.sigmoid(wide(x.permute(0, 2, 3, 1))).reshape(
            *features.shape[:-1], *x.shape[2:], x.shape[1]
        )


class VectorDecoder(nn.Module):
    """Predicts the symlog of a vector. DreamerV3's input order here is [stoch, deter]."""

    def __init__(self, length: int, sizes: Sizes) -> None:
        super().__init__()
        self.deter = sizes.deter
        self.mlp = MLP(sizes.features, sizes.units, sizes.encoder_layers)
        self.out = Linear(sizes.units, length)

    def forward(self, features: Tensor) -> Tensor:
        """[..., D + S K] -> [..., length] in symlog space."""
        x = torch.cat([features[..., self.deter :], features[..., : self.deter]], -1)
        result: Tensor = wide(self.out(self.mlp(x)))
        return result
