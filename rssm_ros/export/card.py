"""The model card: what a bundle is, where it comes from, how good it is, how to check it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rssm_ros.bundle import MANIFEST, Bundle

LONGEST = 8  # entries of a list that is still printed


def model_card(bundle: Bundle, folder: Path) -> str:
    """README.md of a bundle, from its manifest alone."""
    latent, contract = bundle.latent, bundle.contract
    size = sum((folder / name).stat().st_size for name in bundle.files) / 1e6
    training = dict(bundle.training)
    commands = training.pop("commands", [])
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
                "latent": f"deter {latent.deter}, {latent.kind} stoch {latent.stoch} x {latent.classes}"
                + (f"; the last {latent.track} of deter are a tracker's" if latent.track else ""),
                "imagination": f"{latent.horizon} ticks in rollout.onnx",
            }
        ),
        _section("Scores", bundle.scores),
        _section("Data", bundle.dataset),
        _commands("Training", commands),
        _section("" if commands else "Training", training),
        _section("Calibrated thresholds", bundle.thresholds),
        _section("Calibration", {k: v for k, v in bundle.calibration.items() if k != "regions"}),
        _commands("Check and use", _uses(bundle)),
        _section("Made with", bundle.versions),
        f"Everything here is also in `{MANIFEST}`, which holds the SHA-256 of every file.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _uses(bundle: Bundle) -> list[str]:
    name = f"models/{bundle.name}"
    # Two of our contracts have a score of their own; every bundle has the scorecard.
    scores = {"manipulator": f"rssm evaluate-policy {name} --seeds 10", "dot": f"rssm evaluate-dot {name}"}
    return [
        f"rssm verify {name}",
        scores.get(bundle.contract.name, f"rssm evaluate BAG --bundle {name}"),
    ]


def _commands(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", "```", *lines, "```"]) if lines else ""


def _section(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    return (f"## {title}\n\n" if title else "") + _table(values)


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {text} |" for name, text in _rows(values)]
    return "\n".join(["| | |", "|---|---|", *rows])


def _rows(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as `a b c` rows; long lists stay in bundle.json."""
    for name, value in values.items():
        label = f"{prefix}{name}"
        if isinstance(value, Mapping) and {"value", "ci95"} <= value.keys():
            low, high = value["ci95"] or (None, None)
            yield label, f"{_text(value['value'])} (95 %: {_text(low)} to {_text(high)})"
        elif isinstance(value, Mapping):
            yield from _rows(value, f"{label} ")
        elif not (isinstance(value, list) and len(value) > LONGEST):
            yield label, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.replace("|", "\\|").replace("\n", " ")
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value).replace("|", "\\|")
