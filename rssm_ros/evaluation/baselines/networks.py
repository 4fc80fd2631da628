"""The networks of `rssm train-baseline` beside a bundle: told the same ticks, in order, and no more.

Loaded only where one is asked for: everything else of an evaluation needs no torch.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rssm_ros.bundle import Bundle
from rssm_ros.contract import Contract, ContractError
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.ticks import Row
from rssm_ros.training import checkpoint
from rssm_ros.training.baseline_networks import BaselineNetwork, load_baseline
from rssm_ros.training.errors import TrainingError

Array = npt.NDArray[Any]
WORDS = {  # kind -> what it is
    "recurrent": "a recurrent network (GRU of {deter}) of the bundle's encoders and target heads, without a "
    "latent, told pictures, vectors and actions as the bundle is",
    "frames": "a network of the bundle's encoders and target heads, told this tick's pictures and vectors "
    "alone",
}


@lru_cache(maxsize=8)
def _loaded(folder: Path) -> BaselineNetwork:
    torch.set_num_threads(1)  # as the filter beside it; all cores have recordings of their own
    return load_baseline(folder)[0]


@dataclass
class Follower:
    """One network on its way through one recording; what it remembers is all that it keeps."""

    network: BaselineNetwork
    contract: Contract
    _state: Tensor | None = None
    _episode: int = field(default=-1)

    @staticmethod
    def of(folder: Path, contract: Contract) -> "Follower":
        """At the beginning of a recording. Raises EvaluationError for a network of another contract, and for
        one that cannot be read here (on another machine, perhaps).
        """
        _check(folder, _state(folder), contract)
        try:
            return Follower(_loaded(folder), contract)
        except TrainingError as error:
            raise EvaluationError(f"--baseline-model {folder}: {error}") from error

    @torch.inference_mode()
    def follow(self, rows: Sequence[Row]) -> Mapping[str, Array]:
        """The next T rows -> mean and std of every target, [T, 2, d]; from nothing where an episode begins.

        T may be anything: what comes out of a tick depends on nothing that came after it.
        """
        targets = self.contract.targets
        if not rows:
            return {spec.name: np.zeros((0, 2, spec.dim)) for spec in targets}
        episodes = np.array([row.episode for row in rows])
        first = np.r_[self._episode, episodes[:-1]] != episodes
        self._episode = int(episodes[-1])
        observed, presence = {}, {}
        for spec in self.contract.observations:
            given = [row.taken.values.get(spec.name) for row in rows]
            kind = np.uint8 if spec.kind == "image" else np.float32
            nothing = np.zeros(spec.shape, kind)
            observed[spec.name] = _batch(np.stack([nothing if v is None else v for v in given]).astype(kind))
            presence[spec.name] = _batch(np.array([value is not None for value in given]))
        action = _batch(np.stack([row.taken.action for row in rows]).astype(np.float32))
        features, self._state = self.network.features(
            self.network.encode(observed, presence), presence, action, _batch(first), self._state
        )
        claims = self.network.claims(features)
        return {
            name: torch.stack([part[0] for part in pair], 1).double().numpy() for name, pair in claims.items()
        }


def _batch(values: Array) -> Tensor:
    """[T, ...] -> one row of a batch, [1, T, ...]."""
    return torch.from_numpy(np.ascontiguousarray(values)).unsqueeze(0)


def about(models: Mapping[str, str], bundle: Bundle) -> dict[str, str]:
    """NAME -> what each is, was told and was trained on, in a sentence.

    Raises EvaluationError for one of another contract or that cannot be read: before anything is played.
    """
    told = {}
    for name, folder in models.items():
        state = _state(Path(folder))
        _check(Path(folder), state, bundle.contract)
        told[name] = _told(state, bundle)
    return told


def _state(folder: Path) -> dict[str, Any]:
    try:
        return checkpoint.read_state(folder)
    except TrainingError as error:
        raise EvaluationError(f"--baseline-model {folder}: {error}") from error


def _told(state: Mapping[str, Any], bundle: Bundle) -> str:
    words = WORDS[state[checkpoint.BASELINE]].format(deter=state["sizes"]["deter"])
    minutes, hashes = state["processor_s"] / 60, state["hashes"]
    one = hashlib.sha256("".join(str(item) for item in hashes).encode()).hexdigest()[:12]
    entries = [item for item in bundle.dataset.values() if isinstance(item, Mapping)]
    same = None not in hashes and set(hashes) == {item.get("sha256") for item in entries}
    whose = "the bundle's own training data" if same else "other data than the bundle"
    text = (
        f"{words}; {state['parameters']:,} parameters; trained on {whose} ({', '.join(state['data'])}: "
        f"{state['ticks']:,} ticks, SHA-256 {one}), {state['step']:,} updates in {minutes:.0f} minutes of "
        "processor time"
    )
    steps, hours = bundle.training.get("steps"), bundle.training.get("hours")
    if steps and hours:
        text += f" (the bundle: {steps:,} in {60 * hours:.0f} minutes by the clock)"
    return text + "; its regions are those of its normal distribution, not calibrated"


def _check(folder: Path, state: Mapping[str, Any], contract: Contract) -> None:
    """EvaluationError where a network means other things by the numbers that it would be given."""
    if checkpoint.BASELINE not in state:
        raise EvaluationError(
            f"--baseline-model {folder}: holds a world model; make a baseline with `rssm train-baseline`"
        )
    try:
        then = _meaning(Contract.from_dict(state["contract"]))
    except (KeyError, ContractError) as error:
        raise EvaluationError(f"--baseline-model {folder}: its contract cannot be read ({error})") from error
    now = _meaning(contract)
    differ = [part for part in now if now[part] != then[part]]
    if differ:
        raise EvaluationError(
            f"--baseline-model {folder}: trained under another contract than the bundle's "
            f"({', '.join(differ)} differ); train it with --contract of the bundle's"
        )


def _meaning(contract: Contract) -> dict[str, Any]:
    """What decides how a network reads numbers, and what its own mean; topics and waits may differ."""
    return {
        "rate": contract.rate,
        "observations": [
            (spec.name, spec.kind, spec.shape, spec.fields, spec.names) for spec in contract.observations
        ],
        "actions": [(spec.channels, spec.low, spec.high) for spec in contract.actions],
        "targets": [(spec.name, spec.fields, spec.unit) for spec in contract.targets],
    }
