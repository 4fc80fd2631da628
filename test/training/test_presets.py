"""Every generation's model learns something of the moving dot in 200 updates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rssm_ros.contract import find_contract
from rssm_ros.training.collect_dot import plan_blocks, record
from rssm_ros.training.learner import Learner
from rssm_ros.training.machine import prepare
from rssm_ros.training.optimizer import Optimizer
from rssm_ros.training.options import options
from rssm_ros.training.replay import Replay, open_storage
from rssm_ros.world_model import Beliefs, Signals, preset

CONTRACT = find_contract("dot")
SIGNALS = Signals.from_contract(CONTRACT)
UPDATES, ENDS = 200, 20
BATCH, LENGTH, CHUNKS = 4, 4, 2  # enough for a loss to fall by far more than is asked, in a third of the time
CASES = ["debug", "dot", "manipulator", "planet", "dreamer_v1", "dreamer_v2", "size1m", "size12m"]
# The same code with other numbers, for a machine with time: the largest takes 10 GB, and took 34 minutes of a
# core with sequences of three times the length.
LARGE = ["size25m", "size50m", "size100m", "size200m", "size400m"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dot")
    (plan,) = plan_blocks(3000, "hard", 5000)
    np.savez(folder / plan.filename, **record(plan))
    return folder


def losses(
    data: Path, name: str, updates: int = UPDATES, **changes: object
) -> tuple[Learner, dict[str, list[float]]]:
    """Every loss term of a short run at a small batch; the rate is high, the warm-up short."""
    prepare(1)
    torch.manual_seed(0)
    length = max(LENGTH, options(name).decode_stride)
    small = {"batch": BATCH, "length": length, "chunks": CHUNKS}
    small |= {"conv": None if options(name).sizes().grounded else "strided"}
    small |= {"particles": 1, "autocast": False}
    chosen = replace(options(name), **{**small, **changes})
    # The RSSM in full size; thin convolutions and heads, which are not what the presets differ in.
    sizes = replace(chosen.sizes(), depth=4, multipliers=(2, 3, 4), units=32)
    learner = Learner(SIGNALS, sizes, chosen)
    replay = Replay([open_storage(data, SIGNALS)], BATCH, length, CHUNKS, seed=0)
    named = learner.trained()
    optimizer, found, state = Optimizer(named), {}, None
    for step in range(updates):
        noise = torch.Generator().manual_seed(step)
        motion = replay.motion(step, range(32), length) if sizes.grounded else None
        update = learner(replay.batch(step), state, noise, imagine=False, motion=motion)
        gradients = torch.autograd.grad(update.loss, [p for _, p in named], allow_unused=True)
        optimizer.step(gradients, 5e-4 * min(1.0, (step + 1) / 20))
        state = update.last
        for term, value in update.terms.items():
            found.setdefault(term, []).append(float(value))
    return learner, found


def fell(values: list[float]) -> bool:
    return np.mean(values[-ENDS:]) < 0.8 * np.mean(values[:ENDS])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.timeout(300)) for name in CASES),
        *(pytest.param(name, marks=(pytest.mark.large, pytest.mark.timeout(7200))) for name in LARGE),
    ],
)
def test_two_hundred_updates_lower_the_loss(data, name):
    _, found = losses(data, name)
    assert all(np.isfinite(values).all() for values in found.values())
    assert fell(found["image_camera"]) and fell(found["target_dot"])
    assert np.mean(found["loss"][-ENDS:]) < np.mean(found["loss"][:ENDS])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("latent", ["categorical", "gaussian"])
def test_the_product_posterior_learns_too(data, latent):
    _, found = losses(data, "debug", posterior="product", latent=latent, free_nats=0.0)
    assert fell(found["image_camera"]) and fell(found["target_dot"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_grounded_latent_learns_to_see_and_to_move(data):
    _, found = losses(data, "dot_grounded")
    first, last = ({name: np.mean(v[part]) for name, v in found.items()} for part in _ENDS)
    assert all(np.isfinite(values).all() for values in found.values())
    assert last["motion"] < first["motion"] - 0.5, "nats a number"
    assert last["target"] < first["target"] - 1.0, "nats: where the dot is"


_ENDS = slice(0, ENDS), slice(-ENDS, None)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["barlow", "infonce"])
def test_without_a_decoder_the_representation_is_what_falls(data, kind):
    scales = replace(
        options("debug").scales, representation=1.0, target=0.0, target_prior=0.0, perception=0.0
    )
    # The first two hundred do little: a contrast among noisy pictures begins flat.
    learner, found = losses(data, "debug", 2 * UPDATES, representation=kind, scales=scales)
    assert np.mean(found[f"{kind}_camera"][-ENDS:]) < 0.9 * np.mean(found[f"{kind}_camera"][:ENDS])
    assert "camera" in learner.representation


def test_each_generation_has_its_own_divergence():
    """Free nats of the tick or of the mean, and the balance as the weights of dyn and rep."""
    facts = {
        name: (o.free_nats, o.free_nats_of, o.scales.dyn, o.scales.rep)
        for name, o in ((name, options(name)) for name in ("planet", "dreamer_v1", "dreamer_v2", "size12m"))
    }
    assert facts == {
        "planet": (3.0, "tick", 1.0, 1.0),
        "dreamer_v1": (3.0, "batch", 1.0, 1.0),
        "dreamer_v2": (0.0, "tick", 0.8, 0.2),
        "size12m": (1.0, "tick", 1.0, 0.1),
    }
    kinds = {name: (preset(name).latent, preset(name).blocks) for name in facts}
    assert kinds["planet"] == kinds["dreamer_v1"] == ("gaussian", 0)
    assert kinds["dreamer_v2"] == ("categorical", 0) and kinds["size12m"] == ("categorical", 8)


@pytest.mark.parametrize(("of", "expected"), [("tick", (1.0 + 2.6) / 2), ("batch", (0.2 + 2.6) / 2)])
def test_free_nats_of_the_batch_let_single_ticks_below_them(of, expected):
    """(0.2, 2.6), 1.4 on average: DreamerV1 clamps the mean, PlaNet and DreamerV3 every tick."""
    learner = Learner(SIGNALS, preset("debug"), replace(options("debug"), free_nats=1.0, free_nats_of=of))
    latent = learner.world_model.rssm.latent
    latent.kl = lambda left, right: torch.tensor([[0.2, 2.6]])  # type: ignore[method-assign]
    half, terms = torch.full((1, 2, 4, 4), 0.25), {}
    beliefs = Beliefs(torch.zeros(1, 2, 32), half, half, half)
    learner._dynamics(
        beliefs, torch.ones(1, 2, dtype=torch.bool), lambda name, _, value: terms.update({name: value})
    )
    assert float(terms["dyn"]) == pytest.approx(expected, abs=1e-6)


def test_what_weighs_nothing_is_not_computed_and_beta_moves_the_gradient_alone(data):
    """The dot has no reward to learn; and a target's value is its likelihood's whatever the gradient is."""
    first, moved = {}, {}
    for beta in (0.0, 1.0):
        learner, found = losses(data, "dot", 3, target_beta=beta)  # the first moves by signs
        assert not {"reward", "continue", "imitation"} & set(found)
        first[beta] = found["target_dot"][0]
        moved[beta] = learner.world_model.target_heads["dot"].out.weight
    assert first[0.0] == first[1.0]
    assert not torch.equal(moved[0.0], moved[1.0])
