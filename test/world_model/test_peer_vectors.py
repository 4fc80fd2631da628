"""Numbers that other projects' test suites state (test/data/peer_vectors.json), each through this package.

An entry is tested by the function that `PROVEN` names, or is listed with a reason in `WITHOUT_COUNTERPART`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rssm_ros.behavior import lambda_returns
from rssm_ros.world_model import RSSM, Sizes, losses
from rssm_ros.world_model.categorical import categorical_kl, mixed
from rssm_ros.world_model.heads import TwoHotHead, two_hot_bins
from rssm_ros.world_model.layers import symexp, symlog

from .comparisons import captured_logits

FILE = Path(__file__).parents[1] / "data" / "peer_vectors.json"
PEERS: dict[str, Any] = json.loads(FILE.read_text())

# Entries that this package has nothing to hold against, and why.
WITHOUT_COUNTERPART: dict[str, str] = {}


def head(bins: Tensor) -> TwoHotHead:
    """A two-hot head over `bins`."""
    model = TwoHotHead(2, 2, 1, bins=len(bins))
    model.bins = bins
    return model


def weights(bins: Tensor, value: float | Tensor) -> Tensor:
    """The two-hot target of `value`: what the loss's gradient says that the logits should move to."""
    logits = torch.zeros(len(bins), dtype=torch.float32, requires_grad=True)
    loss = head(bins).loss(logits, torch.as_tensor(value, dtype=torch.float32))
    (gradient,) = torch.autograd.grad(loss, logits)
    return torch.softmax(logits.detach(), -1) - gradient


def close(ours: Tensor, expected: Any, atol: float = 0.0, rtol: float = 0.0) -> None:
    wanted = torch.as_tensor(expected, dtype=ours.dtype)
    assert ours.shape == wanted.shape
    assert torch.allclose(ours, wanted, rtol, atol), (ours, wanted)


def symexp_bins_5(entry: dict[str, Any]) -> None:
    low, high, count = entry["linspace"]
    assert (low, high) == (-20, 20)
    close(two_hot_bins(count), entry["expect"], rtol=entry["rtol"])
    for n in (4, 5):
        bins = two_hot_bins(n)
        assert len(bins) == n and torch.equal(bins, -bins.flip(0))
    close(symexp(torch.linspace(low, high, count)), entry["expect"], rtol=2e-6)


def twohot_encode(entry: dict[str, Any]) -> None:
    bins = two_hot_bins(5)
    assert [case["x"] for case in entry["cases"]] == ["bins[0]-1", "(bins[1]+bins[2])/2", "bins[4]+1"]
    for value, case in zip((bins[0] - 1, (bins[1] + bins[2]) / 2, bins[4] + 1), entry["cases"], strict=True):
        close(weights(bins, value), case["expect"], atol=entry["atol"])
    assert entry["ce_target"] == entry["cases"][1]["x"]
    loss = head(bins).loss(torch.tensor(entry["ce_logits"]), (bins[1] + bins[2]) / 2)
    assert float(loss) == pytest.approx(entry["ce_expect"], abs=entry["atol"])


def twohot_decode(entry: dict[str, Any]) -> None:
    model = head(two_hot_bins(5))
    for logits in (torch.zeros(5), torch.full((5,), 1.7)):
        assert float(model.mean(logits)) == entry["uniform_logits_expect_exactly"]
    mean = float(model.mean(torch.tensor(entry["logits"])))
    assert mean == pytest.approx(entry["expect"], abs=entry["atol"], rel=entry["rtol"])
    assert float(head(two_hot_bins(4)).mean(torch.zeros(4))) == 0.0


def categorical_kl_unimix(entry: dict[str, Any]) -> None:
    logits = [torch.tensor([[entry[f"{n}_logits"]]], requires_grad=True) for n in ("posterior", "prior")]
    posterior, prior = (mixed(value, entry["unimix"]) for value in logits)
    terms = losses.kl_losses(posterior, prior, entry["free_nats"])
    for loss, moved in zip(terms, ([False, True], [True, False]), strict=True):
        close(loss.detach(), [[entry["sum_over_groups_expect"]]], atol=entry["atol"])
        gradients = torch.autograd.grad(
            loss.sum(), logits, allow_unused=True, materialize_grads=True, retain_graph=True
        )
        assert [bool(gradient.any()) for gradient in gradients] == moved


def kl_free_nats_order(_: dict[str, Any]) -> None:
    same = mixed(torch.randn(2, 3, 32, 8), 0.01)
    for term in losses.kl_losses(same, same, 1.0):
        assert torch.equal(term, torch.ones(2, 3))
    # 32 groups of 0.1 nats are 3.2, not 32 clamped to 1 each.
    shift = torch.tensor([0.7, 0.1, 0.1, 0.1]).expand(1, 1, 4, 4)
    uniform = torch.full((1, 1, 4, 4), 0.25)
    dyn, _ = losses.kl_losses(shift, uniform, 1.0)
    assert dyn.item() == pytest.approx(4 * 0.44584637, abs=1e-5)


