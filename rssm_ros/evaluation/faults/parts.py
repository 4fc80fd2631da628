"""What is behind the error under the judged delay: what nobody could know, and what was to be predicted."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rssm_ros.contract import VISIBLE
from rssm_ros.evaluation.faults.runs import Episode, Told
from rssm_ros.evaluation.faults.ticks import Array, Masks, Sums, judged_ticks
from rssm_ros.evaluation.scoring.measures import identities

NEW, UNSEEN, SEEN = "new", "out of sight then", "in sight then"


def parts_of(
    episodes: Sequence[Episode], nominal: Sequence[Told], delayed: Sequence[Told], target: str
) -> list[dict[str, Any]]:
    """One entry per group of ticks and part of it that has any. "Then" is the judged delay ago.

    {"group", "part", "ticks", "share" of the group's squared error under the delay, "ratio" of the errors
    with and without it, and root mean squares, each {"value", "ci95"}: "no_fault"; "delayed"; "then", of the
    belief of then about then; "moved", of the true place of then, moved on at its true speed of then}
    """
    rows = []
    masks = [Masks.of(episode, target) for episode in episodes]
    errors = [_errors(*each, target) for each in zip(episodes, nominal, delayed, strict=True)]
    seen = [_seen_then(episode, target) for episode in episodes]
    for group in ("visible", "hidden"):
        counts = [found.groups()[group] for found in masks]
        whole = _sums(counts, [error["delayed"] for error in errors]).squares.sum()
        for part in (NEW, UNSEEN, SEEN):
            chosen = [
                count & {NEW: m.new, UNSEEN: ~s & ~m.new, SEEN: s & ~m.new}[part]
                for count, m, s in zip(counts, masks, seen, strict=True)
            ]
            if not any(mask.any() for mask in chosen):
                continue
            sums = {name: _sums(chosen, [error[name] for error in errors]) for name in errors[0]}
            row: dict[str, Any] = {name: found.error() for name, found in sums.items()}
            row |= {"group": group, "part": part, "ticks": int(sum(mask.sum() for mask in chosen))}
            row["share"] = float(sums["delayed"].squares.sum() / whole) if whole else None
            rows.append(row | {"ratio": sums["delayed"].ratio(sums["no_fault"])})
    return rows


def _errors(episode: Episode, nominal: Told, delayed: Told, target: str) -> dict[str, Array]:
    """{name: [T]} squared errors; NaN where there is none."""
    ticks, truth = judged_ticks(episode), episode.truth[target]
    number = identities(truth, np.zeros(episode.ticks, np.int64))
    now = np.square(nominal.points[target] - truth).sum(-1)
    then, moved = np.full(episode.ticks, np.nan), np.full(episode.ticks, np.nan)
    then[ticks:] = np.where(number[ticks:] == number[:-ticks], now[:-ticks], np.nan)
    old, older, new = truth[ticks:-ticks], truth[: -2 * ticks], truth[2 * ticks :]
    same = (number[2 * ticks :] == number[: -2 * ticks]) & (number[2 * ticks :] >= 0)
    moved[2 * ticks :] = np.where(same, np.square(2 * old - older - new).sum(-1), np.nan)
    late = np.square(delayed.points[target] - truth).sum(-1)
    return {"no_fault": now, "delayed": late, "then": then, "moved": moved}


def _seen_then(episode: Episode, target: str) -> Array:
    """[T] whether the object could be seen the judged delay ago."""
    ticks, seen = judged_ticks(episode), np.zeros(episode.ticks, bool)
    seen[ticks:] = (episode.visibility[target] >= VISIBLE)[:-ticks]
    return seen


def _sums(chosen: Sequence[Array], squares: Sequence[Array]) -> Sums:
    kept = [square[mask] for mask, square in zip(chosen, squares, strict=True)]
    return Sums(
        np.array([float(np.nansum(each)) for each in kept]),
        np.array([int(np.isfinite(each).sum()) for each in kept]),
    )
