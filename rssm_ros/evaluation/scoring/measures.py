"""What a scorecard measures, on plain arrays over T ticks of one or more episodes in a row.

NaN says that something is not known, and such a tick counts nowhere. Every figure is an `Estimate`: `blocks`
[T] names what a tick belongs to, and intervals come from resampling those; of a single one there is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN, VISIBLE
from rssm_ros.evaluation.statistics import DRAWS, Estimate, estimate, ratio, root_ratio

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

GROUPS = ("visible", "partly", "hidden")
BY_HIDDEN_TICKS: dict[str, tuple[float, float]] = {
    "1": (1, 1), "2-4": (2, 4), "5-8": (5, 8), "9-16": (9, 16), "17+": (17, np.inf),
}  # fmt: skip
BY_VISIBLE_FRACTION: dict[str, tuple[float, float]] = {  # above the first, up to the second
    "0-0.05": (-1.0, HIDDEN), "0.05-0.25": (HIDDEN, 0.25), "0.25-0.5": (0.25, 0.5), "0.5-0.75": (0.5, 0.75),
    "0.75-1": (0.75, 1.0),
}  # fmt: skip
AFTER = (0, 1, 2, 3, 5, 10)  # ticks since something is visible again
WITHIN = 1.2  # x the visible error: found again
LOST_AFTER_S = 1.0  # of being visible without being found again
ENOUGH_EPISODES = 10  # to say by resampling them how sure a figure is
STRETCH_S = 10.0
EQUAL = 1e-9  # logarithms nearer to each other tell nothing apart
JUMP = 5.0  # x what it moves in all but 0.5 % of ticks: that is another object


def groups_of(visibility: Floats) -> dict[str, Bools]:
    """{group: [T]}; unknown visibility is in none."""
    visible, hidden = visibility >= VISIBLE, visibility <= HIDDEN
    return {"visible": visible, "partly": ~visible & ~hidden & np.isfinite(visibility), "hidden": hidden}


def blocks_of(episode: Integers, dt: float) -> Integers:
    """[T] what is resampled: episodes; where there are fewer than `ENOUGH_EPISODES`, stretches of about
    `STRETCH_S` of them, equally long within each.
    """
    if not len(episode):
        return np.empty(0, np.int64)
    _, number, ticks = np.unique(episode, return_inverse=True, return_counts=True)
    if len(ticks) >= ENOUGH_EPISODES:
        return np.asarray(number, np.int64).reshape(-1)
    pieces = np.maximum(np.rint(ticks * dt / STRETCH_S).astype(int), 1)
    first = np.cumsum(pieces) - pieces
    parts = [f + np.arange(n) * p // n for f, n, p in zip(first, ticks, pieces)]
    return np.asarray(np.concatenate(parts), np.int64)


def ticks_in_row(mask: Bools, episode: Integers) -> Integers:
    """[T] how many ticks of the episode in a row have been so, this one included; 0 where it is not."""
    count = np.arange(1, len(mask) + 1)
    breaks = ~mask | np.r_[True, episode[1:] != episode[:-1]] if len(mask) else ~mask
    # The last tick that does not continue a row: one before where it starts.
    base = np.maximum.accumulate(np.where(breaks, count - mask, 0))
    return np.asarray(np.where(mask, count - base, 0), np.int64)


def identities(place: Floats, episode: Integers) -> Integers:
    """[T] which object it is, counted from 0; -1: none.

    place: [T, d] the true position in a frame at rest, NaN where there is none. Another one after every such
    gap, after a jump farther than an object moves in a tick, and in every episode.
    """
    known = np.asarray(np.isfinite(place).all(-1))
    if not known.any():
        return np.full(len(place), -1)
    step = np.full(len(place), np.inf)
    step[1:] = np.linalg.norm(np.diff(place, axis=0), axis=-1)
    step[1:][(episode[1:] != episode[:-1]) | ~known[1:] | ~known[:-1]] = np.inf
    usual = step[np.isfinite(step)]
    limit = JUMP * np.quantile(usual, 0.995) if len(usual) else np.inf
    begins = known & (~np.isfinite(step) | (step > limit))
    return np.where(known, np.cumsum(begins) - 1, -1)


def seen_before(identity: Integers, seen: Bools) -> Bools:
    """[T] whether this very object has been seen by now; `seen` [T] says when anything of it was."""
    count = np.cumsum(seen)
    begins = np.r_[True, identity[1:] != identity[:-1]] if len(identity) else np.zeros(0, bool)
    before = np.where(begins, count - seen, 0)
    return np.asarray((count - np.maximum.accumulate(before) > 0) & (identity >= 0), np.bool_)


@dataclass(frozen=True)
class Runs:
    """R hidden runs at whose end the same object is there to be seen, as indices into the ticks."""

    begin: Integers  # [R] first hidden tick
    back: Integers  # [R] first tick that is not hidden any more
    visible: Integers  # [R] first one that is visible; -1: hidden again, gone or over before that

    def only(self, part: Bools) -> "Runs":
        """Some of the runs, [R]."""
        return Runs(self.begin[part], self.back[part], self.visible[part])


def hidden_runs(hidden: Bools, visible: Bools, episode: Integers, identity: Integers) -> tuple[int, Runs]:
    """How many runs of hidden ticks there are, and those at whose end it appears: again, or for the first
    time (`seen_before` at `begin` tells which).
    """
    length = ticks_in_row(hidden, episode)
    begins = np.flatnonzero(length == 1)
    rows = []
    for begin in begins.tolist():
        end = begin
        while end < len(hidden) and hidden[end] and episode[end] == episode[begin]:
            end += 1
        if end < len(hidden) and episode[end] == episode[begin] and 0 <= identity[end] == identity[end - 1]:
            seen = end
            while (
                seen < len(hidden)
                and not (visible[seen] or hidden[seen])
                and (identity[seen], episode[seen]) == (identity[end], episode[end])
            ):
                seen += 1
            good = seen < len(hidden) and bool(visible[seen]) and identity[seen] == identity[end]
            rows.append((begin, end, seen if good else -1))
    table = np.array(rows, np.int64).reshape(-1, 3)
    return len(begins), Runs(table[:, 0], table[:, 1], table[:, 2])


# -- figures -------------------------------------------------------------------------------------------


def per_block(values: Array, blocks: Integers, mask: Bools, count: int = 0) -> tuple[Floats, Floats]:
    """(sum of the values, ticks) of each stretch, over ticks in the mask with a known value.

    count: the least number of stretches there are.
    """
    good = mask & np.isfinite(values)
    count = max(count, int(blocks.max(initial=-1)) + 1)
    total = np.bincount(blocks[good], values[good].astype(float), minlength=count)
    ticks = np.bincount(blocks[good], minlength=count)
    return np.asarray(total, np.float64), np.asarray(ticks, np.float64)


def nothing() -> Estimate:
    """The figure where there is nothing to tell."""
    return Estimate(np.nan, np.nan, np.nan)


def _estimated(statistic: Any, *sums: Floats) -> Estimate:
    """The statistic of sums per stretch; without an interval where only one holds anything."""
    told = sums[-1] > 0 if len(sums) == 2 else sums[0] > 0
    if not told.any():
        return nothing()
    found = estimate(statistic, *(part[told] for part in sums))
    return found if told.sum() > 1 else Estimate(found.value, np.nan, np.nan)


def rmse(square: Floats, blocks: Integers, mask: Bools) -> Estimate:
    """Root of the mean squared error of the ticks in the mask."""
    return _estimated(root_ratio, *per_block(square, blocks, mask))


def average(values: Floats, blocks: Integers, mask: Bools) -> Estimate:
    """The mean of the ticks in the mask: a share, where the values are 0 or 1."""
    return _estimated(ratio, *per_block(values, blocks, mask))


def rmse_ratio(one: Floats, other: Floats, blocks: Integers, mask: Bools) -> Estimate:
    """RMSE of one by that of the other, squared errors [T] each, stretches resampled together."""
    both = mask & np.isfinite(one) & np.isfinite(other)
    (a, ticks), (b, _) = per_block(one, blocks, both), per_block(other, blocks, both)
    return _estimated(root_ratio, a, b) if ticks.any() else nothing()


def by_group(square: Floats, blocks: Integers, masks: Mapping[str, Bools]) -> dict[str, Estimate]:
    """RMSE of every group of ticks."""
    return {name: rmse(square, blocks, mask) for name, mask in masks.items()}


def length_masks(hidden_for: Integers) -> dict[str, Bools]:
    """{"1": [T], "2-4": ...}: by the ticks hidden so far."""
    return {name: (hidden_for >= low) & (hidden_for <= up) for name, (low, up) in BY_HIDDEN_TICKS.items()}


def fraction_masks(visibility: Floats) -> dict[str, Bools]:
    """{"0-0.05": [T], ...}: by the visible fraction."""
    return {n: (visibility > low) & (visibility <= up) for n, (low, up) in BY_VISIBLE_FRACTION.items()}


def correlation(x: Floats, y: Floats, blocks: Integers) -> Estimate:
    """Pearson's, over ticks where both are known."""
    good = np.isfinite(x) & np.isfinite(y)
    if good.sum() < 2 or np.ptp(x[good]) == 0 or np.ptp(y[good]) == 0:
        return nothing()
    x, y = x - x[good].mean(), y - y[good].mean()  # so that the sums below lose no digits
    moments = [per_block(part, blocks, good)[0] for part in (np.ones_like(x), x, y, x * x, y * y, x * y)]

    def pearson(n: Floats, a: Floats, b: Floats, aa: Floats, bb: Floats, ab: Floats) -> Floats:
        n, a, b, aa, bb, ab = (part.sum(-1) for part in (n, a, b, aa, bb, ab))
        return np.asarray((n * ab - a * b) / np.sqrt((n * aa - a * a) * (n * bb - b * b)))

    return _estimated(pearson, *moments)


