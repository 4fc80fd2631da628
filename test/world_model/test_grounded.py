"""A latent that is the target and how it moves: Bayes' rule by numbers, particles, prediction."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rssm_ros.online.weights import ancestors
from rssm_ros.world_model import Signals, WorldModel, WorldModelError, preset
from rssm_ros.world_model.grounded import (
    BIRTH,
    KERNEL,
    LEAST_SHOCK,
    SHOCK,
    GroundedHead,
    GroundedLatent,
    GroundedPosterior,
    KinematicCore,
    coded,
    cut,
    opened,
    told,
    whole,
)
from rssm_ros.world_model.model import systematic
from rssm_ros.world_model.rssm import Evidence, State

SIGNALS = Signals((("odom", 2),), (("camera", (32, 32, 1)),), 2, (("dot", 2),))
SIZES = replace(preset("dot_grounded"), units=16, hidden=16, depth=2)
NUMBERS, CODE = 2, 10


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    made = WorldModel(SIGNALS, SIZES)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def posterior_of(model: WorldModel) -> GroundedPosterior:
    assert isinstance(model.rssm.product, GroundedPosterior)
    return model.rssm.product


def some_beliefs(rows: int, seed: int = 0) -> torch.Tensor:
    """Codes [rows, 5 S] of narrow and wide beliefs."""
    code = torch.randn(rows, CODE, generator=torch.Generator().manual_seed(seed))
    code[:, 4:6] *= 0.5  # slopes
    code[:, 6:8] = 2.0 * code[:, 6:8] - 3.0  # log variances of place
    return code


def some_evidence(model: WorldModel, rows: int) -> Evidence:
    tokens = {m: torch.randn(rows, size) for m, size in model.rssm.tokens.items()}
    return model.rssm.evidence(tokens, {m: torch.ones(rows, dtype=torch.bool) for m in tokens})


def test_a_code_and_its_moments_are_the_same_belief():
    code = some_beliefs(500)
    torch.testing.assert_close(coded(opened(code)), code, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole(cut(code)), code, rtol=1e-4, atol=1e-5)


def test_particles_together_have_the_doubt_of_the_belief():
    """Law of total variance, over places, velocities and both: what is drawn and what each particle keeps."""
    for code in some_beliefs(6, seed=3):
        belief, latent = opened(code), GroundedLatent(CODE)
        noise = torch.randn(400_000, CODE, generator=torch.Generator().manual_seed(1))
        drawn = opened(latent.sample(cut(code).expand(400_000, -1, -1), noise).squeeze(-1))
        kept = (drawn.pp <= KERNEL**2 * 1.0001).float().mean()
        assert kept > 0.9999, "once in millions the noise is exactly 0"
        off, faster = drawn.place - drawn.place.mean(0), drawn.velocity - drawn.velocity.mean(0)
        found = (
            drawn.place.mean(0),
            drawn.velocity.mean(0),
            drawn.pp.mean(0) + off.square().mean(0),
            drawn.pv.mean(0) + (off * faster).mean(0),
            drawn.vv.mean(0) + faster.square().mean(0),
        )
        for value, expected in zip(found, belief):
            torch.testing.assert_close(value, expected, rtol=0.02, atol=0.01)


def test_a_particle_without_chance_keeps_all_doubt():
    code = some_beliefs(50)
    sample = GroundedLatent(CODE).sample(cut(code), torch.zeros(50, CODE)).squeeze(-1)
    torch.testing.assert_close(sample, code, rtol=1e-4, atol=1e-5)


def test_divergence_is_that_of_the_places():
    one, other = some_beliefs(20), some_beliefs(20, seed=1)
    latent = GroundedLatent(CODE)
    normals = [torch.distributions.Normal(c[:, :2], torch.exp(0.5 * c[:, 6:8])) for c in (one, other)]
    expected = torch.distributions.kl_divergence(*normals)
    torch.testing.assert_close(latent.kl_by_group(cut(one), cut(other)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latent.kl(cut(one), cut(other)), expected.sum(-1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latent.entropy(cut(one)), normals[0].entropy().sum(-1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_posterior_and_weight_are_bayes_rule_by_numbers(model):
    """The prior and what it grants a new object, times the mixture, on a lattice of places."""
    torch.manual_seed(1)
    code = some_beliefs(5, seed=2)
    code[:, 6:8] = code[:, 6:8].clamp(min=-3.0)  # wide enough for the lattice
    evidence = some_evidence(model, 5)
    said, here = evidence.said, torch.tensor([[False, True]] * 5)  # the camera alone
    said[:, 1, :, 3:] += 0.2
    motion, nats = posterior_of(model).update(cut(code), said, here)
    axis = torch.linspace(-8.0, 8.0, 321, dtype=torch.float64)
    step = axis[1] - axis[0]
    for row in range(5):
        belief = [part[row].double() for part in opened(code)]
        share, mean, std = said[row, 1].double().split([1, 2, 2], -1)
        seen = torch.zeros(len(axis), len(axis), dtype=torch.float64)
        for weight, centre, width in zip(share.exp(), mean, std):
            seen += weight * torch.outer(*(_normal(axis, c, w) for c, w in zip(centre, width)))
        parts = []  # weight at each place, and how place tells velocity there
        slope = belief[3] / belief[2]
        rest = belief[4] - slope * belief[3]
        density = torch.outer(*(_normal(axis, m, v.sqrt()) for m, v in zip(belief[0], belief[2])))
        parts.append(((1 - BIRTH) * density * seen, belief[1] - slope * belief[0], slope, rest))
        density = torch.outer(_normal(axis, 0.0, 1.0), _normal(axis, 0.0, 1.0))
        zero = torch.zeros(2, dtype=torch.float64)
        parts.append((BIRTH * density * seen, zero, zero, zero + 1.0))
        total = sum(float(p[0].sum()) for p in parts)
        assert np.log(total * float(step) ** 2) + np.log(2 * np.pi) == pytest.approx(
            float(nats[row]), abs=2e-3
        )
        for number in range(2):
            moments = np.zeros(5)
            for weight, at_zero, slope, rest in parts:
                along = weight.sum(1 - number) / total
                speed = at_zero[number] + slope[number] * axis
                values = (axis, speed, axis**2, axis * speed, speed**2 + rest[number])
                moments += np.array([float((along * value).sum()) for value in values])
            x, v, xx, xv, vv = moments
            expected = torch.tensor([x, v, xx - x * x, xv - x * v, vv - v * v])
            found = torch.stack([part[row, number] for part in motion]).double()
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def _normal(x, mean, std):
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


@torch.no_grad()
def test_what_was_lost_is_found_again(model):
    """Sure of one place, and shown another: there, and nothing is known of where it goes."""
    sure = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -6.0, -6.0]])
    look = told(torch.tensor([[-1.0, 0.5]]), torch.full((1, 2), 0.01))
    motion, far = posterior_of(model).update(cut(sure), look, torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(motion.place, torch.tensor([[-1.0, 0.5]]), rtol=0, atol=0.001)
    torch.testing.assert_close(motion.vv, torch.ones(1, 2), rtol=0.01, atol=0)
    look = told(torch.tensor([[1.0, 1.0]]), torch.full((1, 2), 0.01))
    motion, near = posterior_of(model).update(cut(sure), look, torch.ones(1, 1, dtype=torch.bool))
    assert near > far + 5.0 and (motion.vv < 0.01).all()


@torch.no_grad()
def test_looks_that_contradict_each_other_say_the_same_in_any_order(model):
    """One agrees with the belief, the other does not: either it was right, or all of it was wrong."""
    sure = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, -6.0, -6.0, -4.0, -4.0]])
    looks = [told(torch.full((1, 2), place), torch.full((1, 2), 0.05)) for place in (1.0, -1.0)]
    here = torch.ones(1, 2, dtype=torch.bool)
    one, other = (
        posterior_of(model).update(cut(sure), torch.cat(order, -3), here) for order in (looks, looks[::-1])
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_many_ticks_in_the_dark_stay_a_belief(model):
    state, first = model.initial_state(4), torch.ones(4, dtype=torch.bool)
    for _ in range(400):
        deter, prior = model.rssm.predict(state.deter, state.stoch, torch.zeros(4, 2), first)
        state = State(deter, model.rssm.latent.sample(prior, torch.randn(4, CODE)))
        first = torch.zeros_like(first)
    assert torch.isfinite(state.stoch).all() and (opened(state.stoch.squeeze(-1)).vv > 0).all()


@torch.no_grad()
def test_not_being_where_it_would_be_seen_moves_a_belief(model):
    """Half of what could be is in the open, and nothing is seen there: it is in the other half."""
    wide = torch.zeros(1, CODE)
    wide[:, 6:8] = -2.0
    columns = torch.linspace(0.25, 1.75, 4)
    said = torch.stack([torch.full((4,), np.log(0.25)), columns, torch.zeros(4)], -1)
    said = torch.cat([said, torch.tensor([0.3, 2.0]).expand(4, 2)], -1)[None, None]
    motion, _ = posterior_of(model).update(cut(wide), said, torch.ones(1, 1, dtype=torch.bool))
    assert 0.2 < float(motion.place[0, 0]) < 0.5 and abs(float(motion.place[0, 1])) < 0.01
    assert float(motion.pp[0, 0]) < 0.6 * np.exp(-2.0)


@torch.no_grad()
def test_nothing_present_is_the_prior_and_weighs_nothing(model):
    tokens = {m: torch.full((3, size), torch.nan) for m, size in model.rssm.tokens.items()}
    gone = {m: torch.zeros(3, dtype=torch.bool) for m in tokens}
    state = State(torch.randn(3, SIZES.deter), some_beliefs(3).unsqueeze(-1))
    _, prior, posterior = model.obs_step(
        state, torch.zeros(3, 2), tokens, gone, torch.zeros(3, dtype=torch.bool), torch.randn(3, CODE)
    )
    assert torch.equal(prior, posterior)
    _, weight = model.rssm.weighed(prior, model.rssm.evidence(tokens, gone))
    assert torch.equal(weight, torch.zeros(3))


@torch.no_grad()
def test_an_absent_modality_says_nothing(model):
    """Whatever it holds: the other's posterior and weight alone."""
    tokens = {m: torch.randn(3, size) for m, size in model.rssm.tokens.items()}
    here = {"odom": torch.ones(3, dtype=torch.bool), "camera": torch.zeros(3, dtype=torch.bool)}
    prior, deter = cut(some_beliefs(3)), torch.zeros(3, SIZES.deter)
    found = []
    for camera in (tokens["camera"], torch.full_like(tokens["camera"], torch.nan)):
        evidence = model.rssm.evidence({**tokens, "camera": camera}, here)
        posterior, weight = model.rssm.weighed(prior, evidence)
        assert torch.equal(posterior, model.rssm.posterior(deter, prior, evidence))
        found.append((posterior, weight))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert torch.isfinite(found[0][1]).all() and (found[0][0] != prior).any()


