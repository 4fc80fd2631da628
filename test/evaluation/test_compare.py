import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rssm_ros.evaluation.compare import (
    APART,
    FEWEST,
    INTERVALS,
    PAIRED,
    Comparison,
    Row,
    Run,
    compare,
    read_runs,
)
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.scoring.scorecard import Scorecard
from rssm_ros.evaluation.statistics import Estimate, estimate
from test.scorecards import made


def card(
    seed: int = 0, data: int = 0, error: float = 0.02, claim: float = 1.0, episodes: int = 8
) -> Scorecard:
    return made(seed, episodes, 120, error, claim, data).scorecard


def pair(one: Scorecard, two: Scorecard) -> Comparison:
    return compare([Run("one", one), Run("two", two)])


def row(found: Comparison, start: str) -> Row:
    return next(item for item in found.rows if item.measure.startswith(start))


RUNS = st.builds(
    card, seed=st.integers(0, 3), data=st.integers(0, 1), error=st.sampled_from([0.01, 0.02]),
    claim=st.sampled_from([0.7, 1.0]), episodes=st.sampled_from([1, 3, 8]),
)  # fmt: skip


@settings(max_examples=12)
@given(RUNS, RUNS)
def test_the_other_way_round_is_the_negative(one: Scorecard, two: Scorecard) -> None:
    there, back = pair(one, two), pair(two, one)
    assert there.common == back.common and len(there.rows) == len(back.rows)
    for a, b in zip(there.rows, back.rows):
        (forth,), (reverse,) = a.differences, b.differences
        assert a.figures == b.figures[::-1] or any(math.isnan(item.value) for item in a.figures)
        assert (forth.how, forth.episodes) == (reverse.how, reverse.episodes)
        got = (reverse.figure.value, reverse.figure.low, reverse.figure.high)
        expected = (-forth.figure.value, -forth.figure.high, -forth.figure.low)
        np.testing.assert_allclose(got, expected, atol=1e-12)
        assert reverse.better is (None if forth.better is None else not forth.better)


@settings(max_examples=8)
@given(RUNS)
def test_a_run_against_itself_differs_in_nothing(one: Scorecard) -> None:
    found = pair(one, one)
    assert found.worse == []
    for item in found.rows:
        (difference,) = item.differences
        assert difference.figure.value == 0 and difference.better is None
        if difference.how == PAIRED and len(one.episodes) >= FEWEST:
            assert (difference.figure.low, difference.figure.high) == (0, 0)


def test_a_paired_interval_is_the_bootstrap_of_the_difference() -> None:
    """Against statistics.estimate: the same resampling, over the difference of two roots of ratios."""
    one, two = card(0), card(1, error=0.018)
    (found,) = row(pair(one, two), "RMSE hidden").differences
    columns = []
    for run in (one, two):
        sums = [item.targets["package"] for item in sorted(run.episodes, key=lambda item: item.id)]
        columns.append([item["squared_error_sum"]["hidden"] for item in sums])
        columns.append([item["ticks"]["hidden"] for item in sums])

    def difference(a, m, b, n):
        return np.sqrt(b.sum(-1) / n.sum(-1)) - np.sqrt(a.sum(-1) / m.sum(-1))

    expected = estimate(difference, *columns)
    assert found.how == PAIRED and found.episodes == 8
    np.testing.assert_allclose(dataclasses.astuple(found.figure), dataclasses.astuple(expected), rtol=1e-12)


def test_pairs_tell_more_than_runs_apart() -> None:
    """The same small gain is clear over the same episodes; by other ids of the same, it is not."""
    one, two = card(0), card(0, error=0.0195)
    renamed = dataclasses.replace(
        two, episodes=tuple(dataclasses.replace(item, id=f"other-{item.id}") for item in two.episodes)
    )
    (paired,) = row(pair(one, two), "RMSE hidden").differences
    (apart,) = row(pair(one, renamed), "RMSE hidden").differences
    assert (paired.how, apart.how) == (PAIRED, APART)
    assert paired.figure.value == pytest.approx(apart.figure.value)
    assert paired.better is True and apart.better is None


def test_only_common_episodes_are_paired() -> None:
    one, two = card(0), card(1)
    part = dataclasses.replace(two, episodes=two.episodes[:7])
    found = pair(one, part)
    assert found.common == (7,)
    (difference,) = row(found, "RMSE hidden").differences
    same = pair(dataclasses.replace(one, episodes=one.episodes[:7]), part)
    assert difference.figure == row(same, "RMSE hidden").differences[0].figure


def test_better_is_nearer_to_the_level_for_coverage() -> None:
    honest, narrow, wide = card(0), card(0, claim=0.6), card(0, claim=1.6)
    for other in (narrow, wide):
        (there,) = row(pair(honest, other), "inside 90 % region, hidden").differences
        (back,) = row(pair(other, honest), "inside 90 % region, hidden").differences
        assert there.better is False and back.better is True


