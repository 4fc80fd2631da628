"""Whole runs at a tiny size: they learn, resume exactly, and stop in words."""

import json
import os
import re
import resource
import shlex
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from rssm_ros.cli.main import main
from rssm_ros.contract import HIDDEN, find_contract
from rssm_ros.online.baselines import hold_last
from rssm_ros.paths import share_path
from rssm_ros.training import checkpoint
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.options import Options, options
from rssm_ros.training.replay import Replay
from rssm_ros.training.restore import SEEING
from rssm_ros.training.trainer import Trainer

from . import synthetic

CONTRACT = find_contract("manipulator")
ONE_TARGET = replace(CONTRACT, targets=CONTRACT.targets[:1])
TINY = replace(options("debug"), steps=6, log_every=2, threads=1, autocast=False, imagination_fraction=0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data"), 6, 60)


def trainer(chosen: Options, data, out, **kwargs) -> Trainer:
    return Trainer(chosen, CONTRACT, [data], out, quiet=True, **kwargs)


def tensors(run) -> dict[str, torch.Tensor]:
    saved = checkpoint.read(run)
    return {**saved.model, **saved.optimizer}


def test_resume_equals_the_uninterrupted_run(data, tmp_path):
    trainer(TINY, data, tmp_path / "whole").run()
    # The schedule reads progress from the steps asked for, so the first half is stopped, not shortened.
    half = trainer(TINY, data, tmp_path / "halves")
    for _ in range(4):
        half._update()
    half._save()
    half.close()
    resumed = trainer(TINY, data, tmp_path / "halves", resume=True)
    assert resumed.step == 4
    resumed.run()
    one, two = tensors(tmp_path / "whole"), tensors(tmp_path / "halves")
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_losses_fall(data, tmp_path):
    made = trainer(replace(TINY, steps=120, imagination_fraction=0.0), data, tmp_path / "run")
    losses = [{k: float(v) for k, v in made._update().items()} for _ in range(120)]
    for name in ("loss", "image_camera", "imitation", "target_package"):
        early, late = (sum(term[name] for term in part) / 30 for part in (losses[:30], losses[-30:]))
        assert late < early, name


def test_nan_stops_and_names_the_first_tensor(data, tmp_path):
    made = trainer(TINY, data, tmp_path / "run")
    whole = made.replay.batch

    def poisoned(step: int):
        batch = whole(step)
        batch["joints"][1, 3, 2] = float("nan")
        return batch

    made.replay.batch = poisoned
    made.options = replace(TINY, augmentation=replace(TINY.augmentation, silent=0.0, blackout=0.0))
    with pytest.raises(TrainingError, match="batch: joints"):
        made.run()
    assert list((tmp_path / "run").glob("bad-batch-*.safetensors"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_between_updates_saves_and_says_how_to_go_on(
    data, tmp_path, capsys, monkeypatch, number
):
    """It came in the middle of an update once, and half of that was saved."""
    made = Trainer(TINY, CONTRACT, [data], tmp_path / "run")
    step = made.optimizer.step

    def interrupted(gradients, *rest):
        if made.step == 2:
            os.kill(os.getpid(), number)
        return step(gradients, *rest)

    monkeypatch.setattr(made.optimizer, "step", interrupted)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    ended = made.run()
    said = capsys.readouterr().out
    assert "go on with:" in said and "stopping" in said
    assert ended == (checkpoint.find(tmp_path / "run"), True)
    saved = checkpoint.read(tmp_path / "run")
    assert saved.state["step"] == 3 and set(saved.optimizer["count"].tolist()) <= {0, 3}
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("at", "code"), [(1, 130), (3, 0)], ids=["on the way", "in the last update"])
def test_a_stopped_command_is_no_success(data, tmp_path, capsys, monkeypatch, at, code):
    """It ended with 0, and a script took a half-trained stage for a whole one."""
    update = Trainer._update

    def interrupted(self):
        terms = update(self)
        if self.step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return terms

    monkeypatch.setattr(Trainer, "_update", interrupted)
    words = ["train", "--data", str(data), "--val", str(data), "--out", str(tmp_path / "run")]
    words += ["--contract", str(share_path("config", "contracts", "manipulator.yaml"))]
    assert main([*words, "--preset", "debug", "--threads", "1", "--steps", "3"]) == code
    assert checkpoint.steps(tmp_path / "run") == [at]
    again = "".join(re.findall(r"go on with: +rssm (.*)", capsys.readouterr().out))
    assert bool(again) == (code == 130)
    if again:  # it lacked the contract and the validation data
        monkeypatch.setattr(Trainer, "_update", update)
        assert main(shlex.split(again)) == 0 and checkpoint.steps(tmp_path / "run")[-1] == 3


def test_a_second_signal_does_not_wait(data, tmp_path, monkeypatch):
    made = trainer(TINY, data, tmp_path / "run")

    def stuck():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(made, "_update", stuck)
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert not checkpoint.steps(tmp_path / "run")


def test_validation_figures_have_baselines(data, tmp_path):
    """The baselines' figures are what their definitions say, on the hidden ticks of the held-out rows."""
    made = trainer(replace(TINY, steps=2), data, tmp_path / "run", validation=data)
    made.run()
    rows = made.rows.data
    truth, hidden = rows["target_package"].numpy(), rows["visibility_package"].numpy() <= HIDDEN
    constant = made.constant["package"].numpy()
    names = ("target_package", "visibility_package", "odom", "is_first")
    columns = zip(*(rows[name].numpy() for name in names), strict=True)
    held = np.stack([hold_last(a, b, c, CONTRACT.dt, d) for a, b, c, d in columns])
    held = np.where(np.isnan(held), constant, held)
    assert hidden.sum() > 20

    def rmse(guess):
        return np.sqrt(np.square(guess - truth)[hidden].sum(-1).mean())

    assert made.figures["package_hidden_hold"] == pytest.approx(rmse(held), rel=1e-4)
    assert made.figures["package_hidden_constant"] == pytest.approx(rmse(constant), rel=1e-4)
    assert made.figures["package_hidden_ticks"] == hidden.sum()
    for name in ("package_hidden", "package_hidden_one", "package_visible", "kl"):
        assert made.figures[name] > 0.0, name
    assert 0.0 <= made.figures["package_hidden_inside90"] <= 1.0


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


def test_one_process_at_a_time_trains_into_a_run(data, tmp_path):
    with (
        checkpoint.alone(tmp_path / "run"),
        pytest.raises(TrainingError, match="another process is training"),
    ):
        trainer(TINY, data, tmp_path / "run").run()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"batch": 8}, "batch"),
        ({"seed": 9}, "seed"),
        ({"length": 10}, "length"),
        ({"replay_latents": True}, "replay_latents"),
        ({"scales": replace(TINY.scales, ensemble=1.0)}, "the ensemble"),
    ],
)
def test_resuming_something_else_is_refused(data, tmp_path, change, what):
    trainer(replace(TINY, steps=1), data, tmp_path / "run").run()
    with pytest.raises(TrainingError, match=f"--resume: {what} differ"):
        trainer(replace(TINY, **change), data, tmp_path / "run", resume=True)


