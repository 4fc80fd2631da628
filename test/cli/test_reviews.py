"""`rssm reviews`: what it says of the snapshots in a folder."""

import json
from pathlib import Path

import pytest

pytest.importorskip("mcap")

from rssm_ros.cli.main import main
from rssm_ros.nodes.review_folder import ReviewFolder
from test.nodes.snapshots import channels, messages, review


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    kept = ReviewFolder(tmp_path / "reviews", 5)
    kept.write(review(), channels(), messages(3))
    others = {"short": ("no room in memory",), "filter_bundle": "cd" * 6, "surprise_nats": None}
    kept.write(review(cause="surprise", **others), channels(), messages(3))
    kept.close()
    return tmp_path / "reviews"


def test_it_says_when_why_and_how_to_replay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reviews", str(folder.parent)]) == 0
    text, errors = capsys.readouterr()
    lines = text.splitlines()
    assert not errors and lines[0] == "0001-hand-20261121T165500Z"
    assert "2026-11-21T16:55:00+00:00, tick 240 (12.00 s of ROS time): asked for by hand" in lines[1]
    assert "surprise 20.5 nats, threshold 16.8 nats; 13.0 s (10.0 s before), 3 messages" in lines[2]
    evaluate = f"  rssm evaluate {folder}/0001-hand-20261121T165500Z --bundle '/models/one two' --no-checks"
    assert lines[3].startswith(evaluate)
    assert "surprise unknown" in text and "  short: no room in memory" in lines
    assert text.count("the filter ran another bundle (cdcdcdcdcdcd)") == 1


def test_the_commands_are_ones_that_rssm_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse
    import importlib
    import shlex

    assert main(["reviews", str(folder), "--json", "--bundle", "models/mine"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["cause"] for item in found] == ["hand", "surprise"] and found[0]["messages"] == {"/value": 3}
    for name, command in found[0]["commands"].items():
        parser = argparse.ArgumentParser()
        importlib.import_module(f"rssm_ros.cli.{name}").add_parser(parser.add_subparsers())
        words = shlex.split(command)
        assert words[:2] == ["rssm", name]
        parsed = parser.parse_args(words[1:])
        assert str(parsed.bundle) == "models/mine"
        assert found[0]["folder"] in {str(parsed.bags[0]) if name == "evaluate" else str(parsed.bag)}


def test_one_that_cannot_be_read_is_a_line_and_exit_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "0001-hand-20261121T165500Z" / "review.json").write_text("{")
    assert main(["reviews", str(folder)]) == 1
    text, errors = capsys.readouterr()
    assert errors.count("\n") == 1 and errors.startswith("rssm reviews: ") and "is no review" in errors
    assert "0002-surprise" in text
    assert main(["reviews", str(folder), "--json"]) == 1
    assert "is no review" in json.loads(capsys.readouterr().out)[0]["error"]


def test_a_folder_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reviews", str(tmp_path / "nowhere")]) == 2
    told = "there is no such folder; give the one that monitor_node writes to"
    assert capsys.readouterr().err == f"rssm reviews: {tmp_path}/nowhere: {told}\n"
    assert main(["reviews", str(tmp_path)]) == 0
    assert "no snapshots" in capsys.readouterr().out
