"""NaN and Inf: found at the update that had one first, also where nobody asks at once; no host waits."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from rssm_ros.contract import find_contract
from rssm_ros.training import health
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.feed import Feed
from rssm_ros.training.optimizer import Optimizer
from rssm_ros.training.options import options
from rssm_ros.training.trainer import Trainer
from test.disks import largest_file

from . import synthetic

CONTRACT = find_contract("manipulator")
CALM = replace(options("debug").augmentation, silent=0.0, blackout=0.0)
TINY = replace(options("debug"), steps=9, log_every=6, threads=1, augmentation=CALM)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data"), 4, 40)


def poisoned(made: Trainer, step: int, name: str = "joints", value: float = float("nan")) -> Trainer:
    whole = made.replay.batch

    def batch(number: int):
        found = whole(number)
        if number == step:
            found[name][(1, 3) if found[name].dim() == 2 else (1, 3, 2)] = value
        return found

    made.replay.batch = batch
    return made


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_it_stops_at_the_update_and_nothing_has_moved(data, tmp_path, value):
    made = poisoned(Trainer(TINY, CONTRACT, [data], tmp_path / "run", quiet=True), 3, value=value)
    for _ in range(3):
        made._update()
    before = [parameter.clone() for parameter in made.optimizer.parameters]
    with pytest.raises(TrainingError, match=r"update 3: .* first in batch: joints"):
        made._update()
    assert all(torch.equal(a, b) for a, b in zip(before, made.optimizer.parameters, strict=True))
    batch = load_file(tmp_path / "run" / "bad-batch-00000003.safetensors")
    assert not torch.isfinite(batch["joints"]).all() and batch["camera"].shape[:2] == (4, 12)


def test_a_full_disk_hides_no_bad_tensor(data, tmp_path):
    made = poisoned(Trainer(TINY, CONTRACT, [data], tmp_path / "run", quiet=True), 0)
    with (
        largest_file(1000),
        pytest.raises(
            TrainingError, match=r"first in batch: joints; the batch could not be kept \(.*--resume"
        ),
    ):
        made._update()


def test_a_device_that_is_not_asked_each_time_tells_the_same_later(data, tmp_path, monkeypatch):
    """As on a GPU: four more updates run before anybody looks."""
    made = poisoned(Trainer(TINY, CONTRACT, [data], tmp_path / "run", quiet=True), 2)
    asked = made._ask_health
    monkeypatch.setattr(made, "_ask_health", lambda: asked() if made.step == 6 else None)
    before = []
    for _ in range(6):
        if made.step == 2:
            before = [parameter.clone() for parameter in made.optimizer.parameters]
        made._update()
    assert all(torch.equal(a, b) for a, b in zip(before, made.optimizer.parameters, strict=True))
    with pytest.raises(TrainingError, match=r"update 2: .* first in batch: joints"):
        made._ask_health()
    assert list((tmp_path / "run").glob("bad-batch-00000002.safetensors"))


def test_the_bad_update_is_made_again_as_it_was(data, tmp_path, monkeypatch):
    """By then a budget of minutes has moved on, and it imagined what it had not imagined before."""
    chosen = replace(TINY, steps=None, minutes=1.0, imagination_fraction=0.5)
    made, seen = poisoned(Trainer(chosen, CONTRACT, [data], tmp_path / "run", quiet=True), 1), []
    asked, learn = made._ask_health, made.learner.forward
    monkeypatch.setattr(made, "_ask_health", lambda: None)
    monkeypatch.setattr(made.learner, "forward", lambda *given: seen.append(given[3]) or learn(*given))
    for elapsed in (0.0, 10.0, 50.0):
        made.elapsed = elapsed
        made._update()
    with pytest.raises(TrainingError, match=r"update 1: .* first in batch: joints"):
        asked()
    assert seen == [False, False, True, False]


def test_a_loss_term_and_a_gradient_are_named_too(data, tmp_path):
    made = poisoned(Trainer(TINY, CONTRACT, [data], tmp_path / "one", quiet=True), 0, "action", float("inf"))
    with pytest.raises(TrainingError, match="first in batch: action"):
        made._update()
    made = Trainer(TINY, CONTRACT, [data], tmp_path / "two", quiet=True)
    with torch.no_grad():
        made.learner.world_model.reward_head.out.bias[0] = float("nan")
    with pytest.raises(TrainingError, match="first in loss term: reward"):
        made._update()
    batch = made.feed(0)
    gradients = {"a": None, "b": torch.ones(2), "c": torch.tensor([1.0, float("inf")])}
    terms = {"kl": torch.ones(()), "loss": torch.ones(())}
    assert health.culprit(batch, made.signals, terms, gradients) == "gradient: c"
    assert health.culprit(batch, made.signals, terms, {"b": torch.ones(2)}) is None


def test_an_optimizer_that_is_told_to_stay_stays():
    """Once down, `fine` stays down."""
    parameter, fine = torch.ones(3), torch.ones((), dtype=torch.bool)
    optimizer = Optimizer([("a", parameter)])
    optimizer.step([torch.full((3,), float("nan"))], 0.1, fine)
    assert not fine
    optimizer.step([torch.ones(3)], 0.1, fine)
    assert torch.equal(parameter, torch.ones(3)) and not optimizer.counts[0]


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: reading a number out of a tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a number is read out of a tensor")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fraction", [0.0, 1.0], ids=["no imagination", "imagination"])
def test_an_update_reads_no_number_out_of_a_tensor(data, tmp_path, monkeypatch, fraction):
    """On a GPU each would be a wait. On the CPU the check of health is one, and is left out here."""
    chosen = replace(TINY, imagination_fraction=fraction)
    made = Trainer(chosen, CONTRACT, [data], tmp_path / "run", quiet=True)
    monkeypatch.setattr(made, "_ask_health", lambda: None)
    monkeypatch.setattr(made.optimizer, "step", _ungated(made.optimizer))
    batches = [made.feed(step) for step in range(2)]
    monkeypatch.setattr(made, "feed", lambda step: batches[step])
    made._update()
    with NoWaiting():
        made._update()
    with pytest.raises(AssertionError, match="a number is read"), NoWaiting():
        float(made.optimizer.parameters[0].sum())


def _ungated(optimizer: Optimizer):
    step = optimizer.step
    return lambda gradients, rate, fine: step(gradients, rate)


def test_batches_made_ahead_are_the_batches():
    made = []

    def make(step: int) -> dict[str, torch.Tensor]:
        made.append(step)
        return {"x": torch.full((2,), float(step))}

    feed = Feed(make, torch.device("cpu"), ahead=True)
    assert [float(feed(step)["x"][0]) for step in (0, 1, 2, 7, 8, 7)] == [0, 1, 2, 7, 8, 7]
    feed.close()
    assert made[:2] == [0, 1] and set(made) - {3, 9} == {0, 1, 2, 7, 8}


def test_what_goes_wrong_ahead_is_told_when_it_is_wanted():
    def make(step: int) -> dict[str, torch.Tensor]:
        if step == 1:
            raise TrainingError("no such batch")
        return {"x": torch.zeros(1)}

    feed = Feed(make, torch.device("cpu"), ahead=True)
    feed(0)
    with pytest.raises(TrainingError, match="no such batch"):
        feed(1)
    feed.close()