def test_resuming_on_other_data_or_another_contract_is_refused(data, tmp_path):
    trainer(replace(TINY, steps=1), data, tmp_path / "run").run()
    other = synthetic.write(tmp_path / "other", 6, 60, seed=1)
    (other / "episode-00000000-synthetic.npz").rename(other / "episode-90000000-synthetic.npz")
    with pytest.raises(TrainingError, match="--resume: the data differ"):
        trainer(TINY, other, tmp_path / "run", resume=True)
    with pytest.raises(TrainingError, match=r"--resume: the contract \(targets\) differ"):
        Trainer(TINY, ONE_TARGET, [data], tmp_path / "run", quiet=True, resume=True)


def test_resuming_on_other_limits_or_another_rate_is_refused(data, tmp_path):
    """Only what the network sees was compared, and the same numbers meant something else."""
    trainer(replace(TINY, steps=1), data, tmp_path / "run").run()
    slower = replace(CONTRACT, rate=CONTRACT.rate / 2)
    first = CONTRACT.actions[0]
    limits = replace(first, slew=tuple(2.0 * value for value in first.slew))
    looser = replace(CONTRACT, actions=(limits, *CONTRACT.actions[1:]))
    for contract, part in ((slower, "rate"), (looser, "actions")):
        with pytest.raises(TrainingError, match=rf"--resume: the contract \({part}\) differ"):
            Trainer(TINY, contract, [data], tmp_path / "run", quiet=True, resume=True)


