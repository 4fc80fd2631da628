"""A latent that is the target: the Kalman update, the weights it leaves out, and prediction from places."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rssm_ros.online.weights import ancestors
from rssm_ros.world_model import Signals, WorldModel, WorldModelError, preset
from rssm_ros.world_model.grounded import SPEED, GroundedHead, GroundedPosterior, KinematicCore
from rssm_ros.world_model.model import systematic
from rssm_ros.world_model.rssm import State

SIGNALS = Signals((("odom", 2),), (("camera", (32, 32, 1)),), 2, (("dot", 2),))
SIZES = replace(preset("dot_grounded"), units=16, hidden=16, depth=2)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    made = WorldModel(SIGNALS, SIZES)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for layer in made.rssm.product.said.values():  # experts that are sure enough to tell places apart
            layer.bias[2:] = -1.5
    return made.eval()


def posterior_of(model: WorldModel) -> GroundedPosterior:
    assert isinstance(model.rssm.product, GroundedPosterior)
    return model.rssm.product


def some_evidence(model: WorldModel, rows: int):
    tokens = {m: torch.randn(rows, size) for m, size in model.rssm.tokens.items()}
    return model.rssm.evidence(tokens, {m: torch.ones(rows, dtype=torch.bool) for m in tokens})


@torch.no_grad()
def test_posterior_and_agreement_are_bayes_rule_by_numbers(model):
    """Held against the product of three densities on a lattice, normalised by its sum."""
    torch.manual_seed(1)
    evidence, product = some_evidence(model, 6), posterior_of(model)
    prior = torch.stack([0.5 * torch.randn(6, 2), 0.2 + torch.rand(6, 2)], -1)
    found = product(torch.zeros(6, SIZES.deter), prior, *evidence).double()
    nats = product.agreement(prior, *evidence)
    x = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    mean, raw, _ = product._parts(evidence.said)
    for row in range(6):
        total = 0.0
        for axis in range(2):
            log_density = _normal(x, *prior[row, axis].double())
            expert = torch.zeros_like(x)
            for modality in range(2):
                std = torch.nn.functional.softplus(raw[row, modality, axis].double()) + 0.004
                expert = expert + _normal(x, mean[row, modality, axis].double(), std)
            expert = expert - torch.logsumexp(expert, 0) - torch.log(x[1] - x[0])  # one normal, of area 1
            density = torch.exp(log_density + expert) * (x[1] - x[0])
            at = (density * x).sum() / density.sum()
            spread = ((density * (x - at) ** 2).sum() / density.sum()).sqrt()
            torch.testing.assert_close(found[row, axis], torch.stack([at, spread]), rtol=1e-4, atol=1e-5)
            height = expert.max()  # what all particles have in common
            total += float(torch.log(density.sum()) - height)
        assert total == pytest.approx(float(nats[row]), abs=1e-3)


def _normal(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - torch.log(std) - 0.5 * np.log(2 * np.pi)


@torch.no_grad()
def test_nothing_present_is_the_prior_and_weighs_nothing(model):
    tokens = {m: torch.full((3, size), torch.nan) for m, size in model.rssm.tokens.items()}
    gone = {m: torch.zeros(3, dtype=torch.bool) for m in tokens}
    state = State(torch.randn(3, SIZES.deter), torch.randn(3, 2, 1))
    after, prior, posterior = model.obs_step(
        state, torch.zeros(3, 2), tokens, gone, torch.zeros(3, dtype=torch.bool), torch.randn(3, 2)
    )
    assert torch.equal(prior, posterior)
    weight = model.rssm.log_weight(prior, after.stoch, model.rssm.evidence(tokens, gone))
    assert torch.equal(weight, torch.zeros(3))


@torch.no_grad()
def test_an_absent_modality_says_nothing(model):
    """Whatever it holds: the other's posterior and weight alone."""
    tokens = {m: torch.randn(3, size) for m, size in model.rssm.tokens.items()}
    here = {"odom": torch.ones(3, dtype=torch.bool), "camera": torch.zeros(3, dtype=torch.bool)}
    prior, sample = torch.rand(3, 2, 2) + 0.1, torch.randn(3, 2, 1)
    found = []
    for camera in (tokens["camera"], torch.full_like(tokens["camera"], torch.nan)):
        evidence = model.rssm.evidence({**tokens, "camera": camera}, here)
        found.append(
            (model.rssm.posterior(sample, prior, evidence), model.rssm.log_weight(prior, sample, evidence))
        )
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert torch.isfinite(found[0][1]).all() and (found[0][0] != prior).any()


