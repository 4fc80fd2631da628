"""Options that no run could mean are refused, wherever they come from."""

import argparse
import math
from dataclasses import replace

import pytest

from rssm_ros.cli.main import main
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.options import RANGES, Options, options
from rssm_ros.world_model import WorldModelError

from . import synthetic


@pytest.mark.parametrize("name", RANGES)
def test_what_is_out_of_range_or_no_number_is_refused(name):
    base = options("debug")
    assert getattr(base, name) is None or replace(base, **{name: getattr(base, name)}) == base
    low, high = RANGES[name]
    for value in (low - 1, high + 1, math.nan, math.inf):
        with pytest.raises(TrainingError, match=f"options: {name} is .*, expected"):
            replace(base, **{name: value})


def test_a_sequence_must_reach_the_next_reconstructed_tick():
    with pytest.raises(TrainingError, match="length is 3, expected at least decode_stride, 8"):
        replace(options("dot"), length=3)


def test_sizes_that_cannot_be_are_told_with_the_options():
    with pytest.raises(WorldModelError, match="preset 'huge' is unknown"):
        Options(preset="huge")


def test_options_of_another_version_are_refused_in_words():
    data = options("debug").to_dict()
    assert Options.from_dict(data) == options("debug")
    data["scales"]["telepathy"] = 1.0
    with pytest.raises(TrainingError, match=r"scales of another version .*telepathy"):
        Options.from_dict(data)


def test_who_goes_on_with_minutes_means_these_and_not_the_steps_of_before(tmp_path):
    """A run of 2 updates, resumed with a budget of minutes: it would end at once otherwise."""
    from rssm_ros.cli import train as command

    data, run = synthetic.write(tmp_path / "data", 1, 40), tmp_path / "run"
    words = ["--data", str(data), "--out", str(run), "--resume"]
    assert main(["train", "--preset", "debug", "--steps", "2", *words[:-1]]) == 0
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    resumed = command.chosen_options(parser.parse_args(["train", *words]), command.GIVEN)
    assert resumed.steps == 2
    minutes = parser.parse_args(["train", *words, "--minutes", "3"])
    again = command.chosen_options(minutes, command.GIVEN)
    assert again.steps is None and again.minutes == 3.0
    steps = parser.parse_args(["train", *words, "--minutes", "3", "--steps", "9"])
    both = command.chosen_options(steps, command.GIVEN)
    assert both.steps == 9


@pytest.mark.parametrize(
    "words",
    [
        ["--minutes", "nan"],
        ["--minutes", "inf"],
        ["--rate", "nan"],
        ["--seed", "4294967296"],
        ["--preset", "debug", "--length", "1"],
        ["--imagination-fraction", "5"],
        ["--target-beta", "9"],
        ["--preset", "huge"],
    ],
    ids=" ".join,
)
def test_the_command_says_so_in_a_line_and_touches_nothing(tmp_path, capsys, words):
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "expected" in told
    assert not (tmp_path / "run").exists()