def test_resuming_on_data_recorded_anew_is_refused(tmp_path):
    """Names and sizes stay the same where the same plans are recorded by another simulator."""
    data = synthetic.write(tmp_path / "data", 3, 40)
    (data / "dataset.json").write_text('{"sha256": "one"}')
    trainer(replace(TINY, steps=1), data, tmp_path / "run").run()
    trainer(replace(TINY, steps=1), data, tmp_path / "run", resume=True).close()
    (data / "dataset.json").write_text('{"sha256": "two"}')
    with pytest.raises(TrainingError, match="--resume: the data differ"):
        trainer(TINY, data, tmp_path / "run", resume=True)
    (data / "dataset.json").unlink()  # not known any more: names and sizes have to do
    assert trainer(TINY, data, tmp_path / "run", resume=True).step == 1


def test_resume_begins_anew_where_a_run_was_killed_before_its_first_checkpoint(data, tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint"):
        trainer(TINY, data, tmp_path / "never", resume=True)
    (tmp_path / "run" / "checkpoints" / "partial-1.tmp").mkdir(parents=True)
    begun = trainer(TINY, data, tmp_path / "run", resume=True)
    assert begun.step == 0
    begun.close()
    trainer(TINY, data, tmp_path / "run").run()
    assert checkpoint.steps(tmp_path / "run") == [6]


def test_command_line(data, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train", "--data", str(data), "--out", str(out), "--preset", "debug", "--threads", "1"]
    assert main([*words, "--steps", "2"]) == 0
    assert "rssm export" in capsys.readouterr().out
    assert main([*words, "--steps", "2"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words[:-4], "--preset", "size1m", "--resume"]) == 2
    assert "--preset size1m differs from the checkpoint's, debug" in capsys.readouterr().err
    assert main([*words[:5], "--steps", "3", "--resume"]) == 0
    state = json.loads((checkpoint.find(out) / "state.json").read_text())
    assert state["step"] == 3
    assert main(["train", "--data", str(tmp_path / "none"), "--out", str(out / "x"), "--steps", "1"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main([*words[:3], "--out", str(out / "y"), "--preset", "debug", "--steps", "-1"]) == 2


def test_scales_on_the_command_line(data, tmp_path, capsys):
    words = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--threads", "1"]
    assert (
        main([*words, "--preset", "debug", "--steps", "1", "--scale", "rep=0.05", "--scale", "continue=2"])
        == 0
    )
    scales = checkpoint.read_state(tmp_path / "run")["options"]["scales"]
    assert (scales["rep"], scales["continue_"], scales["image"]) == (0.05, 2.0, TINY.scales.image)
    capsys.readouterr()
    for wrong, said in (("colour=1", "'colour', there are image,"), ("rep", "NAME=VALUE"), ("rep=-1", "0")):
        assert main([*words, "--resume", "--scale", wrong]) == 2
        assert said in capsys.readouterr().err
    assert main([*words, "--resume", "--steps", "2", "--scale", "rep=0.02"]) == 0
    scales = checkpoint.read_state(tmp_path / "run")["options"]["scales"]
    assert (scales["rep"], scales["continue_"]) == (0.02, 2.0)


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
