"""The held-out dot: seeds that nobody trains on, and the exact filter's track as a baseline."""

import argparse
from dataclasses import replace

import numpy as np
import pytest

from rssm_ros.cli.collect import add_parser, what_to_record
from rssm_ros.contract import find_contract
from rssm_ros.envs.dot import find_setting, simulate
from rssm_ros.evaluation.dot import held_out
from rssm_ros.evaluation.dot.bayes import ParticleFilter
from rssm_ros.evaluation.dot.evaluate import FIRST_TICK, exact
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.evaluate import evaluate
from rssm_ros.evaluation.page.page import tiles
from rssm_ros.evaluation.playing.collected import CollectedRecording
from rssm_ros.evaluation.playing.filtering import episode_rows
from rssm_ros.evaluation.playing.play import How
from rssm_ros.evaluation.playing.sources import sources
from rssm_ros.evaluation.scoring.targets import SETTLING
from rssm_ros.evaluation.statistics import Estimate
from rssm_ros.online.session import Session
from rssm_ros.training.collect_dot import BLOCK
from test.bundles import tiny_bundle
from test.episodes import smooth_episode

TICKS = find_setting("hard").ticks
assert SETTLING == FIRST_TICK, "the same ticks as `rssm evaluate-dot`"


def asked(*words):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return what_to_record(parser.parse_args(["collect", "dot", "--out", "x", *words]))


def test_the_command_plans_seeds_that_training_is_refused():
    source, plans = asked("--held-out", "--ticks", str(2 * BLOCK * TICKS - 1))
    assert [plan.seed for plan in plans] == [0, BLOCK] and source.record is held_out.record
    assert source.facts["held_out"] is True
    for ticks in ("0", str(16 * BLOCK * TICKS)):
        with pytest.raises(EvaluationError, match="held-out seeds"):
            asked("--held-out", "--ticks", ticks)
    assert asked("--ticks", "10")[0].record is not held_out.record


def test_a_file_holds_the_exact_filter_s_track_beside_the_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(held_out, "BLOCK", 2)
    monkeypatch.setattr("rssm_ros.training.collect_dot.BLOCK", 2)
    monkeypatch.setattr(held_out, "exact", lambda setting, made: exact(setting, made, particles=200))
    arrays = held_out.record(held_out.BlockPlan(0, "hard"))
    setting = find_setting("hard")
    made = simulate(setting, range(2))
    tracks = [
        ParticleFilter(setting, 200).run(*parts) for parts in zip(made.images, made.covered, made.actions)
    ]
    np.testing.assert_allclose(arrays["exact_dot"], np.concatenate([t.mean for t in tracks]), atol=1e-4)
    off = np.linalg.norm(arrays["exact_dot"] - arrays["target_dot"], axis=-1)
    assert len(off) == 2 * TICKS and np.median(off) < 0.5, "px: it follows the dot of its own row"
    path = tmp_path / "episode-00000000-hard.npz"
    np.savez(path, **arrays)
    second = CollectedRecording.read(path, find_contract("dot"), *episode_rows(arrays)[1])
    np.testing.assert_array_equal(second.exact["dot"].value[:, :2], arrays["exact_dot"][TICKS:].astype(float))
    np.testing.assert_allclose(second.exact["dot"].value[:, 2], tracks[1].std, rtol=1e-4)


def test_the_exact_filter_is_what_the_belief_is_held_against(tmp_path):
    arrays = smooth_episode(6, 120)
    arrays["exact_package"] = arrays["target_package"] + np.array([0.03, 0.04], np.float32)
    session = Session(tiny_bundle(), prove=False)

    def evaluated():
        np.savez(tmp_path / "episode-00000006-expert.npz", **arrays)
        return evaluate(session, sources([tmp_path]), How(memoryless=False, open_loop_every=0))

    arrays["exact_package"][:SETTLING] += 100.0  # nobody knows anything yet: left out of the ratio
    found = evaluated()
    card = found.scorecard
    score = card.targets["package"]
    assert score.baselines["exact_bayes"].kind == "exact"
    hidden = found.trace["package/visibility"][SETTLING:] <= 0.05
    off = found.trace["package/mean"][SETTLING:][hidden] - found.trace["package/truth"][SETTLING:][hidden]
    error = np.sqrt(np.square(off).sum(-1).mean())
    assert score.ratio_to_bayes.value == pytest.approx(error / 0.05, rel=1e-4)
    names = [check["name"] for check in card.checks]
    assert "package hidden_to_exact_bayes" in names and "package hidden_to_best_classical" not in names
    assert "package log_std_visibility_corr" not in names, "recorded without the exact filter's deviation"
    seen = arrays["visibility_package"] + np.random.default_rng(0).normal(scale=0.3, size=120)
    arrays["exact_std_package"] = np.exp(-seen)
    found = evaluated()
    card, shown = found.scorecard, found.trace["package/visibility"]
    exact = card.targets["package"].exact_log_std_visibility_corr.value
    assert exact == pytest.approx(np.corrcoef(-seen[-len(shown) :], shown)[0, 1], abs=1e-4) and exact < -0.5
    (check,) = (item for item in card.checks if item["name"] == "package log_std_visibility_corr")
    assert check["bound"] == f"<= {exact + 0.05:.3g}" and not check["pass"], "random weights follow nothing"
    (tile,) = (tile for tile in tiles(card.targets["package"]) if tile.label == "log std and visibility")
    assert tile.good is False
    other = replace(card.targets["package"], log_std_visibility_corr=Estimate(exact + 0.04, np.nan, np.nan))
    (tile,) = (tile for tile in tiles(other) if tile.label == "log std and visibility")
    assert tile.good is True
