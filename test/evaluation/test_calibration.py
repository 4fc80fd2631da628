"""Fitted regions keep their promise on other data, thresholds are per presence pattern, nothing leaks."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from rssm_ros.contract import TargetSpec
from rssm_ros.evaluation.calibration import (
    Depths,
    calibrate,
    coverage,
    false_alarms,
    fit_regions,
    reviews,
    surprise_thresholds,
    thresholds_of,
)
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.filtering import Filtered, Track
from rssm_ros.online.regions import RegionMap
from test.online.streams import small_contract

NAMES = ["camera", "odom"]
TICKS, EPISODE = 24_000, 300
CONTRACT = small_contract(
    targets=(TargetSpec("package", "geometry_msgs/msg/PoseStamped", "p", ("x", "y"), "m"),), rate=Fraction(20)
)


def made_up(seed: int, ticks: int = TICKS) -> Filtered:
    """A filter that is too sure of itself: by 1.5 while hidden, by 2 more when the camera is long gone.

    Hidden ticks say so by a larger std, as a real filter's do; visibility itself is for the check alone.
    """
    draw = np.random.default_rng(seed)
    hidden = draw.random(ticks) < 0.5
    age = np.where(draw.random(ticks) < 0.3, draw.integers(1, 12, ticks), 0)
    std = np.where(hidden, draw.uniform(0.05, 0.2, ticks), draw.uniform(0.01, 0.04, ticks))
    too_sure = np.where(hidden, 1.5, 1.0) * np.where(age >= 4, 2.0, 1.0)
    place = draw.normal(size=(ticks, 2))
    mean = place[:, None] + 0.3 * std[:, None, None] * draw.normal(size=(ticks, 4, 2))
    truth = place + (too_sure * std)[:, None] * draw.normal(size=(ticks, 2))
    truth[draw.random(ticks) < 0.1] = np.nan
    seen = age == 0
    return Filtered(
        episode=np.arange(ticks) // EPISODE,
        surprise=np.where(seen, draw.exponential(5.0, ticks), draw.exponential(1.0, ticks)),
        first=np.arange(ticks) % EPISODE == 0,
        ages=np.stack([age, np.zeros(ticks, int)], -1),
        patterns=np.where(seen, "camera+odom", "odom"),
        tracks={
            "package": Track(
                mean, np.broadcast_to(std[:, None, None], (ticks, 4, 2)), truth, np.where(hidden, 0.0, 1.0)
            )
        },
    )


@pytest.fixture(scope="module")
def fitted() -> RegionMap:
    return fit_regions(made_up(0), NAMES, "package")


def test_fitted_regions_hold_their_level_on_other_data_visible_and_hidden(fitted):
    found = coverage(made_up(1), {"package": fitted}, NAMES)["package"]
    for level in (0.5, 0.9, 0.95):
        for group in ("visible", "hidden"):
            assert found[str(level)][group]["value"] == pytest.approx(level, abs=0.02)
    low, high = found["0.9"]["hidden"]["ci95"]
    assert 0.87 < low < found["0.9"]["hidden"]["value"] < high < 0.93
    assert found["ticks"]["visible"] + found["ticks"]["hidden"] == pytest.approx(0.9 * TICKS, rel=0.02)


def test_the_unfitted_mixture_does_not():
    """What the test above would not notice if the map did nothing."""
    data = Depths.of(made_up(1), "package")
    assert (data.depth <= -math.log(0.1))[data.hidden].mean() < 0.8


def test_what_was_not_seen_for_long_widens_the_region(fitted):
    gain = fitted.gain["camera"][1]
    assert gain[:3] == pytest.approx((1.0, 1.0, 1.0), abs=0.2) and min(gain[3:]) > 2.5
    assert fitted.gain["odom"][1] == pytest.approx((1.0,) * 5, abs=0.05)


def test_one_tick_and_all_ticks_ask_the_same_map(fitted):
    filtered = made_up(2, 50)
    data = Depths.of(filtered, "package")
    known = np.isfinite(filtered.tracks["package"].truth).all(-1)
    each = [
        fitted.threshold(0.9, math.exp(log_std), dict(zip(NAMES, ages.tolist())))
        for log_std, ages in zip(data.log_std, filtered.ages[known])
    ]
    np.testing.assert_allclose(thresholds_of(fitted, data, NAMES, 0.9), each)


def test_visibility_does_not_enter_the_fit():
    """Nothing privileged at run time: the map is the same whatever the labels say about visibility."""
    data = made_up(0)
    track = data.tracks["package"]
    blind = replace(data, tracks={"package": replace(track, visibility=np.full(TICKS, np.nan))})
    assert fit_regions(blind, NAMES, "package") == fit_regions(data, NAMES, "package")


def test_hidden_runs_do_not_cross_episodes():
    data = made_up(0, 600)
    hidden = np.zeros(600)
    hidden[:10] = hidden[20:30] = hidden[295:] = 1.0
    track = data.tracks["package"]
    track = replace(track, visibility=1.0 - hidden, truth=np.zeros((600, 2)))
    assert Depths.of(replace(data, tracks={"package": track}), "package").hidden_runs() == 4


def test_thresholds_are_per_pattern_and_rare_ones_need_the_thinned_run():
    data = made_up(0)
    rare = replace(data, patterns=np.where(np.arange(TICKS) < 520, "camera", data.patterns))
    found = surprise_thresholds(data, data, 95.0)
    assert found["camera+odom"] == pytest.approx(5.0 * math.log(20), rel=0.05)
    assert found["odom"] == pytest.approx(1.0 * math.log(20), rel=0.1)
    assert "camera" not in surprise_thresholds(rare, data, 95.0)
    assert "camera" in surprise_thresholds(rare, rare, 95.0)


def test_unseen_and_first_ticks_say_nothing_about_surprise():
    data = made_up(0)
    surprise = np.where(data.first, 1e6, data.surprise)
    surprise[1::7] = np.nan
    changed = replace(data, surprise=surprise, patterns=np.where(np.isnan(surprise), "", data.patterns))
    found = surprise_thresholds(changed, changed, 99.99)
    assert set(found) == {"camera+odom", "odom"} and max(found.values()) < 1000


def test_reviews_are_runs_and_do_not_cross_episodes():
    data = made_up(0, 600)
    surprise = np.zeros(600)
    surprise[10:25] = surprise[290:305] = 99.0
    data = replace(data, surprise=surprise, patterns=np.full(600, "odom"))
    assert reviews(data, {"odom": 50.0}, 10) == [19, 299]
    assert reviews(data, {"odom": 50.0}, 12) == [21]
    assert reviews(data, {"camera": 50.0}, 10) == []
    told = false_alarms(data, {"odom": 50.0}, 10, 0.05)
    assert told["reviews"] == 2 and told["above"] == pytest.approx(30 / 600)


def test_the_report_says_pass_or_fail():
    fit, held_out = (made_up(0), made_up(3)), made_up(1)
    found = calibrate(fit, held_out, CONTRACT, 99.0, 10)
    assert found.report["status"] == "pass"
    assert [(check["name"], check["pass"]) for check in found.report["checks"]] == [
        ("package visible", True),
        ("package hidden", True),
        ("package hidden_runs", True),
    ]
    track = held_out.tracks["package"]
    worse = replace(track, truth=track.truth + 0.05)
    failed = calibrate(fit, replace(held_out, tracks={"package": worse}), CONTRACT, 99.0, 10)
    assert failed.report["status"] == "fail"


@pytest.mark.parametrize(
    ("visibility", "failed", "told"),
    [
        (np.nan, {"visible", "hidden", "hidden_runs"}, "labelled visible"),
        (1.0, {"hidden", "hidden_runs"}, "labelled hidden"),
    ],
)
def test_what_cannot_be_checked_fails(visibility, failed, told):
    """Once nothing was labelled and the report said "pass": of no check at all."""
    held_out = made_up(1)
    track = replace(held_out.tracks["package"], visibility=np.full(TICKS, visibility))
    blind = replace(held_out, tracks={"package": track})
    report = calibrate((made_up(0), made_up(3)), blind, CONTRACT, 99.0, 10).report
    checks = {check["name"].removeprefix("package "): check for check in report["checks"]}
    assert report["status"] == "fail" and {n for n, check in checks.items() if not check["pass"]} == failed
    assert any(told in check.get("advice", "") for check in checks.values())
    assert checks["hidden"]["value"] is None and checks["hidden_runs"]["value"] == 0


def test_a_small_check_fails_and_says_how_much_data_it_takes():
    """Half of the ticks are hidden, each for itself: a thousand runs of them are in about 4,400 ticks."""
    report = calibrate((made_up(0), made_up(3)), made_up(1, 2200), CONTRACT, 99.0, 10).report
    check = report["checks"][-1]
    assert check["name"] == "package hidden_runs" and not check["pass"] and report["status"] == "fail"
    assert 400 < check["value"] < 600
    needed = math.ceil(2200 * 1000 / check["value"])
    assert f"2200 ticks to check on are too few: it takes about {needed} like these" in check["advice"]


def test_too_little_data_is_refused():
    with pytest.raises(EvaluationError, match="labelled ticks"):
        fit_regions(made_up(0, 600), NAMES, "package")
