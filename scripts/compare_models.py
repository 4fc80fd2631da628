"""The table of `scripts/compare_models.sh`: every kind's scores, mean and range over its seeds."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Row = tuple[str, float]


def dot_figures(report: Mapping[str, Any]) -> Iterator[Row]:
    """Of one `rssm evaluate-dot`."""
    errors = report["rmse_px"]["bundle"]
    yield "hidden, px", errors["hidden"]["value"]
    yield "visible, px", errors["visible"]["value"]
    yield "hidden, by the exact filter's", report["ratio"]["exact"]["value"]


def scorecard_figures(report: Mapping[str, Any]) -> Iterator[Row]:
    """Of one `rssm evaluate`."""
    for name, target in report["targets"].items():
        for group in ("hidden", "visible"):
            yield f"{name} {group}, m", target["rmse_m"][group]["value"]


def policy_figures(report: Mapping[str, Any]) -> Iterator[Row]:
    """Of one `rssm evaluate-policy`: the task's reward is 1 a sorted package."""
    yield "sorted a minute", report["policies"]["bundle"]["sorted_a_seed"]["value"] * 60.0 / report["seconds"]


READERS = {"dot.json": dot_figures, "scorecard.json": scorecard_figures, "policy.json": policy_figures}


def table(folder: Path) -> str:
    """Markdown, a line per kind and a column per figure: mean (least to most) of the seeds."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in sorted(folder.iterdir()):
        kind, _ = run.name.rsplit("-", 1)
        for name, read in READERS.items():
            if (run / name).exists():
                for figure, value in read(json.loads((run / name).read_text())):
                    found[kind][figure].append(value)
    columns = list(dict.fromkeys(figure for figures in found.values() for figure in figures))
    lines = ["| kind | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for kind, figures in found.items():
        cells = [spread(figures[column]) if column in figures else "" for column in columns]
        count = max(len(values) for values in figures.values())
        lines.append(f"| {kind} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean (least to most)."""
    return f"{sum(values) / len(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: scripts/compare_models.py SCORES, the folder that compare_models.sh wrote")
    print(table(Path(sys.argv[1])))
