from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rssm_ros.evaluation.runs import policy
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.runs.policy import BUNDLE, Episode, summarise, tasks


def episode(name: str, seed: int, good: int, error: float = 0.02, ticks: int = 50) -> Episode:
    """Half the ticks hidden; the belief is off by `error` in x, hold-last by 0.2."""
    truth = np.random.default_rng(seed).uniform(-0.5, 0.5, (ticks, 2)).astype(np.float32)
    return Episode(
        policy=name,
        seed=seed,
        ticks=ticks,
        packages=10,
        sorted=good,
        wrong=1,
        missed=9 - good,
        tipped=False,
        visibility=np.where(np.arange(ticks) % 2, 0.0, 1.0).astype(np.float32),
        truth=truth,
        belief=truth + np.float32([error, 0]) if name == BUNDLE else truth[:0],
        held=truth + np.float32([0.2, 0]),
    )


def run_of(error: float = 0.02, good: int = 7) -> list[Episode]:
    names = {BUNDLE: good, "expert": 8, "constant_velocity": 5, "memoryless": 3, "random": 0}
    return [episode(name, seed, count, error) for name, count in names.items() for seed in (3, 1, 2)]


def test_a_good_bundle_passes_every_check() -> None:
    report = summarise(run_of())
    assert report["status"] == "pass"
    assert [check["name"] for check in report["checks"]] == [
        "sorted_of_expert",
        "sorted_above_constant_velocity",
        "hidden_to_hold_last",
        "hidden_to_climatology",
    ]
    assert report["seeds"] == [1, 2, 3]
    assert report["policies"][BUNDLE]["sorted"] == 21
    assert report["policies"]["random"]["sorted_share"]["value"] == 0.0
    assert report["sorted_of_expert"][BUNDLE]["value"] == pytest.approx(7 / 8)
    hidden = report["belief"]["hidden"]
    assert hidden["ticks"] == 75
    assert hidden["error_m"]["value"] == pytest.approx(0.02, rel=1e-3)
    assert hidden["ratio_to_hold_last"]["value"] == pytest.approx(0.1, rel=1e-3)
    assert hidden["ratio_to_climatology"]["value"] < 0.1


def test_a_tick_without_a_belief_is_no_error_but_counted() -> None:
    """It was left out without a word: a filter that says nothing when it is hard looked better for it."""
    runs = run_of()
    for run in runs[:3]:
        run.belief[1:11] = np.nan  # five hidden ticks and five visible ones, three seeds
    belief = summarise(runs)["belief"]
    assert [belief[name]["ticks_without_belief"] for name in ("hidden", "visible")] == [15, 15]
    assert belief["hidden"]["ticks"] == 60
    assert belief["hidden"]["error_m"]["value"] == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"error": 0.15}, {"hidden_to_hold_last"}),
        ({"good": 4}, {"sorted_of_expert", "sorted_above_constant_velocity"}),
        ({"good": 5}, {"sorted_above_constant_velocity"}),
    ],
)
def test_what_is_not_good_enough_is_named(change: dict[str, Any], failed: set[str]) -> None:
    report = summarise(run_of(**change))
    assert report["status"] == "fail"
    assert {check["name"] for check in report["checks"] if not check["pass"]} == failed


def test_policies_on_different_seeds_cannot_be_paired() -> None:
    with pytest.raises(EvaluationError, match="different seeds"):
        summarise(run_of()[:-1])


def test_no_hidden_ticks_is_no_figure_and_no_pass() -> None:
    report = summarise([episode(BUNDLE, 1, 5, ticks=1)])
    assert report["belief"]["hidden"]["error_m"]["value"] is None
    assert report["status"] == "fail"


def test_references_run_without_a_picture_and_the_seed_decides() -> None:
    """Real episodes: the expert sorts, chance does not, and the same task gives the same episode."""
    work = tasks(Path("unused"), [1_000_003], 10.0, 1, policies=("expert", "random"))
    first = list(policy.run_all(work, 1))
    again = policy.run_episode(work[0])
    assert first[0].sorted >= 1
    assert first[0].sorted == again.sorted
    np.testing.assert_array_equal(first[0].held, again.held)
    assert first[1].sorted < first[0].sorted
    assert first[0].ticks == 200
