"""What is compiled computes what it did before, forward and backward."""

import pytest
import torch
from torch._dynamo.utils import counters

from rssm_ros.contract import find_contract
from rssm_ros.evaluation.bench.training import made_up
from rssm_ros.training.learner import Learner
from rssm_ros.training.machine import COMPILED, compile_parts
from rssm_ros.training.options import options
from rssm_ros.world_model import Signals, preset

SIGNALS = Signals.from_contract(find_contract("dot"))


def update(compiled: bool) -> tuple[Learner, float, list[torch.Tensor | None]]:
    """Loss and gradients of one small batch, always with the same weights and noise."""
    torch.manual_seed(0)
    learner = Learner(SIGNALS, preset("debug"), options("debug"))
    if compiled:
        # All of torch.compile (tracing, guards, the joint graph of both directions) but the C++ compiler,
        # which takes a minute and which a machine may not have.
        compile_parts(learner, backend="aot_eager")
    loss = learner(made_up(SIGNALS, 2, 4), None, torch.Generator().manual_seed(0), False).loss
    parameters = [parameter for _, parameter in learner.trained()]
    return learner, float(loss.detach()), list(torch.autograd.grad(loss, parameters, allow_unused=True))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("default")  # torch.compile looks at what it warns of
def test_compiled_parts_give_the_same_loss_and_gradients():
    torch._dynamo.reset()
    plain, loss, gradients = update(False)
    before = counters["stats"]["unique_graphs"]
    _, same, others = update(True)
    compiled = counters["stats"]["unique_graphs"] - before
    assert compiled == sum(isinstance(part, COMPILED) for part in plain.world_model.modules())
    assert same == pytest.approx(loss, rel=1e-5)
    for (name, _), left, right in zip(plain.trained(), gradients, others, strict=True):
        assert (left is None) == (right is None), name
        if left is not None and right is not None:
            most = float(left.abs().max())
            assert torch.allclose(left, right, rtol=0, atol=1e-3 * most + 1e-7), name
