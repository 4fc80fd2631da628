"""A layer with a gradient of its own has autograd's."""

import pytest
import torch
from torch.nn import functional as F

from rssm_ros.world_model import layers
from rssm_ros.world_model.layers import NORM_EPSILON, NormSiLU, blockwise


def formula(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return F.silu(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPSILON) * scale)


@pytest.mark.parametrize("shape", [(7,), (3, 16), (2, 5, 24), (0, 4)])
def test_norm_and_silu_and_their_gradients_are_the_formulas(shape):
    torch.manual_seed(1)
    layer = NormSiLU(shape[-1]).double()
    torch.nn.init.normal_(layer.scale)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape, dtype=torch.float64)
    ours, theirs = layer(x), formula(x, layer.scale)
    assert type(ours.grad_fn).__name__.startswith("_NormSiLU")  # it is what this test is about
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    for mine, expected in zip(
        torch.autograd.grad(ours, (x, layer.scale), weight),
        torch.autograd.grad(theirs, (x, layer.scale), weight),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


def test_half_precision_comes_back_as_it_went_in_and_is_computed_in_float32():
    layer = NormSiLU(16)
    x = torch.randn(8, 16).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours = layer(x)
    (gradient,) = torch.autograd.grad(ours.float().sum(), x)
    assert ours.dtype == gradient.dtype == torch.bfloat16
    wide = x.detach().float().requires_grad_()
    expected = formula(wide, layer.scale)
    assert torch.equal(ours.detach(), expected.detach().bfloat16())
    torch.testing.assert_close(
        gradient, torch.autograd.grad(expected.sum(), wide)[0].bfloat16(), rtol=2e-2, atol=1e-3
    )


@pytest.mark.parametrize("rows", [3, 2 * layers.MANY])
def test_blocks_are_one_product_on_a_gpu(rows, monkeypatch):
    """A loop over blocks is for a CPU's faster kernel; a GPU would start every block's product by itself."""
    x, weight = torch.randn(4, rows, 5), torch.randn(4, 5, 6)
    expected = torch.einsum("gni,gio->gno", x, weight)
    torch.testing.assert_close(blockwise(x, weight), expected, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(layers, "affine", None)
    there = blockwise(x.to("meta"), weight.to("meta"))
    assert there.shape == expected.shape and there.device.type == "meta"
