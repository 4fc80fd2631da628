"""What every kind of RSSM must do, whatever its latent, its posterior and its core."""

import pytest
import torch
from torch import nn

from rssm_ros.world_model import Signals, WorldModel
from rssm_ros.world_model.ensemble import Ensemble
from rssm_ros.world_model.plain import PlainGRU
from rssm_ros.world_model.product import ProductPosterior
from rssm_ros.world_model.representation import Representation, barlow, infonce
from rssm_ros.world_model.sizes import preset
from test.bundles import VARIANTS, tiny_model

B, T = 3, 6


@pytest.fixture(scope="module", params=VARIANTS)
def model(request) -> WorldModel:
    return tiny_model(variant=request.param).world_model.eval()


def filtered(model: WorldModel, presence: dict[str, torch.Tensor], seed: int = 0, spoil: bool = False):
    draw = torch.Generator().manual_seed(seed)
    tokens = {m: torch.randn(B, T, e, generator=draw) for m, e in model.rssm.tokens.items()}
    if spoil:
        tokens = {m: torch.where(presence[m][..., None], x, torch.nan) for m, x in tokens.items()}
    action = torch.rand(B, T, 6, generator=draw) * 2 - 1
    first = torch.zeros(B, T, dtype=torch.bool)
    first[1, 3] = True
    noise = model.rssm.latent.noise(B, T, generator=draw)
    return model.observe(tokens, presence, action, first, noise)


def present(model: WorldModel, **gaps: slice) -> dict[str, torch.Tensor]:
    here = {name: torch.ones(B, T, dtype=torch.bool) for name in model.rssm.tokens}
    for name, gap in gaps.items():
        here[name][:, gap] = False
    return here


@torch.no_grad()
def test_nothing_seen_is_the_prior_bitwise_and_costs_nothing(model):
    gap = slice(2, 4)
    beliefs = filtered(model, present(model, camera=gap, odom=gap, joints=gap))
    assert torch.equal(beliefs.posterior[:, gap], beliefs.prior[:, gap])
    assert (model.rssm.latent.kl(beliefs.posterior, beliefs.prior)[:, gap] == 0.0).all()
    assert not torch.equal(beliefs.posterior[:, 1], beliefs.prior[:, 1])


@torch.no_grad()
def test_a_nan_in_what_is_absent_changes_no_bit(model):
    here = present(model, camera=slice(1, 3), joints=slice(4, 5))
    clean, spoilt = filtered(model, here), filtered(model, here, spoil=True)
    assert torch.equal(clean.posterior, spoilt.posterior) and torch.equal(clean.deter, spoilt.deter)


def test_gradients_of_what_is_absent_are_finite(model):
    here = present(model, camera=slice(1, 3), joints=slice(0, 6))
    beliefs = filtered(model, here, spoil=True)
    loss = model.rssm.latent.kl(beliefs.posterior, beliefs.prior).sum() + beliefs.features.square().sum()
    gradients = torch.autograd.grad(loss, list(model.rssm.parameters()), allow_unused=True)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)


@torch.no_grad()
def test_a_reset_forgets_all_before_it(model):
    """Row 1 starts anew at tick 3: what came before must not matter."""
    one, two = filtered(model, present(model)), filtered(model, present(model, camera=slice(0, 3)))
    assert torch.equal(one.posterior[1, 3:], two.posterior[1, 3:])
    assert not torch.equal(one.posterior[0, 3:], two.posterior[0, 3:])


@torch.no_grad()
def test_imagination_is_repeated_prediction(model):
    state, draw = model.initial_state(B), torch.Generator().manual_seed(1)
    actions = torch.rand(B, 4, 6, generator=draw) * 2 - 1
    noise = model.rssm.latent.noise(B, 4, generator=draw)
    path = model.imagine(state, actions, noise)
    never = torch.zeros(B, dtype=torch.bool)
    for t in range(4):
        deter, prior = model.rssm.predict(state.deter, state.stoch, actions[:, t], never)
        state = type(state)(deter, model.rssm.latent.sample(prior, noise[:, t]))
        assert torch.equal(path.deter[:, t], deter)
        assert torch.equal(path.stoch[:, t], state.stoch)


@torch.no_grad()
def test_the_order_of_experts_does_not_matter():
    torch.manual_seed(0)
    sizes = preset("debug", posterior="product")
    tokens = {"a": 3, "b": 5}
    rssm = WorldModel(Signals((("x", 2),), (), 2, ()), sizes).rssm
    one = ProductPosterior(sizes, rssm.latent, tokens)
    two = ProductPosterior(sizes, rssm.latent, dict(reversed(tokens.items())))
    h, swap = sizes.hidden, torch.tensor([1, 0])
    for name in tokens:
        two.of_tokens[name].load_state_dict(one.of_tokens[name].state_dict())
    for mine, theirs in ((two.of_deter.weight, one.of_deter.weight), (two.of_deter.bias, one.of_deter.bias)):
        mine.copy_(theirs.unflatten(0, (2, h))[swap].flatten(0, 1))
    two.norm.scale.copy_(one.norm.scale[swap])
    two.experts.weight.copy_(one.experts.weight[swap])
    two.experts.bias.copy_(one.experts.bias.unflatten(0, (2, -1))[swap].flatten())
    flags = sizes.deter + swap
    weight = one.discount.weight[swap]
    two.discount.weight.copy_(torch.cat([weight[:, : sizes.deter], weight[:, flags]], 1))
    two.discount.bias.copy_(one.discount.bias[swap])
    said = {name: torch.randn(4, size) for name, size in tokens.items()}
    here = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    deter = torch.randn(4, sizes.deter)
    prior = rssm.latent.distribution(torch.randn(4, sizes.stoch_raw))
    left = one(deter, prior, one.evidence(said, here), here)
    right = two(deter, prior, two.evidence(said, here[:, swap]), here[:, swap])
    assert (left - right).abs().max() <= 1e-6 and not torch.allclose(left, prior, atol=1e-3)