@torch.no_grad()
def test_prediction_is_a_kalman_filter_s():
    """With nothing learned: x' = F x, P' = F P F^T + Q, the velocity first."""
    core = KinematicCore(SIZES, 2)
    torch.nn.init.zeros_(core.out.weight)
    torch.nn.init.zeros_(core.out.bias)
    core.log_new_speed.fill_(np.log(0.13))
    code, shock = some_beliefs(8), float(SHOCK * torch.nn.functional.softplus(torch.tensor(-2.0)))
    noise = (shock + LEAST_SHOCK) ** 2
    deter = core(torch.randn(8, SIZES.deter), code.unsqueeze(-1), core.of_action(torch.zeros(8, 2)))
    after, before = opened(whole(core.prior(deter))), opened(code)
    step = torch.tensor([[1.0, 0.13], [0.0, 1.0]])
    of_velocity = torch.tensor([[0.13], [1.0]])
    for row in range(8):
        for number in range(2):
            place, velocity, pp, pv, vv = (float(part[row, number]) for part in before)
            mean = step @ torch.tensor([place, velocity])
            cov = step @ torch.tensor([[pp, pv], [pv, vv]]) @ step.T
            cov = cov + 100.0 * noise * of_velocity @ of_velocity.T
            cov[0, 0] += noise
            found = torch.stack([part[row, number] for part in after])
            expected = torch.stack([*mean, cov[0, 0], cov[0, 1], cov[1, 1]])
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_reset_forgets_everything(model):
    first = torch.ones(2, dtype=torch.bool)
    far, near = (torch.full((2, SIZES.deter), value) for value in (3.0, -1.0))
    one, _ = model.rssm.predict(far, torch.full((2, CODE, 1), 7.0), torch.ones(2, 2), first)
    two, _ = model.rssm.predict(near, torch.zeros(2, CODE, 1), torch.zeros(2, 2), first)
    assert torch.equal(one, two)


