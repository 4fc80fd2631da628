"""What the page says of a scorecard in words, and when it may."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rssm_ros.evaluation.page import report, tables
from rssm_ros.evaluation.page.words import headline, shortfall, standing, verdict
from rssm_ros.evaluation.scoring.scorecard import Scorecard, TargetScore
from rssm_ros.evaluation.statistics import Estimate
from rssm_ros.evaluation.units import PERCENT, RATIO, Scale
from test.scorecards import Made, made

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def run() -> Made:
    return made(episodes=3, ticks=200, error=0.01)


def _judged(
    score: TargetScore, ratio: tuple[float, ...], visible: tuple[float, ...], hidden: tuple[float, ...]
):
    coverage = {"90": {"visible": Estimate(*visible), "hidden": Estimate(*hidden)}}
    return verdict(
        "package", dataclasses.replace(score, ratio_to_best_classical=Estimate(*ratio), coverage=coverage)
    )


def test_words_are_only_said_where_intervals_say_so(run: Made) -> None:
    score, honest = run.scorecard.targets["package"], (0.9, 0.89, 0.91)
    assert "tracked well" in _judged(score, (0.4, 0.35, 0.45), honest, honest).headline
    open_ = _judged(score, (0.4, 0.3, 0.6), honest, honest)
    assert "better than by any classical" in open_.headline and "not surely" in open_.tracking
    assert "about as well" in _judged(score, (0.9, 0.7, 1.1), honest, honest).headline
    assert "worse than by constant velocity" in _judged(score, (1.3, 1.1, 1.5), honest, honest).headline
    wide = _judged(score, (0.4, 0.35, 0.45), honest, (0.8, 0.7, 0.9))
    assert "not shown to be honest while hidden" in wide.headline and "too wide to tell" in wide.confidence
    assert "too high while hidden" in _judged(score, (0.4, 0.3, 0.45), honest, (0.8, 0.75, 0.85)).headline
    assert "too low while visible" in _judged(score, (0.4, 0.3, 0.45), (0.96, 0.95, 0.97), honest).headline
    mixed = _judged(score, (0.4, 0.3, 0.45), (0.93, 0.925, 0.935), (0.8, 0.7, 0.9)).headline
    assert mixed.endswith("its confidence is too low")  # what is sure is said, not what is farther off
    vague = _judged(score, (0.4, 0.35, 0.45), honest, (0.9, 0.82, 0.95))
    assert vague.headline.endswith("honest as far as can be told") and "more episodes" in vague.confidence
    both = _judged(score, (0.4, 0.3, 0.45), (0.8, 0.7, 0.85), (0.8, 0.75, 0.85)).headline
    assert both.endswith("but its confidence is too high")


def test_what_the_scene_asks_for_stands_beside_what_is_claimed(run: Made) -> None:
    def told(by_tick: float, claimed: float, honest: float) -> TargetScore:
        pairs = {"claimed": claimed, "honest": honest}
        groups = {name: Estimate(value, value - 0.1, value + 0.1) for name, value in pairs.items()}
        return dataclasses.replace(
            run.scorecard.targets["package"],
            log_std_visibility_corr=Estimate(by_tick, np.nan, np.nan),
            log_std_visibility_corr_by_group=groups,
            log_std_log_error_corr=Estimate(0.73, 0.6, 0.8),
        )

    words = verdict("package", told(-0.4, -0.66, -0.64)).confidence
    assert (
        "correlate by -0.40; averaged by group of ticks by -0.66, where its own errors ask for -0.64."
        in words
    )
    assert "hardly follow what it sees, nor do its errors: " in verdict("p", told(0, 0.1, 0.3)).confidence
    assert "hardly follow what it sees: " in verdict("p", told(0, 0.1, -0.8)).confidence
    rows = {row[0].text: row[1] for row in tables.others(told(-0.4, -0.66, -0.64)).rows}
    (asked,) = (cell for text, cell in rows.items() if "what this scene asks for" in text)
    assert asked.text == "-0.64" and "-0.74" in asked.aside
    assert rows["correlation of log deviation and log error"].text == "0.73"


def test_what_a_reader_sees_first_does_not_contradict_the_checks(run: Made, tmp_path: Path) -> None:
    """It said "tracked well" beside a badge "checks failed"."""
    missed = {"name": "package ticks_to_reacquire", "value": 9.0, "bound": "<= 2", "pass": False}
    held = {"name": "package hidden_to_best_classical", "value": 0.4, "bound": "<= 0.5", "pass": True}
    coverage = {"90": {name: Estimate(0.9, 0.89, 0.91) for name in ("visible", "hidden")}}
    ratio = Estimate(0.4, 0.35, 0.45)
    score = dataclasses.replace(
        run.scorecard.targets["package"], ratio_to_best_classical=ratio, coverage=coverage
    )

    def with_checks(*checks: dict[str, object]) -> Scorecard:
        status = "pass" if all(check["pass"] for check in checks) else "fail"
        return dataclasses.replace(run.scorecard, targets={"package": score}, checks=checks, status=status)

    well = "Package is tracked well while hidden, and its confidence is honest"
    failed = with_checks(held, missed)
    assert headline(failed) == f"{well}, but 1 of 2 checks fails."
    assert shortfall(failed) == "Not reached: package ticks to reacquire 9 (asked for <= 2)."
    assert headline(with_checks(held)) == headline(with_checks()) == f"{well}."
    assert shortfall(with_checks(held)) == shortfall(with_checks()) == standing(with_checks()) == ""
    Made(failed, run.trace).write(tmp_path)
    text = report.write(tmp_path).read_text()
    assert "<h1>" + headline(failed) in text and 'href="#checks"' in text and 'id="checks"' in text
    bad = dataclasses.replace(score, ratio_to_best_classical=Estimate(1.3, 1.1, 1.5))
    assert headline(dataclasses.replace(failed, targets={"package": bad})).endswith("; 1 of 2 checks fails.")


@pytest.mark.parametrize(
    ("scale", "value", "told"),
    [(Scale.of("m"), 0.0391, "3.9 cm"), (Scale.of("px"), 1.5, "1.50 px"), (PERCENT, 0.9, "90.0 %"),
     (RATIO, -0.001, "0.00"), (RATIO, float("nan"), "–")],
)  # fmt: skip
def test_figures_in_words(scale: Scale, value: float, told: str) -> None:
    assert scale.with_unit(value).strip() == told
