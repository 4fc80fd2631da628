"""A bundle with a tracker: the graphs are the RSSM's own step and the tracker's, tick after tick."""

import numpy as np
import pytest
import torch

from rssm_ros.export.bundle import shuffled
from rssm_ros.export.steps import opened
from rssm_ros.online.session import Session
from rssm_ros.online.steps import State as Online
from rssm_ros.world_model.rssm import State
from rssm_ros.world_model.tracking import Seen
from test.bundles import TRACKED, tiny_bundle, tiny_model

N = 3
ATOL = 2e-5
HEADS = ("package", "destination")


@pytest.fixture(scope="module")
def model():
    model = tiny_model(variant=TRACKED)
    for part in model.modules():
        part.eval()
    return model


@pytest.fixture(scope="module")
def session():
    return Session(tiny_bundle(TRACKED))


def heads_of(world_model, features):
    said = [world_model.target_heads[name].normalised(features) for name in HEADS]
    return tuple(torch.cat(parts, -1) for parts in zip(*said, strict=True))


def in_units(world_model, tracker, track, name):
    place, log_variance, _ = tracker.parts(track)
    here = slice(2 * HEADS.index(name), 2 * HEADS.index(name) + 2)
    mean, std = place[:, here], torch.exp(0.5 * log_variance[:, here])
    head = world_model.target_heads[name]
    return mean * head.scale + head.offset, std * head.scale


def look(world_model, tracker, picture, vectors, presence):
    """What the tracker is shown of one tick."""
    maps = world_model.encoders["camera"].maps(picture)
    tokens = {name: world_model.encode(name, value) for name, value in vectors.items()}
    here = {name: torch.tensor([presence[name]]) for name in ("odom", "joints", "camera")}
    return Seen(
        tracker.detector.likeliest(tracker.detector(maps)),
        tracker.vectors(tokens, here),
        torch.stack(list(here.values()), -1),
        here["camera"].unsqueeze(-1),
    )


@torch.no_grad()
def test_a_filter_step_is_the_model_s_own_and_then_the_tracker_s(session, model):
    """Teacher-forced over 60 ticks, any modality missing, an episode beginning in between."""
    world_model, tracker, draw = model.world_model, model.tracker, torch.Generator().manual_seed(1)
    latent, seed = world_model.rssm.latent, np.random.default_rng(1)
    state, track, compared = world_model.initial_state(N), tracker.initial(N), 0
    for tick in range(60):
        presence = {name: bool(seed.random() < 0.7) for name in ("odom", "joints", "camera")}
        picture = seed.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        vectors = {n: torch.randn(1, d, generator=draw) for n, d in world_model.signals.vectors}
        raw = {"camera": picture} | {name: value[0].numpy() for name, value in vectors.items()}
        tokens = {name: session.encode(name, raw[name]) for name in raw if presence[name]}
        own = {n: torch.from_numpy(np.array(t))[:, : world_model.rssm.tokens[n]] for n, t in tokens.items()}
        own |= {n: torch.zeros(1, e) for n, e in world_model.rssm.tokens.items() if n not in own}
        action = torch.rand(1, 6, generator=draw).expand(N, -1) * 2 - 1
        first = torch.full((N,), tick % 25 == 0)
        noise = latent.noise(N, generator=draw)
        before = torch.cat([state.deter, track], -1).numpy()
        stoch = state.stoch.argmax(-1).numpy()
        step = session.step(Online(before, stoch), action[0].numpy(), tokens, bool(first[0]), noise.numpy())
        here = {name: torch.tensor([value]) for name, value in presence.items()}
        state, _, posterior = world_model.obs_step(state, action, own, here, first, noise)
        seen = look(world_model, tracker, torch.from_numpy(picture)[None], vectors, presence)
        track = torch.where(first[:, None], torch.zeros_like(track), track)
        done = torch.where(first[:, None], torch.zeros_like(action), action)
        features = state.features
        track = tracker(track, features, heads_of(world_model, features), done, seen)
        if ((noise[..., None] - posterior.cumsum(-1)[..., :-1]).abs() > 1e-4).all():
            compared += 1
            after = torch.cat([state.deter, track], -1)
            np.testing.assert_allclose(step.state.deter, after, atol=ATOL, rtol=ATOL)
            for name in HEADS:
                mean, std = in_units(world_model, tracker, track, name)
                np.testing.assert_allclose(step.targets[name].mean, mean, atol=ATOL, rtol=ATOL)
                np.testing.assert_allclose(step.targets[name].std, std, atol=ATOL, rtol=ATOL)
        state = State(state.deter, (state.stoch > 0.5).float())
    assert compared > 50


