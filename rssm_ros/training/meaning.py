"""What the numbers of a data set mean: what a contract says of them beyond their shapes.

`dataset.json` keeps it, so that data are not learnt from under a contract with another rate or other limits,
into which they fit just as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rssm_ros.contract import Contract
from rssm_ros.training.errors import TrainingError

KEY = "meaning"  # in dataset.json
KEPT = {
    "observations": ("type", "fields", "names", "size", "channels", "resize"),
    "actions": ("fields", "names", "low", "high"),
    "targets": ("fields", "unit"),
}


def meaning(contract: Contract) -> dict[str, Any]:
    """Plain data, flat: {"rate": 20, "actions/base/low": [-0.4, -0.6], ...}."""
    said = contract.to_dict()
    found = {"rate": said["rate"], "actions": list(said["actions"])}  # these lie one after the other
    for group, facts in KEPT.items():
        for name, about in said[group].items():
            found |= {f"{group}/{name}/{fact}": about[fact] for fact in facts if fact in about}
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def check(directory: Path, contract: Contract) -> None:
    """TrainingError where a data directory's dataset.json says that its numbers mean something else.

    Data of old versions, or without that file, decide nothing; nor does what only one of the two knows of:
    data may be older than a target, and what they lack `replay.open_storage` tells.
    """
    try:
        then = dict(json.loads((directory / "dataset.json").read_text())[KEY])
    except (OSError, ValueError, KeyError, TypeError):
        return
    now = meaning(contract)
    differs = [
        f"{name} was {then[name]} and is {now[name]}"
        for name in now
        if then.get(name, now[name]) != now[name]
    ]
    if differs:
        raise TrainingError(
            f"{directory} was recorded under another contract than {contract.name!r}: "
            f"{'; '.join(differs[:3])}; "
            "give that one with --contract, or record or convert the data anew"
        )
