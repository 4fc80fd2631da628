"""What a run leaves on disk: whole, named, readable by later versions, through a full disk and damage."""

import json
import os
import resource
from dataclasses import replace

import pytest
import torch

from rssm_ros.training import checkpoint
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.trainer import Trainer

from . import synthetic
from .tiny import CONTRACT, TINY, trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data"), 6, 60)


def test_checkpoint_loads_for_export(data, tmp_path):
    trainer(TINY, data, tmp_path / "run").run()
    world_model, actor, critic, meta = checkpoint.load_checkpoint(tmp_path / "run")
    features = world_model.initial_state(3).features
    assert actor(features)[0].shape == (3, 6) and critic(features).shape == (3,)
    assert meta["contract"]["name"] == "manipulator" and meta["step"] == 6


def test_damaged_newest_checkpoint_is_named_and_the_one_before_is_kept(data, tmp_path):
    made = trainer(TINY, data, tmp_path / "run")
    for _ in range(3):
        made._update()
        made._save()
    places = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [place.name for place in places] == ["step-00000002", "step-00000003"]
    (places[-1] / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(TrainingError, match="step-00000003"):
        checkpoint.read(tmp_path / "run")
    os.remove(places[-1] / "state.json")  # incomplete: as after a kill between two files
    assert checkpoint.read(tmp_path / "run").state["step"] == 2


def test_the_only_checkpoint_is_not_taken_away_to_be_written_again(data, tmp_path, monkeypatch):
    """A kill between removing the old step-N and renaming the new one left none at all."""
    made = trainer(TINY, data, tmp_path / "run")
    made._update()
    place = made._save()
    inode = (place / "model.safetensors").stat().st_ino
    made.figures = {"kl": 1.0}
    assert made._save() == place
    assert (place / "model.safetensors").stat().st_ino == inode
    assert checkpoint.read(tmp_path / "run").state["validation"] == {"kl": 1.0}
    assert [child.name for child in place.parent.iterdir()] == ["step-00000001"]


def test_a_full_disk_keeps_the_last_good_checkpoint_and_training_goes_on(data, tmp_path, monkeypatch, capsys):
    """The kernel itself refuses to write more than so many bytes to a file, as a full disk would."""
    chosen = replace(TINY, steps=4, checkpoint_steps=1, log_every=100)
    made = Trainer(chosen, CONTRACT, [data], tmp_path / "run")
    update = made._update

    def filling():
        if made.step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
        return update()

    monkeypatch.setattr(made, "_update", filling)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(TrainingError, match="the last good one is of step 2"):
            made.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert made.step == 4 and "checkpoint not written" in capsys.readouterr().out
    assert checkpoint.steps(tmp_path / "run") == [1, 2]
    assert checkpoint.read(tmp_path / "run").state["step"] == 2
    assert not list((tmp_path / "run" / "checkpoints").glob("partial*"))
    resumed = trainer(chosen, data, tmp_path / "run", resume=True)
    resumed.run()
    assert checkpoint.steps(tmp_path / "run") == [3, 4]


def test_compiling_changes_no_name_of_a_checkpoint(data, tmp_path):
    """What is compiled is the large products; nothing runs here, since compiling takes a minute."""
    plain = trainer(TINY, data, tmp_path / "plain")
    made = trainer(replace(TINY, compile=True), data, tmp_path / "run")
    assert made.learner.state_dict().keys() == plain.learner.state_dict().keys()
    compiled = [name for name, part in made.learner.named_modules() if part._compiled_call_impl is not None]
    assert {"world_model.encoders.camera", "world_model.image_decoders.camera", "critic.fast"} <= set(
        compiled
    )
    assert "world_model.rssm" not in compiled
    assert all(part._compiled_call_impl is None for part in plain.learner.modules())


def test_a_checkpoint_of_an_old_version_loads(data, tmp_path):
    """It has a tensor that nothing needs any more, and lacks options and facts that are new."""
    made = trainer(TINY, data, tmp_path / "run")
    made._update()
    place = made._save()
    model = {**checkpoint.load_file(place / "model.safetensors"), "returns.weight": torch.ones(())}
    checkpoint.save_file(model, place / "model.safetensors")
    state = json.loads((place / "state.json").read_text())
    made.close()
    for name in ("contents", "hashes", "contract", "processes"):
        del state[name]
    for name in ("checkpoint_steps", "validate_steps", "replay_latents", "compile", "wandb"):
        del state["options"][name]
    del state["options"]["scales"]["replay_value"]
    (place / "state.json").write_text(json.dumps(state))
    assert checkpoint.load_checkpoint(tmp_path / "run")[3]["step"] == 1
    assert trainer(TINY, data, tmp_path / "run", resume=True).step == 1
    assert trainer(TINY, data, tmp_path / "next", start_from=tmp_path / "run").chain


def test_tensors_of_another_form_are_refused_in_words(data, tmp_path):
    """Loading for export ended in a traceback."""
    made = trainer(TINY, data, tmp_path / "run")
    place = made._save()
    made.close()
    model = checkpoint.load_file(place / "model.safetensors")
    model["actor.mean.bias"] = model["actor.mean.bias"][:-1].clone()
    checkpoint.save_file(model, place / "model.safetensors")
    with pytest.raises(TrainingError, match=r"run: the checkpoint's tensors do not fit .*actor\.mean\.bias"):
        checkpoint.load_checkpoint(tmp_path / "run")
    with pytest.raises(TrainingError, match="--resume: the checkpoint's tensors do not fit"):
        trainer(TINY, data, tmp_path / "run", resume=True)
