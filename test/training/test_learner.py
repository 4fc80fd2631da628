"""Imagination: what the world model is shown there is what a robot could do."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from rssm_ros.contract import find_contract
from rssm_ros.evaluation.bench.training import made_up
from rssm_ros.online.limits import Limits
from rssm_ros.training.learner import Learner, follow, normalised_slew
from rssm_ros.training.optimizer import Optimizer
from rssm_ros.training.options import options
from rssm_ros.world_model import Beliefs, Signals, preset

from . import pretend

CONTRACT = find_contract("manipulator")
SLEW = normalised_slew(CONTRACT)


@pytest.fixture
def learner() -> Learner:
    torch.manual_seed(0)
    return Learner(Signals.from_contract(CONTRACT), preset("debug"), options("debug"), SLEW)


def test_following_is_what_the_shared_limits_do():
    limits, random = Limits(CONTRACT), np.random.default_rng(0)
    for _ in range(20):
        previous, wanted = random.uniform(-1, 1, 6), random.normal(0, 1.5, 6)
        si = limits.step(limits.scale(previous), limits.scale(wanted), CONTRACT.dt)
        ours = follow(torch.tensor(previous), torch.tensor(wanted), torch.tensor(SLEW, dtype=torch.float64))
        np.testing.assert_allclose(ours.numpy(), limits.normalise(si), atol=1e-12)


def test_imagination_shows_the_model_only_what_can_be_applied(learner, monkeypatch):
    """From the action that stood, within range and slew at every step; the actor's own samples are kept."""
    shown = []
    imagine = learner.world_model.imagine_step

    def spied(state, action, uniform):
        shown.append(action)
        return imagine(state, action, uniform)

    monkeypatch.setattr(learner.world_model, "imagine_step", spied)
    rows = 64
    standing = torch.rand(rows, 6) * 2 - 1
    state = learner.world_model.initial_state(rows)
    _, samples = learner._rollout(state, standing, torch.Generator().manual_seed(0))
    path = torch.stack([standing, *shown], 1)
    assert path.shape == (rows, learner.options.horizon + 1, 6)
    assert (path.abs() <= 1.0).all()
    assert ((path[:, 1:] - path[:, :-1]).abs() <= learner.slew + 1e-6).all()
    assert (samples.abs() > 1.0).any()  # unclipped, as their log-probability wants them
    slack = (path[:, 1:] - samples.clamp(-1, 1)).abs() < 1e-6
    assert slack.any() and not slack.all()  # reached where near, on the way there where not


def test_imagination_starts_from_the_action_of_its_own_tick(learner, monkeypatch):
    starts = []
    monkeypatch.setattr(
        learner,
        "_rollout",
        lambda state, standing, *_: starts.append((state, standing)) or _rolled(learner, state),
    )
    wm, rows, ticks = learner.world_model, 2, 3
    numbers = torch.arange(rows * ticks, dtype=torch.float32).reshape(rows, ticks, 1)
    sizes = wm.sizes
    deter = numbers.expand(rows, ticks, sizes.deter)
    stoch = torch.zeros(rows, ticks, sizes.stoch, sizes.classes)
    beliefs = Beliefs(deter, stoch, stoch, stoch)
    never = torch.zeros(rows, ticks, dtype=torch.bool)
    batch = dict.fromkeys(("is_first", "is_last", "is_terminal"), never)
    batch |= {"action": numbers.expand(rows, ticks, 6), "reward": torch.zeros(rows, ticks)}
    learner._imagination(beliefs, batch, torch.Generator().manual_seed(0), lambda *_: None, {})
    ((state, standing),) = starts
    assert torch.equal(state.deter[:, 0], standing[:, 0]) and len(standing) == rows * ticks


def _rolled(learner: Learner, state):
    steps = learner.options.horizon
    features = state.features.unsqueeze(1).expand(-1, steps + 1, -1)
    return features, torch.zeros(len(features), steps, 6)


