"""What the runs add up to: errors, checks, who noticed what, and the page that says so."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rssm_ros.evaluation.faults.page import draw, page
from rssm_ros.evaluation.faults.parts import parts_of
from rssm_ros.evaluation.faults.runs import Told, episode_of
from rssm_ros.evaluation.faults.scenarios import JUDGED, NOMINAL, scenarios
from rssm_ros.evaluation.faults.table import Run, Table, first_review
from rssm_ros.evaluation.faults.ticks import Masks, onset_ns, onset_row
from test.episodes import NAMES, made_up_episode

TICKS, SECOND = 130, 1_000_000_000
FEW = (NOMINAL, JUDGED, "30% NaN", "30% of a wrong size", "50% lost", "all twice")


@pytest.fixture(scope="module")
def table(session):
    """Two made-up episodes under some of the faults. Treat it as read-only."""
    table = Table(session, particles=2)
    table.scenarios = tuple(scenario for scenario in table.scenarios if scenario.name in FEW)
    assert len(table.scenarios) == len(FEW)
    for seed in (1, 2):
        table.add(episode_of(made_up_episode(seed, TICKS), session.bundle.contract, complete=True))
    return table


@pytest.fixture(scope="module")
def report(table):
    return table.report()


def test_every_fault_that_is_asked_for_is_there(session):
    found = scenarios(session.bundle.contract)
    groups = {scenario.group for scenario in found}
    assert {"drop", "delay", "reorder", "freeze", "duplicate", "skew", "broken"} <= groups
    drops = [scenario.level for scenario in found if scenario.group == "drop" and scenario.level > 0]
    delays = [scenario.level for scenario in found if scenario.group == "delay" and scenario.level > 0]
    assert (min(drops), max(drops)) == (0.1, 0.9) and (min(delays), max(delays)) == (50, 500)
    assert len({scenario.name for scenario in found}) == len(found) and JUDGED in {s.name for s in found}
    assert all(scenario.same for scenario in found if scenario.group in ("delay", "reorder", "duplicate"))


def test_errors_are_root_mean_squares_over_labelled_ticks_after_the_onset(table, report):
    told, square, count = "online", 0.0, 0
    for episode, run in zip(table.episodes, table.runs["50% lost"]):
        for row in range(onset_row(episode), TICKS):
            if episode.visibility["package"][row] <= 0.05:
                error = run.told(told).points["package"][row] - episode.truth["package"][row]
                square, count = square + float(error @ error), count + 1
    row = next(row for row in report["rows"] if row["name"] == "50% lost")
    assert 0 < count == report["ticks"]["package"]["hidden"]
    assert row["error"]["package"][told]["hidden"]["value"] == pytest.approx((square / count) ** 0.5)
    assert row["error"]["destination"][told]["hidden"]["value"] is None, "no labels, no figure"
    assert onset_ns(table.episodes[0]) == 6 * SECOND and onset_row(table.episodes[0]) == 100


def test_checks_say_what_is_asked_and_what_cannot_be_told_fails(table, report):
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["final_ticks_that_differ"] == {
        "name": "final_ticks_that_differ", "value": 0, "bound": "== 0", "pass": True
    }  # fmt: skip
    for kind in ("30% NaN", "30% of a wrong size"):
        refused = checks[f"refused, {kind}"]
        assert refused["pass"] and refused["value"] > 10
    package = checks[f"package visible, {JUDGED}"]
    assert package["pass"] == (package["value"] <= 1.25) and package["bound"] == "<= 1.25"
    assert not checks[f"destination hidden, {JUDGED}"]["pass"] and report["status"] == "fail"


def test_a_final_belief_that_differs_is_counted_and_fails(table):
    broken = Table(table.session, particles=2)
    broken.scenarios, broken.episodes = table.scenarios, table.episodes
    broken.runs = dict(table.runs)
    one = broken.runs[JUDGED][0]
    bits = one.played.bits | {7: b"other"}
    broken.runs[JUDGED] = [replace(one, played=replace(one.played, bits=bits)), broken.runs[JUDGED][1]]
    found = broken.report()
    assert found["checks"][0]["value"] == 1 and not found["checks"][0]["pass"]


def test_refusals_that_are_not_counted_fail(table):
    broken = Table(table.session, particles=2)
    broken.scenarios, broken.episodes = table.scenarios, table.episodes
    runs = [replace(run, spoiled=run.spoiled + 1) for run in table.runs["30% NaN"]]
    broken.runs = table.runs | {"30% NaN": runs}
    check = next(c for c in broken.report()["checks"] if c["name"] == "refused, 30% NaN")
    assert not check["pass"]


def test_who_notices_what_and_when(report):
    noticed = {row["name"]: row["noticed"] for row in report["rows"]}
    assert not {"late", "absent"} & noticed[NOMINAL].keys()
    assert noticed[JUDGED]["late"] == {"episodes": 2, "after_s": 0.2}
    assert noticed[JUDGED]["absent"] == {"episodes": 2, "after_s": 0.025}
    assert noticed["all twice"]["duplicate"]["after_s"] == 0.03
    assert "non_finite" in noticed["30% NaN"] and "shape" in noticed["30% of a wrong size"]


def test_a_review_is_the_tenth_surprised_tick_in_a_row(table):
    episode = table.episodes[0]
    told = Told.nothing(episode)
    told.threshold[:], told.surprise[:], told.when[:] = 5.0, 1.0, np.arange(TICKS) + 1
    assert first_review(told, 100) is None
    told.surprise[105:114] = 9.0
    assert first_review(told, 100) is None
    told.surprise[114] = 9.0
    assert first_review(told, 100) == 115 and first_review(told, 106) is None


def test_new_objects_are_those_that_came_into_sight_less_than_the_judged_delay_ago(session):
    arrays = made_up_episode(3, TICKS)
    place = np.linspace(0.0, 0.5, TICKS)[:, None] * np.ones(2, np.float32)
    place[109] = np.nan  # one goes, another comes
    visible = np.ones(TICKS, np.float32)
    visible[110:113] = 0.0  # hidden at first
    arrays |= {"target_package": place, "visibility_package": visible}
    episode = episode_of(arrays, session.bundle.contract)
    masks = Masks.of(episode, "package")
    assert np.flatnonzero(masks.new).tolist() == [0, 1, 2, 3, 110, 111, 112, 113, 114, 115, 116]
    assert np.flatnonzero(masks.hidden).tolist() == [110, 111, 112] and not masks.visible[:100].any()


def test_what_is_behind_a_delay_is_told_apart(session):
    """Two objects at 10 mm a tick; the belief knows where it was, and under a delay where it was then."""
    arrays = made_up_episode(3, TICKS)
    place = 0.01 * np.arange(TICKS)[:, None] * np.array([1.0, 0.0], np.float32)
    place[111:] -= 0.6
    place[110] = np.nan  # one goes, another comes
    visible = np.ones(TICKS, np.float32)
    visible[102:105] = 0.0
    arrays |= {"target_package": place, "visibility_package": visible}
    episode = episode_of(arrays, session.bundle.contract)
    nominal, delayed = Told.nothing(episode), Told.nothing(episode)
    nominal.points["package"][:] = place + np.array([0.0, 0.002])
    delayed.points["package"][4:] = place[:-4] + np.array([0.0, 0.002])
    found = {(r["group"], r["part"]): r for r in parts_of([episode], [nominal], [delayed], "package")}
    ticks = {key: row["ticks"] for key, row in found.items()}
    assert ticks == {
        ("visible", "new"): 4,  # 111 to 114
        ("visible", "out of sight then"): 3,  # 106 to 108
        ("visible", "in sight then"): 2 + 1 + 1 + 15,  # 100 and 101, 105, 109, 115 on
        ("hidden", "in sight then"): 3,
    }
    seen, new = found["visible", "in sight then"], found["visible", "new"]
    assert seen["no_fault"]["value"] == pytest.approx(0.002) == seen["then"]["value"]
    assert seen["delayed"]["value"] == pytest.approx(np.hypot(0.04, 0.002), rel=1e-4)
    assert seen["ratio"]["value"] == pytest.approx(np.hypot(20, 1), rel=1e-3)
    assert seen["moved"]["value"] == pytest.approx(0.0, abs=1e-5), "its speed stays the same"
    assert new["then"]["value"] is None and new["delayed"]["value"] > 0.5
    shares = [row["share"] for key, row in found.items() if key[0] == "visible"]
    assert sum(shares) == pytest.approx(1.0) and new["share"] > 0.9


def test_age_bins_hold_every_tick_with_a_picture(table, report):
    names = [s.name for s in table.scenarios if s.group in ("none", "drop", "delay", "reorder")]
    wanted = len(names) * report["ticks"]["package"]["hidden"]
    for method in ("online", "latest"):
        assert sum(row[method]["hidden"]["ticks"] for row in report["by_age"]) == wanted
    by_ms = {row["ms"][0]: row["online"]["hidden"]["ticks"] for row in report["by_age"]}
    assert by_ms[0] > 0 and by_ms[150] > 0


def test_the_page_and_the_picture_say_what_the_report_says(report, tmp_path):
    about = {
        "folder": "models/mine", "bundle": "mine", "bundle_sha256": "ab" * 32, "particles": 2, "episodes": 2,
        "episode_ticks": 260, "data": {"sha256": "cd" * 32, "first_seed": None, "files": []}, "onset_s": 5,
        "history_s": 2.0, "units": {"package": "m", "destination": "m"}, "wall_s": 1.0, "cpu_s": 0.5,
        "machine": "this one", "versions": {"numpy": "2"},
    }  # fmt: skip
    whole = json.loads(json.dumps({**about, **report}))
    draw(whole, tmp_path / "images" / "faults.png")
    assert (tmp_path / "images" / "faults.png").stat().st_size > 10_000
    text = page(whole, "../images/faults.png")
    judged = next(row for row in report["rows"] if row["name"] == JUDGED)
    value = 1000 * judged["error"]["package"]["latest"]["hidden"]["value"]
    line = next(line for line in text.splitlines() if line.startswith(f"| {JUDGED} |"))
    assert f"{value:.1f}" in line and " =" in line and "](../images/faults.png)" in text
    assert f"- **Not reached**: destination hidden, {JUDGED} is -, asked for <= 1.1.\n" in text
    assert "`late`" in text and "`non_finite`" in text and "seeds from" not in text
    assert "Noticed by nothing" not in text, "each of these faults leaves a trace"
    silent = [row | {"noticed": {}} if row["name"] == JUDGED else row for row in whole["rows"]]
    assert f"Noticed by nothing: {JUDGED}.\n" in page(whole | {"rows": silent}, "x")
    held_out = whole | {"data": about["data"] | {"first_seed": 950000}}
    assert "seeds from 950000 on" in page(held_out, "x")


def test_runs_know_their_methods(table):
    run = table.runs[NOMINAL][0]
    assert isinstance(run, Run) and run.told("latest") is run.latest and run.told("final") is run.played.final
    assert set(NAMES) == {spec.name for spec in table.session.bundle.contract.observations}
