"""A held-out set of the moving dot for scorecards: seeds that no training uses, and in every file where the
exact Bayes filter has the dot (`exact_dot`, `exact_std_dot`), which knows the masks that the pictures do not
tell.
"""

import numpy as np

from rssm_ros.envs.dot import find_setting, simulate
from rssm_ros.evaluation.dot.evaluate import exact
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.collected import EXACT, EXACT_STD
from rssm_ros.training.collect import Arrays, Source
from rssm_ros.training.collect_dot import BLOCK, HELD_OUT, BlockPlan
from rssm_ros.training.collect_dot import record as recorded
from rssm_ros.training.collect_dot import source as collected


def plan_held_out(ticks: int, setting: str) -> list[BlockPlan]:
    """Blocks of the held-out seeds that hold at least `ticks` ticks. Raises EvaluationError for none, and for
    more than there are.
    """
    per_block = BLOCK * find_setting(setting).ticks
    blocks, most = -(-ticks // per_block), HELD_OUT // BLOCK
    if not 1 <= blocks <= most:
        raise EvaluationError(
            f"--ticks {ticks}: the dot's held-out seeds (below {HELD_OUT}) hold 1 to "
            f"{most * per_block} ticks in the setting {setting!r}"
        )
    return [BlockPlan(BLOCK * index, setting) for index in range(blocks)]


def record(plan: BlockPlan) -> Arrays:
    """One block of episodes; about a second of computing for each."""
    setting = find_setting(plan.kind)
    tracks = exact(setting, simulate(setting, range(plan.seed, plan.seed + BLOCK)))
    places, stds = (
        np.concatenate([getattr(track, name) for track in tracks]).astype(np.float32)
        for name in ("mean", "std")
    )
    return {**recorded(plan), f"{EXACT}dot": places, f"{EXACT_STD}dot": stds}


def source(name: str) -> Source:
    """The held-out dot in a setting. Raises SimError for an unknown one, EvaluationError for one in which
    nothing is exact.
    """
    setting, plain = find_setting(name), collected(name)
    if setting.pixel_noise <= 0 or setting.walk <= 0:
        raise EvaluationError(f"setting {name!r}: without noise there is no exact filter; take `hard`")
    return Source("dot", record, plain.packages, {**plain.facts, "held_out": True})
