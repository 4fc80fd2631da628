"""Checkpoints: safetensors + JSON, written beside the old one and renamed; the last good ones stay."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rssm_ros.behavior import Actor, Critic
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.learner import Learner
from rssm_ros.training.options import Options
from rssm_ros.world_model import Signals, Sizes, WorldModel
from rssm_ros.world_model.tracking import Tracker

FOLDER = "checkpoints"
KEEP = 2
GONE = ("returns.weight",)  # tensors of old versions that nothing needs any more
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
TRACKER = "tracker"  # the key of a state that also holds one, and the prefix of its tensors
BASELINE = "baseline"  # the key of a state that says which baseline it is; a world model's state has none


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

    A full disk or a kill at any moment leaves the previous checkpoint untouched; OSError or SafetensorError
    pass through. Where step-N is there already only what the words and figures say is renewed: a run's
    tensors at a step are what they are, and the only good copy is never taken away to be written again.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / f"step-{step:08d}", folder / f"partial-{os.getpid()}.tmp"
    for left in folder.glob("partial-*"):  # of a process that was killed; the run's lock keeps others out
        shutil.rmtree(left, ignore_errors=True)
    words = json.dumps(state, indent=1, allow_nan=True)
    try:
        partial.mkdir()
        (partial / FILES[2]).write_text(words)
        if _complete(final):
            _to_disk(partial / FILES[2])
            os.replace(partial / FILES[2], final / FILES[2])
            partial.rmdir()
        else:
            # Copies, contiguous in plain layout: a channels-last weight would otherwise be refused.
            for name, tensors in zip(FILES, (model, optimizer)):
                plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
                save_file(plain, partial / name)
            for name in FILES:
                _to_disk(partial / name)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
        _to_disk(folder)
    except (OSError, SafetensorError):
        shutil.rmtree(partial, ignore_errors=True)
        raise
    places = sorted(folder.glob("step-*"))
    kept = [place for place in places if _complete(place)][-KEEP:]
    for old in places:
        if old not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return final


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _complete(place: Path) -> bool:
    return all((place / name).is_file() for name in FILES)


def steps(run: Path) -> list[int]:
    """Steps of a run's complete checkpoints, in order."""
    places = sorted((run / FOLDER).glob("step-*"))
    return [int(place.name.removeprefix("step-")) for place in places if _complete(place)]


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Inside, no other process trains into RUN; TrainingError if one does. A killed one holds nothing."""
    run.mkdir(parents=True, exist_ok=True)
    with open(run / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"another process is training into {run}; wait for it, stop it, or choose another --out"
            ) from None
        except OSError:  # a file system that has no locks
            pass
        yield


def find(directory: Path) -> Path:
    """The newest complete checkpoint of a run, or the directory itself if it is one; TrainingError if
    none."""
    for candidate in [directory, *sorted((directory / FOLDER).glob("step-*"), reverse=True)]:
        if _complete(candidate):
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
    for name in GONE:
        model.pop(name, None)
    return Saved(model, optimizer, state)


def read_world_model(directory: Path) -> Saved:
    """`read`, and a TrainingError where a baseline lies there instead."""
    saved = read(directory)
    if BASELINE in saved.state:
        raise TrainingError(
            f"{directory} holds the baseline {saved.state[BASELINE]!r}, no world model; "
            "it is for `rssm evaluate --baseline-model`"
        )
    return saved


def read_tracker(directory: Path) -> Saved:
    """`read`, and a TrainingError where no world model with a tracker lies there."""
    saved = read_world_model(directory)
    if TRACKER not in saved.state:
        raise TrainingError(f"{directory} holds a world model without a tracker; choose another --out")
    return saved


def read_baseline(directory: Path, kind: str | None = None) -> Saved:
    """`read`, and a TrainingError where no baseline lies there, or not the one of that kind."""
    saved = read(directory)
    found = saved.state.get(BASELINE)
    if found is None or kind not in (None, found):
        advice = "choose another --out" if kind else "make one with `rssm train-baseline`"
        raise TrainingError(
            f"{directory} holds {found or 'a world model'}, not {kind or 'a baseline'}; {advice}"
        )
    return saved


def fill(module: nn.Module, tensors: Mapping[str, Tensor], whose: str) -> None:
    """Overwrite all of a module's tensors; TrainingError where they do not fit. whose: for the message."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise TrainingError(
            f"{whose}: the checkpoint's tensors do not fit what its options describe ({first}); "
            "was it made by another version of this package?"
        ) from error


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


def read_options(directory: Path) -> dict[str, Any]:
    """What a run was told, for `Options.from_dict`; TrainingError if its checkpoint does not say."""
    options = read_state(directory).get("options")
    if not isinstance(options, dict):
        raise TrainingError(f"{directory}: its checkpoint has no options; choose another run")
    return options


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
    saved = read_world_model(Path(directory))
    own = {name: value for name, value in saved.model.items() if not name.startswith(f"{TRACKER}.")}
    options = Options.from_dict(saved.state["options"])
    learner = Learner(
        Signals.from_dict(saved.state["signals"]), Sizes.from_dict(saved.state["sizes"]), options
    )
    fill(learner, own, str(directory))
    learner.eval().requires_grad_(False)
    return learner.world_model, learner.actor, learner.critic, saved.state


def load_tracker(directory: Path | str, world_model: WorldModel, state: Mapping[str, Any]) -> Tracker | None:
    """The tracker beside `load_checkpoint`'s world model, in eval mode on the CPU; None where there is none.

    state: what `load_checkpoint` gave. TrainingError if unusable.
    """
    if TRACKER not in state:
        return None
    tracker, prefix = Tracker(world_model), f"{TRACKER}."
    saved = read_tracker(Path(directory))
    if saved.state["step"] != state["step"]:
        raise TrainingError(f"{directory}: the run has gone on meanwhile; export again")
    own = {n.removeprefix(prefix): value for n, value in saved.model.items() if n.startswith(prefix)}
    fill(tracker, own, str(directory))
    return tracker.eval().requires_grad_(False)
