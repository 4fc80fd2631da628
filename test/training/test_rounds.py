"""A run that starts from another one: what it takes over, what it keeps, what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rssm_ros.training import checkpoint
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.replay import Replay
from rssm_ros.training.restore import SEEING
from rssm_ros.training.trainer import Trainer

from . import synthetic
from .tiny import CONTRACT, ONE_TARGET, TINY, trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data"), 6, 60)


def test_a_run_remembers_the_runs_that_it_comes_from(data, tmp_path):
    """Hours, data and machine of all stages, not of the last one only; also after --resume."""
    trainer(TINY, data, tmp_path / "first").run()
    trainer(replace(TINY, steps=4), data, tmp_path / "second", start_from=tmp_path / "first").run()
    trainer(replace(TINY, steps=2), data, tmp_path / "third", start_from=tmp_path / "second").run()
    trainer(replace(TINY, steps=3), data, tmp_path / "third", resume=True).run()
    state = checkpoint.read(tmp_path / "third").state
    assert [(run["name"], run["step"]) for run in state["chain"]] == [("first", 6), ("second", 4)]
    assert (state["name"], state["step"]) == ("third", 3)
    for run in (*state["chain"], state):
        assert run["elapsed_s"] > 0 and run["data"] == [str(data)] and run["options"]["steps"] == run["step"]
        assert "cores" in run["hardware"]


def test_frozen_encoders_stay_as_they_were_learnt(data, tmp_path):
    with pytest.raises(TrainingError, match="add --start-from"):
        trainer(replace(TINY, freeze_encoders=True), data, tmp_path / "none")
    trainer(TINY, data, tmp_path / "first").run()
    frozen = replace(TINY, freeze_encoders=True)
    trainer(frozen, data, tmp_path / "second", start_from=tmp_path / "first").run()
    one, two = checkpoint.read(tmp_path / "first").model, checkpoint.read(tmp_path / "second").model
    kept = {name for name in one if torch.equal(one[name], two[name])}
    encoders = {name for name in one if name.startswith("world_model.encoders.")}
    assert encoders and encoders <= kept
    assert not {"world_model.rssm.prior_logits.weight", "world_model.target_heads.package.out.weight"} & kept
    with pytest.raises(TrainingError, match="freeze_encoders differ"):
        trainer(TINY, data, tmp_path / "second", resume=True)


def test_of_another_kind_of_model_the_encoders_can_be_taken(data, tmp_path):
    """A product posterior has other tensors than a concat one; what both see with is the same."""
    trainer(TINY, data, tmp_path / "first").run()
    other = replace(TINY, posterior="product", freeze_encoders=True)
    with pytest.raises(TrainingError, match="do not fit"):
        trainer(other, data, tmp_path / "none", start_from=tmp_path / "first")
    begun = trainer(other, data, tmp_path / "second", start_from=tmp_path / "first", encoders_only=True)
    one, two = checkpoint.read(tmp_path / "first").model, begun.learner.state_dict()
    same = {name for name in one if name in two and torch.equal(one[name], two[name])}
    seeing = {name for name in one if name.startswith(SEEING)}
    assert seeing and seeing <= same
    assert not any(name.endswith("weight") and name.startswith("world_model.rssm") for name in same)
    assert [run["taken"] for run in begun.chain] == ["encoders only"]
    begun.close()
    exact = replace(other, conv="exact")  # of equal shapes, so that only the word tells
    with pytest.raises(TrainingError, match="add --conv strided"):
        trainer(exact, data, tmp_path / "third", start_from=tmp_path / "first", encoders_only=True)


def test_a_further_round_may_have_a_target_more(data, tmp_path):
    """Everything that was learned is taken over; what is new starts afresh, and trains."""
    Trainer(TINY, ONE_TARGET, [data], tmp_path / "first", quiet=True).run()
    before = checkpoint.read(tmp_path / "first").model
    made = trainer(TINY, data, tmp_path / "second", start_from=tmp_path / "first")
    now = made.learner.state_dict()
    assert [name for name in before if not torch.equal(before[name], now[name])] == []
    added = set(now) - set(before)
    assert added and all("destination" in name for name in added)
    assert made.step == 0 and not any(made.optimizer.counts)
    fresh = "world_model.target_heads.destination."
    old = {name: value.clone() for name, value in now.items() if name.startswith(fresh)}
    made._update()  # the first step of the warm-up has no rate
    terms = made._update()
    assert float(terms["target_destination"]) > 0.0 and torch.isfinite(terms["loss"])
    moved = made.learner.state_dict()
    assert any(not torch.equal(old[name], moved[name]) for name in old)


def test_a_round_on_data_older_than_the_target_trains_all_else(data, tmp_path):
    older = synthetic.write(tmp_path / "older", 3, 60, seed=5)
    for file in older.glob("episode-*.npz"):
        with np.load(file) as arrays:
            kept = {name: arrays[name] for name in arrays.files if "destination" not in name}
        np.savez(file, **kept)
    made = Trainer(TINY, CONTRACT, [older, data], tmp_path / "run", quiet=True)
    made.replay = Replay(made.replay.stores[:1], TINY.batch, TINY.length, TINY.chunks, TINY.seed)
    terms = made._update()
    assert float(terms["target_destination"]) == 0.0 and float(terms["target_package"]) != 0.0
    assert all(bool(torch.isfinite(value).all()) for value in terms.values())


@pytest.mark.parametrize("change", ["fewer targets", "another size"])
def test_a_round_from_weights_that_do_not_fit_is_refused(data, tmp_path, change):
    first = trainer(TINY, data, tmp_path / "first")
    first._save()
    if change == "fewer targets":
        contract, chosen = ONE_TARGET, TINY
    else:
        contract, chosen = CONTRACT, replace(TINY, preset="size1m", conv="strided")
    with pytest.raises(TrainingError, match=r"--start-from .*first.* do not fit"):
        Trainer(chosen, contract, [data], tmp_path / "x", quiet=True, start_from=tmp_path / "first")
