"""The filter's semantics: resets, absence, broadcasting, sampling."""

import pytest
import torch

from rssm_ros.world_model import Signals, WorldModel, WorldModelError, preset, sample_categorical
from rssm_ros.world_model.categorical import categorical_kl, mixed

SIGNALS = Signals((("odom", 2), ("joints", 8)), (("camera", (64, 64, 3)),), 6, (("package", 2),))


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    made = WorldModel(SIGNALS, preset("debug"))
    with torch.no_grad():
        for parameter in made.parameters():  # biases and scales start at 0 and 1: hide nothing behind that
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def sequence(rows: int, ticks: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "odom": torch.randn(rows, ticks, 2, generator=random),
        "joints": torch.randn(rows, ticks, 8, generator=random),
        "camera": torch.randint(0, 256, (rows, ticks, 64, 64, 3), generator=random, dtype=torch.uint8),
        "action": torch.rand(rows, ticks, 6, generator=random) * 2 - 1,
        "uniform": torch.rand(rows, ticks, 4, generator=random),
    }


def all_present(rows: int, ticks: int) -> dict[str, torch.Tensor]:
    return {name: torch.ones(rows, ticks, dtype=torch.bool) for name in SIGNALS.modalities}


def run(model, data, presence, first):
    tokens = model.tokens({name: data[name] for name in SIGNALS.modalities}, presence)
    return model.observe(tokens, presence, data["action"], first, data["uniform"])


@torch.no_grad()
def test_reset_forgets_everything_before_it(model):
    """torchrl #4128 and friends: state *and* action must be zeroed, not the state alone."""
    data, other = sequence(2, 6), sequence(2, 6)
    for name in ("odom", "joints", "action"):
        other[name] = other[name].clone()
        other[name][:, :3] = torch.randn_like(other[name][:, :3])
    other["action"][:, 3] = 0.77
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[:, 0], first[:, 3] = True, True
    one, two = (run(model, d, all_present(2, 6), first) for d in (data, other))
    assert torch.equal(one.deter[:, 3:], two.deter[:, 3:])
    assert torch.equal(one.posterior[:, 3:], two.posterior[:, 3:])
    assert not torch.equal(one.deter[:, 2], two.deter[:, 2])


@torch.no_grad()
def test_reset_of_one_row_leaves_the_others(model):
    state = model.initial_state(2)
    deter, stoch = state.deter + 0.3, torch.rand_like(state.stoch)
    action = torch.rand(2, 6)
    never, second = torch.tensor([False, False]), torch.tensor([False, True])
    plain, _ = model.rssm.predict(deter, stoch, action, never)
    reset, _ = model.rssm.predict(deter, stoch, action, second)
    zeros, _ = model.rssm.predict(*model.initial_state(2), torch.zeros(2, 6), never)
    assert torch.equal(plain[0], reset[0])
    assert torch.allclose(zeros[1], reset[1], atol=1e-7)


@torch.no_grad()
def test_nothing_present_is_the_prior_bitwise(model):
    data, presence = sequence(3, 5), all_present(3, 5)
    for name in presence:
        presence[name][:, 2:4] = False
    first = torch.zeros(3, 5, dtype=torch.bool)
    beliefs = run(model, data, presence, first)
    assert torch.equal(beliefs.posterior[:, 2:4], beliefs.prior[:, 2:4])
    assert (categorical_kl(beliefs.posterior, beliefs.prior)[:, 2:4] == 0.0).all()
    assert not torch.equal(beliefs.posterior[:, 1], beliefs.prior[:, 1])


@torch.no_grad()
def test_what_an_absent_observation_holds_changes_no_bit(model):
    data, presence = sequence(2, 4), all_present(2, 4)
    presence["odom"][:, 1] = False
    presence["camera"][:, 2] = False
    first = torch.zeros(2, 4, dtype=torch.bool)
    clean = run(model, data, presence, first)
    data["odom"][:, 1] = float("nan")
    data["camera"][:, 2] = 255
    dirty = run(model, data, presence, first)
    assert torch.equal(clean.deter, dirty.deter) and torch.equal(clean.posterior, dirty.posterior)


@torch.no_grad()
def test_particles_share_tokens_by_broadcasting(model):
    tokens = {name: torch.randn(1, size) for name, size in model.rssm.tokens.items()}
    here = {name: torch.ones(1, dtype=torch.bool) for name in tokens}
    deter, prior = torch.randn(7, 32), mixed(torch.randn(7, 4, 4), 0.01)
    shared = model.rssm.correct(deter, prior, tokens, here)
    tiled = model.rssm.correct(
        deter,
        prior,
        {n: t.expand(7, -1) for n, t in tokens.items()},
        {n: p.expand(7) for n, p in here.items()},
    )
    assert torch.allclose(shared, tiled, atol=1e-6)


@torch.no_grad()
def test_steps_equal_the_sequence(model):
    data, presence = sequence(2, 4), all_present(2, 4)
    first = torch.zeros(2, 4, dtype=torch.bool)
    first[:, 0] = True
    beliefs = run(model, data, presence, first)
    state = model.initial_state(2)
    for t in range(4):
        tokens = {name: model.encode(name, data[name][:, t]) for name in SIGNALS.modalities}
        here = {name: presence[name][:, t] for name in presence}
        state, prior, posterior = model.obs_step(
            state, data["action"][:, t], tokens, here, first[:, t], data["uniform"][:, t]
        )
        assert torch.allclose(state.deter, beliefs.deter[:, t], atol=1e-5)
        assert torch.allclose(posterior, beliefs.posterior[:, t], atol=1e-5)
        assert torch.allclose(prior, beliefs.prior[:, t], atol=1e-5)


def test_sampling_counts_the_cdf_below_the_uniform():
    probs = torch.tensor([[0.25, 0.25, 0.5]]).repeat(5, 1).unsqueeze(1)
    uniform = torch.tensor([[0.0], [0.2499], [0.25], [0.5], [0.9999]])
    drawn = sample_categorical(probs, uniform)
    assert drawn.argmax(-1).flatten().tolist() == [0, 0, 1, 2, 2]
    assert torch.equal(drawn.sum(-1), torch.ones(5, 1))


def test_actions_beyond_one_are_scaled_back(model):
    beyond = torch.tensor([[2.0, -3.0, 0.5, 0.0, 1.0, -1.0]])
    inside = torch.tensor([[1.0, -1.0, 0.5, 0.0, 1.0, -1.0]])
    assert torch.equal(model.rssm.embed_action(beyond), model.rssm.embed_action(inside))


def test_unknown_names_and_sizes_are_told():
    with pytest.raises(WorldModelError, match="lidar"):
        WorldModel(SIGNALS, preset("debug")).encode("lidar", torch.zeros(1))
    with pytest.raises(WorldModelError, match="size13m"):
        preset("size13m")
    with pytest.raises(WorldModelError, match="multiple of blocks"):
        type(preset("debug"))(**{**preset("debug").to_dict(), "deter": 33})


@pytest.mark.parametrize(("name", "millions"), [("size1m", 0.57), ("size12m", 8.85)])
def test_parameter_counts_are_the_published_ones(name, millions):
    """Against the official counts for 64 x 64 x 3 and 6 actions (DREAMERV3.md), ours without absence
    inputs."""
    sizes = preset(name)
    model = WorldModel(Signals((), (("camera", (64, 64, 3)),), 6, ()), sizes)
    extra = sizes.hidden + sum(parameter.numel() for parameter in model.rssm.absent.values())
    count = sum(parameter.numel() for parameter in model.parameters()) - extra
    assert abs(count / 1e6 - millions) < 0.006
