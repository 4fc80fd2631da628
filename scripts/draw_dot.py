"""Draws docs/images/dot.png: the hidden dot, the truth and what the exact filter believes, by ticks."""

from pathlib import Path

import matplotlib
import numpy as np

from rssm_ros.envs.dot import HARD, simulate
from rssm_ros.evaluation.dot.bayes import ParticleFilter

SEED, FIRST, COUNT = 2, 16, 24
PLACE = Path(__file__).resolve().parent.parent / "docs" / "images" / "dot.png"


def main() -> None:
    """One episode of the hard setting; two rows of pictures."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    made = simulate(HARD, [SEED])
    track, clouds = ParticleFilter(HARD).run_with_clouds(made.images[0], made.covered[0])
    columns = COUNT // 2
    figure, axes = plt.subplots(2, columns, figsize=(1.25 * columns, 2.9), layout="constrained")
    for tick, axis in enumerate(axes.flat, FIRST):
        axis.imshow(made.images[0, tick], cmap="gray", vmin=0, vmax=255)
        x, y = clouds[tick, ::10].T
        axis.scatter(x, y, s=2, color="tab:orange", alpha=0.35, linewidths=0)
        axis.plot(*track.mean[tick], "+", color="tab:blue", markersize=8, markeredgewidth=1.5)
        axis.plot(
            *made.states[0, tick, :2], "o", color="lime", markersize=7, fillstyle="none", markeredgewidth=1.2
        )
        axis.set(xlim=(-0.5, 31.5), ylim=(31.5, -0.5), xticks=[], yticks=[])
        axis.set_title(f"{tick}: {100 * made.visibility[0, tick]:.0f} %", fontsize=8, pad=2)
    figure.savefig(PLACE, dpi=90)
    print(PLACE, np.round(track.std[FIRST : FIRST + COUNT], 2))


if __name__ == "__main__":
    main()
