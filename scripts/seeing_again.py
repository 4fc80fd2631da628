"""What happens to a belief while its camera is taken away, and how soon it is back.

    python scripts/seeing_again.py BUNDLE --data FOLDER [--target package] [--particles 8] [--ticks 16]

FOLDER: collected episodes. The camera's pictures are withheld for so many ticks wherever the target was
seen, and would be, from the tick before until four ticks after, and at least 60 ticks apart. Prints a
Markdown table: deviation (median) and error (root mean square) of the target, in mm.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import VISIBLE
from rssm_ros.evaluation.playing.filtering import episode_files, filter_episode, read_episode
from rssm_ros.online.regions import spread
from rssm_ros.online.session import Session

APART, BEFORE, AFTER = 60, 1, 4  # ticks
SETTLED = 40  # ticks of an episode before the first


def starts_of(seen: npt.NDArray[np.bool_], ticks: int) -> list[int]:
    """The first tick of each stretch without the camera; seen: [T], whether the target was."""
    found: list[int] = []
    for at in range(SETTLED, len(seen) - ticks - AFTER):
        free = not found or at - found[-1] >= APART
        if free and seen[at - BEFORE : at + ticks + AFTER].all():
            found.append(at)
    return found


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, nargs="+")
    parser.add_argument("--target", default="package")
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--ticks", type=int, default=16, help="without the camera")
    arguments = parser.parse_args()
    session, ticks = Session(arguments.bundle), arguments.ticks
    contract = session.bundle.contract
    cameras = {spec.name for spec in contract.observations if spec.kind == "image"}
    deviations, errors = [], []
    for index, file in enumerate(episode_files(arguments.data)):
        arrays = read_episode(file)
        present = {spec.name: arrays[f"present_{spec.name}"].copy() for spec in contract.observations}
        looked = np.all([present[name] for name in cameras], axis=0)
        starts = starts_of(looked & (arrays[f"visibility_{arguments.target}"] >= VISIBLE), ticks)
        if not starts:
            continue
        for start in starts:
            for name in cameras:
                present[name][start : start + ticks] = False
        track = filter_episode(session, arrays, arguments.particles, index, present).tracks[arguments.target]
        wide = spread(track.mean, track.std)
        off = np.linalg.norm(track.mean.mean(1) - track.truth, axis=-1)
        for start in starts:
            rows = slice(start - BEFORE, start + ticks + AFTER)
            deviations.append(wide[rows])
            errors.append(off[rows])
    if not deviations:
        print("the target never lies in the open for long enough", file=sys.stderr)
        return 1
    half, end = BEFORE + ticks // 2 - 1, BEFORE + ticks - 1
    columns = {"before": 0, f"after {ticks // 2} ticks": half, f"after {ticks}": end}
    columns |= {f"seen for {seen}": end + seen for seen in (1, 2, 4)}
    print(f"{len(deviations)} times without the camera for {ticks} ticks\n")
    print("| | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    shown = {
        "standard deviation, median, mm": np.median(deviations, axis=0),
        "error, root mean square, mm": np.sqrt(np.mean(np.square(errors), axis=0)),
    }
    for name, values in shown.items():
        print(f"| {name} | " + " | ".join(f"{1e3 * values[at]:.0f}" for at in columns.values()) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
