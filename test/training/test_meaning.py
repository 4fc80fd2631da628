"""Data are learnt from under the contract that they were recorded under, or not at all."""

import json

import pytest

from rssm_ros.contract import Contract, find_contract
from rssm_ros.training import meaning
from rssm_ros.training.collect import Source, write_summary
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.options import options
from rssm_ros.training.trainer import Trainer

from . import synthetic

MANIPULATOR = find_contract("manipulator")


def changed(change) -> Contract:
    said = MANIPULATOR.to_dict()
    change(said)
    return Contract.from_dict(said)


@pytest.fixture
def data(tmp_path):
    directory = synthetic.write(tmp_path / "data", 1, 20)
    write_summary(Source("manipulator", lambda plan: {}, ()), directory, [])
    return directory


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: said.update(rate=10), "rate was 20 and is 10"),
        (lambda said: said["actions"]["base"].update(high=[0.8, 0.6]), r"actions/base/high was \[0.4, 0.6\]"),
        (lambda said: said["observations"]["camera"].update(resize="crop"), "camera/resize was stretch"),
        (lambda said: said["targets"]["package"].update(unit="cm"), "targets/package/unit was m and is cm"),
        (lambda said: said.update(actions=dict(reversed(said["actions"].items()))), r"actions was \['base'"),
    ],
    ids=["rate", "limits", "camera", "unit", "order"],
)
def test_other_meanings_in_the_same_shapes_are_refused_before_training(data, tmp_path, change, words):
    with pytest.raises(TrainingError, match=words):
        Trainer(options("debug"), changed(change), [data], tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda said: None,
        lambda said: said["observations"]["camera"].update(topic="front/image"),
        lambda said: said["targets"].pop("destination"),
        lambda said: said["actions"]["base"].update(slew=[1.0, 1.0], timeout=0.5),
    ],
    ids=["the same", "topic", "fewer targets", "slew"],
)
def test_what_changes_no_number_is_none_of_its_business(data, change):
    """The same file refuses a change of a number beside it: it was read."""
    meaning.check(data, changed(change))
    with pytest.raises(TrainingError, match="rate was 20 and is 10"):
        meaning.check(data, changed(lambda said: (change(said), said.update(rate=10))))


@pytest.mark.parametrize("text", [None, "{", "[]", '{"sha256": "one"}', '{"meaning": 3}'])
def test_data_that_do_not_say_decide_nothing(data, text):
    place, slower = data / "dataset.json", changed(lambda said: said.update(rate=10))
    with pytest.raises(TrainingError, match="rate was 20 and is 10"):
        meaning.check(data, slower)
    place.unlink() if text is None else place.write_text(text)
    meaning.check(data, slower)


def test_a_data_set_says_what_it_means(data):
    said = json.loads((data / "dataset.json").read_text())["meaning"]
    assert said == meaning.meaning(MANIPULATOR) and said["rate"] == 20