def doubts(visibility: Floats, hidden_for: Integers, before: Bools) -> Integers:
    """[T] the group of ticks about which there is equal reason to doubt, as far as a belief can know it: how
    much is seen; of what is hidden, for how long, and whether it was seen `before`. -1: nobody says.
    """
    group = np.full(len(visibility), -1)
    open_ = [mask & (hidden_for == 0) for mask in fraction_masks(visibility).values()]
    hidden = [mask & part for mask in length_masks(hidden_for).values() for part in (before, ~before)]
    for number, mask in enumerate((*open_, *hidden)):
        group[mask] = number
    return group


def correlation_by_group(square: Floats, y: Floats, group: Integers, blocks: Integers) -> Estimate:
    """Pearson's over ticks, of y and the logarithm of the root mean square of each tick's group.

    Of squared errors that is what a deviation honest by group would have, of squared deviations what is
    claimed by group. A group of -1 counts nowhere, nor does one without any error, which has no logarithm.
    Resampled stretches have root mean squares of their own.
    """
    good = np.isfinite(square) & np.isfinite(y) & (group >= 0)
    if not good.any() or np.ptp(y[good]) == 0:
        return nothing()
    count, groups = int(blocks.max()) + 1, int(group.max()) + 1
    cell, centred = group[good] * count + blocks[good], y[good] - y[good].mean()

    def table(values: Floats) -> Floats:  # [groups, blocks] sums
        return np.asarray(np.bincount(cell, values, groups * count).reshape(groups, count), np.float64)

    parts = [table(part) for part in (np.ones_like(centred), square[good], centred, centred**2)]

    def pearson(n: Floats, squares: Floats, b: Floats, bb: Floats) -> Floats:  # [groups, ...] each -> [...]
        told = squares > 0
        n, b, bb = (np.where(told, part, 0.0) for part in (n, b, bb))
        x = np.log(np.where(told, squares, 1.0) / np.maximum(n, 1)) / 2
        apart = np.where(told, x, -np.inf).max(0) - np.where(told, x, np.inf).min(0)
        ticks = n.sum(0)
        x = x - (n * x).sum(0) / ticks
        spread = (n * x**2).sum(0) * (bb.sum(0) - b.sum(0) ** 2 / ticks)
        return np.where(apart > EQUAL, (x * b).sum(0) / np.sqrt(spread), np.nan)

    held = np.flatnonzero(parts[0].sum(0))
    whole = [part[:, held] for part in parts]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(pearson(*(part.sum(-1) for part in whole)))
        drawn = np.random.default_rng(0).integers(len(held), size=(DRAWS, len(held)))
        times = np.stack([np.bincount(row, minlength=len(held)) for row in drawn], 1)  # [held, DRAWS]
        found = pearson(*(part @ times for part in whole))
    found = found[np.isfinite(found)]
    if len(held) < 2 or not len(found):
        return Estimate(value, np.nan, np.nan)
    return Estimate(value, *(float(end) for end in np.percentile(found, [2.5, 97.5])))


