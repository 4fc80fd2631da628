"""Training a tracker: it learns, the model beside it does not, and runs go on as if never stopped."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from rssm_ros.cli.main import main
from rssm_ros.export.steps import Encode, Filter
from rssm_ros.training import checkpoint
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.tracker_trainer import TrackerTrainer
from rssm_ros.training.tracking import TrackerLearner
from rssm_ros.training.trainer import Trainer
from rssm_ros.world_model import Signals

from . import synthetic
from .tiny import CONTRACT, ONE_TARGET, TINY, trainer

SHORT = replace(TINY, steps=8, checkpoint_steps=4, length=12, batch=4, rate=3e-3, warmup=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data"), 4, 60)


@pytest.fixture(scope="module")
def before(data, tmp_path_factory):
    """A run whose world model has learnt a little."""
    run = tmp_path_factory.mktemp("runs") / "model"
    trainer(replace(TINY, steps=3), data, run).run()
    return run


def tracked(options, data, out, **kwargs):
    return TrackerTrainer(options, CONTRACT, [data], out, quiet=True, **kwargs)


@pytest.fixture(scope="module")
def run(before, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tracked"
    tracked(SHORT, data, out, start_from=before).run()
    return out


def test_the_tracker_moves_and_nothing_else_does(before, run):
    then, now = checkpoint.read(before), checkpoint.read(run)
    own = {name for name in now.model if name.startswith("tracker.")}
    assert then.model.keys() == now.model.keys() - own
    for name, value in then.model.items():
        assert torch.equal(value, now.model[name]), name
    torch.manual_seed(SHORT.seed)
    fresh = TrackerLearner(Signals.from_contract(CONTRACT), SHORT.sizes(), SHORT).state_dict()
    assert all(not torch.equal(now.model[n], fresh[n]) for n in own if n.endswith("weight")), "stood still"


def test_it_says_where_it_comes_from(before, run):
    state = checkpoint.read_state(run)
    assert state["tracker"] is True and [stage["name"] for stage in state["chain"]] == [before.name]
    surprise = {k: v for k, v in checkpoint.read_state(before)["validation"].items() if "surprise" in k}
    assert state["validation"] == surprise and state["models"] == 1


def test_a_run_that_was_stopped_goes_on_to_the_last_bit(before, run, data, tmp_path):
    out = tmp_path / "run"
    half = tracked(SHORT, data, out, start_from=before)
    for _ in range(4):
        half._update()
    half._save()
    half.close()
    tracked(SHORT, data, out, resume=True).run()
    whole, again = checkpoint.read(run), checkpoint.read(out)
    for kind in ("model", "optimizer"):
        ours, theirs = getattr(whole, kind), getattr(again, kind)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_hundred_updates_see_better_than_none(before, data, tmp_path):
    """On a square that crosses the picture: the loss of the same batch, before and after."""
    run = tracked(replace(SHORT, steps=100), data, tmp_path / "run", start_from=before)

    def loss(learner):
        noise = torch.Generator().manual_seed(0)
        found = learner.track(run._batch(1000), None, noise)
        return {name: float(value) for name, value in found.terms.items()}

    first = loss(run.learner)
    with torch.enable_grad():
        for _ in range(100):
            run._update()
    last = loss(run.learner)
    run.close()
    assert last["seeing"] < first["seeing"] - 1.0 and last["tracking"] < first["tracking"] - 1.0, (
        first,
        last,
    )


def test_a_bundle_of_it_proves_itself_and_follows_targets_by_the_tracker(run, tmp_path, capsys):
    out = tmp_path / "models" / "tracked"
    assert main(["export", str(run), "--out", str(out), "--horizon", "2"]) == 0
    assert main(["verify", str(out)]) == 0
    told = json.loads((out / "bundle.json").read_text())
    width = TrackerLearner(Signals.from_contract(CONTRACT), SHORT.sizes(), SHORT).tracker.width
    assert told["latent"]["track"] == width
    assert list(told["training"]["stages"]) == ["1 model", "2 tracked"]


def test_a_further_round_of_the_tracker_begins_with_what_it_has_learnt(run, data, tmp_path):
    started = tracked(SHORT, data, tmp_path / "next", start_from=run)
    own = started.learner.state_dict()
    started.close()
    then = checkpoint.read(run)
    assert all(torch.equal(value, own[name]) for name, value in then.model.items())
    assert [stage["name"] for stage in started.before["chain"]] == ["model", "tracked"]


def test_a_further_round_of_the_model_leaves_the_tracker_behind(run, data, tmp_path):
    started = trainer(replace(TINY, steps=3), data, tmp_path / "next", start_from=run)
    started.close()
    assert [stage["name"] for stage in started.chain] == ["model"]
    assert not any(name.startswith("tracker.") for name in started.learner.state_dict())


def test_training_and_the_exported_steps_are_the_same_filter(before, data, tmp_path):
    """Streams that go on, absent and covered pictures, silent joints, episodes that begin in between."""
    run = tracked(replace(SHORT, length=20, steps=60), data, tmp_path / "run", start_from=before)
    for _ in range(20):
        run._update()
    learner, carried, batch = run.learner, dict(run.carried), run._batch(run.step)
    run.close()
    batch["is_first"] = batch["is_first"].clone()
    batch["is_first"][1, 7] = True
    for name, part in (("camera", slice(3, 6)), ("joints", slice(9, 12)), ("odom", slice(10, 11))):
        batch[f"present_{name}"][:, part] = False
    batch["seen_camera"][:, :, 20:40, 20:40] = 99
    found = []
    whole = learner._followed
    learner._followed = lambda *parts: found.append(whole(*parts)) or found[-1]  # type: ignore[method-assign]
    learner.track(batch, carried, torch.Generator().manual_seed(5))
    noise = learner.world_model.rssm.latent.noise(*batch["is_first"].shape, generator=_seeded())
    worst = 0.0
    for row in range(len(noise)):
        told = _exported(learner, batch, {n: v[row : row + 1] for n, v in carried.items()}, row, noise)
        worst = max(worst, float((told - found[0][row].detach()).abs().max()))
    assert worst < 1e-4, worst


def _seeded():
    return torch.Generator().manual_seed(5)


@torch.no_grad()
def _exported(learner, batch, carried, row, noise):
    """The tracks of one row by `export.steps`, tick by tick: [T, W]."""
    model, tracker = learner.world_model, learner.tracker
    step, found = Filter(model, tracker), []
    encoders = {name: Encode(model, name, tracker) for name in step.names}
    deter = torch.cat([carried["deter"], carried["track"]], -1)
    stoch = carried["stoch"].argmax(-1)
    for tick in range(noise.shape[1]):
        seen = []
        for name, encoder in encoders.items():
            raw = batch.get(f"seen_{name}", batch[name])[row, tick][None]
            here = batch[f"present_{name}"][row, tick][None]
            tokens = encoder(raw)["tokens"]
            seen += [torch.where(here, tokens, torch.nan), here]
        driven = (batch["action"][row, tick][None], batch["is_first"][row, tick][None].bool())
        out = step(deter, stoch, *driven, noise[row, tick][None], *seen)
        deter, stoch = out["next_deter"], out["next_stoch"]
        found.append(deter[0, model.sizes.deter :])
    return torch.stack(found)


def test_a_last_round_learns_how_far_to_trust_what_was_learnt_to_see(before, run, data, tmp_path):
    frozen = replace(SHORT, steps=2, freeze_encoders=True)
    tracked(frozen, data, tmp_path / "next", start_from=run).run()
    then, now = checkpoint.read(run).model, checkpoint.read(tmp_path / "next").model
    same = {name for name, value in then.items() if torch.equal(value, now[name])}
    assert {name for name in then if name.startswith("tracker.detector.")} <= same
    assert "tracker.out.weight" not in same
    with pytest.raises(TrainingError, match="no tracker that has learnt to see"):
        tracked(frozen, data, tmp_path / "blind", start_from=before)


def test_a_further_round_on_other_data_keeps_the_least_deviations(run, tmp_path):
    other = synthetic.write(tmp_path / "data", 2, 60)
    for file in other.glob("*.npz"):
        arrays = dict(np.load(file))
        arrays["target_package"] *= 3.0
        np.savez(file, **arrays)
    started = tracked(SHORT, other, tmp_path / "next", start_from=run)
    least = started.learner.tracker.least.clone()
    started.close()
    assert torch.equal(least, checkpoint.read(run).model["tracker.least"])


def test_what_it_cannot_stand_beside_is_said(before, run, data, tmp_path):
    with pytest.raises(TrainingError, match="--start-from RUN"):
        tracked(SHORT, data, tmp_path / "none")
    shutil.copytree(before, tmp_path / "model")
    with pytest.raises(TrainingError, match="without a tracker"):
        tracked(SHORT, data, tmp_path / "model", resume=True)
    shutil.copytree(run, tmp_path / "tracked")
    fewer = synthetic.write(tmp_path / "fewer", 2, 60)
    Trainer(replace(TINY, steps=1), ONE_TARGET, [fewer], tmp_path / "one", quiet=True).run()
    with pytest.raises(TrainingError, match="knows nothing of destination"):
        tracked(SHORT, data, tmp_path / "two", start_from=tmp_path / "one")
    with pytest.raises(TrainingError, match="has a tracker"):
        trainer(TINY, data, tmp_path / "tracked", resume=True)


def test_the_command_takes_the_model_s_sizes_and_a_schedule_of_its_own(before, data, tmp_path, capsys):
    out = tmp_path / "run"
    said = ["--data", str(data), "--out", str(out), "--steps", "2", "--batch", "2", "--threads", "1"]
    assert main(["train-tracker", "--start-from", str(before), *said]) == 0
    assert "rssm export" in capsys.readouterr().out
    options = checkpoint.read_state(out)["options"]
    assert options["preset"] == "debug" and options["batch"] == 2 and options["length"] == 40
    assert options["scales"]["overshoot"] == 0.0 and options["imagination_fraction"] == 0.0
    late = [*said[:2], "--out", str(tmp_path / "late"), *said[4:], "--start-from", str(before)]
    assert main(["train-tracker", *late, "--preset", "size1m"]) == 2
    assert "'debug'" in capsys.readouterr().err
    (tmp_path / "late").mkdir(exist_ok=True)
    assert main(["train-tracker", *late, "--resume"]) == 0  # stopped before its first checkpoint: it begins
    assert checkpoint.read_state(tmp_path / "late")["options"] == options
    assert main(["train-tracker", *said, "--resume"]) == 0
    assert main(["train-tracker", *said[:2], "--out", str(tmp_path / "x")]) == 2
    assert "--start-from" in capsys.readouterr().err
    shutil.copytree(before, tmp_path / "old")
    for file in (tmp_path / "old").rglob("state.json"):
        file.write_text(json.dumps({"step": 1}))
    assert (
        main(
            ["train-tracker", *said[:2], "--out", str(tmp_path / "y"), "--start-from", str(tmp_path / "old")]
        )
        == 2
    )
    assert "no options" in capsys.readouterr().err
