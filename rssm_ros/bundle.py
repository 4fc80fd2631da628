"""The bundle: an exported model on disk that proves itself. The paper work, not how to run it.

A bundle is a folder: `bundle.json`, ONNX graphs that share one `weights.bin`, `golden.npz` (inputs and the
outputs they must give) and a model card. No pickle anywhere.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rssm_ros.contract import Contract, ContractError
from rssm_ros.files import write_whole

SCHEMA = 1
MANIFEST, GOLDEN, WEIGHTS = "bundle.json", "golden.npz", "weights.bin"
STEPS = (
    "filter",
    "predict",
    "rollout",
    "actor",
    "decoder",
)  # <name>.onnx; encoders are encode_<modality>.onnx


class BundleError(ValueError):
    """A bundle that cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Latent:
    """Sizes of the latent state and of what goes with it."""

    deter: int  # D
    stoch: int  # S groups
    classes: int  # K per group
    tokens: dict[str, int]  # E_m per modality
    action: int  # A
    targets: dict[str, int]  # d per target
    horizon: int  # H of rollout.onnx
    kind: str = "categorical"  # or "gaussian": then K = 1, and a distribution is mean and std
    own_tokens: bool = False  # filter.onnx takes one row of tokens, or one per particle; False: only one
    weighs: bool = False  # filter.onnx says what an observation is worth to each particle
    track: int = 0  # of deter, the last ones: where a tracker beside the model has the targets

    @property
    def parameters(self) -> int:
        """P: numbers per group that describe a distribution."""
        return 2 if self.kind == "gaussian" else self.classes


@dataclass(frozen=True)
class Bundle:
    """What bundle.json says."""

    name: str
    contract: Contract
    latent: Latent
    files: dict[str, str]  # name -> SHA-256
    normalisation: dict[str, str] = field(default_factory=dict)
    action_scaling: dict[str, list[float]] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)  # name, hash, ticks
    training: dict[str, Any] = field(default_factory=dict)  # commit, steps, hours, command, model sizes
    thresholds: dict[str, dict[str, float]] = field(default_factory=dict)  # "surprise": pattern -> nats
    calibration: dict[str, Any] = field(default_factory=dict)  # "regions": target -> map; "data": its hash
    scores: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()
    sha256: str = ""  # of bundle.json itself, and through it of every file

    def surprise_threshold(self, present: Iterable[str]) -> float:
        """The calibrated threshold in nats for a tick with these modalities; NaN where there is none."""
        return float(self.thresholds.get("surprise", {}).get(pattern(present), math.nan))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in bundle.json."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {"schema": SCHEMA, **plain, "contract": self.contract.to_dict(), "latent": asdict(self.latent)}


_PLAIN = (
    "name",
    "files",
    "normalisation",
    "action_scaling",
    "dataset",
    "training",
    "thresholds",
    "calibration",
    "scores",
    "versions",
)


def pattern(present: Iterable[str]) -> str:
    """The name of a presence pattern: `camera+joints+odom`."""
    return "+".join(sorted(present))


def needed_files(contract: Contract) -> list[str]:
    """Every file a bundle for this contract must hold, besides bundle.json."""
    encoders = [f"encode_{spec.name}.onnx" for spec in contract.observations]
    return [*encoders, *(f"{step}.onnx" for step in STEPS), WEIGHTS, GOLDEN]


def load_bundle(folder: Path | str) -> Bundle:
    """Reads bundle.json and checks every file's hash. Raises BundleError."""
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder}: there is no such bundle; give the folder that `rssm export` wrote")
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
        data = json.loads(raw)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); export the bundle again") from error
    except ValueError as error:
        raise BundleError(f"{path}: is not valid JSON ({error}); export the bundle again") from error
    bundle = _from_dict(data, path, hashlib.sha256(raw).hexdigest())
    for name in sorted({*bundle.files, *needed_files(bundle.contract)}):
        _check_file(folder / name, bundle.files.get(name))
    return bundle


def write_manifest(bundle: Bundle, folder: Path) -> Bundle:
    """Hashes the folder's files into bundle.json, written atomically and last; returns what was written."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name in _kept(folder))
    files = {name: sha256_of(folder / name) for name in names}
    data = {**bundle.to_dict(), "files": files}
    text = json.dumps(data, indent=1) + "\n"
    write_whole(folder / MANIFEST, text)
    return _from_dict(json.loads(text), folder / MANIFEST, hashlib.sha256(text.encode()).hexdigest())


def sha256_of(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept(folder: Path) -> set[str]:
    steps = {path.name for pattern in ("*.onnx", "*.pt") for path in folder.glob(pattern)}
    return steps | {WEIGHTS, GOLDEN}


def _check_file(path: Path, expected: str | None) -> None:
    if expected is None:
        raise BundleError(f"{path}: is not listed in {MANIFEST}; export the bundle again")
    if not path.is_file():
        raise BundleError(f"{path}: is missing; copy the whole bundle again, or export it again")
    found = sha256_of(path)
    if found != expected:
        raise BundleError(
            f"{path}: is damaged: its SHA-256 is {found[:12]}..., {MANIFEST} says {expected[:12]}...; "
            "copy the whole bundle again, or export it again"
        )


def _from_dict(data: Any, path: Path, sha256: str) -> Bundle:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        schema = data.get("schema") if isinstance(data, dict) else None
        raise BundleError(
            f"{path}: schema is {schema!r}, this version reads {SCHEMA}; export the bundle again"
        )
    try:
        contract = Contract.from_dict(data["contract"], f"{path}: contract")
        latent = Latent(**data["latent"])
        data = {"calibration": {}, **data}  # bundles of before `rssm calibrate` have none
        plain: Mapping[str, Any] = {name: data[name] for name in _PLAIN}
    except (KeyError, TypeError) as error:
        raise BundleError(f"{path}: misses or misspells {error}; export the bundle again") from error
    except ContractError as error:
        raise BundleError(f"{error}; export the bundle again") from error
    return Bundle(contract=contract, latent=latent, folder=path.parent, sha256=sha256, **plain)
