"""Untrained models to measure: a camera, one target, the actions of the manipulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from rssm_ros.behavior import Actor, Critic
from rssm_ros.contract import Contract, find_contract
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.export.bundle import Model, export_bundle
from rssm_ros.export.graphs import Named, WeightsFile, export_graph
from rssm_ros.export.steps import Filter
from rssm_ros.world_model import Signals, WorldModel, preset

HORIZON = 2  # of rollout.onnx, which nobody measures here


def camera_contract() -> Contract:
    """The manipulator's contract with its camera alone and its first target: what published RSSMs see."""
    whole = find_contract("manipulator")
    cameras = tuple(spec for spec in whole.observations if spec.kind == "image")
    if not cameras or not whole.targets:
        raise EvaluationError("the manipulator's contract has no camera or no target to measure a model with")
    return replace(whole, observations=cameras[:1], targets=whole.targets[:1])


def untrained(size: str, conv: str, contract: Contract) -> Model:
    """A model of a preset with its initial weights."""
    torch.manual_seed(0)
    sizes = preset(size, conv=conv)
    world_model = WorldModel(Signals.from_contract(contract), sizes)
    return Model(world_model, Actor(sizes, contract.action_dim), Critic(sizes))


def temporary_bundle(
    size: str, conv: str, contract: Contract, folder: Path, torchscript: bool = False
) -> tuple[Model, Path]:
    """The model and the bundle it became, inside `folder`."""
    model = untrained(size, conv, contract)
    place = folder / f"{size}-{conv}"
    export_bundle(model, contract, place, horizon=HORIZON, torchscript=torchscript)
    return model, place


class CoreFilter(Filter):
    """Predict and correct, without heads."""

    def forward(
        self, deter: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor, noise: Tensor, *seen: Tensor
    ) -> Named:
        """As `Filter`, but only the state and its two distributions come out."""
        whole = super().forward(deter, stoch, action, is_first, noise, *seen)
        return {name: whole[name] for name in ("next_deter", "next_stoch", "prior", "posterior")}


def core_graph(world_model: WorldModel, folder: Path, threads: int) -> onnxruntime.InferenceSession:
    """`CoreFilter` as an onnxruntime session with the options of `online.backends.onnx`."""
    from rssm_ros.online.backends.onnx import open_graph

    inputs: Named = {
        "deter": torch.zeros(1, world_model.sizes.deter),
        "stoch": torch.zeros(1, world_model.sizes.stoch, dtype=torch.int64),
        "action": torch.zeros(1, world_model.signals.action_dim),
        "is_first": torch.zeros(1, dtype=torch.bool),
        "noise": torch.full((1, world_model.sizes.stoch), 0.5),
    }
    for name, size in world_model.rssm.tokens.items():
        inputs |= {
            f"tokens_{name}": torch.zeros(1, size),
            f"presence_{name}": torch.ones(1, dtype=torch.bool),
        }
    weights = WeightsFile(folder / "weights.bin")
    free = {"deter", "stoch", "action", "is_first", "noise"}
    export_graph(CoreFilter(world_model).eval(), inputs, free, folder / "core.onnx", weights)
    weights.close()
    return open_graph(folder / "core.onnx", threads)
