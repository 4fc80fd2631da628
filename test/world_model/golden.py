"""The recorded DreamerV3 run of test/data/dreamerv3_golden.npz, and its parameters in our layout.

Source: danijar/dreamerv3 at e3f0224, run in JAX float32 on a CPU at a tiny size, with randomised biases and
scales. `param/*` are its parameters under their official names, `in/*` inputs, `out/*` outputs, `lam/*`
lambda returns and `opt/*` four optimizer steps.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rssm_ros.behavior import Actor
from rssm_ros.behavior.port import actor_from_dreamerv3
from rssm_ros.world_model import Signals, Sizes, WorldModel
from rssm_ros.world_model.port import from_dreamerv3

from .reference import Network

FILE = Path(__file__).parents[1] / "data" / "dreamerv3_golden.npz"
SIZES = Sizes(deter=64, hidden=16, stoch=4, classes=8, blocks=8, depth=4, units=16, conv="exact")
SIGNALS = Signals((("odom", 5),), (("image", (64, 64, 3)),), 2, ())
NETWORK = Network(64, 16, 4, 8, 8, 4, 16, {"odom": (5, 0)}, {"image": (64, 64, 3)}, {"action": 2})
UNIMIX = 0.01
RATE = 4e-5  # of the four recorded optimizer steps; no warm-up


def load() -> dict[str, Tensor]:
    """Every recorded array as a tensor."""
    with np.load(FILE) as data:
        return {name: torch.from_numpy(data[name]) for name in data.files}


def names() -> list[str]:
    """Of every recorded array, without reading them."""
    with np.load(FILE) as data:
        return list(data.files)


def parameters(golden: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The official parameters under their official names."""
    return {name[6:]: value.numpy() for name, value in golden.items() if name.startswith("param/")}


def world_model(golden: dict[str, Tensor]) -> WorldModel:
    """Our model with the recorded parameters."""
    model = from_dreamerv3(parameters(golden), SIZES)
    assert model.signals == SIGNALS
    return model.eval()


def actor(golden: dict[str, Tensor]) -> Actor:
    """Our actor with the recorded parameters."""
    return actor_from_dreamerv3(parameters(golden), SIZES)
