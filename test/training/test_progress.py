"""What a person sees of a run: TensorBoard, film strips, W&B, words."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rssm_ros.contract import find_contract
from rssm_ros.training import strips
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.figures import belief_figures
from rssm_ros.training.options import options
from rssm_ros.training.progress import WANDB_ID, Reporter, Sums
from rssm_ros.training.trainer import Trainer
from rssm_ros.world_model import Beliefs
from rssm_ros.world_model.latents import Categorical, Gaussian

from . import synthetic

CONTRACT = find_contract("manipulator")
TINY = replace(options("debug"), steps=4, log_every=2, threads=1, validate_steps=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data"), 8, 70)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    Trainer(TINY, CONTRACT, [data], out, validation=data, quiet=True).run()
    return out


def test_tensorboard_keeps_prior_and_posterior_apart(run):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    names = set(events.Tags()["scalars"])
    assert {"prior/entropy", "posterior/entropy", "kl/total", "kl/active_groups"} <= names
    assert {"surprise/p50", "surprise/p90", "surprise/p99", "speed/frames_per_second"} <= names
    assert {f"kl_group/{index:02d}" for index in range(4)} <= names and "train/loss" in names
    assert [event.step for event in events.Scalars("kl/total")] == [2, 4]
    by_group = sum(events.Scalars(f"kl_group/{index:02d}")[-1].value for index in range(4))
    assert by_group == pytest.approx(events.Scalars("kl/total")[-1].value, rel=1e-4)
    assert events.Tags()["images"] == ["strips/camera"] and "validation/kl" in names


def test_film_strips_are_written_for_people(run):
    from PIL import Image

    files = sorted((run / "strips").iterdir())
    assert [file.name for file in files] == ["camera-00000002.png", "camera-00000004.png"]
    with Image.open(files[-1]) as picture:
        assert picture.size == (64 * 15, 64 * 4 * 3)


def test_a_strip_shows_truth_posterior_open_loop_and_error(data, tmp_path):
    made = Trainer(TINY, CONTRACT, [data], tmp_path / "run", validation=data, quiet=True)
    picture = strips.strips(made.learner, made.rows, 2)["camera"]
    again = strips.strips(made.learner, made.rows, 2)["camera"]
    np.testing.assert_array_equal(picture, again)
    assert picture.shape == (2 * 4 * 64, 15 * 64, 3) and picture.dtype == np.uint8
    blocks = picture.reshape(2, 4, 64, 15, 64, 3).transpose(0, 1, 3, 2, 4, 5)  # [R, 4, N, H, W, C]
    truth, posterior, ahead, error = (blocks[:, k, :, 1:, 1:].astype(float) for k in range(4))
    frames = made.rows.data["camera"][:2, :60:4].numpy()
    np.testing.assert_array_equal(blocks[:, 0, :, 1:, 1:], frames[:, :, 1:, 1:])
    np.testing.assert_allclose(error, np.clip(2.0 * np.abs(ahead - truth), 0, 255), atol=3)
    context = strips.CONTEXT // strips.EVERY
    assert np.abs(ahead - posterior)[:, :context].max() == 0.0
    assert (picture[:, context * 64] == strips.LINE).all(-1).mean() > 0.99


def test_strips_of_too_few_ticks_are_none(data, tmp_path):
    made = Trainer(TINY, CONTRACT, [data], tmp_path / "run", validation=data, quiet=True)
    assert strips.strips(made.learner, made.rows._replace(ticks=strips.CONTEXT)) == {}


def test_only_the_newest_strips_stay(tmp_path):
    for step in range(5):
        strips.write({"camera": np.zeros((4, 4, 3), np.uint8)}, tmp_path, step, keep=2)
    names = sorted(path.name for path in (tmp_path / "strips").iterdir())
    assert names == ["camera-00000003.png", "camera-00000004.png"]


@pytest.mark.parametrize("latent", [Categorical(3, 4, 0.01), Gaussian(3)], ids=["categorical", "gaussian"])
def test_figures_of_a_belief(latent):
    torch.manual_seed(0)
    width = 12 if latent.parameters == 4 else 6
    prior, posterior = (latent.distribution(torch.randn(2, 5, width)) for _ in range(2))
    posterior[:, :, 1] = prior[:, :, 1]  # a group that says nothing
    first = torch.zeros(2, 5, dtype=torch.bool)
    first[0, 0] = True
    blank = torch.zeros(2, 5, 1)
    found = belief_figures(latent, Beliefs(blank, blank, prior, posterior), first)
    kl = latent.kl(posterior, prior)
    assert found["kl/total"] == pytest.approx(float(kl.mean()), rel=1e-5)
    assert found["kl_group/01"] == 0.0 and found["kl/active_groups"] == 2.0
    assert found["prior/entropy"] == pytest.approx(float(latent.entropy(prior).mean()), rel=1e-5)
    assert found["posterior/entropy"] != found["prior/entropy"]
    assert found["surprise/p50"] == pytest.approx(float(kl[~first].quantile(0.5)), rel=1e-5)
    assert found["surprise/p99"] <= found["surprise/highest"]


def test_a_term_that_begins_within_a_window_is_a_mean_over_its_own_updates():
    """The first window of imagination was logged at a fraction of what it was."""
    sums = Sums()
    for step in range(4):
        new = {"policy": torch.tensor(6.0 + step)} if step >= 2 else {}
        sums.add({"loss": torch.tensor(float(step)), **new})
    means = dict(zip(sums.sums, sums.means(torch.device("cpu")).tolist(), strict=True))
    assert means == {"loss": 1.5, "policy": 8.5} and sums.updates == 4


def test_the_first_window_of_imagination_is_logged_whole(data, tmp_path, monkeypatch):
    """Four updates to a window, imagination from the third on."""
    chosen = replace(TINY, log_every=4, imagination_fraction=0.5, validate_steps=None)
    made = Trainer(chosen, CONTRACT, [data], tmp_path / "run", quiet=True)
    update, seen, logged = made._update, [], []
    monkeypatch.setattr(made, "_update", lambda: seen.append(update()) or seen[-1])
    monkeypatch.setattr(made.watch, "look", lambda window: logged.append(window) or [])
    made.run()
    values = [float(terms["critic"]) for terms in seen if "critic" in terms]
    assert len(values) == 2 and logged[0]["critic"] == pytest.approx(sum(values) / 2, rel=1e-5)


def test_figures_that_cannot_be_kept_hide_no_error(tmp_path, capsys):
    reporter, closed = Reporter(tmp_path), []

    def full():
        raise OSError("no space left")

    reporter.sinks[0].close()
    reporter.sinks = [SimpleNamespace(close=lambda: closed.append(1)), SimpleNamespace(close=full)]
    reporter.close()
    reporter.close()
    assert closed == [1] and "no space left" in capsys.readouterr().out


def test_a_disk_without_room_for_figures_costs_the_figures_alone(tmp_path, capsys):
    """TensorBoard raised, and with it the run ended, minutes after its last checkpoint."""
    reporter, kept = Reporter(tmp_path), []

    def full(*_: object) -> None:
        raise OSError("no space left")

    reporter.sinks[0].close()
    whole = SimpleNamespace(scalars=lambda values, step: kept.append(step), close=lambda: None)
    reporter.sinks = [SimpleNamespace(scalars=full, close=full), whole]
    for step in range(3):
        reporter.step(step, 0.1, 1.0, 1.0, {"loss": 1.0}, {})
    assert reporter.sinks == [whole] and set(kept) == {0, 1, 2}
    assert capsys.readouterr().out.count("keeps no more figures (no space left); make room") == 1


@pytest.mark.parametrize("error", [TrainingError("not a finite number"), KeyboardInterrupt()])
def test_a_run_that_fails_leaves_no_live_bar_and_its_figures(data, tmp_path, monkeypatch, error):
    """Only success closed them: the bar went on over the shell's next lines."""
    made = Trainer(replace(TINY, log_every=1), CONTRACT, [data], tmp_path / "run", quiet=True)
    ended, update, pool = [], made._update, ThreadPoolExecutor(1)
    made.reporter.bar = SimpleNamespace(stop=lambda: ended.append("bar"), update=lambda *a, **k: None)
    made.reporter.task = 0
    made.feed.pool = pool

    def failing():
        if made.step == 2:
            raise error
        return update()

    monkeypatch.setattr(made, "_update", failing)
    with pytest.raises(type(error)):
        made.run()
    assert ended == ["bar"]
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(print)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]


