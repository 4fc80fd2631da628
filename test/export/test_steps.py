"""torch and onnxruntime: the same step, teacher-forced, to 1e-5, samples included."""

import numpy as np
import pytest
import torch

from rssm_ros.export.golden import MARGIN, clear_noise
from rssm_ros.export.steps import Rollout, drawn, opened
from rssm_ros.online.session import Session
from rssm_ros.online.steps import State as Online
from rssm_ros.world_model.latents import Categorical
from rssm_ros.world_model.rssm import State
from test.bundles import VARIANTS, tiny_bundle, tiny_model

TICKS, N = 200, 3
ATOL = 1e-5


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def session(variant):
    return Session(tiny_bundle(variant))


@pytest.fixture(scope="module")
def model(variant):
    model = tiny_model(variant=variant)
    for part in model.modules():
        part.eval()
    return model


def closed(stoch):
    """[N, S, K] -> as it crosses the border, [N, S]: class indices, or a Gaussian's numbers."""
    return (stoch.squeeze(-1) if stoch.shape[-1] == 1 else stoch.argmax(-1)).numpy()


def some_stoch(latent, draw=None):
    """A sample for the border, [N, S]."""
    if latent.width == 1:
        return torch.randn(N, latent.groups, generator=draw)
    return torch.randint(0, latent.width, (N, latent.groups), generator=draw)


@torch.no_grad()
def test_the_filter_step_is_the_world_model_s_own_teacher_forced_over_200_ticks(session, model):
    world_model = model.world_model
    draw = torch.Generator().manual_seed(4)
    state, close, worst, latent = world_model.initial_state(N), 0, 0.0, world_model.rssm.latent
    weighed = 0
    names = list(world_model.rssm.tokens)
    for tick in range(TICKS):
        present = [name for name in names if torch.rand((), generator=draw) < 0.6]
        tokens = {m: torch.randn(1, e, generator=draw) for m, e in world_model.rssm.tokens.items()}
        presence = {name: torch.tensor([name in present]) for name in names}
        action = torch.rand(1, 6, generator=draw).expand(N, -1) * 2 - 1
        first = bool(tick % 50 == 0)
        noise = latent.noise(N, generator=draw)
        after, prior, posterior = world_model.obs_step(
            state, action, tokens, presence, torch.full((N,), first), noise
        )
        step = session.step(
            Online(state.deter.numpy(), closed(state.stoch)),
            action[0].numpy(),
            {name: tokens[name].numpy() for name in present},
            first,
            noise.numpy(),
        )
        pairs = [(step.state.deter, after.deter), (step.prior, prior), (step.posterior, posterior)]
        mean, std = world_model.predict_target(after.features)["package"]
        clear = latent.width == 1
        if not clear:
            margin = (noise[..., None] - posterior.cumsum(-1)[..., :-1]).abs().amin(-1)
            clear = bool((margin > 1e-4).all())
        close += not clear
        if clear:
            np.testing.assert_allclose(step.state.stoch, closed(after.stoch), atol=ATOL)
            pairs += [(step.targets["package"].mean, mean), (step.targets["package"].std, std)]
        if world_model.rssm.weighs:
            evidence = world_model.rssm.evidence(tokens, presence)
            weight = world_model.rssm.weighed(prior, evidence)[1].numpy()
            found = np.zeros(N) if step.log_weight is None else step.log_weight
            np.testing.assert_allclose(found, weight, rtol=1e-4, atol=1e-3)
            weighed += bool(np.ptp(weight) > 0.1)
        worst = max(worst, *(float(np.abs(a - b.numpy()).max()) for a, b in pairs))
        state = State(after.deter, after.stoch if latent.width == 1 else (after.stoch > 0.5).float())
    assert worst <= ATOL and close <= 0.05 * TICKS
    assert not world_model.rssm.weighs or weighed > 0.5 * TICKS


@torch.no_grad()
@pytest.mark.parametrize("name", ["camera", "odom", "joints"])
def test_encoders_agree(session, model, name):
    spec = session.bundle.contract.observation(name)
    draw = np.random.default_rng(0)
    for _ in range(5):
        if spec.kind == "image":
            value = draw.integers(0, 256, spec.shape, dtype=np.uint8)
        else:
            value = draw.normal(0, 3, spec.shape).astype(np.float32)
        expected = model.world_model.encode(name, torch.from_numpy(value)[None]).numpy()
        np.testing.assert_allclose(session.encode(name, value), expected, atol=ATOL)


@torch.no_grad()
def test_actor_decoder_and_heads_agree(session, model):
    sizes = model.world_model.sizes
    deter = torch.rand(N, sizes.deter) * 2 - 1
    latent = model.world_model.rssm.latent
    stoch = some_stoch(latent)
    features = State(deter, opened(latent, stoch)).features
    state = Online(deter.numpy(), stoch.numpy())
    np.testing.assert_allclose(session.act(state), model.actor(features)[0], atol=ATOL)
    picture = model.world_model.decode(features)["camera"]
    np.testing.assert_allclose(session.decode(state)["camera"], picture, atol=ATOL)


@torch.no_grad()
def test_a_rollout_is_the_world_model_s_imagination(session, model):
    """Checked against `WorldModel.imagine`, with returns summed by hand."""
    world_model, horizon = model.world_model, session.latent.horizon
    sizes, draw = world_model.sizes, torch.Generator().manual_seed(0)
    deter = torch.rand(N, sizes.deter, generator=draw) * 2 - 1
    latent = world_model.rssm.latent
    stoch = some_stoch(latent, draw)
    actions = torch.rand(N, horizon, 6, generator=draw) * 2 - 1
    noise = latent.noise(N, horizon, generator=draw)
    imagined = session.rollout(Online(deter.numpy(), stoch.numpy()), actions.numpy(), noise.numpy())
    path = world_model.imagine(State(deter, opened(latent, stoch)), actions, noise).features
    reward, keep = world_model.predict_reward(path), world_model.predict_continue(path)
    returns, weight = torch.zeros(N), torch.ones(N)
    for tick in range(horizon):
        returns, weight = returns + weight * reward[:, tick], weight * keep[:, tick]
    scale = float(reward.abs().max()) + 1
    np.testing.assert_allclose(imagined.returns, returns, atol=1e-4 * scale)
    np.testing.assert_allclose(imagined.values, weight * model.critic(path[:, -1]), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(
        imagined.paths["package"], world_model.predict_target(path)["package"][0], atol=ATOL
    )
    assert isinstance(Rollout(world_model, model.critic, horizon), torch.nn.Module)


def test_cleared_noise_keeps_its_distance_from_every_edge():
    draw = torch.Generator().manual_seed(0)
    probs = torch.softmax(3 * torch.randn(50, 8, 16, generator=draw), -1)
    latent = Categorical(8, 16, 0.0)
    noise = clear_noise(latent, probs, draw)
    assert ((noise[..., None] - probs.cumsum(-1)[..., :-1]).abs() >= MARGIN).all()
    index, hot = drawn(latent, probs, noise)
    assert (hot.argmax(-1) == index).all() and (hot.sum(-1) == 1).all()
