"""Numbers that other projects' test suites state (test/data/peer_vectors.json), each through this package.

An entry is computed by the function that `PROVEN` names, or is listed with a reason in `WITHOUT_COUNTERPART`.
The tests assert what comes back and `scripts/parity.py` writes it down.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rssm_ros.behavior import lambda_returns
from rssm_ros.world_model import RSSM, Sizes, losses
from rssm_ros.world_model.categorical import categorical_kl, mixed
from rssm_ros.world_model.heads import TwoHotHead, two_hot_bins
from rssm_ros.world_model.layers import symexp, symlog

from .comparisons import captured_logits

FILE = Path(__file__).parents[1] / "data" / "peer_vectors.json"
PEERS: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
Entry = dict[str, Any]


@dataclass(frozen=True)
class Stated:
    """What a peer states, beside ours; its tolerance: 0 for "exactly", 1e-6 where it has none."""

    what: str
    ours: Tensor
    expected: Tensor
    atol: float = 0.0
    rtol: float = 0.0

    @property
    def error(self) -> float:
        """Largest absolute difference; infinite if shapes differ or ours is not finite."""
        if self.ours.shape != self.expected.shape or not bool(torch.isfinite(self.ours).all()):
            return float("inf")
        return float((self.ours - self.expected).abs().max())

    @property
    def holds(self) -> bool:
        """Within the tolerance everywhere."""
        if not math.isfinite(self.error):
            return False
        allowed = self.atol + self.rtol * self.expected.abs()
        return bool(((self.ours - self.expected).abs() <= allowed).all())


def stated(what: str, ours: Tensor, expected: Any, atol: float = 0.0, rtol: float = 0.0) -> Stated:
    """In float64, so that the comparison itself rounds nothing."""
    return Stated(what, ours.detach().double(), torch.as_tensor(expected, dtype=torch.float64), atol, rtol)


def head(bins: Tensor) -> TwoHotHead:
    """A two-hot head over `bins`."""
    model = TwoHotHead(2, 2, 1, bins=len(bins))
    model.bins = bins
    return model


def weights(bins: Tensor, value: float | Tensor) -> Tensor:
    """The two-hot target of `value`: what the loss's gradient says that the logits should move to."""
    logits = torch.zeros(len(bins), requires_grad=True)
    loss = head(bins).loss(logits, torch.as_tensor(value, dtype=torch.float32))
    (gradient,) = torch.autograd.grad(loss, logits)
    return torch.softmax(logits.detach(), -1) - gradient


def symexp_bins_5(entry: Entry) -> list[Stated]:
    low, high, count = entry["linspace"]
    assert (low, high) == (-20, 20)
    found = [
        stated("two-hot bins", two_hot_bins(count), entry["expect"], rtol=entry["rtol"]),
        stated("symexp", symexp(torch.linspace(low, high, count)), entry["expect"], rtol=entry["rtol"]),
    ]
    return found + [stated(f"{n} bins mirrored", two_hot_bins(n), -two_hot_bins(n).flip(0)) for n in (4, 5)]


def twohot_encode(entry: Entry) -> list[Stated]:
    bins, atol = two_hot_bins(5), entry["atol"]
    given = {
        "bins[0]-1": bins[0] - 1,
        "(bins[1]+bins[2])/2": (bins[1] + bins[2]) / 2,
        "bins[4]+1": bins[4] + 1,
    }
    assert [case["x"] for case in entry["cases"]] == list(given)
    loss = head(bins).loss(torch.tensor(entry["ce_logits"]), given[entry["ce_target"]])
    found = [
        stated(case["x"], weights(bins, given[case["x"]]), case["expect"], atol) for case in entry["cases"]
    ]
    return [*found, stated("cross-entropy", loss, entry["ce_expect"], atol)]


def twohot_decode(entry: Entry) -> list[Stated]:
    model, exactly = head(two_hot_bins(5)), entry["uniform_logits_expect_exactly"]
    mean = model.mean(torch.tensor(entry["logits"]))
    return [
        stated("mean", mean, entry["expect"], entry["atol"], entry["rtol"]),
        stated("equal logits", model.mean(torch.full((5,), 1.7)), exactly),
        stated("equal logits, 4 bins", head(two_hot_bins(4)).mean(torch.zeros(4)), exactly),
    ]


def categorical_kl_unimix(entry: Entry) -> list[Stated]:
    assert entry["gradients"] == "dyn term: grad only on prior; rep term: grad only on posterior"
    logits = [torch.tensor([[entry[f"{n}_logits"]]], requires_grad=True) for n in ("posterior", "prior")]
    posterior, prior = (mixed(value, entry["unimix"]) for value in logits)
    terms = losses.kl_losses(posterior, prior, entry["free_nats"])
    found = []
    for name, loss, moved in zip(("dyn", "rep"), terms, ([0, 1], [1, 0]), strict=True):
        found.append(stated(name, loss[0, 0], entry["sum_over_groups_expect"], entry["atol"]))
        gradients = torch.autograd.grad(
            loss.sum(), logits, allow_unused=True, materialize_grads=True, retain_graph=True
        )
        reached = torch.tensor([float(gradient.any()) for gradient in gradients])
        found.append(stated(f"{name} moves posterior, prior", reached, moved))
    return found