@torch.no_grad()
def test_the_standard_cell_is_torch_s_gru():
    sizes = preset("planet")
    ours, theirs = PlainGRU(sizes, 2), nn.GRUCell(sizes.hidden, sizes.deter)
    # torch orders reset, update, new, and keeps the old state where update is 1: ours is reset, new, update.
    for mine, part in ((ours.of_input, "ih"), (ours.of_deter, "hh")):
        for kind in ("weight", "bias"):
            reset, new, update = getattr(mine, kind).normal_(0.0, 0.1).chunk(3)
            getattr(theirs, f"{kind}_{part}").copy_(torch.cat([reset, -update, new]))
    deter, stoch, action = torch.randn(5, 200), torch.randn(5, 30, 1), torch.randn(5, 2)
    embedded = ours.of_action(action)
    x = ours.activation(ours.of_stoch(stoch.flatten(1)) + embedded)
    assert torch.allclose(ours(deter, stoch, embedded), theirs(x, deter), atol=1e-5)


def test_an_ensemble_learns_only_itself_and_disagrees_where_it_has_not():
    torch.manual_seed(0)
    sizes = preset("debug")
    ensemble = Ensemble(sizes, 2)
    features = torch.randn(4, 5, sizes.features, requires_grad=True)
    action, first = torch.randn(4, 5, 2), torch.zeros(4, 5, dtype=torch.bool)
    first[:, 2] = True
    posterior = torch.softmax(torch.randn(4, 5, 4, 4), -1).requires_grad_()
    loss = ensemble.loss(features, action, posterior, first)
    assert loss.shape == (4, 4) and (loss[:, 1] == 0).all() and (loss[:, 0] > 0).all()
    loss.sum().backward()
    assert features.grad is None and posterior.grad is None
    learner = torch.optim.Adam(ensemble.parameters(), 3e-3)
    known, away = features.detach(), features.detach() + 3.0
    for _ in range(150):
        learner.zero_grad()
        ensemble.loss(known, action, posterior, first).mean().backward()
        learner.step()
    steps = action.roll(-1, 1)
    near, far = (ensemble.disagreement(x[:, :-1], steps[:, :-1]).mean() for x in (known, away))
    assert far > 3 * near


def test_representation_losses_fall_to_their_floor_when_both_sides_agree():
    draw = torch.Generator().manual_seed(0)
    tokens, here = torch.randn(256, 32, generator=draw), torch.ones(256, dtype=torch.bool)
    here[200:] = False
    assert barlow(tokens, tokens, here) < 0.01 < 1.0 < barlow(tokens, tokens.roll(1, 0), here)
    assert infonce(tokens, tokens, here) < 0.1 < 2.0 < infonce(tokens, tokens.roll(1, 0), here)
    spoilt = tokens.clone()
    spoilt[200:] = 1e6  # what is absent has no say
    for loss in (barlow, infonce):
        assert torch.allclose(loss(tokens, tokens, here), loss(spoilt, spoilt, here), atol=1e-4)


@pytest.mark.parametrize("kind", ["barlow", "infonce"])
def test_representation_statistics_are_not_halved_by_autocast(kind):
    """Inside the learner's autocast the [N, E] products were rounded to bfloat16."""
    torch.manual_seed(0)
    module = Representation(kind, 12, 32)
    torch.nn.init.eye_(module.project.weight)  # exact in half precision: only the statistics could round
    features = torch.randn(256, 12).bfloat16().float()
    tokens, here = torch.randn(256, 32), torch.ones(256, dtype=torch.bool)
    plain = module(features, tokens, here)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(module(features, tokens, here), plain, rtol=1e-6)


@pytest.mark.parametrize("kind", ["barlow", "infonce"])
def test_representation_losses_teach_both_sides(kind):
    torch.manual_seed(0)
    module = Representation(kind, 12, 6)
    features, tokens = torch.randn(64, 12, requires_grad=True), torch.randn(64, 6, requires_grad=True)
    module(features, tokens, torch.ones(64, dtype=torch.bool)).backward()
    assert features.grad.abs().sum() > 0 and tokens.grad.abs().sum() > 0


def test_a_sample_at_a_blank_tick_still_teaches_the_prior(model):
    """Taking the looped prior without its gradient cut what comes later off from it."""
    gap = slice(2, 4)
    beliefs = filtered(model, present(model, camera=gap, odom=gap, joints=gap))
    weight = model.rssm.plain.out.weight if model.sizes.grounded else model.rssm.prior_logits.weight
    (gradient,) = torch.autograd.grad(beliefs.stoch[:, 3].square().sum(), weight)
    assert gradient.abs().sum() > 0
