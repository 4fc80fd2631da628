"""Lessons of a latent that is the target: what is told, what is asked, and what each part learns from."""

import math

import pytest
import torch

from rssm_ros.contract import find_contract
from rssm_ros.training.distributed import World
from rssm_ros.training.grounding import (
    CANDIDATES,
    EVERY,
    given,
    labels_of,
    motion_loss,
    normal_loss,
    weight_loss,
)
from rssm_ros.training.learner import Learner
from rssm_ros.training.options import options
from rssm_ros.world_model import Signals, preset

SIGNALS = Signals.from_contract(find_contract("dot"))
ROWS, TICKS = 8, 2 * EVERY


@pytest.fixture
def learner() -> Learner:
    torch.manual_seed(0)
    made = Learner(SIGNALS, preset("dot_grounded"), options("dot_grounded"))
    head = made.world_model.target_heads["dot"]
    head.offset.fill_(15.5)
    head.scale.fill_(9.0)
    return made


def some_batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    shape = (ROWS, TICKS)
    never = torch.zeros(shape, dtype=torch.bool)
    return {
        "camera": torch.randint(0, 256, (*shape, 32, 32, 1), generator=draw, dtype=torch.uint8),
        "present_camera": ~never,
        "action": torch.zeros(*shape, 2),
        "target_dot": torch.rand(*shape, 2, generator=draw) * 31,
        "visibility_dot": (torch.rand(shape, generator=draw) < 0.5).float(),
        "reward": torch.zeros(shape),
        "is_first": never,
        "is_last": never,
        "is_terminal": never,
    }


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_sequence_is_told_what_is_hidden(learner):
    batch = some_batch()
    told = given(learner.world_model, batch)
    label, hidden = labels_of(learner.world_model, batch)
    known = ~torch.isnan(told[..., 0])
    assert torch.equal(known, hidden) and bool(known.any()) and not bool(known.all())
    torch.testing.assert_close(told[..., 0][known], label[known])


@torch.no_grad()
def test_motion_in_one_call_is_motion_tick_by_tick(learner):
    """The loss over labels alone, against the filter that is given every place; a row counts to its break."""
    wm = learner.world_model
    motion = {"target_dot": torch.rand(ROWS, TICKS, 2) * 31, "action": torch.rand(ROWS, TICKS, 2)}
    motion["is_first"] = torch.zeros(ROWS, TICKS, dtype=torch.bool)
    motion["is_first"][0, 0] = True
    motion["is_first"][1, 3] = True
    motion["target_dot"][2, 5] = torch.nan
    until = torch.full((ROWS,), TICKS)
    until[1], until[2] = 3, 5
    counted = torch.arange(TICKS) < until[:, None]
    label = wm.target_heads["dot"].normalise(motion["target_dot"]).nan_to_num()
    first = torch.zeros(ROWS, TICKS, dtype=torch.bool)
    first[:, 0] = True
    nothing = wm.rssm.evidence(
        {"camera": torch.zeros(ROWS, TICKS, 512)}, {"camera": torch.zeros(ROWS, TICKS, dtype=torch.bool)}
    )
    beliefs = wm.filter(
        nothing, motion["action"], first, torch.zeros(ROWS, TICKS, 2), given=label.unsqueeze(-1)
    )
    mean, std = beliefs.prior.unbind(-1)
    expected = normal_loss(mean, std.square(), label, counted[..., None].expand_as(label))
    torch.testing.assert_close(motion_loss(wm, motion, World()), expected, rtol=1e-4, atol=1e-5)


def test_a_normal_s_loss_is_least_at_the_truth_s_own_mean_and_variance():
    label = torch.randn(4000, 1, 2, generator=noise()) * 0.3 + 0.7
    counted = torch.ones_like(label, dtype=torch.bool)
    best = normal_loss(torch.full_like(label, 0.7), torch.full_like(label, 0.09), label, counted)
    assert best.item() == pytest.approx(0.5 + math.log(0.3), abs=0.03)
    for mean, variance in ((0.8, 0.09), (0.7, 0.05), (0.7, 0.16)):
        worse = normal_loss(torch.full_like(label, mean), torch.full_like(label, variance), label, counted)
        assert worse.item() > best.item() + 0.01
    label[0] = torch.nan
    counted[0] = False
    assert torch.isfinite(normal_loss(torch.zeros_like(label), torch.ones_like(label), label, counted))