@torch.no_grad()
def test_targets_are_read_off_the_sample(model):
    code = some_beliefs(4)
    head = model.target_heads["dot"]
    assert isinstance(head, GroundedHead)
    head.offset.fill_(15.5)
    head.scale.fill_(9.0)
    features = State(torch.randn(4, SIZES.deter), code.unsqueeze(-1)).features
    mean, std = model.predict_target(features)["dot"]
    torch.testing.assert_close(mean, opened(code).place * 9.0 + 15.5)
    torch.testing.assert_close(std, opened(code).pp.sqrt() * 9.0)


@torch.no_grad()
def test_cells_lie_where_the_picture_has_them():
    """Untrained, the first number runs along columns, the second along rows; nothing favours a cell."""
    made = WorldModel(SIGNALS, SIZES)
    for layer in (made.rssm.product.shares["camera"], made.rssm.product.normals["camera"]):
        torch.nn.init.zeros_(layer.weight)
    said = some_evidence(made, 1).said[0, 1].reshape(16, 16, 5)
    assert torch.equal(said[..., 0], torch.full((16, 16), float(said[0, 0, 0])))
    assert (said[:, 1:, 1] > said[:, :-1, 1]).all() and torch.equal(said[0, :, 1], said[9, :, 1])
    assert (said[1:, :, 2] > said[:-1, :, 2]).all() and torch.equal(said[:, 0, 2], said[:, 9, 2])
    total = torch.logsumexp(said[..., 0].flatten(), 0)
    torch.testing.assert_close(total, torch.zeros(()), rtol=0, atol=1e-5)


