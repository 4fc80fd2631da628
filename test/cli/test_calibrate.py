"""`rssm calibrate` writes thresholds and regions into a bundle that still proves itself."""

import argparse
import json
import shutil

import numpy as np
import pytest

from rssm_ros.bundle import load_bundle
from rssm_ros.cli.calibrate import filtered
from rssm_ros.cli.main import main
from rssm_ros.online.regions import regions_of
from rssm_ros.online.session import Session
from test.bundles import tiny_bundle
from test.episodes import made_up_episode


@pytest.fixture
def bundle(tmp_path):
    return shutil.copytree(tiny_bundle(), tmp_path / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Nine short episodes with labels near what the tiny bundle says anyway."""
    folder = tmp_path_factory.mktemp("validation")
    for seed in range(9):
        arrays = made_up_episode(seed, 230)
        arrays["target_destination"] = arrays["target_package"][::-1]
        arrays["visibility_destination"] = arrays["visibility_package"]
        np.savez(folder / f"episode-{seed:08d}-expert.npz", **arrays)
    return folder


def test_calibrated_bundles_load_and_say_on_what(bundle, data, capsys):
    before = load_bundle(bundle)
    words = ["calibrate", str(bundle), "--data", str(data), "--particles", "2", "--percentile", "95"]
    assert main([*words, "--json"]) == 1  # three episodes cannot show a thousand hidden runs
    report = json.loads(capsys.readouterr().out)
    failed = {check["name"] for check in report["checks"] if not check["pass"]}
    assert {"package hidden_runs", "destination hidden_runs"} <= failed
    after = Session(bundle).bundle
    assert after.files == before.files and after.sha256 != before.sha256
    assert after.thresholds["surprise"] == report["surprise"] and "camera+joints+odom" in report["surprise"]
    calibration = after.calibration
    assert calibration["data"]["episodes"] == 6 and calibration["check"]["episodes"] == 3
    assert len(calibration["data"]["sha256"]) == 64 and calibration["particles"] == 2
    assert set(calibration["regions"]) == {"package", "destination"}
    assert regions_of(before) == {}
    region = regions_of(after)["package"]
    assert set(region.gain) == {"camera", "odom", "joints"}
    assert "camera+joints+odom" in (bundle / "README.md").read_text()
    # Labels drawn by chance from one distribution: whatever the model says, the map learns how wrong it is.
    assert report["coverage"]["package"]["0.9"]["hidden"]["value"] == pytest.approx(0.9, abs=0.06)


def test_a_dry_run_changes_nothing_and_bad_usage_is_told(bundle, data, capsys):
    before = (bundle / "bundle.json").read_bytes()
    words = ["calibrate", str(bundle), "--data", str(data), "--particles", "1", "--dry-run"]
    assert main(words) == 1
    told = capsys.readouterr().out
    assert "0.9 regions contain: visible" in told
    assert "FAIL package hidden_runs:" in told and "give more with --check" in told
    assert (bundle / "bundle.json").read_bytes() == before
    assert main([*words, "--percentile", "101"]) == 2
    assert main(["calibrate", str(bundle), "--data", str(bundle)]) == 2
    assert "holds no episode" in capsys.readouterr().err


def test_several_episodes_in_a_file_are_as_many_in_files(tmp_path):
    """As `rssm collect dot` writes them: what was believed of one says nothing of the next."""
    session, asked = Session(tiny_bundle(), prove=False), argparse.Namespace(particles=1, seed=0)
    parts = [made_up_episode(seed, 40) for seed in range(3)]
    for at, part in enumerate(parts):
        np.savez(tmp_path / f"{at}.npz", **part)
    first = np.arange(80) % 40 == 0
    joined = {name: np.concatenate([part[name] for part in parts[:2]]) for name in parts[0]}
    np.savez(tmp_path / "both.npz", **joined, is_first=first)
    single, both = ([tmp_path / f"{name}.npz" for name in names] for names in (("0", "1"), ("both",)))
    others = [tmp_path / "2.npz"]
    apart, together = (filtered(session, files, others, asked) for files in (single, both))
    for one, two in zip((*apart[0], apart[1]), (*together[0], together[1]), strict=True):
        assert one.first.sum() == len(set(one.episode.tolist())) and len(one.surprise) % 40 == 0
        for name in ("episode", "surprise", "first", "ages", "patterns"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        np.testing.assert_array_equal(one.tracks["package"].mean, two.tracks["package"].mean)
