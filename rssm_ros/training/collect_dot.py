"""Recording the moving dot: whole blocks of episodes at once, nothing but numpy.

One uncompressed .npz per block of 64 episodes, one after the other (`is_first` tells where each begins), so
that a data set of short episodes is not thousands of files. Episode i of a block has the block's seed + i.
Blocks are always whole: a file is known by its first seed, so the last one of a small data set has to be what
a larger one would hold there.
Seeds below 1000 are refused: they belong to evaluation, which needs a thousand hidden runs.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rssm_ros.envs.dot import DotSetting, find_setting, simulate
from rssm_ros.training.collect import Arrays, Plan, Source
from rssm_ros.training.errors import TrainingError

HELD_OUT = 1000  # seeds below this one are for evaluation only
BLOCK = 64  # episodes per file


@dataclass(frozen=True)
class BlockPlan(Plan):
    """One block to record: `BLOCK` episodes, of the seeds seed, seed + 1, ... . Its kind is the setting's
    name."""


def record(plan: BlockPlan) -> Arrays:
    """One block of episodes, [episodes * ticks, ...] each."""
    setting = find_setting(plan.kind)
    made = simulate(setting, range(plan.seed, plan.seed + BLOCK))
    rows = BLOCK * setting.ticks
    first, last = np.zeros((2, BLOCK, setting.ticks), bool)
    first[:, 0], last[:, -1] = True, True
    nothing = np.zeros(rows, bool)
    return {
        "camera": made.images.reshape(rows, setting.size, setting.size, 1),
        "present_camera": ~nothing,
        "action": made.actions.reshape(rows, 2),
        "expert_action": np.full((rows, 2), np.nan, np.float32),  # nobody steers: nothing to imitate
        "reward": np.zeros(rows, np.float32),
        "is_first": first.reshape(rows),
        "is_last": last.reshape(rows),
        "is_terminal": nothing,
        "target_dot": made.states[..., :2].astype(np.float32).reshape(rows, 2),
        "visibility_dot": made.visibility.reshape(rows),
    }


def source(name: str) -> Source:
    """The moving dot in a setting. Raises SimError for an unknown one."""
    facts: dict[str, Any] = {"setting": asdict(find_setting(name))}
    return Source("dot", record, ("numpy",), facts)


def plan_blocks(ticks: int, setting: str, seed: int) -> list[BlockPlan]:
    """The blocks that hold at least `ticks` ticks, all of them whole; deterministic in its arguments.

    Raises TrainingError for held-out seeds and for no ticks, SimError for an unknown setting.
    """
    if seed < HELD_OUT:
        raise TrainingError(f"dot seeds below {HELD_OUT} are held out for evaluation; start there or later")
    if ticks < 1:
        raise TrainingError(f"{ticks} ticks: expected 1 or more")
    chosen: DotSetting = find_setting(setting)
    blocks = -(-ticks // (BLOCK * chosen.ticks))
    return [BlockPlan(seed + BLOCK * index, setting) for index in range(blocks)]
