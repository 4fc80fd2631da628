"""Building blocks: DreamerV3's Layer = Linear -> RMSNorm -> SiLU, and the block-diagonal linear.

Source of every constant: DreamerV3 (danijar/dreamerv3 at e3f0224).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPSILON = 1e-4
# Standard deviation correction for a normal truncated at two sigma.
TRUNCATION = 1.1368
MANY = 64  # rows from which on a copy for a faster kernel pays
ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def wide(x: Tensor) -> Tensor:
    """At least float32: what half precision must not round (statistics, exponentials, sums of squares)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def initialise(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill with a normal truncated at 2 sigma, sigma = 1.1368 / sqrt(fan_in), times `scale`; in place."""
    with torch.no_grad():
        sigma = TRUNCATION / math.sqrt(fan_in)
        nn.init.trunc_normal_(weight, 0.0, sigma, -2.0 * sigma, 2.0 * sigma)
        weight.mul_(scale)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: [..., in], [out, in], [out] -> [..., out].

    Many float32 rows on a CPU go through oneDNN: on AMD processors MKL keeps to 256-bit vectors and reaches
    less than half the speed. The values differ in the last bit or two.
    """
    many = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() >= MANY * x.shape[-1]
    if many and ONEDNN and not _elsewhere():
        # A strided weight would fall to a reference kernel, a thousand times slower.
        return F.linear(x.contiguous().to_mkldnn(), weight.contiguous(), bias).to_dense()
    return F.linear(x, weight, bias)


def _elsewhere() -> bool:
    """Whether autocast chooses the kernel, or a graph is being made of it."""
    return torch.is_autocast_enabled("cpu") or _staged()


def _staged() -> bool:
    """Whether this call only tells somebody what is to be computed later."""
    return bool(torch._C._get_tracing_state()) or torch.compiler.is_compiling()


def blockwise(x: Tensor, weight: Tensor) -> Tensor:
    """[G, N, in] x [G, in, out] -> [G, N, out]; block by block only where `affine` has the faster kernel."""
    if x.device.type != "cpu" or x.shape[1] < MANY or _elsewhere():
        return torch.bmm(x, weight)
    return torch.stack([affine(rows, block.t()) for rows, block in zip(x, weight, strict=True)])


class Linear(nn.Linear):
    """nn.Linear with DreamerV3's initialisation; `scale` 0 makes an output start at exactly zero."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__(inputs, outputs)
        initialise(self.weight, inputs, scale)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return affine(x, self.weight, self.bias)


class BlockLinear(nn.Module):
    """Block-diagonal linear: input block g feeds output block g only.

    The weight is [group, in, out] so that one bmm does all blocks, without a copy.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        initialise(self.weight, inputs)  # counts its *full* input as fan-in, as DreamerV3 does

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs] -> [N, outputs]."""
        grouped = x.reshape(-1, self.blocks, self.weight.shape[1]).transpose(0, 1)  # [G, N, in]
        return self.grouped(grouped).transpose(0, 1).reshape(x.shape[0], -1)

    def grouped(self, x: Tensor) -> Tensor:
        """[G, N, in] -> [G, N, out], for callers that already hold the grouped layout."""
        return blockwise(x, self.weight) + self.bias.reshape(self.blocks, 1, -1).to(x.dtype)


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x^2) + 1e-4) * scale over the last axis, in float32, no shift."""

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size], same dtype."""
        return self.scaled(wide(x)).to(x.dtype)

    def scaled(self, full: Tensor) -> Tensor:
        """The formula itself, in the precision that comes."""
        return full * torch.rsqrt(full.square().mean(-1, keepdim=True) + NORM_EPSILON) * self.scale


class NormSiLU(RMSNorm):
    """RMSNorm then SiLU, both in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> [..., size], same dtype."""
        full = wide(x)
        learning = torch.is_grad_enabled() and (full.requires_grad or self.scale.requires_grad)
        alike = full.dtype == self.scale.dtype and self.scale.dim() == 1
        if learning and alike and not _staged():
            result: Tensor = _NormSiLU.apply(full, self.scale)  # type: ignore[no-untyped-call]
            return result.to(x.dtype)
        return F.silu(self.scaled(full)).to(x.dtype)


class _NormSiLU(torch.autograd.Function):
    """The same with a gradient of its own: x [..., D], scale [D].

    What autograd makes of the formula goes over a feature map many times, half of them with a factor per row,
    which is slow where rows are short. This is a tenth less of an update at the manipulator's size on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            mean_square = torch.mv(rows * rows, torch.full_like(scale, 1.0 / len(scale)))
            inverse = torch.rsqrt(mean_square + NORM_EPSILON).unsqueeze(-1)  # [N, 1]
            unit = rows * inverse
            scaled = unit * scale
            ctx.save_for_backward(unit, inverse, scaled, scale)
            return F.silu(scaled).reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        unit, inverse, scaled, scale = ctx.saved_tensors
        of_scaled = torch.ops.aten.silu_backward(gradients[0].reshape(unit.shape), scaled)
        each = of_scaled * unit
        along = torch.mv(each, scale / len(scale)).unsqueeze(-1)  # [N, 1]: the share that the norm takes out
        of_rows = (of_scaled * scale).addcmul_(unit, along, value=-1.0).mul_(inverse)
        return of_rows.reshape(gradients[0].shape), each.sum(0)


def nonlinearity(size: int, activation: str = "silu", normed: bool = True) -> nn.Module:
    """What follows a linear: RMSNorm and SiLU (DreamerV3), or ReLU (PlaNet) or ELU (DreamerV1, V2) alone."""
    if normed:
        return NormSiLU(size) if activation == "silu" else nn.Sequential(RMSNorm(size), PLAIN[activation]())
    return PLAIN[activation]()


PLAIN: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU, "elu": nn.ELU}


class Layer(nn.Module):
    """Linear -> `nonlinearity`."""

    def __init__(self, inputs: int, outputs: int, activation: str = "silu", normed: bool = True) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs)
        self.norm = nonlinearity(outputs, activation, normed)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        result: Tensor = self.norm(self.linear(x))
        return result


class MLP(nn.Module):
    """`layers` Layers of `units`."""

    def __init__(self, inputs: int, units: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(inputs if i == 0 else units, units) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., units]."""
        for layer in self.layers:
            x = layer(x)
        return x


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))