@pytest.mark.parametrize(
    ("representation", "posterior", "latent"),
    [("reconstruction", "concat", None), ("barlow", "product", "gaussian"), ("infonce", "product", None)],
)
def test_an_update_on_an_accelerator_gives_the_same_and_waits_for_nothing(representation, posterior, latent):
    """All that an update can do, but gradients. Reading a number out would wait, and so would sending one."""
    base = replace(
        options("debug"), representation=representation, posterior=posterior, latent=latent, autocast=False
    )
    scales = replace(base.scales, overshoot=1.0, ensemble=1.0)
    chosen = replace(base, scales=scales, overshoot_horizon=2, starts=100, free_nats_of="batch")
    signals = Signals.from_contract(CONTRACT)
    torch.manual_seed(0)
    here = Learner(signals, chosen.sizes(), chosen, SLEW).requires_grad_(False)
    there, batch = copy.deepcopy(here), made_up(signals, 2, 6)
    pretend.move(there)
    expected = here(batch, None, torch.Generator().manual_seed(1), True)
    pretend.OnDevice.waits.clear()
    with pretend.accelerator():
        on_it = {name: pretend.put(value) for name, value in batch.items()}
        found = there(on_it, None, pretend.Noise(1), True)
        named = [(name, part) for name, part in there.named_parameters() if ".slow." not in name]
        fine = pretend.put(torch.ones((), dtype=torch.bool))
        Optimizer(named).step([part * 0.1 for _, part in named], 1e-3, fine)
        there.critic.update_slow()
    assert pretend.OnDevice.waits == []
    assert {"replay_value", "policy", "ensemble", "target_package_ahead"} <= found.terms.keys()
    for name, value in expected.terms.items():
        assert pretend.is_on(found.terms[name]), name
        torch.testing.assert_close(found.terms[name].held, value, rtol=1e-4, atol=1e-5)


def test_the_limits_are_no_part_of_a_checkpoint(learner):
    """Runs made before the limits were known still load, and the contract stays the one place for them."""
    assert "slew" not in learner.state_dict()


def test_a_gap_made_by_augmentation_is_reconstructed_but_not_one_of_the_recording(learner):
    """Else nothing but the targets teaches the prior what it should have seen."""
    rows, ticks = 1, 4
    features = torch.zeros(rows, ticks, learner.world_model.sizes.features)
    batch = {
        "camera": torch.zeros(rows, ticks, 64, 64, 3, dtype=torch.uint8),
        "odom": torch.zeros(rows, ticks, 2),
        "joints": torch.zeros(rows, ticks, 8),
    }
    for name in ("camera", "odom", "joints"):
        batch[f"recorded_{name}"] = torch.tensor([[True, True, False, True]])
        batch[f"present_{name}"] = torch.tensor([[True, False, False, False]])
    learner.options = replace(learner.options, decode_stride=1)

    def errors():
        found = {}
        noise = torch.Generator().manual_seed(0)
        learner._reconstruction(
            batch, features, noise, lambda name, _, value: found.update({name: float(value.detach())})
        )
        return found

    before = errors()
    batch["odom"][:, 2], batch["camera"][:, 2] = float("nan"), 255
    assert errors() == before  # it was never recorded
    batch["odom"][:, 1], batch["camera"][:, 3] = 9.0, 128  # an untrained decoder says grey
    after = errors()
    assert after["vector_odom"] > before["vector_odom"] and after["image_camera"] < before["image_camera"]


def test_a_grounded_update_on_an_accelerator_gives_the_same_and_waits_for_nothing():
    """Labels followed without pictures, and seeing; motion comes with a batch of its own."""
    signals, chosen = Signals.from_contract(CONTRACT), replace(options("debug"), autocast=False)
    sizes = replace(
        preset("debug"), blocks=0, latent="gaussian", classes=1, stoch=20, posterior="product", grounded=True
    )
    torch.manual_seed(0)
    here = Learner(signals, sizes, chosen, SLEW).requires_grad_(False)
    there, batch = copy.deepcopy(here), made_up(signals, 2, 6)
    pretend.move(there)
    expected = here(batch, None, torch.Generator().manual_seed(1), False, batch)
    pretend.OnDevice.waits.clear()
    with pretend.accelerator():
        on_it = {name: pretend.put(value) for name, value in batch.items()}
        found = there(on_it, None, pretend.Noise(1), False, on_it)
    assert pretend.OnDevice.waits == []
    assert {"target", "motion"} <= found.terms.keys()
    for name, value in expected.terms.items():
        assert pretend.is_on(found.terms[name]), name
        torch.testing.assert_close(found.terms[name].held, value, rtol=1e-4, atol=1e-5)
