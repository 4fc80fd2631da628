"""Parity with the recorded official DreamerV3 run: float32, 1e-6 where the definition allows it."""

import pytest
import torch
from torch import Tensor

from rssm_ros.behavior import lambda_returns
from rssm_ros.behavior.actor import entropy as normal_entropy
from rssm_ros.behavior.actor import log_probability
from rssm_ros.world_model import State, losses
from rssm_ros.world_model.categorical import entropy, mixed
from rssm_ros.world_model.heads import continue_target

from . import golden as record

UNIMIX = 0.01


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return record.load()


@pytest.fixture(scope="module")
def model(golden):
    return record.world_model(golden).eval()


def close(ours: Tensor, theirs: Tensor, bound: float) -> None:
    """Largest difference relative to the tensor's largest value."""
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0)
    assert error <= bound, float(error)


def features(golden) -> Tensor:
    return golden["out/feat"]


@torch.no_grad()
def test_core_and_prior(golden, model):
    action = golden["in/action"][:, 0]
    never = torch.zeros(3, dtype=torch.bool)
    deter, prior = model.rssm.predict(golden["in/deter"], golden["in/stoch"], action, never)
    close(deter, golden["out/core_deter"], 1e-6)
    close(prior, mixed(golden["out/core_prior_logit"], UNIMIX), 1e-6)


@torch.no_grad()
def test_tokens(golden, model):
    ours = [model.encode(name, golden[f"in/{name}"]) for name in ("odom", "image")]
    close(torch.cat(ours, -1), golden["out/tokens"], 1e-5)


@torch.no_grad()
def test_posterior_sequence_teacher_forced(golden, model):
    tokens = {"odom": golden["out/tokens"][..., :16], "image": golden["out/tokens"][..., 16:]}
    here = {name: torch.ones(3, dtype=torch.bool) for name in tokens}
    # The recording starts from in/deter and in/stoch, as obs1 shows.
    deter, stoch = golden["in/deter"], golden["in/stoch"]
    for t in range(5):
        reset = golden["in/reset"][:, t]
        deter, prior = model.rssm.predict(deter, stoch, golden["in/action"][:, t], reset)
        posterior = model.rssm.correct(deter, prior, {m: x[:, t] for m, x in tokens.items()}, here)
        close(deter, golden["out/obs_deter"][:, t], 1e-6)
        close(posterior, mixed(golden["out/obs_logit"][:, t], UNIMIX), 1e-6)
        close(prior, mixed(golden["out/obs_prior"][:, t], UNIMIX), 1e-6)
        stoch = golden["out/obs_stoch"][:, t]


@torch.no_grad()
def test_kl_and_entropies(golden):
    posterior, prior = (mixed(golden[f"out/{name}"], UNIMIX) for name in ("obs_logit", "obs_prior"))
    dyn, rep = losses.kl_losses(posterior, prior)
    close(dyn, golden["out/dyn"], 1e-6)
    close(rep, golden["out/rep"], 1e-6)
    close(entropy(prior).mean(), golden["out/dyn_ent"], 1e-6)
    close(entropy(posterior).mean(), golden["out/rep_ent"], 1e-6)


@torch.no_grad()
def test_reward_and_continue(golden, model):
    state = State(golden["out/obs_deter"], golden["out/obs_stoch"])
    close(state.features, features(golden), 1e-6)
    logits = model.reward_head(features(golden))
    close(logits, golden["out/rew_logits"], 1e-5)
    bins, theirs = model.reward_head.bins, golden["out/bins"]
    assert ((bins - theirs).abs() <= 1e-5 * theirs.abs()).all()
    close(model.reward_head.loss(logits, golden["in/reward"]), golden["out/rew_loss"], 1e-5)
    logit = model.continue_head(features(golden))
    close(logit, golden["out/con_logit"], 1e-5)


@torch.no_grad()
def test_two_hot_mean(golden, model):
    close(model.reward_head.mean(golden["out/rew_logits"]), golden["out/rew_pred"], 1e-5)


@torch.no_grad()
def test_decoder(golden, model):
    image = model.decode(features(golden))["image"]
    close(image, golden["out/rec_image"], 1e-5)
    close(losses.image_loss(image, golden["in/image"]), golden["out/rec_image_loss"], 1e-5)
    odom = model.vector_decoders["odom"](features(golden))
    close(losses.vector_loss(odom, golden["in/odom"]), golden["out/rec_odom_loss"], 1e-5)


@torch.no_grad()
def test_policy(golden):
    mean, std = record.actor(golden)(features(golden))
    close(mean, golden["out/pol_mean"], 1e-5)
    close(std, golden["out/pol_std"], 1e-5)
    close(normal_entropy(std), golden["out/pol_ent"], 1e-5)
    close(log_probability(mean, std, golden["in/action"]), golden["out/pol_logp"], 1e-5)


def test_lambda_returns(golden):
    live = (1.0 - golden["lam/term"].float()) * (1.0 - 1.0 / 333.0)
    ours = lambda_returns(golden["lam/rew"], live, golden["lam/val"], last=golden["lam/last"])
    close(ours, golden["lam/ret"], 1e-6)


def test_continue_target():
    assert torch.allclose(continue_target(torch.tensor([0.0, 1.0])), torch.tensor([1.0 - 1.0 / 333.0, 0.0]))
