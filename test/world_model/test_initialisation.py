"""Initialisation as DREAMERV3.md defines it: a wrong fan-in trains worse, and nothing else shows it."""

import math

import pytest
import torch
from torch import Tensor, nn

from rssm_ros.behavior import Actor, Critic
from rssm_ros.world_model import Signals, WorldModel, preset
from rssm_ros.world_model.layers import BlockLinear, RMSNorm

SIGNALS = Signals((("odom", 5),), (("image", (64, 64, 3)),), 6, (("package", 2),))
SCALES = {
    "reward_head.out": 0.0,
    "fast.out": 0.0,
    "slow.out": 0.0,
    "mean": 0.01,
    "std": 0.01,
    "target_heads.package.out": 0.1,  # ours
}


def weights(module: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """Name -> weight, fan-in: a block linear counts its full input, a convolution its kernel too."""
    found = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            found[name] = part.weight.detach(), part.in_features
        elif isinstance(part, BlockLinear):
            found[name] = part.weight.detach(), part.weight.shape[0] * part.weight.shape[1]
        elif isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            found[name] = part.weight.detach(), part.in_channels * math.prod(part.kernel_size)
    return found


@pytest.mark.parametrize("conv", ["exact", "strided"])
def test_weights_are_truncated_normals_of_the_full_fan_in(conv: str) -> None:
    """1.1368 makes the standard deviation of the truncated normal 1 / sqrt(fan-in)."""
    torch.manual_seed(0)
    sizes = preset("size1m", conv=conv)
    for module in (WorldModel(SIGNALS, sizes), Actor(sizes, 6), Critic(sizes)):
        found = weights(module)
        assert sum(weight.numel() for weight, _ in found.values()) > 1e4
        for name, (weight, fan_in) in found.items():
            sigma = SCALES.get(name, 1.0) / math.sqrt(fan_in)
            assert float(weight.abs().max()) <= 2.0 * 1.1368 * sigma, name
            # The spread of a sample's standard deviation, with kurtosis 2.4, times 5.
            slack = 5.0 * math.sqrt(1.4 / (4.0 * weight.numel()))
            assert float(weight.std()) == pytest.approx(sigma, rel=slack), name
            assert abs(float(weight.mean())) <= 5.0 * sigma / math.sqrt(weight.numel()), name


def test_biases_start_at_zero_and_norms_at_one() -> None:
    model = WorldModel(SIGNALS, preset("size1m"))
    for name, value in model.named_parameters():
        if name.endswith(".bias") or ".absent." in name:
            assert not value.any(), name
    norms = [part.scale for part in model.modules() if isinstance(part, RMSNorm)]
    assert len(norms) > 20 and all(bool((scale == 1.0).all()) for scale in norms)


def test_the_first_predictions_are_exactly_zero() -> None:
    """Reward and value: their output starts at zero and their mean is a symmetric sum."""
    sizes = preset("size1m")
    features = torch.randn(4, sizes.features)
    assert torch.equal(WorldModel(SIGNALS, sizes).predict_reward(features), torch.zeros(4))
    assert torch.equal(Critic(sizes)(features), torch.zeros(4))
