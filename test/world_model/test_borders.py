"""What comes into a world model is what its docstrings say, or it is refused at the border."""

import copy

import pytest
import torch

from rssm_ros.contract import find_contract
from rssm_ros.world_model import Signals, State, WorldModel, WorldModelError, heads, losses, preset

SIGNALS = Signals.from_contract(find_contract("manipulator"))
ROWS = 2


@pytest.fixture(scope="module")
def model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(SIGNALS, preset("debug"))


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("camera", torch.zeros(64, 64, 3), r"float32 \[64, 64, 3\], expected uint8 \[..., 64, 64, 3\]"),
        ("camera", torch.zeros(32, 32, 3, dtype=torch.uint8), r"uint8 \[32, 32, 3\], expected uint8"),
        ("odom", torch.zeros(5, 3), r"float32 \[5, 3\], expected float \[..., 2\]"),
        ("odom", torch.zeros(5, 2, dtype=torch.int64), r"int64 \[5, 2\], expected float"),
        ("lidar", torch.zeros(5), "no modality 'lidar'"),
    ],
    ids=["a picture of 0..1", "another size", "another length", "whole numbers", "unknown"],
)
def test_an_observation_of_another_form_is_refused(model, name, raw, words):
    with pytest.raises(WorldModelError, match=words):
        model.encode(name, raw)


def test_one_row_of_noise_or_action_is_not_stretched_over_others(model):
    sizes = model.sizes
    state = model.initial_state(ROWS)
    action, noise = torch.zeros(ROWS, SIGNALS.action_dim), torch.rand(ROWS, sizes.stoch)
    model.imagine_step(state, action, noise)
    broken = [
        (state, action, noise[0]),
        (state, action, noise[:1]),
        (state, action[:1], noise),
        (State(state.deter, state.stoch[:1]), action, noise),
        (State(state.deter[:, :-1], state.stoch), action, noise),
    ]
    for given in broken:
        with pytest.raises(AssertionError):
            model.imagine_step(*given)
    tokens = {name: torch.zeros(ROWS, 1, size) for name, size in model.rssm.tokens.items()}
    presence = {name: torch.ones(ROWS, 1, dtype=torch.bool) for name in tokens}
    first = torch.zeros(ROWS, 1, dtype=torch.bool)
    for before in (State(state.deter[:1], state.stoch[:1]), State(state.deter, state.stoch[..., :-1])):
        with pytest.raises(AssertionError):
            model.observe(tokens, presence, action[:, None], first, noise[:, None], before)
    ahead = torch.zeros(ROWS, 3, SIGNALS.action_dim)
    with pytest.raises(AssertionError):
        model.imagine(state, ahead, torch.rand(ROWS, 4, sizes.stoch))


@torch.no_grad()
def test_in_double_precision_it_computes_the_same(model):
    """`double()` could not encode: what came in was cast to single precision."""
    draw = torch.Generator().manual_seed(0)
    raw = {name: torch.randn(ROWS, 3, length, generator=draw) for name, length in SIGNALS.vectors}
    for name, shape in SIGNALS.images:
        raw[name] = torch.randint(0, 256, (ROWS, 3, *shape), generator=draw, dtype=torch.uint8)
    presence = {name: torch.rand(ROWS, 3, generator=draw) < 0.7 for name in raw}
    first = torch.tensor([[True, False, False]] * ROWS)
    action = torch.rand(ROWS, 3, SIGNALS.action_dim, generator=draw)
    noise = model.rssm.latent.noise(ROWS, 3, generator=draw)

    def features(of: WorldModel, kind: torch.dtype) -> torch.Tensor:
        given = {n: v if v.dtype == torch.uint8 else v.to(kind) for n, v in raw.items()}
        tokens = of.tokens(given, presence)
        assert {value.dtype for value in tokens.values()} == {kind}
        return of.observe(tokens, presence, action.to(kind), first, noise.to(kind)).features

    twice = copy.deepcopy(model).double()
    found = features(twice, torch.float64)
    torch.testing.assert_close(found.float(), features(model, torch.float32), rtol=0, atol=1e-5)
    target = heads.continue_target(first)
    assert losses.continue_loss(twice.continue_head(found), target).dtype == torch.float64