def after_reappearance(square: Floats, runs: Runs, blocks: Integers, visible: Bools) -> dict[str, Estimate]:
    """RMSE by ticks since something is visible (again), over runs in which it still is."""
    return {str(lag): rmse(*_at_lag(square, runs, blocks, visible, lag)) for lag in AFTER}


def _at_lag(
    square: Floats, runs: Runs, blocks: Integers, visible: Bools, lag: int
) -> tuple[Floats, Integers, Bools]:
    """Squared errors, stretches and mask [R] at `lag` ticks after each re-appearance."""
    at = np.minimum(runs.visible + lag, len(square) - 1)
    stays = np.array([bool(visible[s : s + lag + 1].all()) for s in runs.visible.tolist()], bool)
    good = (runs.visible >= 0) & (runs.visible + lag < len(square)) & stays.reshape(-1)
    value = np.where(good, square[at] if len(square) else 0.0, np.nan)
    return value, blocks[at] if len(square) else np.zeros(0, np.int64), good


def ticks_to_reacquire(
    square: Floats, runs: Runs, blocks: Integers, visible: Bools, most: int
) -> tuple[Estimate, Estimate, int]:
    """(until the RMSE over all these runs is within 1.2 x the visible one, the median run by run, lost).

    In ticks since visible again, at most `most`: a run that was in view for so long and is not back by then
    is lost, and counts as `most`. One that went out of view earlier counts only where it was back by then.
    """
    known = runs.visible >= 0
    if not known.any() or not visible.any():
        return nothing(), nothing(), 0
    kept = runs.only(known)
    count = int(blocks.max(initial=-1)) + 1
    visible_sum, visible_ticks = per_block(square, blocks, visible)
    sums, ticks = np.zeros((most, count)), np.zeros((most, count))
    value = np.full((most, len(kept.begin)), np.nan)
    for lag in range(most):
        value[lag], at, good = _at_lag(square, kept, blocks, visible, lag)
        sums[lag], ticks[lag] = per_block(value[lag], at, good, count)
    limit = WITHIN**2 * visible_sum.sum() / visible_ticks.sum()
    curve = _resampled(_first_within, count, sums, ticks, visible_sum, visible_ticks)
    back = value <= limit
    first = np.where(back.any(0), back.argmax(0), most)
    watched = np.isfinite(value).all(0)
    judged = back.any(0) | watched
    lost = int((watched & ~back.any(0)).sum())
    if not judged.any():
        return curve, nothing(), lost
    return curve, _median(first[judged], blocks[kept.visible[judged]]), lost


