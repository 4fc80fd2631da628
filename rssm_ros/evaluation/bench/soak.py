"""Does memory grow while the filter runs? Many steps, the resident set and the interpreter's blocks told."""

from __future__ import annotations

import gc
import resource
import sys
import time
import tracemalloc
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rssm_ros.online.filter import Filter
from rssm_ros.online.grid import stamp_of, tick_of
from rssm_ros.online.session import Session

WARM = 2000  # steps until the window is full and every pool has what it needs
TRACED = 500  # steps under tracemalloc afterwards, which say where what grew was allocated
MOST_MB = 1.0  # of the resident set, per run: allocators round, leaks go on
MOST_BLOCKS = 0.01  # per step: less than one block left behind in a hundred steps


@dataclass(frozen=True)
class Growth:
    """What so many steps left behind."""

    steps: int
    seconds: float  # processor time
    resident_mb: tuple[float, float]  # before and after
    blocks: tuple[int, int]  # of the interpreter's allocator, before and after
    grew: tuple[str, ...]  # lines of code that hold more after TRACED further steps, the most first

    @property
    def passed(self) -> bool:
        """Neither grew with the steps."""
        before, after = self.blocks
        resident = self.resident_mb[1] - self.resident_mb[0]
        return resident <= MOST_MB and after - before <= max(200, MOST_BLOCKS * self.steps)

    def to_dict(self) -> dict[str, Any]:
        """For a row's parts."""
        return {**asdict(self), "pass": self.passed}


class Robot:
    """Feeds a filter as a robot does: every modality at every tick, an applied action, time going on."""

    def __init__(self, session: Session, seen: dict[str, Any], particles: int = 1) -> None:
        self.filter = Filter(session, session.bundle.contract, particles)
        self.seen, self.contract = seen, session.bundle.contract
        self.wait_ns = self.contract.patience_ns
        self.action = np.asarray(self.contract.low, np.float64) * 0.1
        self.at = tick_of(10**9, self.contract.rate)

    def step(self) -> None:
        """One tick of the world."""
        self.at += 1
        stamp = stamp_of(self.at, self.contract.rate)
        self.filter.advance(stamp)
        for name, value in self.seen.items():
            self.filter.observe(name, stamp, value)
        self.filter.advance(stamp + self.wait_ns)
        self.filter.applied(stamp + 1, self.action)


def soak(robot: Robot, steps: int, warm: int = WARM, traced: int = TRACED) -> Growth:
    """Runs the robot and looks at memory before and after."""
    for _ in range(warm):
        robot.step()
    gc.collect()
    resident, blocks, busy = resident_mb(), sys.getallocatedblocks(), time.process_time()
    for _ in range(steps):
        robot.step()
    seconds = time.process_time() - busy
    gc.collect()
    after = resident_mb(), sys.getallocatedblocks()
    grew = _grew(robot, traced) if traced else ()
    return Growth(steps, seconds, (resident, after[0]), (blocks, after[1]), grew)


def resident_mb() -> float:
    """Of this process, now; where the system does not tell, the most it ever was."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 2**20


def _grew(robot: Robot, steps: int) -> tuple[str, ...]:
    """The lines that hold at least one more block per two steps; fewer come and go with the window."""
    tracemalloc.start(4)
    try:
        for _ in range(steps):
            robot.step()
        gc.collect()
        before = tracemalloc.take_snapshot()
        for _ in range(steps):
            robot.step()
        gc.collect()
        found = tracemalloc.take_snapshot().compare_to(before, "lineno")
    finally:
        tracemalloc.stop()
    kept = [item for item in found if item.count_diff > steps / 2 and "tracemalloc" not in str(item)]
    return tuple(str(item) for item in kept[:5])
