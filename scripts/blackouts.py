"""Black-outs imposed on a recording, and how wrong prediction alone is in them.

    blackouts.py BUNDLE BAG --out DIR [--part 0.5:1] [--impose drop:4-8@0.15]

Writes DIR/blackouts.json and DIR/blackouts.png: errors by ticks since the last frame, and how fast the belief
is back. scripts/real_recording.sh makes everything that it needs from a recording's path.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

from rssm_ros.cli.dataset import parse_part
from rssm_ros.evaluation.playing.blackouts import Blackouts, measure, summary
from rssm_ros.evaluation.playing.imposed import parse_imposed
from rssm_ros.online.session import Session
from rssm_ros.recordings import open_bag

LINES = {
    "picture": ("predicted: frames hidden", "tab:orange", "o-"),
    "held": ("the last frame before, held", "tab:gray", "s--"),
    "undisturbed": ("undisturbed: the same ticks, frames seen", "tab:blue", "^-"),
}


def main() -> None:
    """Measures, writes, draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", default="0.5:1")
    parser.add_argument("--impose", default="drop:4-8@0.15")
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    session = Session(args.bundle)
    recording = open_bag(args.bag, session.bundle.contract, part=parse_part(args.part))
    imposed = parse_imposed(args.impose)
    found = measure(session, recording, imposed, args.particles, args.seed)
    told = {
        "bundle_sha256": session.bundle.sha256,
        "bag": args.bag.name,
        "part": args.part,
        "impose": "+".join(map(str, imposed)),
        "particles": args.particles,
        "seed": args.seed,
        **summary(found),
        "left_out": dict(recording.counts),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "blackouts.json").write_text(json.dumps(told, indent=1) + "\n")
    draw(found, told, args.out / "blackouts.png")
    print(json.dumps({k: v for k, v in told.items() if k not in ("hidden", "back")}))


def draw(found: Blackouts, told: dict, path: Path) -> None:
    """Errors and distance by the ticks of a black-out and of the return; below, one of them in pictures."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(9.5, 6.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.35, 1])
    left, right = top.subplots(1, 2)
    for field, (label, colour, style) in LINES.items():
        _line(left, told, field, label, colour, style)
    _line(right, told, "apart", "between predicted and undisturbed picture", "tab:orange", "o-")
    left.set_ylabel("error of the picture, RMSE in grey levels")
    right.set_ylabel("RMSE in grey levels")
    longest = max(told["hidden"]["picture"])
    for axis in (left, right):
        axis.axvspan(longest + 0.5, longest + max(told["back"]["picture"]) + 0.5, color="0.92", zorder=0)
        axis.set_ylim(0)
        places = [*range(1, longest + 1), *(longest + step for step in told["back"]["picture"])]
        names = [*range(1, longest + 1), *(f"+{step}" for step in told["back"]["picture"])]
        axis.set_xticks(places, [str(name) for name in names])
        axis.set_xlabel("ticks since the last frame | frames after")
        axis.legend(fontsize=8, loc="best")
        axis.grid(alpha=0.3)
    columns = len(found.strip[0])
    gain = 255.0 / np.percentile(found.strip[0], 99)  # an indoor camera's pictures are dark
    axes = bottom.subplots(3, columns)
    names = ("frame", "undisturbed", "predicted")
    for row, (name, pictures) in enumerate(zip(names, found.strip, strict=True)):
        for column in range(columns):
            axis = axes[row, column]
            axis.imshow(np.clip(pictures[column] * gain, 0, 255).astype(np.uint8))
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(name, fontsize=8)
    figure.savefig(path, dpi=80)


def _line(axis: object, told: dict, field: str, label: str, colour: str, style: str) -> None:
    longest = max(told["hidden"][field])
    for index, (part, offset) in enumerate((("hidden", 0), ("back", longest))):
        steps = sorted(told[part][field])
        mean = np.array([told[part][field][step]["mean"] for step in steps])
        half = np.array([told[part][field][step]["half"] for step in steps])
        at = np.array(steps) + offset
        axis.plot(at, mean, style, color=colour, label=label if index == 0 else None, markersize=4)
        axis.fill_between(at, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)


if __name__ == "__main__":
    main()
