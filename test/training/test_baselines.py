"""Baselines: what each may know, and that their training resumes and refuses as a bundle's does."""

import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rssm_ros.cli.main import main
from rssm_ros.contract import find_contract
from rssm_ros.training import checkpoint
from rssm_ros.training.baseline_networks import KINDS, BaselineNetwork, load_baseline
from rssm_ros.training.baseline_trainer import BaselineTrainer
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.options import options
from rssm_ros.training.trainer import Trainer
from rssm_ros.world_model import Signals, WorldModel
from rssm_ros.world_model.sizes import preset

from . import synthetic

CONTRACT = find_contract("manipulator")
SIGNALS = Signals.from_contract(CONTRACT)
SHORT = replace(options("debug"), steps=12, checkpoint_steps=4, log_every=3, threads=1, warmup=2)
TICKS = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data"), 4, 40)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    found = {kind: BaselineNetwork(kind, SIGNALS, preset("debug")).eval() for kind in KINDS}
    for network in found.values():
        for stand_in in network.absent.values():  # they begin at zero, where nothing would tell them apart
            torch.nn.init.normal_(stand_in)
    return found


def inputs(seed: int, rows: int = 2, first: tuple[int, ...] = (0,)):
    """Observations, presence, actions [rows, TICKS, ...]; episodes begin at `first` in row 0."""
    draw = torch.Generator().manual_seed(seed)
    shape = (rows, TICKS)
    observed = {name: torch.randn(*shape, size, generator=draw) for name, size in SIGNALS.vectors}
    for name, size in SIGNALS.images:
        observed[name] = torch.randint(0, 256, (*shape, *size), generator=draw, dtype=torch.uint8)
    presence = {name: torch.rand(shape, generator=draw) < 0.8 for name in SIGNALS.modalities}
    action = 2 * torch.rand(*shape, SIGNALS.action_dim, generator=draw) - 1
    is_first = torch.zeros(shape, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[0, list(first)] = True
    return observed, presence, action, is_first


@torch.no_grad()
def claimed(network, observed, presence, action, is_first, state=None):
    """Mean and std of every target side by side, [B, T, ...], and what is remembered."""
    features, state = network.features(network.encode(observed, presence), presence, action, is_first, state)
    return torch.cat([torch.cat(pair, -1) for pair in network.claims(features).values()], -1), state


def with_ticks_of(one, other, ticks):
    """The inputs of one, but for these ticks, which are the other's."""
    mixed = []
    for mine, theirs in zip(one[:3], other[:3], strict=True):
        pairs = mine if isinstance(mine, dict) else {"": mine}
        new = {name: value.clone() for name, value in pairs.items()}
        for name, value in new.items():
            value[:, ticks] = (theirs[name] if isinstance(theirs, dict) else theirs)[:, ticks]
        mixed.append(new if isinstance(mine, dict) else new[""])
    return (*mixed, one[3])


@given(seed=st.integers(0, 10**6), tick=st.integers(0, TICKS - 1))
@settings(max_examples=15)
def test_nobody_sees_the_future_and_frames_see_no_past_either(networks, seed, tick):
    one, other = inputs(seed), inputs(seed + 1)
    late = with_ticks_of(one, other, slice(tick + 1, None))
    for network in networks.values():
        torch.testing.assert_close(
            claimed(network, *late)[0][:, : tick + 1], claimed(network, *one)[0][:, : tick + 1]
        )
    early = with_ticks_of(one, other, slice(0, tick))
    alone = (*early[:2], torch.zeros_like(one[2]), one[3])  # not even what was done
    torch.testing.assert_close(
        claimed(networks["frames"], *alone)[0][:, tick], claimed(networks["frames"], *one)[0][:, tick]
    )
    if tick:
        assert not torch.allclose(
            claimed(networks["recurrent"], *early)[0][:, tick],
            claimed(networks["recurrent"], *one)[0][:, tick],
        )


@given(seed=st.integers(0, 10**6), tick=st.integers(1, TICKS - 1))
@settings(max_examples=15)
def test_an_episode_begins_from_nothing_and_a_cut_is_none(networks, seed, tick):
    """Row 0 has a border at `tick`: what was before says nothing. Row 1 goes on; in two calls as in one."""
    network, one = networks["recurrent"], inputs(seed, first=(0, tick))
    whole, last = claimed(network, *one)
    early = with_ticks_of(one, inputs(seed + 1), slice(0, tick))
    changed = claimed(network, *early)[0]
    torch.testing.assert_close(changed[0, tick:], whole[0, tick:])
    assert not torch.allclose(changed[1, tick], whole[1, tick])
    parts, state = [], None
    for piece in (slice(0, tick), slice(tick, None)):
        cut = [
            {k: v[:, piece] for k, v in part.items()} if isinstance(part, dict) else part[:, piece]
            for part in one
        ]
        said, state = claimed(network, *cut, state)
        parts.append(said)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(state, last)


def test_what_is_absent_changes_no_bit(networks):
    one = inputs(3)
    spoiled = {name: value.clone() for name, value in one[0].items()}
    for name, value in spoiled.items():
        value[~one[1][name]] = 255 if value.dtype == torch.uint8 else torch.nan
    for network in networks.values():
        assert torch.equal(claimed(network, *one)[0], claimed(network, spoiled, *one[1:])[0])


def test_the_recurrent_one_is_as_large_as_the_filter():
    def count(*parts):
        return sum(p.numel() for part in parts for p in part.parameters())

    sizes = preset("manipulator")
    model, network = WorldModel(SIGNALS, sizes), BaselineNetwork("recurrent", SIGNALS, sizes)
    assert count(network) == pytest.approx(count(model.encoders, model.rssm, model.target_heads), rel=0.1)
    assert network.gru.hidden_size == sizes.deter
    encoders = BaselineNetwork("frames", SIGNALS, sizes).encoders
    assert {n: p.shape for n, p in encoders.named_parameters()} == {
        n: p.shape for n, p in model.encoders.named_parameters()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_equals_the_uninterrupted_one(kind, data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = BaselineTrainer(kind, SHORT, CONTRACT, [data], whole, quiet=True).run()
    assert not ended.interrupted and checkpoint.steps(whole) == [8, 12]
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000012")
    BaselineTrainer(kind, SHORT, CONTRACT, [data], cut, resume=True, quiet=True).run()
    one, other = checkpoint.read(whole), checkpoint.read(cut)
    for left, right in ((one.model, other.model), (one.optimizer, other.optimizer)):
        assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    network, state = load_baseline(cut)
    assert state["step"] == 12 and state["processor_s"] > 0 and network.kind == kind
    assert state["data"] == [data.name] and state["processes"] == 1
    assert state["parameters"] == sum(p.numel() for p in network.parameters())
    offset, scale, _ = BaselineTrainer(
        kind, SHORT, CONTRACT, [data], tmp_path / "other", quiet=True
    ).replay.target_statistics("package")
    assert torch.equal(network.target_heads["package"].offset, offset)
    assert torch.equal(network.target_heads["package"].scale, scale)


def test_it_learns(data, tmp_path):
    """A few dozen updates read a bright square's place better than its mean is known."""
    run = replace(SHORT, steps=40, checkpoint_steps=None, rate=3e-3)
    trainer = BaselineTrainer("frames", run, CONTRACT, [data], tmp_path / "run", quiet=True)
    terms = [float(trainer._update()["perception_package"]) for _ in range(40)]
    trainer.close()
    assert sum(terms[-5:]) < 0.7 * sum(terms[:5]), terms


def test_what_does_not_fit_is_refused(data, tmp_path):
    out = tmp_path / "run"
    BaselineTrainer("frames", replace(SHORT, steps=1), CONTRACT, [data], out, quiet=True).run()
    with pytest.raises(TrainingError, match="already holds a run"):
        BaselineTrainer("frames", SHORT, CONTRACT, [data], out, quiet=True)
    with pytest.raises(TrainingError, match="holds frames, not recurrent"):
        BaselineTrainer("recurrent", SHORT, CONTRACT, [data], out, resume=True, quiet=True)
    with pytest.raises(TrainingError, match="length differ"):
        BaselineTrainer("frames", replace(SHORT, length=8), CONTRACT, [data], out, resume=True, quiet=True)
    with pytest.raises(TrainingError, match="unknown"):
        BaselineNetwork("other", SIGNALS, preset("debug"))
    model = tmp_path / "model"
    Trainer(replace(SHORT, steps=1), CONTRACT, [data], model, quiet=True).run()
    with pytest.raises(TrainingError, match="holds a world model"):
        load_baseline(model)
    with pytest.raises(TrainingError, match="holds a world model, not frames"):
        BaselineTrainer("frames", SHORT, CONTRACT, [data], model, resume=True, quiet=True)


def test_nobody_takes_a_baseline_for_a_world_model(data, tmp_path, capsys):
    out = tmp_path / "run"
    BaselineTrainer("frames", replace(SHORT, steps=1), CONTRACT, [data], out, quiet=True).run()
    train = ["train", "--data", str(data), "--preset", "debug", "--steps", "1", "--threads", "1"]
    for words in (
        ["export", str(out), "--out", str(tmp_path / "bundle")],
        [*train, "--out", str(out), "--resume"],
        [*train, "--out", str(tmp_path / "next"), "--start-from", str(out)],
    ):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert "holds the baseline 'frames', no world model" in err and "Traceback" not in err


def test_a_loss_that_is_no_number_ends_the_run_with_the_last_good_weights(data, tmp_path):
    trainer = BaselineTrainer("frames", SHORT, CONTRACT, [data], tmp_path / "run", quiet=True)
    for name, head in trainer.learner.network.target_heads.items():
        head.scale.fill_(0.0 if name == "package" else 1.0)
    with pytest.raises(
        TrainingError, match=r"update 0: not a finite number, first in loss term: target_package.*--resume"
    ):
        trainer.run()
    assert checkpoint.steps(tmp_path / "run") == []


def test_the_command(data, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train-baseline", "recurrent", "--data", str(data), "--out", str(out), "--threads", "1"]
    assert main([*words, "--preset", "debug", "--steps", "2"]) == 0
    assert "--baseline-model recurrent=" in capsys.readouterr().out
    assert main([*words, "--steps", "3", "--resume"]) == 0, "the preset is the run's own"
    assert checkpoint.read_state(out)["step"] == 3
    for more, told in (
        (["--steps", "3"], "already holds a run"),
        (["--steps", "3", "--resume", "--preset", "dot"], "differs from the checkpoint's"),
        (["--steps", "0", "--resume"], "steps is 0"),
    ):
        assert main([*words, *more]) == 2
        assert told in capsys.readouterr().err
