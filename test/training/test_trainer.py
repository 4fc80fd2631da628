"""Whole runs at a tiny size: they learn, resume exactly, and stop in words."""

import json
import os
import re
import shlex
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from rssm_ros.cli.main import main
from rssm_ros.contract import HIDDEN
from rssm_ros.online.baselines import hold_last
from rssm_ros.paths import share_path
from rssm_ros.training import checkpoint
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.trainer import Trainer

from . import synthetic
from .tiny import CONTRACT, ONE_TARGET, TINY, trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data"), 6, 60)


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
