"""Parity with DreamerV3 (danijar/dreamerv3 at e3f0224) in float32; bounds as in docs/reference/parity.md."""

import pytest
import torch
from torch import Tensor

from rssm_ros.world_model.heads import continue_target

from . import comparisons
from . import golden as record
from .comparisons import CASES, Compared
from .reference import Reference, shapes

RESULTS = [
    name
    for name in record.names()
    if name.split("/")[0] in ("out", "lam", "opt") and name not in comparisons.INPUTS
]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return record.load()


@pytest.fixture(scope="module")
def recorded(golden: dict[str, Tensor]) -> list[Compared]:
    return comparisons.recorded(golden)


def check(found: list[Compared]) -> None:
    assert found, "nothing was compared"
    off = {f"{item.name}, {item.route}": item.error for item in found if not item.error <= item.bound}
    assert not off


@pytest.mark.parametrize("name", RESULTS)
def test_recorded(recorded: list[Compared], name: str) -> None:
    """Every recorded result is compared, and every route to it gives the recorded numbers."""
    found = [item for item in recorded if item.name == name]
    assert found, f"{name} is recorded, but nothing compares it"
    check(found)


def test_nothing_recorded_is_left_out(recorded: list[Compared]) -> None:
    """A result is compared or, named one by one, an input of a comparison; nothing is both."""
    groups = {name for name in record.names() if name.split("/")[0] in ("out", "lam", "opt")}
    compared = {item.name for item in recorded}
    assert compared | comparisons.INPUTS == groups and not compared & comparisons.INPUTS
    assert len(groups) == 28 + 5 + 18


def check_all(case: str, found: list[Compared]) -> None:
    """Every part of the network, each camera and each vector among it: none drops out unnoticed."""
    net, _ = CASES[case]
    parts = {"tokens", "deter", "prior logits", "prior", "posterior logits", "posterior", "reward logits"}
    parts |= {"continue logit", "value logits", "slow value logits", "policy mean", "policy std"}
    parts |= {f"image {name}" for name in net.images} | {f"vector {name}" for name in net.columns}
    assert sorted(item.name for item in found) == sorted(parts)
    check(found)


@pytest.mark.parametrize("case", CASES)
def test_other_sizes(case: str) -> None:
    """Random parameters in the official layout, ported, beside float64 numpy written from the definition."""
    check_all(case, comparisons.other_size(case))


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("size12m")])
def test_other_sizes_in_float64(case: str) -> None:
    """To 1e-11: an epsilon or a constant that is off in its sixth digit has nowhere to hide."""
    check_all(case, comparisons.other_size(case, exact=True))


def test_the_reference_itself_gives_the_recorded_numbers(golden: dict[str, Tensor]) -> None:
    """What judges the other sizes is judged by the official run: [B, T] flattened to rows."""
    reference = Reference(record.NETWORK, record.parameters(golden))

    def rows(name: str) -> "torch.Tensor":
        return golden[name].flatten(0, 1).double()

    obs = {name: golden[f"in/{name}"].flatten(0, 1).numpy() for name in ("odom", "image")}
    deter, stoch = rows("out/obs_deter").numpy(), rows("out/obs_stoch").numpy()
    features, tokens = rows("out/feat").numpy(), rows("out/tokens").numpy()
    start = [golden[f"in/{name}"].double().numpy() for name in ("deter", "stoch")]
    core = reference.core(*start, golden["in/action"][:, 0].double().numpy())
    mean, std = reference.policy(features)
    ours = {
        "out/tokens": reference.encode(obs),
        "out/core_deter": core,
        "out/core_prior_logit": reference.prior(core),
        "out/obs_prior": reference.prior(deter),
        "out/obs_logit": reference.posterior(deter, tokens),
        "out/rew_logits": reference.logits("rew", features),
        "out/con_logit": reference.logits("con", features)[:, 0],
        "out/rec_image": reference.decode_images(deter, stoch)["image"],
        "out/rec_odom": reference.decode_vectors(deter, stoch)["odom"],
        "out/pol_mean": mean,
        "out/pol_std": std,
    }
    for name, value in ours.items():
        theirs = golden[name] if name.startswith("out/core") else rows(name)
        assert Compared(name, "reference", torch.from_numpy(value), theirs, 0.0).error <= 2e-6, name


def test_the_reference_lists_the_official_parameters(golden: dict[str, Tensor]) -> None:
    recorded = {name: value.shape for name, value in record.parameters(golden).items()}
    listed = {name: shape for name, shape in shapes(record.NETWORK).items() if not name.startswith("val/")}
    assert listed == recorded


def test_an_error_is_relative_to_the_tensor_s_largest_value() -> None:
    """Not to max(1, largest), which would let everything small pass."""
    small = torch.tensor([1e-3, -2e-3])
    assert Compared("", "", small + 2e-6, small, 0.0).error == pytest.approx(1e-3, rel=1e-3)
    assert Compared("", "", small * 1.01, small, 0.0, "each").error == pytest.approx(0.01, rel=1e-3)
    assert Compared("", "", small[:1], small, 0.0).error == float("inf")
    assert Compared("", "", small * float("nan"), small, 0.0).error == float("inf")


def test_continue_target() -> None:
    assert torch.allclose(continue_target(torch.tensor([0.0, 1.0])), torch.tensor([1.0 - 1.0 / 333.0, 0.0]))
