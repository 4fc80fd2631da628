"""A trained model -> a bundle on disk that has proven itself here."""

import copy
import os
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rssm_ros.behavior import Actor, Critic
from rssm_ros.bundle import GOLDEN, WEIGHTS, Bundle, Latent, write_manifest
from rssm_ros.contract import Contract
from rssm_ros.export import golden
from rssm_ros.export.card import model_card
from rssm_ros.export.errors import ExportError
from rssm_ros.export.graphs import Named, WeightsFile, export_graph
from rssm_ros.export.steps import Act, Decode, Encode, Filter, Predict, Rollout
from rssm_ros.export.torchscript import SUFFIX, export_torchscript
from rssm_ros.online.backends.backend import DEFAULT
from rssm_ros.online.session import Session
from rssm_ros.online.steps import Array
from rssm_ros.world_model import WorldModel
from rssm_ros.world_model.tracking import Tracker

HORIZON = 10  # ticks of rollout.onnx
SEED = 20  # of the golden vectors
STATE = {"deter", "stoch"}
DRIVEN = STATE | {"action", "is_first", "noise"}


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from; all of it ends up in bundle.json and in the model card."""

    dataset: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)


@dataclass
class Model:
    """What is exported."""

    world_model: WorldModel
    actor: Actor
    critic: Critic
    tracker: Tracker | None = None

    def modules(self) -> tuple[nn.Module, ...]:
        """All there are, in this order."""
        three = self.world_model, self.actor, self.critic
        return three if self.tracker is None else (*three, self.tracker)


def export_bundle(
    model: Model,
    contract: Contract,
    folder: Path,
    provenance: Provenance | None = None,
    horizon: int = HORIZON,
    torchscript: bool = False,
) -> Bundle:
    """Writes the bundle next to `folder`, loads and proves it, then puts it in place of what was there.

    torchscript: the steps as TorchScript files, too; they are proven like the graphs.

    Raises ExportError, or BundleError where the proof fails; then `folder` is untouched.
    """
    model = Model(*(copy.deepcopy(part).eval().float().cpu() for part in model.modules()))  # type: ignore[arg-type]
    _check(model, contract)
    provenance = provenance or Provenance()
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        with torch.no_grad():
            arrays = _graphs(model, contract, work, horizon, torchscript)
        np.savez_compressed(work / GOLDEN, **arrays)  # type: ignore[arg-type]
        latent = _latent(model, contract, horizon)
        bundle = write_manifest(_manifest(contract, latent, provenance, folder.name), work)
        _check_scores(bundle)
        (work / "README.md").write_text(model_card(bundle, work))
        for backend in (DEFAULT, "torchscript") if torchscript else (DEFAULT,):
            Session(work, backend=backend)  # the proof
        os.chmod(work, 0o755)
        _replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return bundle


def shuffled(model: Model, seed: int) -> Model:
    """A copy with the entries of every parameter permuted: the same statistics, no sense. For comparison
    only."""
    generator = torch.Generator().manual_seed(seed)
    copied = Model(*(copy.deepcopy(part) for part in model.modules()))  # type: ignore[arg-type]
    with torch.no_grad():
        for part in copied.modules():
            for parameter in part.parameters():
                order = torch.randperm(parameter.numel(), generator=generator)
                parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    return copied


def _check(model: Model, contract: Contract) -> None:
    names = {spec.name for spec in contract.observations}
    known, channels = set(model.world_model.rssm.tokens), model.world_model.rssm.action_dim
    if names != known or channels != contract.action_dim:
        raise ExportError(
            f"the model knows {sorted(known)} and {channels} action channels, the contract {contract.name!r} "
            f"has {sorted(names)} and {contract.action_dim}; train a model for this contract"
        )
    for part in model.modules():
        for name, parameter in part.named_parameters():
            if not torch.isfinite(parameter).all():
                raise ExportError(
                    f"parameter {name} holds values that are not finite; take an earlier checkpoint"
                )


def _check_scores(bundle: Bundle) -> None:
    """Scores that name their weights must be those of the weights just written."""
    told, found = bundle.scores.get("weights_sha256"), bundle.files[WEIGHTS]
    if told is not None and told != found:
        raise ExportError(
            f"the scores are of other weights (SHA-256 {str(told)[:12]}...) than this model's "
            f"({found[:12]}...); run `rssm evaluate-policy` on a bundle of this checkpoint"
        )


def _graphs(
    model: Model, contract: Contract, folder: Path, horizon: int, torchscript: bool
) -> dict[str, Array]:
    """Writes every graph and the weights; returns the golden arrays."""
    world_model, tracker = model.world_model, model.tracker
    generator = torch.Generator().manual_seed(SEED)
    arrays: dict[str, Array] = {}
    weights = WeightsFile(folder / WEIGHTS)

    def write(
        name: str, module: nn.Module, cases: list[Named], free: set[str], shared: Collection[str] = ()
    ) -> None:
        module.eval()
        export_graph(module, cases[0], free, folder / f"{name}.onnx", weights, shared)
        if torchscript:
            export_torchscript(module, cases[0], folder / (name + SUFFIX))
        for case, inputs in enumerate(cases):
            with golden.two_hot_scale(module) as scale:
                outputs = module(*inputs.values())
            golden.record(arrays, name, case, inputs, outputs, scale[-1])

    made = [golden.looked_at(contract, tracker, world_model, generator) for _ in range(2)]
    for name in world_model.rssm.tokens:
        write(f"encode_{name}", Encode(world_model, name, tracker), [{"value": m[name]} for m in made], set())
    step = Filter(world_model, tracker)
    cases = list(golden.filter_inputs(contract, step, generator))
    rows = golden.own_rows(step, cases[1], generator)
    write("filter", step, [*cases, rows], DRIVEN, cases[0].keys() - DRIVEN)
    predicted = [golden.predict_inputs(step, case, generator) for case in cases[:2]]
    write("predict", Predict(world_model, tracker), predicted, DRIVEN)
    state = {name: cases[-1][name] for name in ("deter", "stoch")}
    write("actor", Act(world_model, model.actor), [state], STATE)
    write("decoder", Decode(world_model), [{name: value[:1] for name, value in state.items()}], STATE)
    rollout = Rollout(world_model, model.critic, horizon, tracker)
    imagined = golden.rollout_inputs(rollout, state["deter"], state["stoch"], generator)
    write("rollout", rollout, [imagined], STATE | {"actions", "noise"})
    weights.close()
    return arrays


def _latent(model: Model, contract: Contract, horizon: int) -> Latent:
    world_model, tracker = model.world_model, model.tracker
    sizes = world_model.sizes
    targets = {spec.name: spec.dim for spec in contract.targets}
    tokens, track = dict(world_model.rssm.tokens), 0
    if tracker is not None:
        track = tracker.width
        tokens[tracker.image] += tracker.detector.outputs
    return Latent(
        sizes.deter + track,
        sizes.stoch,
        sizes.classes,
        tokens,
        contract.action_dim,
        targets,
        horizon,
        sizes.latent,
        own_tokens=True,
        weighs=world_model.rssm.weighs,
        track=track,
    )


def _manifest(contract: Contract, latent: Latent, provenance: Provenance, name: str) -> Bundle:
    scales = {"low": contract.low.tolist(), "high": contract.high.tolist()}
    return Bundle(
        name=name,
        contract=contract,
        latent=latent,
        files={},
        normalisation={
            s.name: "x / 255 - 0.5" if s.kind == "image" else "symlog" for s in contract.observations
        },
        action_scaling=scales,
        dataset=dict(provenance.dataset),
        training=dict(provenance.training),
        thresholds=dict(provenance.thresholds),
        scores=dict(provenance.scores),
        versions={
            package: metadata.version(package) for package in ("torch", "onnx", "onnxruntime", "numpy")
        },
    )


def _replace(work: Path, folder: Path) -> None:
    """Puts a finished folder in place; the old one is gone only once the new one is there."""
    old = folder.with_name(f".{folder.name}-old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
