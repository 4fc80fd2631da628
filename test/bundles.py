"""A tiny bundle of random weights, exported once per test process."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rssm_ros.behavior import Actor, Critic
from rssm_ros.contract import find_contract
from rssm_ros.export.bundle import Model, Provenance, export_bundle
from rssm_ros.world_model import Signals, WorldModel, preset
from rssm_ros.world_model.tracking import Tracker

VARIANTS: dict[str, dict[str, Any]] = {
    "concat": {},
    "product": {"posterior": "product"},
    "gaussian": {"latent": "gaussian", "classes": 1},
    "gaussian-product": {"latent": "gaussian", "classes": 1, "posterior": "product"},
    "plain": {"blocks": 0, "activation": "relu", "normed": False, "prior_layers": 1},
    "plain-normed": {"blocks": 0, "gru": "normed", "activation": "elu", "latent": "gaussian", "classes": 1},
    "grounded": {
        "blocks": 0,
        "latent": "gaussian",
        "classes": 1,
        "stoch": 20,  # package and destination, two numbers each, and how they move
        "posterior": "product",
        "grounded": True,
    },
}

TRACKED = "tracked"  # the first of them, with a tracker beside it


def tiny_model(seed: int = 0, variant: str = "concat") -> Model:
    """A `debug`-sized model for the manipulator whose heads say something."""
    torch.manual_seed(seed)
    sizes, contract = replace(preset("debug"), **VARIANTS.get(variant, {})), find_contract("manipulator")
    world_model = WorldModel(Signals.from_contract(contract), sizes)
    tracker = Tracker(world_model) if variant == TRACKED else None
    model = Model(world_model, Actor(sizes, contract.action_dim), Critic(sizes), tracker)
    with torch.no_grad():
        for part in model.modules():
            for parameter in part.parameters():
                if not parameter.any():  # zero initialisation would hide a swapped weight
                    parameter.normal_(0.0, 0.1)
    return model


@cache
def tiny_bundle(variant: str = "concat") -> Path:
    """Its folder. Treat it as read-only; `shutil.copytree` it to damage it."""
    folder = Path(tempfile.mkdtemp(prefix="rssm-test-bundle-")) / "tiny"
    provenance = Provenance(
        dataset={"name": "made up", "hash": "0" * 64},
        training={"commit": "abc", "steps": 0},
        thresholds={"surprise": {"camera+joints+odom": 3.5}},
        scores={"note": "random weights"},
    )
    export_bundle(tiny_model(variant=variant), find_contract("manipulator"), folder, provenance, horizon=4)
    return folder
