"""The recorded DreamerV3 run of test/data/dreamerv3_golden.npz, and its parameters in our layout.

Source: danijar/dreamerv3 at e3f0224, run in JAX float32 on a CPU at a tiny size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rssm_ros.behavior import Actor
from rssm_ros.world_model import Signals, Sizes, WorldModel

FILE = Path(__file__).parents[1] / "data" / "dreamerv3_golden.npz"
SIZES = Sizes(deter=64, hidden=16, stoch=4, classes=8, blocks=8, depth=4, units=16, conv="exact")
SIGNALS = Signals((("odom", 5),), (("image", (64, 64, 3)),), 2, ())


def load() -> dict[str, Tensor]:
    """Every recorded array as a tensor."""
    with np.load(FILE) as data:
        return {name: torch.from_numpy(data[name]) for name in data.files}


def _dense(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.weight": f"{theirs}/kernel", f"{ours}.bias": f"{theirs}/bias"}


def _layer(ours: str, theirs: str, norm: str) -> dict[str, str]:
    return _dense(f"{ours}.linear", theirs) | {f"{ours}.norm.scale": f"{norm}/scale"}


def _mlp(ours: str, theirs: str, layers: int) -> dict[str, str]:
    names: dict[str, str] = {}
    for i in range(layers):
        names |= _layer(f"{ours}.layers.{i}", f"{theirs}/linear{i}", f"{theirs}/norm{i}")
    return names


def _names() -> dict[str, str]:
    rssm = _layer("rssm.input_deter", "dyn/dynin0", "dyn/dynin0norm")
    rssm |= _layer("rssm.input_stoch", "dyn/dynin1", "dyn/dynin1norm")
    rssm |= _layer("rssm.input_action", "dyn/dynin2", "dyn/dynin2norm")
    rssm |= _dense("rssm.dynamics", "dyn/dynhid0") | {"rssm.dynamics_norm.scale": "dyn/dynhid0norm/scale"}
    rssm |= _dense("rssm.gates", "dyn/dyngru")
    rssm |= _layer("rssm.prior_layers.0", "dyn/prior0", "dyn/prior0norm")
    rssm |= _layer("rssm.prior_layers.1", "dyn/prior1", "dyn/prior1norm")
    rssm |= _dense("rssm.prior_logits", "dyn/priorlogit")
    rssm |= _layer("rssm.posterior_layer", "dyn/obs0", "dyn/obs0norm")
    rssm |= _dense("rssm.posterior_logits", "dyn/obslogit")
    for i in range(3):
        rssm |= _layer(f"encoders.odom.mlp.layers.{i}", f"enc/mlp{i}", f"enc/mlp{i}norm")
    for i in range(4):
        rssm |= _dense(f"encoders.image.convs.{i}", f"enc/cnn{i}")
        rssm |= {f"encoders.image.norms.{i}.scale": f"enc/cnn{i}norm/scale"}
    image = "image_decoders.image"
    rssm |= _dense(f"{image}.from_deter", "dec/sp0") | _layer(
        f"{image}.from_stoch.0", "dec/sp1", "dec/sp1norm"
    )
    rssm |= _dense(f"{image}.from_stoch.1", "dec/sp2") | {f"{image}.start_norm.scale": "dec/spnorm/scale"}
    for i, theirs in enumerate(("conv2", "conv1", "conv0", "imgout")):
        rssm |= _dense(f"{image}.convs.{i}", f"dec/{theirs}")
        if i < 3:
            rssm |= {f"{image}.norms.{i}.scale": f"dec/{theirs}norm/scale"}
    rssm |= _mlp("vector_decoders.odom.mlp", "dec/mlp", 3) | _dense(
        "vector_decoders.odom.out", "dec/vec/odom/pred"
    )
    rssm |= _mlp("reward_head.mlp", "rew/mlp", 1) | _dense("reward_head.out", "rew/head/logits")
    rssm |= _mlp("continue_head.mlp", "con/mlp", 1) | _dense("continue_head.out", "con/head/logit")
    return rssm


def _fill(state: dict[str, Tensor], names: dict[str, str], golden: dict[str, Tensor]) -> None:
    for ours, theirs in names.items():
        value = golden[f"param/{theirs}"]
        if value.dim() == 4:
            value = value.permute(3, 2, 0, 1)  # (h, w, in, out) -> (out, in, h, w)
        elif value.dim() == 2:
            value = value.T
        if ours == "rssm.posterior_layer.linear.weight":  # ours also reads two absence flags
            value = torch.cat([value, torch.zeros(value.shape[0], 2)], 1)
        assert state[ours].shape == value.shape, (ours, state[ours].shape, value.shape)
        state[ours].copy_(value)


def world_model(golden: dict[str, Tensor]) -> WorldModel:
    """Our model with the recorded parameters; every parameter but the absent embeddings is set."""
    model = WorldModel(SIGNALS, SIZES)
    state, names = model.state_dict(), _names()
    assert {name for name in state if ".absent." not in name} == set(names)
    _fill(state, names, golden)
    return model


def actor(golden: dict[str, Tensor]) -> Actor:
    """Our actor with the recorded parameters."""
    model = Actor(SIZES, 2)
    names = _mlp("mlp", "pol/mlp", 3)
    names |= _dense("mean", "pol/head/action/mean") | _dense("std", "pol/head/action/stddev")
    _fill(model.state_dict(), names, golden)
    return model