def test_an_alarm_is_said_and_logged(tmp_path, capsys):
    reporter = Reporter(tmp_path)
    reporter.alarms(7, ["prior drift: it drifts"])
    reporter.close()
    assert "step 7: prior drift" in capsys.readouterr().out
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["tensors"] == ["alarms/text_summary"]


def test_what_looks_like_a_colour_in_a_path_is_said(tmp_path, capsys):
    """The command to go on with lacked it."""
    reporter = Reporter(tmp_path)
    reporter.say("go on with:  rssm train --out runs/[red]1")
    reporter.alarms(3, ["make room at runs/[red]2"])
    reporter.close()
    said = capsys.readouterr().out
    assert "runs/[red]1" in said and "runs/[red]2" in said


def test_alarms_reach_the_person(data, tmp_path, capsys, monkeypatch):
    made = Trainer(TINY, CONTRACT, [data], tmp_path / "run")
    monkeypatch.setattr(made.watch, "look", lambda window: [f"drowned in {window['image_camera']:.0f}"])
    made.run()
    assert "step 2: drowned in" in capsys.readouterr().out


def test_what_was_logged_after_the_checkpoint_is_hidden_on_resume(tmp_path):
    for first in (0, 5):
        reporter = Reporter(tmp_path, quiet=True, first_step=first)
        for step in range(first, first + 8):
            reporter.step(step, 0.1, 1.0, 1.0, {"loss": float(first)}, {})
        reporter.close()
        time.sleep(1.1)  # TensorBoard reads files in the order of the second in their names
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    steps = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert steps == [(k, 0.0) for k in range(5)] + [(k, 5.0) for k in range(5, 13)]