@torch.no_grad()
def test_nothing_seen_is_what_predict_gives_and_the_picture_counts(session):
    rng = np.random.default_rng(2)
    deter = rng.normal(0, 0.3, (N, session.latent.deter)).astype(np.float32)
    state = Online(deter, rng.integers(0, 4, (N, session.latent.stoch)))
    action, noise = rng.uniform(-1, 1, 6).astype(np.float32), rng.random((N, 4)).astype(np.float32)
    tokens = {"camera": session.encode("camera", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))}
    predicted, blind = (
        session.predict(state, action, False, noise),
        session.step(state, action, {}, False, noise),
    )
    seen = session.step(state, action, tokens, False, noise)
    np.testing.assert_allclose(predicted.state.deter, blind.state.deter, atol=1e-6)
    assert np.abs(seen.targets["package"].mean - blind.targets["package"].mean).max() > 1e-3


@torch.no_grad()
def test_a_rollout_carries_the_track_along(session, model):
    world_model, tracker, horizon = model.world_model, model.tracker, session.latent.horizon
    draw = torch.Generator().manual_seed(3)
    deter = torch.rand(N, world_model.sizes.deter, generator=draw) * 2 - 1
    track = torch.randn(N, tracker.width, generator=draw)
    stoch = torch.randint(0, 4, (N, 4), generator=draw)
    actions = torch.rand(N, horizon, 6, generator=draw) * 2 - 1
    noise = torch.rand(N, horizon, 4, generator=draw)
    carried = torch.cat([deter, track], -1)
    imagined = session.rollout(Online(carried.numpy(), stoch.numpy()), actions.numpy(), noise.numpy())
    path = world_model.imagine(State(deter, opened(world_model.rssm.latent, stoch)), actions, noise).features
    for tick in range(horizon):
        features = path[:, tick]
        heads = heads_of(world_model, features)
        track = tracker(track, features, heads, actions[:, tick], tracker.unseen())
        mean, _ = in_units(world_model, tracker, track, "package")
        np.testing.assert_allclose(imagined.paths["package"][:, tick], mean, atol=1e-4)


@torch.no_grad()
def test_the_policy_and_the_picture_do_not_know_of_the_tracker(session, model):
    rng = np.random.default_rng(4)
    size = model.world_model.sizes.deter
    one = rng.normal(0, 0.3, (N, session.latent.deter)).astype(np.float32)
    other = one.copy()
    other[:, size:] += 1.0
    stoch = rng.integers(0, 4, (N, session.latent.stoch))
    assert np.array_equal(session.act(Online(one, stoch)), session.act(Online(other, stoch)))
    pictures = [session.decode(Online(deter, stoch))["camera"] for deter in (one, other)]
    assert np.array_equal(*pictures)


def test_the_manifest_says_how_much_of_the_state_is_the_tracker_s(session, model):
    latent, tracker = session.latent, model.tracker
    assert latent.track == tracker.width
    assert latent.deter == model.world_model.sizes.deter + tracker.width
    own = model.world_model.rssm.tokens
    assert latent.tokens == own | {"camera": own["camera"] + tracker.detector.outputs}


def test_shuffling_reaches_the_tracker(model):
    other = shuffled(model, 1).tracker
    assert not torch.equal(other.mlp.layers[0].linear.weight, model.tracker.mlp.layers[0].linear.weight)
