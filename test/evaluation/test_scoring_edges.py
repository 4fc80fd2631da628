"""From ticks to figures, on ticks made by hand."""

import numpy as np
import pytest

from rssm_ros.contract import find_contract
from rssm_ros.evaluation import scoring
from rssm_ros.evaluation.ticks import TargetTicks, Ticks

CONTRACT = find_contract("manipulator")
SPEC = CONTRACT.targets[0]


def ticks_of(visibility, error, ahead=None):
    """A package that lies still; the belief is off by `error` [T] along x, predictions by `ahead` [T, H]."""
    t, d = len(visibility), SPEC.dim
    truth = np.tile([0.4, 0.1], (t, 1))
    off = np.stack([np.asarray(error, float), np.zeros(t)], -1)
    nothing, ahead = np.full((t, d), np.nan), np.zeros((t, 0)) if ahead is None else np.asarray(ahead, float)
    target = TargetTicks(
        truth=truth,
        visibility=np.asarray(visibility, float),
        mean=truth + off,
        covariance=np.tile(np.eye(d), (t, 1, 1)),
        nll=np.zeros(t),
        depth=np.zeros(t),
        log_std=np.zeros(t),
        memoryless=nothing,
        velocity=nothing,
        privileged=nothing,
        exact=nothing,
        detected=np.full((t, d + 1), np.nan),
        open_loop=truth[:, None] + np.stack([ahead, 0 * ahead], -1),
    )
    return Ticks(
        episode=np.zeros(t, np.int64),
        t_ns=np.arange(1, t + 1) * 50_000_000,
        tick=np.arange(1, t + 1),
        surprise=np.ones(t),
        pattern=np.full(t, "all"),
        ages=np.zeros((t, len(CONTRACT.observations)), np.int64),
        imposed=np.zeros(t, bool),
        twist=np.zeros((t, 2)),
        seconds=np.zeros(t),
        targets={SPEC.name: target},
    )


def judged(*args):
    return scoring.judged(CONTRACT, SPEC, ticks_of(*args))


def test_what_was_never_seen_is_told_from_what_was():
    item = judged([0.0] * 5 + [1.0] * 5 + [0.0] * 5, [3.0] * 5 + [1.0] * 5 + [2.0] * 5)
    errors = scoring.errors_of(item, item.data.mean)
    assert errors.by_group["hidden"].value == pytest.approx(np.sqrt(6.5))
    assert errors.by_history["never_seen"].value == pytest.approx(3.0)
    assert errors.by_history["seen_before"].value == pytest.approx(2.0)


def test_trackers_are_told_what_is_partly_seen_and_nothing_of_what_is_hidden():
    item = judged([1.0, 0.3, 0.05, 0.0, np.nan], [0.0] * 5)
    assert item.told.known().tolist() == [True, True, False, False, False]


def test_open_loop_errors_are_those_of_their_tick():
    """Predicted from tick 0 (seen) and tick 3 (hidden, which says nothing about tracking): off by 1, 2, 3."""
    ahead = np.full((8, 3), np.nan)
    ahead[[0, 3]] = [1.0, 2.0, 3.0]
    ahead[3] += 10.0
    found = scoring.open_loop(judged([1.0] * 3 + [0.0] + [1.0] * 4, [0.0] * 8, ahead))
    assert [found[step].value for step in ("1", "2", "3")] == pytest.approx([1.0, 2.0, 3.0])
