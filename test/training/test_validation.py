"""Validation: what its baselines mean, and that it runs where the model is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rssm_ros.contract import find_contract
from rssm_ros.training import validation
from rssm_ros.training.learner import Learner
from rssm_ros.training.options import options
from rssm_ros.training.replay import open_storage
from rssm_ros.world_model import Signals, preset

from . import pretend, synthetic

CONTRACT = find_contract("manipulator")
SIGNALS = Signals.from_contract(CONTRACT)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    store = open_storage(synthetic.write(tmp_path_factory.mktemp("data"), 3, 30), SIGNALS)
    return validation.pick_rows(store, 2, 20)


def learner(kind: str = "debug") -> Learner:
    torch.manual_seed(0)
    sizes = preset("debug")
    if kind == "grounded":
        sizes = replace(
            sizes, blocks=0, latent="gaussian", classes=1, stoch=20, posterior="product", grounded=True
        )
    return Learner(SIGNALS, sizes, options("debug")).eval()


def figures(made: Learner, rows: validation.Rows) -> dict[str, float]:
    constant = {name: torch.zeros(length) for name, length in SIGNALS.targets}
    return validation.validate(made, rows, 2, constant, CONTRACT.dt)


@pytest.mark.parametrize("kind", ["debug", "grounded"])
def test_a_model_on_an_accelerator_gives_the_same_figures(rows, kind):
    expected = figures(learner(kind), rows)
    made = learner(kind)
    pretend.move(made)
    with pretend.accelerator():
        found = figures(made, rows)
    assert found.keys() == expected.keys() and "package_hidden_hold" in found
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, nan_ok=True), name


def test_hold_last_sees_what_is_partly_visible_and_starts_from_the_constant():
    """0.06 is not hidden, so it is told; before that the constant; an episode's start forgets."""
    truth = torch.arange(6.0).reshape(1, 6, 1).expand(1, 6, 2)
    data = {
        "target_package": truth,
        "visibility_package": torch.tensor([[0.05, 0.06, 0.0, 0.0, 0.05, 1.0]]),
        "odom": torch.zeros(1, 6, 2),
        "is_first": torch.tensor([[True, False, False, False, True, False]]),
    }
    held = validation._hold_last("package", data, torch.tensor([9.0, 9.0]), 0.05)
    assert held is not None
    np.testing.assert_array_equal(held[0, :, 0], [9, 1, 1, 1, 9, 5])
    del data["odom"]
    assert validation._hold_last("package", data, torch.tensor([9.0, 9.0]), 0.05) is None


def test_surprise_percentiles_are_kept_by_what_was_seen(monkeypatch):
    """Often seen patterns only, without the first tick of an episode; nothing seen has no surprise."""
    monkeypatch.setattr(validation, "ENOUGH", 3)
    presence = {
        "odom": torch.tensor([[True, True, True, True, True, False, True, False, False, False]]),
        "camera": torch.tensor([[True, True, True, True, False, False, False, False, False, False]]),
    }
    first = torch.tensor([[True] + [False] * 9])
    surprise = torch.tensor([[100.0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
    figures = validation._surprise(surprise, presence, first)
    assert figures["surprise_p50_camera+odom"] == 2.0
    assert validation.surprise_thresholds(figures) == {"camera+odom": pytest.approx(3.0, abs=0.01)}


def test_a_long_validation_gives_thresholds(rows, monkeypatch):
    monkeypatch.setattr(validation, "ENOUGH", 10)
    found = validation.surprise_thresholds(figures(learner(), rows))
    assert found and all(value >= 0 for value in found.values()), found
