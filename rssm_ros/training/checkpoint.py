"""Checkpoints: safetensors + JSON, written beside the old one and renamed; the last good ones stay."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rssm_ros.behavior import Actor, Critic
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.learner import Learner
from rssm_ros.training.options import Options
from rssm_ros.world_model import Signals, Sizes, WorldModel

FOLDER = "checkpoints"
KEEP = 2
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True)
class Saved:
    """What a checkpoint directory holds, read into memory."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save(
    run: Path, step: int, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> Path:
    """Write RUN/checkpoints/step-N atomically and drop all but the newest two.

    A full disk or a kill at any moment leaves the previous checkpoint untouched; OSError passes through.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / f"step-{step:08d}", folder / f"partial-{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        # Copies, contiguous in plain layout: a channels-last weight would otherwise be refused.
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.items()}, partial / FILES[0])
        save_file(
            {k: v.detach().cpu().contiguous().clone() for k, v in optimizer.items()}, partial / FILES[1]
        )
        (partial / FILES[2]).write_text(json.dumps(state, indent=1, allow_nan=True))
        for name in FILES:
            with open(partial / name, "rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except (OSError, SafetensorError):
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def find(directory: Path) -> Path:
    """The newest complete checkpoint of a run, or the directory itself if it is one; TrainingError if
    none."""
    for candidate in [directory, *sorted((directory / FOLDER).glob("step-*"), reverse=True)]:
        if all((candidate / name).is_file() for name in FILES):
            return candidate
    raise TrainingError(
        f"no checkpoint in {directory}: expected {', '.join(FILES)} there or in {FOLDER}/step-*"
    )


def read(directory: Path) -> Saved:
    """Read the newest checkpoint; a damaged file is a TrainingError that names it."""
    place = find(directory)
    try:
        model, optimizer = load_file(place / FILES[0]), load_file(place / FILES[1])
        state = json.loads((place / FILES[2]).read_text())
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainingError(
            f"checkpoint {place} is damaged ({error}); delete it to fall back to the one before"
        ) from error
    return Saved(model, optimizer, state)


def read_state(directory: Path) -> dict[str, Any]:
    """`state.json` of the newest checkpoint alone; TrainingError if there is none or it is damaged."""
    place = find(directory)
    try:
        state: dict[str, Any] = json.loads((place / FILES[2]).read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"checkpoint {place} is damaged ({error}); delete it to fall back to the one before"
        ) from error
    return state


def stage(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's successors remember of it: one entry of a `chain`."""
    kept = ("name", "step", "elapsed_s", "ticks", "options", "data", "commit", "hardware")
    return {name: state.get(name) for name in kept}


def load_checkpoint(directory: Path | str) -> tuple[WorldModel, Actor, Critic, dict[str, Any]]:
    """World model, actor and critic of a run or checkpoint directory, in eval mode on the CPU, and its
    `state.json`.

    The state's keys: name, step, options, sizes, signals, contract, data, elapsed_s, validation, commit,
    hardware, and the `chain` of runs it started from, the first one first. TrainingError if unusable.
    """
    saved = read(Path(directory))
    options = Options.from_dict(saved.state["options"])
    learner = Learner(
        Signals.from_dict(saved.state["signals"]), Sizes.from_dict(saved.state["sizes"]), options
    )
    learner.load_state_dict(saved.model)
    learner.eval().requires_grad_(False)
    return learner.world_model, learner.actor, learner.critic, saved.state


def first_non_finite(groups: dict[str, dict[str, Tensor]]) -> str | None:
    """Name of the first tensor holding a NaN or Inf, as "group: name"."""
    for group, tensors in groups.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                return f"{group}: {name}"
    return None
