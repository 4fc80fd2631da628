"""Official DreamerV3 parameters: any preset, any observations, and an error that says what does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rssm_ros.behavior import Actor, Critic
from rssm_ros.behavior.port import actor_from_dreamerv3, critic_from_dreamerv3
from rssm_ros.world_model import Signals, Sizes, WorldModel, WorldModelError, preset
from rssm_ros.world_model.port import Observations, Vector, from_dreamerv3, observations_of

from .comparisons import CASES, observations
from .reference import Network, random_parameters, shapes

SIZES = Sizes(16, 8, 2, 3, 2, 2, 8, conv="exact", multipliers=(1, 2))
NET = Network(16, 8, 2, 3, 2, 2, 8, {"odom": (5, 0)}, {"image": (12, 12, 3)}, multipliers=(1, 2))
# DREAMERV3.md: exact trained parameters in millions, to the digits it gives: image 64 x 64 x 3, 6 actions;
# of the world model, and with actor and critic.
PUBLISHED = {
    "size1m": ("0.57", "0.69"),
    "size12m": ("8.85", "10.5"),
    "size25m": ("19.8", "23.5"),
    "size50m": ("35.2", "41.7"),
    "size100m": ("79.1", "93.5"),
    "size200m": ("140.5", "166"),
    "size400m": ("316", "373"),
}


@pytest.fixture
def params() -> dict[str, np.ndarray]:
    return random_parameters(NET, 0)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_exactly_the_published_number_of_parameters(name: str) -> None:
    """And ours has beside them only what an absent modality needs: its embedding and a column of weights."""
    sizes, (world, whole) = preset(name), PUBLISHED[name]
    net = Network(
        sizes.deter, sizes.hidden, sizes.stoch, sizes.classes, sizes.blocks, sizes.depth, sizes.units,
        images={"image": (64, 64, 3)}, actions={"action": 6},
    )  # fmt: skip
    official = {key: int(np.prod(shape)) for key, shape in shapes(net).items()}
    of_world = sum(
        n for key, n in official.items() if key.split("/")[0] in ("enc", "dyn", "dec", "rew", "con")
    )
    for exact, published in ((of_world, world), (sum(official.values()), whole)):
        digits = len(published.partition(".")[2])
        assert f"{exact / 1e6:.{digits}f}" == published
    with torch.device("meta"):
        model = WorldModel(Signals((), (("image", (64, 64, 3)),), 6, ()), sizes)
        behavior = count(Actor(sizes, 6)) + count(Critic(sizes))
    absent = sum(model.rssm.tokens.values()) + sizes.hidden
    assert count(model) - absent == of_world
    assert count(model) - absent + behavior == sum(official.values())


def test_without_a_description_names_and_square_images_come_from_the_parameters(
    params: dict[str, np.ndarray],
) -> None:
    assert observations_of(params) == Observations((Vector("odom", 5),), (("image", (12, 12, 3)),))
    model = from_dreamerv3(params, SIZES)
    assert model.signals == Signals((("odom", 5),), (("image", (12, 12, 3)),), 2, ())
    vectors = random_parameters(replace(NET, images={}), 0)
    assert from_dreamerv3(vectors, SIZES).signals.modalities == ("odom",)
    images = random_parameters(replace(NET, vectors={}), 0)
    assert from_dreamerv3(images, SIZES).signals.modalities == ("image",)


def test_a_whole_checkpoint_can_be_given(params: dict[str, np.ndarray]) -> None:
    besides = {"opt/step": np.zeros((), np.int32), "retnorm/lo": np.zeros(()), "slowval_count": np.zeros(())}
    for read in (from_dreamerv3, actor_from_dreamerv3):
        whole, needed = read(params | besides, SIZES).state_dict(), read(params, SIZES).state_dict()
        assert whole.keys() == needed.keys()
        assert all(torch.equal(value, needed[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dyn/obs0/kernel", r"dyn/obs0/kernel: missing, expected \(60, 8\)"),
        ("enc/cnn1/bias", r"enc/cnn1/bias: missing, expected \(4,\)"),
        ("dec/imgout/kernel", r"dec/imgout/kernel: missing, expected \(5, 5, 2, 3\)"),
        ("dec/vec/odom/pred/kernel", r"dec/vec/odom/pred/kernel: missing, expected \(8, 5\)"),
        ("rew/mlp/norm0/scale", r"rew/mlp/norm0/scale: missing, expected \(8,\)"),
        ("dyn/dynin2/kernel", "dyn/dynin2/kernel: missing"),
        ("dec/sp2/bias", "dec/sp2/bias: missing, so the image's size is unknown"),
    ],
)
def test_a_missing_parameter_is_named(params: dict[str, np.ndarray], name: str, message: str) -> None:
    del params[name]
    with pytest.raises(WorldModelError, match=message):
        from_dreamerv3(params, SIZES)


def test_misshaped_and_unknown_parameters_are_named_with_both_shapes(params: dict[str, np.ndarray]) -> None:
    params["dyn/dyngru/kernel"] = np.zeros((2, 24, 8), np.float32)
    params["enc/mlp3/kernel"] = np.zeros((8, 8), np.float32)
    params["brain/kernel"] = np.zeros((1, 2), np.float32)
    params["dyn/prior0/bias"] = np.zeros(8, np.int64)
    with pytest.raises(WorldModelError) as info:
        from_dreamerv3(params, SIZES)
    for part in (
        "dyn/dyngru/kernel: expected (2, 8, 24), found (2, 24, 8)",
        "enc/mlp3/kernel: unknown, found (8, 8)",
        "brain/kernel: unknown, found (1, 2)",
        "dyn/prior0/bias: expected floating point, found int64",
    ):
        assert part in str(info.value)


def test_parameters_of_another_preset_are_refused_in_one_readable_message() -> None:
    with pytest.raises(WorldModelError, match=r"dyn/dynin0/kernel: expected .*; and \d+ more$"):
        from_dreamerv3(random_parameters(NET, 0), replace(SIZES, deter=32, hidden=12))


@pytest.mark.parametrize(
    "change",
    [{"conv": "strided"}, {"posterior": "product"}, {"latent": "gaussian", "classes": 1}, {"blocks": 0}],
)
def test_sizes_that_official_parameters_cannot_have_are_refused(
    params: dict[str, np.ndarray], change: dict[str, object]
) -> None:
    with pytest.raises(WorldModelError, match=next(iter(change))):
        from_dreamerv3(params, replace(SIZES, **change))  # type: ignore[arg-type]


def test_what_parameters_do_not_tell_must_be_given() -> None:
    wide = random_parameters(replace(NET, images={"image": (12, 20, 3)}), 0)
    with pytest.raises(WorldModelError, match="15 cells are no square"):
        from_dreamerv3(wide, SIZES)
    discrete = random_parameters(replace(NET, vectors={"gear": (1, 4)}), 0)
    with pytest.raises(WorldModelError, match=r"dec/vec/gear/logits/bias is of a discrete observation"):
        from_dreamerv3(discrete, SIZES)


def test_observations_that_cannot_be_are_refused() -> None:
    for wrong in (
        ((), ()),
        ((Vector("a", 1), Vector("a", 2)), ()),
        ((), (("a", (16, 16, 3)), ("b", (32, 32, 3)))),
    ):
        with pytest.raises(WorldModelError):
            Observations(*wrong)


def test_merging_follows_the_official_order_and_splitting_undoes_it() -> None:
    spec = observations(CASES["size1m, several vectors, two images"][0])
    raw = {
        "wheels": torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        "odom": torch.tensor([[5.0, 6.0, 7.0, 8.0, -torch.inf]]),  # missing: officially all of it is zero
        "gear": torch.tensor([[2, 0]]),
        "battery": torch.tensor([[9.0]]),
        "front": torch.full((1, 64, 64, 3), 1, dtype=torch.uint8),
        "depth": torch.full((1, 64, 64, 1), 2, dtype=torch.uint8),
    }
    merged = spec.merge(raw)
    e = float(np.expm1(1.0))
    assert merged["vectors"][0].tolist() == pytest.approx([9.0, 0, 0, e, e, 0, 0, *[0.0] * 5, 1, 2, 3, 4])
    assert merged["images"][0, 0, 0].tolist() == [2, 1, 1, 1]
    parts = spec.split(merged)
    assert set(parts) == set(raw)
    for name in ("wheels", "gear", "battery", "front", "depth"):
        assert torch.equal(parts[name], raw[name])
    absent = spec.merge({**raw, "gear": torch.tensor([[-1, 0]])})["vectors"][0]
    assert absent[1:7].tolist() == [0.0] * 6
    for wrong in ({"odom": raw["wheels"]}, {"front": raw["depth"]}):
        with pytest.raises(WorldModelError, match=next(iter(wrong))):
            spec.merge({**raw, **wrong})
    del raw["battery"]
    with pytest.raises(WorldModelError, match="battery"):
        spec.merge(raw)


def test_an_absent_modality_can_be_told_from_a_present_one_only_after_training(
    params: dict[str, np.ndarray],
) -> None:
    """Ported weights of the absence flags and embeddings are zero, so the model still runs with a gap."""
    model = from_dreamerv3(params, SIZES).eval()
    assert model.rssm.posterior_layer.linear.weight[:, -2:].abs().sum() == 0
    assert all(value.abs().sum() == 0 for value in model.rssm.absent.values())


def test_several_actions_are_sorted_and_discrete_ones_refused(params: dict[str, np.ndarray]) -> None:
    two = random_parameters(replace(NET, actions={"wheels": 1, "arm": 2}), 0)
    actor = actor_from_dreamerv3(two, SIZES)
    bias = np.concatenate([two["pol/head/arm/mean/bias"], two["pol/head/wheels/mean/bias"]])
    assert np.array_equal(actor.mean.bias.detach().numpy(), bias)
    with pytest.raises(WorldModelError, match="discrete"):
        actor_from_dreamerv3({**two, "pol/head/gear/logits/kernel": np.zeros((8, 3))}, SIZES)
    with pytest.raises(WorldModelError, match="missing"):
        actor_from_dreamerv3({}, SIZES)
    del two["pol/head/arm/stddev/kernel"]
    with pytest.raises(WorldModelError, match=r"pol/head/arm/stddev/kernel: missing, expected \(8, 2\)"):
        actor_from_dreamerv3(two, SIZES)


def test_the_slow_critic_is_ported_too(params: dict[str, np.ndarray]) -> None:
    slow = {name.replace("val/", "slowval/"): v + 1 for name, v in params.items() if name.startswith("val/")}
    critic = critic_from_dreamerv3(params | slow, SIZES)
    assert torch.allclose(critic.slow.out.bias, critic.fast.out.bias + 1)
    same = critic_from_dreamerv3(params, SIZES)
    assert torch.equal(same.slow.out.bias, same.fast.out.bias)
    assert not any(parameter.requires_grad for parameter in critic.slow.parameters())
    with pytest.raises(WorldModelError, match="val/mlp/linear0/kernel: missing"):
        critic_from_dreamerv3({}, SIZES)
