"""What comes into a world model is what its docstrings say, or it is refused at the border."""

import pytest
import torch

from rssm_ros.contract import find_contract
from rssm_ros.world_model import Signals, State, WorldModel, WorldModelError, preset

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
    ahead = torch.zeros(ROWS, 3, SIGNALS.action_dim)
    with pytest.raises(AssertionError):
        model.imagine(state, ahead, torch.rand(ROWS, 4, sizes.stoch))