def _first_within(sums: Floats, ticks: Floats, visible_sum: Floats, visible_ticks: Floats) -> float:
    """The first lag [L, blocks] -> ticks, whose mean square is within the limit; L where none is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        curve = sums.sum(-1) / ticks.sum(-1)
        good = curve <= WITHIN**2 * visible_sum.sum() / visible_ticks.sum()
    return float(good.argmax() if good.any() else len(good))


def _resampled(statistic: Any, count: int, *arrays: Floats, draws: int = 500) -> Estimate:
    """An Estimate of a statistic that is not vectorised, over arrays [..., blocks]."""
    rng = np.random.default_rng(0)
    if count < 2:
        return Estimate(statistic(*arrays), np.nan, np.nan)
    chosen = rng.integers(count, size=(draws, count))
    values = [statistic(*(array[..., rows] for array in arrays)) for rows in chosen]
    return Estimate(statistic(*arrays), *(float(v) for v in np.percentile(values, [2.5, 97.5])))


def _median(values: Array, blocks: Integers) -> Estimate:
    names = np.unique(blocks)
    parts = [values[blocks == name] for name in names]
    rng, drawn = np.random.default_rng(0), []
    if len(names) < 2:
        return Estimate(float(np.median(values)), np.nan, np.nan)
    for _ in range(500):
        drawn.append(np.median(np.concatenate([parts[i] for i in rng.integers(len(parts), size=len(parts))])))
    return Estimate(float(np.median(values)), *(float(v) for v in np.percentile(drawn, [2.5, 97.5])))


def identity_swaps(mean: Floats, place: Floats, identity: Integers, visible: Bools, after: int) -> int:
    """How often another object came into view, and the belief stayed where the one before was last.

    mean, place: [T, d] believed and true, in a frame at rest. Judged once the new one has been visible for
    `after` ticks in a row: nearer to the last place of the one before is a swap.
    """
    swaps = 0
    for number in range(1, int(identity.max(initial=-1)) + 1):
        ticks, before = np.flatnonzero(identity == number), np.flatnonzero(identity == number - 1)
        shown = ticks[visible[ticks]]
        rows = ticks_in_row(visible[ticks], np.zeros(len(ticks), np.int64)) == after
        if not len(shown) or not rows.any() or not len(before):
            continue
        at, old = ticks[int(rows.argmax())], place[before[-1]]
        swaps += bool(np.linalg.norm(mean[at] - old) < np.linalg.norm(mean[at] - place[at]))
    return swaps
