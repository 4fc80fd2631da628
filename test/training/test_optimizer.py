"""The optimizer against four recorded steps of DreamerV3's."""

import pytest
import torch

from rssm_ros.training.optimizer import Optimizer, learning_rate
from test.world_model import golden as record


def test_four_recorded_steps():
    """Within 1e-4 of the learning rate, float32 against float32, with no slack for rounding."""
    golden = record.load()
    parameters = [golden[f"opt/p0_{name}"].clone() for name in "wb"]
    optimizer = Optimizer(list(zip("wb", parameters, strict=True)))
    for step in range(4):
        optimizer.step([golden[f"opt/g{step}_{name}"] for name in "wb"], record.RATE)
        for name, parameter in zip("wb", parameters, strict=True):
            assert (parameter - golden[f"opt/p{step + 1}_{name}"]).abs().max() <= 1e-4 * record.RATE


def test_clipping_is_per_tensor():
    """One exploding tensor must not slow the others: a global norm would."""
    parameters = [torch.ones(4), torch.ones(4)]
    optimizer = Optimizer(list(zip("ab", parameters, strict=True)))
    optimizer.step([torch.full((4,), 1e6), torch.full((4,), 1e-3)], 0.1)
    assert optimizer.square[0].max() <= (0.3 * 2.0) ** 2 * 0.001 + 1e-9
    assert optimizer.square[1][0] == pytest.approx(1e-6 * 0.001, rel=1e-4)


def test_state_round_trip():
    one = Optimizer([("w", torch.ones(3))])
    one.step([torch.tensor([1.0, -2.0, 0.0])], 0.1)
    two = Optimizer([("w", one.parameters[0].clone())])
    two.load(one.state())
    for optimizer in (one, two):
        optimizer.step([torch.tensor([0.5, 0.1, 1.0])], 0.1)
    assert torch.equal(one.parameters[0], two.parameters[0])


def test_a_tensor_that_was_idle_starts_as_if_it_were_new():
    """Whatever its first gradient is, RMS scaling makes the first step `rate`; a shared count: 9 x."""
    busy, idle = torch.ones(3), torch.ones(3)
    optimizer = Optimizer([("busy", busy), ("idle", idle)])
    for _ in range(1000):
        optimizer.step([torch.full((3,), 0.1), None], 1e-5)
    assert torch.equal(idle, torch.ones(3)) and optimizer.counts == [1000, 0]
    optimizer.step([torch.full((3,), 0.1), torch.full((3,), 1e-3)], 1e-5)
    assert (1.0 - idle).tolist() == pytest.approx([1e-5] * 3, rel=0.01)


def test_older_checkpoints_with_one_count_load():
    one = Optimizer([("busy", torch.ones(3)), ("idle", torch.ones(3))])
    for _ in range(5):
        one.step([torch.ones(3), None], 0.1)
    old = {**one.state(), "count": torch.tensor(5)}
    two = Optimizer([("busy", one.parameters[0].clone()), ("idle", torch.ones(3))])
    two.load(old)
    assert two.counts == [5, 0]
    three = Optimizer([("busy", one.parameters[0].clone()), ("idle", torch.ones(3))])
    three.load(one.state())
    assert three.counts == [5, 0]


def test_learning_rate_schedule():
    """The ramp is DreamerV3's: from exactly 0 at the first update to the whole rate at the one after it."""
    ramp = [learning_rate(1.0, step, 10, 0.0, decay=False) for step in (0, 1, 5, 9, 10, 11)]
    assert ramp == pytest.approx([0.0, 0.1, 0.5, 0.9, 1.0, 1.0])
    assert learning_rate(1.0, 0, 0, 0.0, decay=False) == 1.0
    assert learning_rate(1.0, 50, 10, 0.9, decay=False) == 1.0
    assert learning_rate(1.0, 50, 10, 1.0, decay=True) == pytest.approx(0.02)
