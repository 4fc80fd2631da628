"""From ticks to figures, on ticks made by hand."""

import numpy as np
import pytest

from rssm_ros.contract import find_contract
from rssm_ros.evaluation.scoring import judged as judging
from rssm_ros.evaluation.scoring import targets as scoring
from rssm_ros.evaluation.scoring.scorecard import Baseline, TargetScore
from rssm_ros.evaluation.scoring.trackers import Tracked
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
        models=np.zeros((t, 0, 2, d)),
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
    return judging.judged(CONTRACT, SPEC, ticks_of(*args))


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


def test_to_be_found_again_something_must_have_been_seen_before():
    """Hidden from the start and well seen at once; later hidden again and off for three ticks in view."""
    seen = [0.0] * 4 + [1.0] * 30 + [0.0] * 4 + [1.0] * 30
    error = [3.0] * 4 + [0.1] * 30 + [2.0] * 4 + [1.0] * 3 + [0.1] * 27
    item = judged(seen, error)
    score = scoring.score_target(item, {}, {}, "recorded")
    assert (score.hidden_runs, score.reappearances, score.first_appearances.count) == (2, 1, 1)
    assert score.ticks_to_reacquire.value == score.ticks_to_reacquire_median.value == 3
    assert score.first_appearances.ticks_to_acquire.value == 0
    assert score.rmse_at_reappearance.value == pytest.approx(1.0)
    assert score.first_appearances.rmse.value == pytest.approx(0.1)
    after = {lag: round(figure.value, 3) for lag, figure in score.rmse_after_reappearance.items()}
    assert (after["2"], after["3"]) == (1.0, 0.1)
    assert score.first_appearances.rmse_after["0"].value == pytest.approx(0.1)
    assert TargetScore.from_dict(score.to_dict()).to_dict() == score.to_dict()


def test_who_claims_a_deviation_is_held_to_it():
    """Errors drawn from what is claimed: regions hold what they say. Half the claim, and they do not."""
    t, random = 4000, np.random.default_rng(0)
    item = judged([1.0] * (t // 2) + [0.0] * (t // 2), np.zeros(t))
    std = np.broadcast_to([0.02, 0.05], (t, 2))
    mean = item.data.truth + std * random.normal(size=(t, 2))
    fair, sure = (
        scoring.baseline_of(item, Tracked(mean, "learned", "", factor * std)) for factor in (1.0, 0.5)
    )
    for level in ("50", "90", "95"):
        for group in ("visible", "hidden"):
            assert fair.coverage[level][group].value == pytest.approx(float(level) / 100, abs=0.03)
            assert sure.coverage[level][group].value < float(level) / 100 - 0.1
    entropy = np.log(0.02 * 0.05 * 2 * np.pi * np.e)
    assert (
        fair.nll["hidden"].value == pytest.approx(entropy, abs=0.1)
        and fair.nll["hidden"].value < sure.nll["hidden"].value
    )
    plain = fair.to_dict("m")
    assert Baseline.from_dict(plain, "m").to_dict("m") == plain
    told_nothing = scoring.baseline_of(item, Tracked(mean, "classical", ""))
    assert not told_nothing.coverage and "nll" not in told_nothing.to_dict("m")


def test_a_network_is_no_classical_baseline_however_good():
    item = judged([1.0] * 10 + [0.0] * 10, [0.0] * 20)
    table = {
        name: scoring.baseline_of(item, Tracked(item.data.truth + off, kind, ""))
        for name, kind, off in (
            ("kalman", "classical", 0.2),
            ("hold_last", "classical", 0.3),
            ("gru", "learned", 0.1),
        )
    }
    assert scoring.best_classical(table) == "kalman"
