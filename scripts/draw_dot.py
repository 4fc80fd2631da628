"""Draws docs/images/dot.png: the hidden dot, what the exact filter believes of it, and what the bundle does.

python scripts/draw_dot.py [BUNDLE]
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

from rssm_ros.envs.dot import HARD, Episodes, simulate
from rssm_ros.evaluation.dot.bayes import ParticleFilter
from rssm_ros.evaluation.playing.filtering import drive
from rssm_ros.online.filter import Filter
from rssm_ros.online.session import Session

SEED, FIRST, COUNT, PARTICLES = 2, 16, 24, 32
ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "docs" / "images" / "dot.png"
Cloud = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # of a tick: mean [2]; places and widths [N, 3]


def exact(made: Episodes) -> list[Cloud]:
    """The exact filter's mean and every tenth of its particles."""
    track, clouds = ParticleFilter(HARD).run_with_clouds(made.images[0], made.covered[0])
    dots = [np.concatenate([cloud[::10], np.full((len(cloud[::10]), 1), 0.1)], -1) for cloud in clouds]
    return list(zip(track.mean, dots))


def learned(made: Episodes, bundle: Path) -> list[Cloud]:
    """The bundle's mean, and its particles, each as wide as it says."""
    session = Session(bundle)
    pictures = [{"camera": image} for image in made.images[0]]
    belief_filter = Filter(session, session.bundle.contract, PARTICLES, seed=0)
    targets = [b.targets["dot"] for b in drive(belief_filter, made.actions[0], pictures.__getitem__)]
    return [(t.point(), np.concatenate([t.mean, t.std.mean(-1, keepdims=True)], -1)) for t in targets]


def main() -> None:
    """One episode of the hard setting; two rows of pictures, each once per filter."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    made = simulate(HARD, [SEED])
    bundle = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "models" / "dot"
    filters = {"exact": exact(made), "learned": learned(made, bundle)}
    columns = COUNT // 2
    figure, axes = plt.subplots(4, columns, figsize=(1.25 * columns, 5.6), layout="constrained")
    for row, (name, index) in enumerate((n, i) for i in range(2) for n in filters):
        axes[row, 0].set_ylabel(name, fontsize=8)
        for column, axis in enumerate(axes[row]):
            tick = FIRST + index * columns + column
            mean, cloud = filters[name][tick]
            axis.imshow(made.images[0, tick], cmap="gray", vmin=0, vmax=255)
            for x, y, width in cloud:
                axis.add_patch(plt.Circle((x, y), width, color="tab:orange", alpha=0.35, linewidth=0.6))
            axis.plot(*mean, "+", color="tab:blue", markersize=8, markeredgewidth=1.5)
            place = made.states[0, tick, :2]
            axis.plot(*place, "o", color="lime", markersize=7, fillstyle="none", markeredgewidth=1.2)
            axis.set(xlim=(-0.5, 31.5), ylim=(31.5, -0.5), xticks=[], yticks=[])
            if name == "exact":
                axis.set_title(f"{tick}: {100 * made.visibility[0, tick]:.0f} %", fontsize=8, pad=2)
    figure.savefig(PLACE, dpi=80)
    print(PLACE)


if __name__ == "__main__":
    main()