@torch.no_grad()
def test_density_leaves_out_what_is_not_known(model):
    said = some_evidence(model, 3).said
    place = torch.randn(3, NUMBERS)
    axis = torch.linspace(-60.0, 60.0, 24_001)
    product = posterior_of(model)
    many = torch.stack([place[:, :1].expand(3, len(axis)), axis.expand(3, -1)], -1)
    each = product.log_density(said.unsqueeze(1).expand(-1, len(axis), -1, -1, -1), many)
    marginal = torch.log((torch.exp(each) * (axis[1] - axis[0])).sum(1))
    place[:, 1] = torch.nan
    torch.testing.assert_close(product.log_density(said, place), marginal, rtol=1e-3, atol=1e-3)


def test_both_resamplings_agree():
    """torch's, which validation uses, is the filter's at an offset of one half."""
    nats = torch.randn(20, 16, generator=torch.Generator().manual_seed(0)) * 3
    for row, chosen in zip(nats, systematic(nats)):
        np.testing.assert_array_equal(chosen, ancestors(row.numpy(), 0.5))


@torch.no_grad()
def test_a_sequence_s_particles_are_chosen_from(model):
    """Held against each filter by itself, tick by tick; the online filter's own code chooses."""
    rows, ticks, count = 2, 5, 6
    tokens = {m: 4.0 * torch.randn(rows, ticks, size) for m, size in model.rssm.tokens.items()}
    here = {m: torch.ones(rows, ticks, dtype=torch.bool) for m in tokens}
    evidence = model.rssm.evidence(tokens, here)
    shape = (rows * count, ticks)
    noise, action = torch.randn(*shape, CODE), torch.zeros(*shape, 2)
    never = torch.zeros(shape, dtype=torch.bool)
    found = model.filter(evidence.repeated(count), action, never, noise, particles=count)
    chose = 0
    for row in range(rows):
        part, state = slice(row * count, (row + 1) * count), model.initial_state(count)
        for tick in range(ticks):
            seen = {m: value[row : row + 1, tick] for m, value in tokens.items()}
            present = {m: value[row : row + 1, tick] for m, value in here.items()}
            state, prior, posterior = model.obs_step(
                state, action[part, tick], seen, present, never[part, tick], noise[part, tick]
            )
            _, weight = model.rssm.weighed(prior, model.rssm.evidence(seen, present))
            chosen = torch.from_numpy(ancestors(weight.numpy(), 0.5))
            chose += int((chosen != torch.arange(count)).any())
            state = State(state.deter[chosen], state.stoch[chosen])
            for value, expected in (
                (found.stoch, state.stoch),
                (found.deter, state.deter),
                (found.posterior, posterior[chosen]),
            ):
                torch.testing.assert_close(value[part, tick], expected, rtol=1e-3, atol=1e-3)
    assert chose > rows, "nobody was worth more than another"


def test_sizes_that_no_grounded_model_could_have_are_refused():
    for wrong in ({"blocks": 1}, {"latent": "categorical", "classes": 4}, {"stoch": 9}, {"deter": 10}):
        with pytest.raises(WorldModelError, match="grounded latent is Gaussian"):
            replace(SIZES, **wrong)
    with pytest.raises(WorldModelError, match="10 groups, but the targets have 3"):
        WorldModel(replace(SIGNALS, targets=(("dot", 2), ("mass", 1))), SIZES)