def test_without_wandb_the_option_is_refused_in_words(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match="pip install wandb"):
        Trainer(replace(TINY, wandb=True), CONTRACT, [data], tmp_path / "run", quiet=True)


def test_wandb_gets_the_same_figures(data, tmp_path, monkeypatch):
    logged, texts = {}, []
    run = SimpleNamespace(
        log=lambda values, step: logged.setdefault(step, {}).update(values),
        alert=lambda title, text: texts.append(text),
        finish=lambda: texts.append("finished"),
    )
    told = {}
    fake = SimpleNamespace(
        init=lambda **facts: told.update(facts) or run, Image=lambda picture: picture.shape
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    made = Trainer(replace(TINY, wandb=True), CONTRACT, [data], tmp_path / "run", validation=data, quiet=True)
    made.run()
    assert told["name"] == "run" and told["config"]["preset"] == "debug"
    assert {"train/loss", "prior/entropy", "validation/kl", "strips/camera"} <= logged[2].keys()
    assert texts[-1] == "finished"


def test_wandb_goes_on_under_the_run_s_id(tmp_path, monkeypatch):
    """Without an id, resume="allow" began another run each time."""
    ids = []
    fake = SimpleNamespace(init=lambda **facts: ids.append(facts["id"]) or SimpleNamespace())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for first in (0, 5, 9, 0):  # the last one begins anew: it was killed before its first checkpoint
        Reporter(tmp_path, quiet=True, first_step=first, wandb={}).sinks[1].close()
    assert ids[0] == ids[1] == ids[2] != ids[3] == (tmp_path / WANDB_ID).read_text()


def test_wandb_is_not_imported_unasked(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it is an error from here on
    made = Trainer(TINY, CONTRACT, [data], tmp_path / "run", quiet=True)
    assert [type(sink).__name__ for sink in made.reporter.sinks] == ["TensorBoard"]
    made.close()
