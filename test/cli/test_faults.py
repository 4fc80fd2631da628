"""`rssm faults`: exit codes, JSON, and where its episodes come from."""

import json

import numpy as np
import pytest

from rssm_ros.cli import faults
from rssm_ros.cli.main import main
from rssm_ros.evaluation.faults import table as fault_table
from rssm_ros.evaluation.faults.scenarios import JUDGED, NOMINAL, scenarios
from rssm_ros.evaluation.playing.filtering import filter_episode, read_episode
from rssm_ros.online.session import Session
from rssm_ros.training.collect_manipulator import plan_episodes
from test.bundles import tiny_bundle
from test.episodes import NAMES, made_up_episode

TICKS = 130
FEW = (NOMINAL, JUDGED, "30% NaN", "30% of a wrong size")


@pytest.fixture(autouse=True)
def few_faults(monkeypatch):
    monkeypatch.setattr(
        fault_table, "scenarios", lambda contract: tuple(s for s in scenarios(contract) if s.name in FEW)
    )


@pytest.fixture
def data(tmp_path):
    """One episode whose labels are by chance: how old a belief of random weights is makes no difference."""
    arrays = made_up_episode(4, TICKS) | {f"present_{name}": np.ones(TICKS, bool) for name in NAMES}
    arrays["target_package"] *= 30
    arrays["target_destination"] = arrays["target_package"][::-1]
    arrays["visibility_destination"] = arrays["visibility_package"]
    folder = tmp_path / "data"
    folder.mkdir()
    np.savez(folder / "episode-00000004-expert.npz", **arrays)
    return folder


def words(data, *more):
    return ["faults", str(tiny_bundle()), "--data", str(data), "--particles", "2", "--episodes", "1", *more]


def test_it_passes_tells_json_and_writes_the_page(data, tmp_path, capsys):
    page = tmp_path / "docs" / "reference" / "faults.md"
    assert main(words(data, "--json", "--page", str(page))) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "pass" and [row["name"] for row in report["rows"]] == list(FEW)
    assert report["data"]["files"] == ["episode-00000004-expert.npz"]
    assert page.read_text().startswith("# Faults") and "missed" not in page.read_text()
    assert (tmp_path / "docs" / "images" / "faults.png").exists()


def test_a_delay_that_costs_too_much_fails_by_name(data, capsys):
    """Labels that are what the filter says without a delay: there it is right, late it is not."""
    path = next(data.glob("*.npz"))
    arrays = read_episode(path)
    found = filter_episode(Session(tiny_bundle(), prove=False), arrays, 2, 0)
    for name in ("package", "destination"):
        arrays[f"target_{name}"] = found.tracks[name].mean.mean(1) + np.float32(1e-6)
    np.savez(path, **arrays)
    assert main(words(data)) == 1
    shown = capsys.readouterr().out
    assert f"FAIL package hidden, {JUDGED}" in shown and "pass final_ticks_that_differ" in shown


def test_usage_and_environment_are_told_in_a_line(data, tmp_path, capsys):
    assert main(words(data, "--particles", "0")) == 2
    assert "1 or more" in capsys.readouterr().err
    assert main([*words(data)[:-1], "2"]) == 2
    assert "holds 1 episodes, 2 are asked for" in capsys.readouterr().err
    assert main(["faults", str(tmp_path / "nothing"), "--data", str(data)]) == 2
    assert "no such bundle" in capsys.readouterr().err


def test_its_own_episodes_are_recorded_once_and_used_whole(tmp_path, capsys, monkeypatch):
    recorded = []

    def collect(source, plans, folder, workers):
        folder.mkdir(parents=True, exist_ok=True)
        for plan in plans:
            recorded.append(plan)
            np.savez(folder / plan.filename, **made_up_episode(plan.seed, 110))

    monkeypatch.setattr("rssm_ros.training.collect.collect", collect)
    for _ in range(2):
        main(words(tmp_path / "new", "--json"))
        report = json.loads(capsys.readouterr().out)
        assert report["data"]["first_seed"] == faults.SEED
        nominal = report["rows"][0]
        assert nominal["counters"]["accepted"] == 4 * 110, "also what the collection lost on purpose"
    assert [plan.seed for plan in recorded] == [faults.SEED], "the second time it was there"


def test_nothing_was_trained_or_calibrated_on_its_seeds():
    """Whose are in scripts/train_manipulator.sh."""
    seeds = {plan.seed for plan in plan_episodes(601 * 40, faults.MIX, faults.SEED, faults.SECONDS)}
    used = [range(0, 1200), range(200_000, 202_000), range(300_000, 302_000), range(700_000, 740_000),
            range(900_000, 901_000)]  # fmt: skip
    assert not any(seed in each for seed in seeds for each in used)