def kl_known_value(entry: dict[str, Any]) -> None:
    left, right = (torch.tensor([entry[name]]) for name in ("p", "q"))
    assert categorical_kl(left, right).item() == pytest.approx(entry["expect"], abs=entry["atol"])


def lambda_return(entry: dict[str, Any]) -> None:
    """Peers' rewards have no entry for the start; ours do, and it is never read."""
    if "bootstrap" in entry:
        assert entry["gamma"] == "1-1/horizon, horizon=2"
        reward, value = torch.tensor([entry["reward"]]), torch.tensor([entry["bootstrap"]])
        live, expected = torch.full(value.shape, 1.0 - 1.0 / 2.0), entry["expect_T_minus_1"]
    else:
        live = entry["gamma"] * torch.tensor([[1.0, *entry["cont"]]])
        reward = torch.tensor([[math.nan, *entry["reward"]]])
        values = entry.get("value_0toH") or [math.nan, *entry["value_next"]]
        value, expected = torch.tensor([values]), entry["expect"]
    ours = lambda_returns(reward.float(), live.float(), value.float(), entry["lambda"])
    close(ours, [expected], rtol=1e-6)
    if "discount_weight_expect" in entry:
        close(torch.cumprod(live[:, 1:], 1), [entry["discount_weight_expect"]], rtol=1e-6)


def lambda_all(entries: list[dict[str, Any]]) -> None:
    assert len(entries) == 5
    for entry in entries:
        lambda_return(entry)


def symlog_cases(entry: dict[str, Any]) -> None:
    given, expected = zip(*entry["cases"], strict=True)
    close(symlog(torch.tensor(given, dtype=torch.float32)), expected, atol=1e-7, rtol=1e-6)
    assert entry["roundtrip_tol"] == "1e-4*|x|+1e-6"
    inputs = torch.tensor(entry["roundtrip_inputs"])
    close(symexp(symlog(inputs)), inputs.tolist(), atol=1e-6, rtol=1e-4)


def twohot_linear(entry: dict[str, Any]) -> None:
    low, high = entry["support"]
    cases = [(entry["bins"], case) for case in entry["cases"]] + [(21, case) for case in entry["bins21"]]
    assert len(cases) == 8
    for count, case in cases:
        expected = torch.zeros(count)
        for index, weight in case["nonzero"].items():
            expected[int(index)] = weight
        bins = torch.linspace(low, high, count)
        close(weights(bins, case["x"]), expected, atol=2e-6)
        # Decoding the target gives the value back, clipped to the support.
        mean = (expected * bins).sum().item()
        assert mean == pytest.approx(min(high, max(low, case["x"])), abs=1e-6)


def block_gru(entry: dict[str, Any]) -> None:
    """Their parameter layout is ours: weights [out, in], block weights [group, in, out]; one prior layer."""
    sizes = Sizes(4, 4, 2, 2, 2, 1, 4, prior_layers=1)
    rssm = RSSM(sizes, 2, {"unused": 1})
    with torch.no_grad():
        for parameter in rssm.parameters():
            parameter.copy_(torch.linspace(-0.2, 0.2, parameter.numel()).reshape_as(parameter))
        state, belief = torch.tensor(entry["state"]).reshape(1, 2, 2).float(), torch.tensor([entry["belief"]])
        with captured_logits(rssm) as logits:
            never = torch.zeros(1, dtype=torch.bool)
            deter, _ = rssm.predict(belief, state, torch.tensor([entry["action"]]), never)
    close(deter, [entry["belief_expect"]], atol=entry["atol"])
    close(logits["prior"][0], [entry["logits_expect"]], atol=entry["atol"])


PROVEN: dict[str, Callable[[Any], None]] = {
    "symexp_bins_5": symexp_bins_5,
    "twohot_encode": twohot_encode,
    "twohot_decode": twohot_decode,
    "categorical_kl_unimix": categorical_kl_unimix,
    "kl_free_nats_order": kl_free_nats_order,
    "kl_known_value": kl_known_value,
    "lambda_returns": lambda_all,
    "symlog": symlog_cases,
    "twohot_linear_sheeprl": twohot_linear,
    "block_gru_fixture": block_gru,
}


@pytest.mark.parametrize("name", PROVEN)
def test_peers_numbers(name: str) -> None:
    PROVEN[name](PEERS[name])


def test_every_entry_is_tested_or_has_a_reason() -> None:
    assert set(PROVEN) | set(WITHOUT_COUNTERPART) == set(PEERS) - {"_note"}
    assert not set(PROVEN) & set(WITHOUT_COUNTERPART)