def kl_free_nats_order(entry: Entry) -> list[Stated]:
    assert "both terms exactly 1.0" in entry["rule"]
    same = mixed(torch.linspace(-3.0, 3.0, 2 * 3 * 32 * 8).reshape(2, 3, 32, 8), 0.01)
    dyn, rep = losses.kl_losses(same, same, 1.0)
    # Four groups of 0.446 nats are 1.78, not 4 x max(1, 0.446); the peer's rule with another peer's value.
    known = PEERS["kl_known_value"]
    groups = [torch.tensor(known[name]).expand(1, 1, 4, 4) for name in ("p", "q")]
    return [
        stated("identical, dyn", dyn, torch.ones(2, 3)),
        stated("identical, rep", rep, torch.ones(2, 3)),
        stated("four groups", losses.kl_losses(*groups, 1.0)[0], [[4 * known["expect"]]], 4 * known["atol"]),
    ]


def kl_known_value(entry: Entry) -> list[Stated]:
    left, right = (torch.tensor([entry[name]]) for name in ("p", "q"))
    return [stated("KL", categorical_kl(left, right), entry["expect"], entry["atol"])]


def lambda_of(entry: Entry) -> list[Stated]:
    """Peers' rewards have no entry for the start; ours do, and it is never read."""
    nan, expected = math.nan, entry.get("expect") or entry["expect_T_minus_1"]
    if "bootstrap" in entry:
        assert entry["gamma"] == "1-1/horizon, horizon=2"
        reward, value = entry["reward"], entry["bootstrap"]
        live = [1.0 - 1.0 / 2.0] * len(reward)
    else:
        reward, live = [nan, *entry["reward"]], [nan, *(entry["gamma"] * c for c in entry["cont"])]
        value = entry.get("value_0toH") or [nan, *entry["value_next"]]
    rows = [torch.tensor([row], dtype=torch.float32) for row in (reward, live, value)]
    ours = lambda_returns(*rows, entry["lambda"])
    name = entry["src"].split(":")[-1]
    found = [stated(name, ours[0], expected, rtol=1e-6)]
    if "discount_weight_expect" in entry:
        weight = torch.cumprod(rows[1][0, 1:], 0)
        found.append(stated("weights", weight, entry["discount_weight_expect"], rtol=1e-6))
    return found


def lambda_all(entries: list[Entry]) -> list[Stated]:
    return [item for entry in entries for item in lambda_of(entry)]


def symlog_cases(entry: Entry) -> list[Stated]:
    given, expected = zip(*entry["cases"], strict=True)
    assert entry["roundtrip_tol"] == "1e-4*|x|+1e-6"
    inputs = torch.tensor(entry["roundtrip_inputs"])
    ours = symlog(torch.tensor(given, dtype=torch.float32))
    return [
        stated("symlog", ours, expected, 1e-7, 1e-6),
        stated("there and back", symexp(symlog(inputs)), inputs, 1e-6, 1e-4),
    ]


def twohot_linear(entry: Entry) -> list[Stated]:
    low, high = entry["support"]
    found = []
    for count, cases in ((entry["bins"], entry["cases"]), (21, entry["bins21"])):
        bins = torch.linspace(low, high, count)
        for case in cases:
            expected = torch.zeros(count, dtype=torch.float64)
            for index, weight in case["nonzero"].items():
                expected[int(index)] = weight
            found.append(stated(f"{case['x']} in {count} bins", weights(bins, case["x"]), expected, 2e-6))
    return found


def block_gru(entry: Entry) -> list[Stated]:
    """Their parameter layout is ours: weights [out, in], block weights [group, in, out]; one prior layer."""
    rssm = RSSM(Sizes(4, 4, 2, 2, 2, 1, 4, prior_layers=1), 2, {"unused": 1})
    with torch.no_grad():
        for parameter in rssm.parameters():
            parameter.copy_(torch.linspace(-0.2, 0.2, parameter.numel()).reshape_as(parameter))
        state, belief = torch.tensor(entry["state"]).reshape(1, 2, 2).float(), torch.tensor([entry["belief"]])
        with captured_logits(rssm) as logits:
            never = torch.zeros(1, dtype=torch.bool)
            deter, _ = rssm.predict(belief, state, torch.tensor([entry["action"]]), never)
    return [
        stated("belief", deter[0], entry["belief_expect"], entry["atol"]),
        stated("prior logits", logits["prior"][0][0], entry["logits_expect"], entry["atol"]),
    ]


PROVEN: dict[str, Callable[[Any], list[Stated]]] = {
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

# Entries that this package has nothing to hold against, and why.
WITHOUT_COUNTERPART: dict[str, str] = {}
