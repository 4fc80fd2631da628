"""Lessons of a latent that is the target: what is told, what is expected, and what each part learns from."""

import math

import pytest
import torch

from rssm_ros.contract import find_contract
from rssm_ros.training.distributed import World
from rssm_ros.training.grounding import (
    MOST,
    followed,
    labels_of,
    motion_loss,
    normal_loss,
    seeing_loss,
)
from rssm_ros.training.learner import Learner
from rssm_ros.training.options import options
from rssm_ros.world_model import Signals, preset
from rssm_ros.world_model.grounded import whole

SIGNALS = Signals.from_contract(find_contract("dot"))
ROWS, TICKS = 8, 8


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
        "present_camera": never.logical_not(),
        "action": torch.zeros(*shape, 2),
        "target_dot": torch.rand(*shape, 2, generator=draw) * 31,
        "visibility_dot": (torch.rand(shape, generator=draw) < 0.5).float(),
        "reward": torch.zeros(shape),
        "is_first": never.clone(),
        "is_last": never,
        "is_terminal": never,
    }


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expected_of(beliefs) -> tuple[torch.Tensor, torch.Tensor]:
    place, _, _, log_variance, _ = whole(beliefs.prior).chunk(5, -1)
    return place, log_variance


@torch.no_grad()
def test_who_follows_is_told_what_is_in_sight_and_nothing_else(learner):
    batch = some_batch()
    label, hidden = labels_of(learner.world_model, batch)
    beliefs = followed(learner.world_model, batch, World(), noise())
    dark = hidden[..., 0]
    assert bool(dark.any()) and not bool(dark.all())
    assert torch.equal(beliefs.posterior[dark], beliefs.prior[dark])
    place = whole(beliefs.posterior).chunk(5, -1)[0]
    assert (place - label)[~dark].abs().max() < 5 * MOST
    batch["target_dot"] = torch.where(hidden, torch.nan, batch["target_dot"])
    assert torch.equal(followed(learner.world_model, batch, World(), noise()).stoch, beliefs.stoch)


@torch.no_grad()
def test_a_row_of_motion_counts_until_an_episode_begins(learner):
    wm, batch = learner.world_model, some_batch()
    batch["is_first"][0, 0] = True
    batch["is_first"][1, 3] = True
    batch["target_dot"][2, 5] = torch.nan
    counted = torch.ones(ROWS, TICKS, dtype=torch.bool)
    counted[1, 3:] = False
    counted[2, 5] = False
    first = torch.zeros_like(counted)
    first[:, 0] = True
    beliefs = followed(wm, {**batch, "is_first": first}, World(), noise())
    label, _ = labels_of(wm, batch)
    place, log_variance = expected_of(beliefs)
    error = ((label - place).square() * torch.exp(-log_variance) + log_variance) / 2
    expected = error[counted].sum() / error.numel()
    torch.testing.assert_close(motion_loss(wm, batch, World(), noise()), expected, rtol=1e-5, atol=1e-5)
    assert not batch["is_first"][2:].any(), "the batch is not the place to mark where rows begin"


def test_a_normal_s_loss_is_least_at_the_truth_s_own_mean_and_variance():
    label = torch.randn(4000, 1, 2, generator=noise()) * 0.3 + 0.7
    counted = torch.ones_like(label, dtype=torch.bool)

    def loss(mean: float, variance: float) -> float:
        logs = torch.full_like(label, math.log(variance))
        return normal_loss(torch.full_like(label, mean), logs, label, counted).item()

    best = loss(0.7, 0.09)
    assert best == pytest.approx(0.5 + math.log(0.3), abs=0.03)
    assert min(loss(0.8, 0.09), loss(0.7, 0.05), loss(0.7, 0.16)) > best + 0.01
    label[0] = torch.nan
    counted[0] = False
    assert math.isfinite(loss(0.0, 1.0))


def evidence_of(learner, batch):
    wm = learner.world_model
    presence = {"camera": batch["present_camera"]}
    return wm.rssm.evidence(wm.tokens({"camera": batch["camera"]}, presence), presence)


@torch.no_grad()
def test_seeing_is_judged_where_there_are_a_picture_and_a_label(learner):
    wm, batch = learner.world_model, some_batch()
    batch["present_camera"][0] = False
    batch["target_dot"][1, :, 1] = torch.nan  # half a label is one
    batch["target_dot"][2] = torch.nan
    evidence = evidence_of(learner, batch)
    label, _ = labels_of(wm, batch)
    each = -wm.rssm.product.log_density(evidence.said, label)[..., 0]
    expected = (each[1].sum() + each[3:].sum()) / (ROWS * TICKS)
    torch.testing.assert_close(seeing_loss(wm, batch, evidence), expected)
    batch["target_dot"][:] = torch.nan
    assert seeing_loss(wm, batch, evidence).item() == 0.0


def test_an_update_without_any_label_is_finite(learner):
    batch = some_batch()
    batch["target_dot"][:] = torch.nan
    update = learner(batch, None, noise(), False, batch)
    assert torch.isfinite(update.loss)
    update.loss.backward()
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_each_part_learns_from_its_own_term(learner):
    """Motion's gradient leaves the encoder alone, and seeing's the core."""
    wm, batch = learner.world_model, some_batch()
    core, encoder = wm.rssm.plain.out.weight, next(wm.encoders.parameters())
    update = learner(batch, None, noise(), False, batch)
    assert {"target", "motion", "kl"} <= set(update.terms)
    apart = learner(batch, None, noise(), False)  # without motion: seeing, and heads that only look on
    gradients = torch.autograd.grad(apart.loss, list(wm.rssm.plain.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in gradients)
    assert not {"dyn", "rep", "target_dot"} & set(update.terms)
    motion_loss(wm, batch, World(), noise()).backward()
    assert core.grad is not None and core.grad.abs().sum() > 0 and encoder.grad is None
    core.grad = None
    seeing_loss(wm, batch, evidence_of(learner, batch)).backward()
    assert core.grad is None and encoder.grad.abs().sum() > 0


def test_doubt_in_the_dark_learns_from_what_came_of_it(learner):
    """Ticks after a look, unseen: the last one's loss reaches the core through all of them."""
    wm, batch = learner.world_model, some_batch()
    batch["visibility_dot"][:] = 0.0
    batch["visibility_dot"][:, 0] = 1.0
    batch["target_dot"][:, 1:-1] = torch.nan
    loss = motion_loss(wm, batch, World(), noise())
    (gradient,) = torch.autograd.grad(loss, wm.rssm.plain.out.bias)
    assert (gradient.abs() > 0).all()