def evidence_of(learner, batch):
    wm = learner.world_model
    presence = {"camera": batch["present_camera"]}
    return wm.rssm.evidence(wm.tokens({"camera": batch["camera"]}, presence), presence)


def test_who_knows_nothing_loses_the_logarithm_of_the_candidates(learner):
    wm, batch = learner.world_model, some_batch()
    torch.nn.init.zeros_(wm.rssm.product.judge[1].weight)
    torch.nn.init.zeros_(wm.rssm.product.judge[1].bias)
    for layer in wm.rssm.product.said.values():  # an expert that is sure of nothing
        torch.nn.init.zeros_(layer.weight)
        layer.bias.data[2:] = 1e4
    loss = weight_loss(wm, batch, evidence_of(learner, batch), World(), noise())
    assert loss.item() == pytest.approx(math.log(CANDIDATES + 1), abs=1e-3)


def test_labels_that_are_missing_ask_nothing(learner):
    wm, batch = learner.world_model, some_batch()
    batch["target_dot"][:] = torch.nan
    loss = weight_loss(wm, batch, evidence_of(learner, batch), World(), noise())
    assert loss.item() == 0.0
    update = learner(batch, None, noise(), False)
    assert torch.isfinite(update.loss)


def test_the_likelihood_learns_what_the_expert_cannot_say(learner):
    """Pictures whose left or right half is dark; the truth is always on the dark side. The expert's normal is
    kept blind."""
    wm = learner.world_model
    for layer in wm.rssm.product.said.values():
        torch.nn.init.zeros_(layer.weight)
        layer.bias.data[2:] = 1e4
    product = wm.rssm.product
    learned = [*wm.encoders.parameters(), *product.keys.parameters(), *product.query.parameters()]
    optimizer = torch.optim.Adam([*learned, *product.judge.parameters()], 3e-3)
    draw = noise(5)
    for step in range(60):
        batch = some_batch()
        side = torch.rand(ROWS, TICKS, generator=draw) < 0.5
        place = torch.rand(ROWS, TICKS, 2, generator=draw) * torch.tensor([14.0, 31.0])
        place[..., 0] += torch.where(side, 16.5, 0.0)
        dark = (torch.arange(32) >= 16) == side[..., None]  # [B, T, W]
        batch["camera"] = (
            torch.where(dark[:, :, None, :, None], 0, 255).expand(-1, -1, 32, -1, -1).to(torch.uint8)
        )
        batch["target_dot"] = place
        loss = weight_loss(wm, batch, evidence_of(learner, batch), World(), noise(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    evidence = evidence_of(learner, batch)
    there = (place - 15.5) / 9.0
    mirrored = there * torch.tensor([-1.0, 1.0])
    both = torch.stack([there, mirrored], 2)
    nats = product.likelihood(evidence.said, evidence.presence, both)
    assert float((nats[..., 0] > nats[..., 1] + 1.0).float().mean()) > 0.9


def test_each_part_learns_from_its_own_term(learner):
    """Prediction's gradient leaves the encoder alone, and seeing's the core."""
    wm, batch = learner.world_model, some_batch()
    core, encoder = wm.rssm.plain.out.weight, next(wm.encoders.parameters())
    update = learner(batch, None, noise(), False)
    assert {"target", "target_prior", "weight"} <= set(update.terms)
    label, _ = labels_of(wm, batch)
    presence = {"camera": batch["present_camera"]}
    evidence = wm.rssm.evidence(wm.tokens({"camera": batch["camera"]}, presence), presence)
    told = given(wm, batch)
    shock = torch.randn(ROWS, TICKS, 2, generator=noise())
    beliefs = wm.filter(evidence, batch["action"], batch["is_first"], shock, given=told)
    mean, std = beliefs.prior.unbind(-1)
    normal_loss(mean, std.square(), label, ~torch.isnan(label)).backward(retain_graph=True)
    assert core.grad is not None and core.grad.abs().sum() > 0 and encoder.grad is None
    core.grad = None
    mean, variance = wm.rssm.product.expert(evidence.said, evidence.presence)
    normal_loss(mean, variance, label, ~torch.isnan(label)).backward()
    assert core.grad is None and encoder.grad.abs().sum() > 0