@pytest.mark.parametrize("episodes", [1, 2, FEWEST - 1])
def test_few_episodes_have_no_interval_and_decide_nothing(episodes: int) -> None:
    found = pair(card(0, episodes=episodes), card(0, error=0.01, episodes=episodes))
    (difference,) = row(found, "RMSE hidden").differences
    assert difference.figure.value < 0
    assert math.isnan(difference.figure.low) and difference.better is None


def one_long_episode(run: Scorecard) -> Scorecard:
    """All episodes as the stretches of one."""
    parts = [item.targets["package"] for item in run.episodes]

    def added(*values):
        if isinstance(values[0], dict):
            return {name: added(*(value[name] for value in values)) for name in values[0]}
        return sum(values)

    target = {**added(*parts), "blocks": parts}
    return dataclasses.replace(
        run, episodes=(dataclasses.replace(run.episodes[0], id="long", targets={"package": target}),)
    )


def test_one_long_episode_is_resampled_by_its_stretches() -> None:
    one, two = card(0), card(1, error=0.018)
    (whole,) = row(pair(one_long_episode(one), one_long_episode(two)), "RMSE hidden").differences
    (apart,) = row(pair(one, two), "RMSE hidden").differences
    assert (whole.how, whole.episodes) == (PAIRED, 1)
    np.testing.assert_allclose(dataclasses.astuple(whole.figure), dataclasses.astuple(apart.figure))
    other = one_long_episode(card(1, error=0.018, episodes=5))  # cut differently: nothing to pair within
    (coarse,) = row(pair(one_long_episode(one), other), "RMSE hidden").differences
    assert coarse.how == PAIRED and math.isnan(coarse.figure.low)


def test_scorecards_that_keep_no_sums_are_compared_by_intervals() -> None:
    one, two = card(0), card(1)
    bare = dataclasses.replace(
        two, episodes=tuple(dataclasses.replace(item, targets={}) for item in two.episodes)
    )
    (difference,) = row(pair(one, bare), "RMSE visible").differences
    a, b = (run.targets["package"].errors.by_group["visible"] for run in (one, bare))
    assert difference.how == INTERVALS
    assert difference.figure.high - difference.figure.value == pytest.approx(
        math.hypot(b.high - b.value, a.value - a.low)
    )


def test_three_runs_are_each_compared_with_the_first() -> None:
    runs = [Run(name, card(seed)) for seed, name in enumerate("abc")]
    found = compare(runs)
    assert all(len(item.figures) == 3 and len(item.differences) == 2 for item in found.rows)
    alone = compare([runs[0], runs[2]])
    third, second = ([str(item.differences[-1]) for item in these.rows] for these in (found, alone))
    assert third == second


def test_what_cannot_be_compared_is_said() -> None:
    one = card()
    other = dataclasses.replace(one, targets={"dot": one.targets["package"]})
    with pytest.raises(EvaluationError, match="no target in common: one has package; two has dot"):
        pair(one, other)
    pixels = dataclasses.replace(one.targets["package"], unit="px")
    with pytest.raises(EvaluationError, match="different units: one m, two px"):
        pair(one, dataclasses.replace(one, targets={"package": pixels}))
    with pytest.raises(EvaluationError, match="two or more"):
        compare([Run("one", one)])


def test_robots_without_targets_are_compared_by_their_pictures() -> None:
    one = dataclasses.replace(card(), targets={})
    picture = dataclasses.replace(one.image_prediction["camera"], psnr_db=Estimate(29.0, 28.5, 29.5))
    better = {"camera": picture}
    found = pair(one, dataclasses.replace(one, image_prediction=better))
    (difference,) = row(found, "camera foreseen, PSNR").differences
    assert difference.better is True and difference.how == INTERVALS
    assert row(found, "camera foreseen, SSIM").differences[0].better is None


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    run = made(episodes=2, ticks=120)
    paths = [run.write(tmp_path / name) for name in ("a", "b", "a/out", "b/out")]
    assert [item.name for item in read_runs(paths[:2])] == ["a", "b"]
    assert [item.name for item in read_runs(paths[2:])] == ["a/out", "b/out"]
    assert len({item.name for item in read_runs([paths[0], paths[0]])}) == 2
    copy = tmp_path / "yesterday.json"
    copy.write_bytes((paths[0] / "scorecard.json").read_bytes())
    assert [item.name for item in read_runs([copy, paths[1]])] == ["yesterday", "b"]


def test_an_interval_of_nan_is_never_clear() -> None:
    one = card()
    target = one.targets["package"]
    unknown = dataclasses.replace(target, ratio_to_best_classical=Estimate(0.3, math.nan, math.nan))
    found = pair(one, dataclasses.replace(one, targets={"package": unknown}))
    assert row(found, "hidden error to the best classical").differences[0].better is None