@torch.no_grad()
def test_prediction_goes_on_as_the_last_two_places_say(model):
    """Nothing is known after a reset, the place after one sample, its displacement after two."""
    core = model.rssm.plain
    assert isinstance(core, KinematicCore)
    made = KinematicCore(SIZES, 2)
    torch.nn.init.zeros_(made.out.weight)
    torch.nn.init.zeros_(made.out.bias)
    action = made.of_action(torch.zeros(1, 2))
    deter, places = (
        torch.zeros(1, SIZES.deter),
        torch.tensor([[9.0, 9.0], [0.3, -0.1], [0.5, -0.2], [0.4, 0.1]]),
    )
    expected = [[9.0, 9.0], [0.3, -0.1], [0.7, -0.3], [0.3, 0.4]]
    for place, mean in zip(places, expected):  # the first sample is the reset's, whatever it holds
        deter = made(deter, place[None, :, None], action)
        torch.testing.assert_close(made.prior(deter)[0, :, 0], torch.tensor(mean))
    assert float(deter[0, -1]) == 1.0
    torch.testing.assert_close(deter[0, -3:-1], SPEED * (places[-1] - places[-2]))


@torch.no_grad()
def test_a_reset_forgets_place_and_displacement(model):
    first = torch.ones(2, dtype=torch.bool)
    far, near = (torch.full((2, SIZES.deter), value) for value in (3.0, -1.0))
    one, _ = model.rssm.predict(far, torch.full((2, 2, 1), 7.0), torch.ones(2, 2), first)
    two, _ = model.rssm.predict(near, torch.zeros(2, 2, 1), torch.zeros(2, 2), first)
    assert torch.equal(one, two)


@torch.no_grad()
def test_targets_are_read_off_the_sample(model):
    state = State(torch.randn(4, SIZES.deter), torch.randn(4, 2, 1))
    head = model.target_heads["dot"]
    assert isinstance(head, GroundedHead)
    head.offset.fill_(15.5)
    head.scale.fill_(9.0)
    mean, std = model.predict_target(state.features)["dot"]
    torch.testing.assert_close(mean, state.stoch[..., 0] * 9.0 + 15.5)
    assert (std > 0).all() and (std < 0.5).all()


def test_both_resamplings_agree():
    """torch's, which validation uses, is the filter's at an offset of one half."""
    nats = torch.randn(20, 16, generator=torch.Generator().manual_seed(0)) * 3
    for row, chosen in zip(nats, systematic(nats)):
        np.testing.assert_array_equal(chosen, ancestors(row.numpy(), 0.5))


@torch.no_grad()
def test_a_sequence_is_given_and_its_particles_are_chosen_from(model):
    rows, ticks = 2, 5
    tokens = {m: torch.randn(rows, ticks, size) for m, size in model.rssm.tokens.items()}
    here = {m: torch.ones(rows, ticks, dtype=torch.bool) for m in tokens}
    evidence, first = model.rssm.evidence(tokens, here), torch.zeros(rows, ticks, dtype=torch.bool)
    noise = torch.randn(rows, ticks, 2)
    given = torch.randn(rows, ticks, 2, 1)
    given[:, 3] = torch.nan
    beliefs = model.filter(evidence, torch.zeros(rows, ticks, 2), first, noise, given=given)
    assert torch.equal(beliefs.stoch[:, [0, 1, 2, 4]], given[:, [0, 1, 2, 4]])
    assert torch.isfinite(beliefs.stoch[:, 3]).all()
    many = evidence.repeated(6)
    shape = (rows * 6, ticks)
    chosen = model.filter(
        many,
        torch.zeros(*shape, 2),
        torch.zeros(shape, dtype=torch.bool),
        torch.randn(*shape, 2),
        particles=6,
    )
    copies = chosen.stoch[:6, :, 0, 0].sort(0).values.diff(dim=0) == 0
    assert copies.any(), "nobody was worth more than another"


def test_sizes_that_no_grounded_model_could_have_are_refused():
    with pytest.raises(WorldModelError, match="grounded latent is Gaussian"):
        replace(SIZES, blocks=1)
    with pytest.raises(WorldModelError, match="grounded latent is Gaussian"):
        replace(SIZES, latent="categorical", classes=4)
    with pytest.raises(WorldModelError, match="2 numbers, but the targets have 3"):
        WorldModel(replace(SIGNALS, targets=(("dot", 2), ("mass", 1))), SIZES)
