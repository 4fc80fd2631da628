"""The model card: what a bundle is, where it comes from, how good it is, how to check it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rssm_ros.bundle import MANIFEST, Bundle


def model_card(bundle: Bundle, folder: Path) -> str:
    """README.md of a bundle, from its manifest alone."""
    latent, contract = bundle.latent, bundle.contract
    size = sum((folder / name).stat().st_size for name in bundle.files) / 1e6
    sections = [
        f"# {bundle.name}",
        f"A learned belief for the contract `{contract.name}`: a recurrent state-space model with its actor, "
        f"{size:.1f} MB. `rssm verify` proves that it computes on your machine what it computed on the one "
        "that made it.",
        _table(
            {
                "observations": ", ".join(f"{s.name} {s.shape}" for s in contract.observations),
                "actions": ", ".join(contract.channels),
                "targets": ", ".join(f"{t.name} ({', '.join(t.fields)}; {t.unit})" for t in contract.targets),
                "rate": f"{contract.rate} ticks a second, actuation delay {contract.actuation_delay}",
                "latent": f"deter {latent.deter}, stoch {latent.stoch} x {latent.classes}",
                "imagination": f"{latent.horizon} ticks in rollout.onnx",
            }
        ),
        _section("Data", bundle.dataset),
        _section("Training", bundle.training),
        _section("Scores", bundle.scores),
        _section("Calibrated thresholds", bundle.thresholds),
        "## Check and use\n\n```\n"
        f"rssm verify models/{bundle.name}\nrssm evaluate-policy models/{bundle.name} --seeds 10\n```",
        _section("Made with", bundle.versions),
        f"Everything here is also in `{MANIFEST}`, which holds the SHA-256 of every file.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(title: str, values: Mapping[str, Any]) -> str:
    return f"## {title}\n\n{_table(values)}" if values else ""


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {_text(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.replace("|", "\\|").replace("\n", " ")
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value).replace("|", "\\|")
