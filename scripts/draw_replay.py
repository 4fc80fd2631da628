"""Draws docs/images/replay.png: camera frames that come late, and the ticks that are computed again.

    python scripts/draw_replay.py BUNDLE EPISODE.npz [--out docs/images/replay.png] [--start 100] [--late 8]

EPISODE.npz is one file of `rssm collect manipulator`. The bundle filters it twice: once with every frame in
time, once with the camera frames of some ticks held back and delivered together. Nothing is drawn by hand.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from rssm_ros.evaluation.playing.filtering import read_episode
from rssm_ros.online.filter import Filter
from rssm_ros.online.grid import SECOND, stamp_of, tick_of
from rssm_ros.online.limits import Limits
from rssm_ros.online.session import Session

TARGET, AXIS, AXIS_NAME = "package", 0, "package x in base_link, m"
BEFORE, AFTER, TRANSPORT = 6, 8, 2  # ticks drawn around the late ones; ticks after the last until delivery
BLUE, ORANGE, GREY = "#1f6fb4", "#e07b00", "#888888"


def drive(session: Session, arrays: dict[str, Any], late: range, last: int) -> tuple[Any, Any, Filter]:
    """(published beliefs, those still in the ring right after the late frames came, the filter)."""
    contract = session.bundle.contract
    limits, filter_ = Limits(contract), Filter(session, contract, 8, 0)
    begin, arrival = tick_of(SECOND, contract.rate), late.stop - 1 + TRANSPORT
    published, revised = {}, {}
    for row in range(last):
        stamp = stamp_of(begin + row, contract.rate)
        for belief in filter_.advance(stamp):
            published[belief.tick - begin] = belief
        filter_.applied(stamp_of(begin + row - 1, contract.rate), limits.scale(arrays["action"][row]))
        for name in ("odom", "joints", "camera"):
            if arrays[f"present_{name}"][row] and not (name == "camera" and row in late):
                filter_.observe(name, stamp, arrays[name][row])
        for belief in filter_.advance(stamp) or filter_.advance(stamp + SECOND // 40):
            published[belief.tick - begin] = belief
        if late and row == arrival:
            for delayed in late:
                at = stamp_of(begin + delayed, contract.rate)
                assert filter_.observe("camera", at, arrays["camera"][delayed]) == "accepted"
            revised = {belief.tick - begin: belief for belief in filter_.revised()}
    return published, revised, filter_


def place(beliefs: dict[int, Any], ticks: range) -> tuple[Any, Any]:
    """Mean and standard deviation of the drawn coordinate."""
    found = [beliefs[tick].targets[TARGET] for tick in ticks]
    mean = np.array([belief.point()[AXIS] for belief in found])
    return mean, np.array([np.sqrt(belief.covariance()[AXIS, AXIS]) for belief in found])


def draw(arrays: dict[str, Any], late: range, shown: range, runs: Any, out: Path) -> None:
    """The two panels."""
    (in_time, _, _), (online, revised, _) = runs
    arrival = late.stop - 1 + TRANSPORT
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 6.2), sharex=True, gridspec_kw={"height_ratios": [1, 1.7]}, layout="constrained"
    )
    rows = {"applied": 0, "joints": 1, "odom": 2, "camera": 3}
    for name, height in rows.items():
        color = BLUE if name == "camera" else GREY
        ticks = [t for t in shown if name == "applied" or arrays[f"present_{name}"][t]]
        in_order = [t for t in ticks if not (name == "camera" and t in late)]
        above.plot(in_order, [height] * len(in_order), "o", color=color, ms=5)
    above.plot(late, [3] * len(late), "o", mfc="white", mec=ORANGE, ms=6)
    for tick in late:
        bend = f"arc3,rad={-0.10 - 0.012 * (late.stop - tick)}"
        arrow = {"arrowstyle": "->", "color": ORANGE, "lw": 0.9, "connectionstyle": bend}
        above.annotate("", (arrival, 3.05), (tick, 3.08), arrowprops=arrow)
    above.set_yticks(list(rows.values()), list(rows))
    above.set_ylim(-0.6, 5.2)
    above.text(
        late.start, 4.75, f"{len(late)} frames stamped here are delivered here", color=ORANGE, va="center"
    )
    above.set_title("What arrived, by stamp", loc="left", fontsize=10)
    replayed = range(late.start, arrival + 1)
    for panel in (above, below):
        panel.axvspan(late.start - 0.5, arrival + 0.5, color=BLUE, alpha=0.07, lw=0)
        panel.axvline(arrival, color=ORANGE, lw=1, ls=":")
    below.plot(shown, arrays[f"target_{TARGET}"][shown.start : shown.stop, AXIS], "k-", lw=1, label="truth")
    mean, std = place(online, shown)
    below.fill_between(shown, mean - std, mean + std, color=ORANGE, alpha=0.18, lw=0)
    below.plot(shown, mean, "-", color=ORANGE, lw=1.8, label="online: as published, once")
    mean, std = place(revised, replayed)
    below.fill_between(replayed, mean - std, mean + std, color=BLUE, alpha=0.2, lw=0)
    label = f"ticks {late.start} to {arrival} again, from cached tokens"
    below.plot(replayed, mean, "-", color=BLUE, lw=1.8, label=label)
    below.plot(
        shown, place(in_time, shown)[0], "o", mfc="none", mec=BLUE, ms=5, label="had nothing been late"
    )
    below.set(xlabel="tick (50 ms)", ylabel=AXIS_NAME)
    below.set_title("What was believed: mean and one standard deviation", loc="left", fontsize=10)
    below.legend(loc="best", fontsize=9)
    for panel in (above, below):
        panel.spines[["top", "right"]].set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def main() -> int:
    """Filters twice, proves that the ring ends up the same, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("episode", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images/replay.png"))
    parser.add_argument("--start", type=int, default=100, help="the first tick whose frame is late")
    parser.add_argument("--late", type=int, default=8, help="how many frames are late")
    arguments = parser.parse_args()
    session, arrays = Session(arguments.bundle), read_episode(arguments.episode)
    late = range(arguments.start, arguments.start + arguments.late)
    shown = range(late.start - BEFORE, late.stop + TRANSPORT + AFTER)
    runs = drive(session, arrays, range(0), shown.stop), drive(session, arrays, late, shown.stop)
    ring = [{b.tick: b.deter.tobytes() + b.stoch.tobytes() for b in run[2].revised()} for run in runs]
    if ring[0] != ring[1]:
        print("the two rings differ: the guarantee is broken", file=sys.stderr)
        return 1
    draw(arrays, late, shown, runs, arguments.out)
    print(f"wrote {arguments.out}; {runs[1][2].counters['replayed']} ticks computed again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
