"""A tracker's tick: Bayes' rule on what a picture says, whoever else is in the batch."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rssm_ros.contract import find_contract
from rssm_ros.world_model import Signals, WorldModel, WorldModelError, preset
from rssm_ros.world_model.tracking import FELT, LEAST_STD, Seen, Tracker, seeing_loss

SIGNALS = Signals.from_contract(find_contract("manipulator"))
B, T, D, K = 3, 2, 2, 5


def made(signals: Signals = SIGNALS, **sizes: object) -> Tracker:
    torch.manual_seed(0)
    tracker = Tracker(WorldModel(signals, replace(preset("debug"), **sizes))).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in tracker.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.1)
    return tracker


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return made()


def mixture(draw: torch.Generator, rows: int = B) -> torch.Tensor:
    """What pictures say of both targets: [rows, T, K, 1 + 2 D]."""
    share = torch.log_softmax(torch.randn(rows, T, K, 1, generator=draw), -2)
    mean = 2.0 * torch.randn(rows, T, K, D, generator=draw)
    std = torch.rand(rows, T, K, D, generator=draw) + 0.1
    return torch.cat([share, mean, std], -1)


def tick(tracker: Tracker, draw: torch.Generator, rows: int = B) -> dict[str, object]:
    """Everything that `Tracker.forward` takes but what was seen, and that as well."""
    numbers, features = tracker.numbers, tracker.context.in_features
    track = torch.randn(rows, tracker.width, generator=draw)
    heads = (torch.randn(rows, numbers, generator=draw), torch.rand(rows, numbers, generator=draw) + 0.1)
    action = torch.rand(rows, SIGNALS.action_dim, generator=draw) * 2 - 1
    vectors = torch.randn(rows, tracker.vector_tokens, generator=draw)
    presence = torch.ones(rows, 3, dtype=torch.bool)
    seen = Seen(mixture(draw, rows), vectors, presence, presence[:, -1:])
    return {
        "track": track,
        "features": torch.randn(rows, features, generator=draw),
        "heads": heads,
        "action": action,
        "seen": seen,
    }


def targets_of(tracker, track):
    """{target: mean, std} in units of its spread."""
    place, log_variance, _ = tracker.parts(track)
    sides = zip(*(torch.split(side, 2, -1) for side in (place, torch.exp(0.5 * log_variance))), strict=True)
    return dict(zip(("package", "destination"), sides, strict=True))


def shown(said: torch.Tensor) -> Seen:
    """A picture that says this."""
    here = torch.ones(1, 1, dtype=torch.bool)
    return Seen(said, torch.zeros(1, 0), here, here)


def both(nats: torch.Tensor) -> torch.Tensor:
    """The same for either hypothesis: [1, T] -> [1, 2, T, 1, 1]."""
    return nats.reshape(1, 1, -1, 1, 1).expand(-1, 2, -1, -1, -1)


@torch.no_grad()
@given(seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_an_update_is_the_product_of_belief_and_picture(seed):
    """Against sums over a fine grid, in one dimension: mean, variance and how well it was expected."""
    draw = torch.Generator().manual_seed(seed)
    one = replace(SIGNALS, targets=(("height", 1),))
    tracker = made(one)
    place = torch.randn(1, 2, 1, 1, 1, generator=draw)
    variance = torch.rand(1, 2, 1, 1, 1, generator=draw) + 0.05
    said = mixture(draw)[:1, :1, :, [0, 1, 3]]
    doubt, nothing = torch.rand(1, 1, 1, 1, 1, generator=draw), torch.randn(1, 1, generator=draw) - 2.0
    mean, spread, nats = tracker._seen(place, variance, shown(said), doubt, both(nothing))
    x = torch.linspace(-25, 25, 200_001, dtype=torch.float64)
    for index in range(2):
        m, v = float(place[0, index]), float(variance[0, index])
        prior = torch.exp(-0.5 * (x - m) ** 2 / v) / math.sqrt(2 * math.pi * v)
        seen = torch.full_like(x, math.exp(float(nothing)) / math.sqrt(2 * math.pi))
        for share, at, std in said[0, 0].double():
            width = std**2 + float(doubt)
            normal = torch.exp(-0.5 * (x - at) ** 2 / width) / torch.sqrt(2 * math.pi * width)
            seen += torch.exp(share) * normal
        product = prior * seen
        area = product.sum() * (x[1] - x[0])
        expected = (product * x).sum() / product.sum()
        assert float(mean[0, index]) == pytest.approx(float(expected), abs=1e-4)
        off = (product * (x - expected) ** 2).sum() / product.sum()
        assert float(spread[0, index]) == pytest.approx(float(off), rel=1e-3)
        # Up to what every one-dimensional normal lacks of its constant.
        told = float(nats[0, index, 0]) - 0.5 * math.log(2 * math.pi)
        assert told == pytest.approx(float(torch.log(area)), abs=1e-4)


@torch.no_grad()
def test_a_picture_in_plain_view_is_believed_and_one_that_says_nothing_is_not(tracker):
    draw = torch.Generator().manual_seed(1)
    place, variance = torch.zeros(1, 2, T, 1, D), torch.full((1, 2, T, 1, D), 0.04)
    said = mixture(draw, 1)
    said[..., 0], said[..., 1:3], said[..., 3:] = -60.0, 5.0, 0.02
    said[:, :, 0, 0], said[:, :, 0, 1:3] = 0.0, 0.3
    doubt = torch.zeros(1, 1, T, 1, D)
    mean, spread, _ = tracker._seen(place, variance, shown(said), doubt, both(torch.full((1, T), -30.0)))
    torch.testing.assert_close(mean, torch.full_like(mean, 0.3), atol=0.01, rtol=0.0)
    assert (spread.sqrt() < 0.0201).all()
    mean, spread, _ = tracker._seen(place, variance, shown(said), doubt, both(torch.full((1, T), 30.0)))
    torch.testing.assert_close(mean, place)
    torch.testing.assert_close(spread, variance)


@torch.no_grad()
@given(seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_a_tick_weighs_the_object_of_before_against_the_one_the_rssm_expects(seed):
    """One number: the whole tick on a grid, both hypotheses, each times what the picture shows."""
    draw = torch.Generator().manual_seed(seed)
    one = replace(SIGNALS, targets=(("height", 1),))
    tracker = made(one)
    inputs = tick(tracker, draw, 1)
    said = mixture(draw, 1)[:, :1, :, [0, 1, 3]]
    inputs["seen"] = inputs["seen"]._replace(detections=said)
    caught = {}
    tracker.out.register_forward_hook(lambda module, _, out: caught.update(out=out))
    place, log_variance, _ = tracker.parts(tracker(**inputs))
    shift, shock, doubt, wider, off, nothing, new = caught["out"][0].double().tolist()
    old_place, old_log_variance, _ = tracker.parts(inputs["track"])
    mean, std = (float(part) for part in inputs["heads"])
    x = torch.linspace(-30, 30, 240_001, dtype=torch.float64)

    def softplus(value):
        return math.log1p(math.exp(value))

    def normal(at, variance):
        return torch.exp(-0.5 * (x - at) ** 2 / variance) / math.sqrt(2 * math.pi * variance)

    variance = math.exp(float(old_log_variance)) + (0.1 * softplus(shock - 3.0) + 5e-4) ** 2
    same = normal(float(old_place) + 0.1 * shift, variance)
    other = normal(mean + 0.2 * off, (std * math.exp(wider)) ** 2)
    seen = torch.full_like(x, math.exp(nothing - 3.0) / math.sqrt(2 * math.pi))
    for share, at, width in said[0, 0].double().tolist():
        seen += math.exp(share) * normal(at, width**2 + (0.05 * softplus(doubt - 3.0)) ** 2)
    chance = 1.0 / (1.0 + math.exp(5.0 - new))
    belief = ((1.0 - chance) * same + chance * other) * seen
    belief /= belief.sum()
    expected = float((belief * x).sum())
    spread = float((belief * (x - expected) ** 2).sum())
    assert float(place) == pytest.approx(expected, abs=2e-3)
    assert float(torch.exp(log_variance)) == pytest.approx(max(spread, LEAST_STD**2), rel=5e-3, abs=1e-5)


@torch.no_grad()
def test_where_no_picture_came_what_one_would_say_changes_no_bit(tracker):
    draw = torch.Generator().manual_seed(2)
    inputs = tick(tracker, draw)
    seen = inputs["seen"]._replace(picture=torch.zeros(B, 1, dtype=torch.bool))
    without = tracker(**{**inputs, "seen": seen._replace(detections=None)})
    assert torch.equal(tracker(**{**inputs, "seen": seen}), without)
    spoilt = seen._replace(detections=torch.full_like(seen.detections, torch.nan))
    assert torch.equal(tracker(**{**inputs, "seen": spoilt}), without)
    assert not torch.equal(tracker(**inputs), without)


@torch.no_grad()
def test_rows_do_not_know_of_each_other_and_one_observation_serves_all(tracker):
    inputs = tick(tracker, torch.Generator().manual_seed(3))
    together = tracker(**inputs)
    for row in range(B):
        alone = {name: _row(value, row) for name, value in inputs.items()}
        torch.testing.assert_close(tracker(**alone), together[row : row + 1], atol=1e-5, rtol=1e-5)
    shared = Seen(*(part[:1] for part in inputs["seen"]))
    repeated = Seen(*(part.expand(B, *part.shape[1:]) for part in shared))
    torch.testing.assert_close(
        tracker(**{**inputs, "seen": shared}), tracker(**{**inputs, "seen": repeated}), atol=1e-5, rtol=1e-5
    )


def _row(value, row):
    if isinstance(value, torch.Tensor):
        return value[row : row + 1]
    return (
        type(value)(*(_row(part, row) for part in value))
        if isinstance(value, Seen)
        else tuple(_row(part, row) for part in value)
    )


@torch.no_grad()
def test_deviations_have_a_floor_and_targets_their_own_numbers(tracker):
    track = tracker(**tick(tracker, torch.Generator().manual_seed(4)))
    targets = targets_of(tracker, track)
    torch.testing.assert_close(targets["destination"][0], track[:, 2:4])
    torch.testing.assert_close(targets["package"][1], torch.exp(0.5 * track[:, 4:6]))
    for _, std in targets.values():
        assert (std >= LEAST_STD - 1e-6).all()


@torch.no_grad()
def test_the_least_deviation_is_one_length_for_all_numbers_of_a_target():
    tracker, world_model = made(), WorldModel(SIGNALS, preset("debug"))
    heads = dict(world_model.target_heads.items())
    heads["package"].scale.copy_(torch.tensor([0.5, 0.1]))
    tracker.scaled(heads)
    torch.testing.assert_close(tracker.least, LEAST_STD * torch.tensor([1.0, 5.0, 1.0, 1.0]))
    inputs = tick(tracker, torch.Generator().manual_seed(9))
    sure = inputs["seen"].detections.clone()
    sure[..., 0, 0], sure[..., 0, 3:] = 200.0, 1e-4
    with torch.no_grad():
        tracker.out.weight.zero_()
        tracker.out.bias.fill_(-30.0)
    std = targets_of(tracker, tracker(**{**inputs, "seen": inputs["seen"]._replace(detections=sure)}))
    torch.testing.assert_close(std["package"][1], tracker.least[:2].expand(B, -1), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_the_likeliest_cells_are_kept_in_their_order(tracker):
    said = mixture(torch.Generator().manual_seed(5))
    many = torch.cat([said - 100.0 * torch.eye(5)[0], said, said - 50.0 * torch.eye(5)[0]] * 10, -2)
    kept = tracker.detector.likeliest(many)
    assert kept.shape == (B, T, 32, 5)
    order = torch.arange(many.shape[-2], dtype=torch.float32)[:, None]
    where = tracker.detector.likeliest(torch.cat([many[..., :1], order.expand(B, T, -1, 4)], -1))[..., 1]
    assert (where.diff(dim=-1) > 0).all()
    for row in range(B):
        best = many[row, 0, :, 0].topk(32).values.sort().values
        torch.testing.assert_close(kept[row, 0, :, 0].sort().values, best)


@torch.no_grad()
def test_seeing_is_scored_by_the_density_of_the_label_and_no_label_costs_nothing():
    said = mixture(torch.Generator().manual_seed(6))
    label = torch.randn(B, T, D, generator=torch.Generator().manual_seed(7))
    label[1, 0, 1] = torch.nan
    found = seeing_loss(said, label)
    assert float(found[1, 0]) == 0.0
    for row, target in ((0, 0), (2, 1)):
        density = 0.0
        for cell in said[row, target]:
            normal = torch.distributions.Normal(cell[1:3], cell[3:])
            density += float(torch.exp(cell[0] + normal.log_prob(label[row, target]).sum()))
        constant = math.log(2 * math.pi)  # which the loss leaves out
        assert float(found[row, target]) == pytest.approx(-math.log(density) - constant, abs=1e-4)


def test_gradients_are_finite_with_and_without_a_picture(tracker):
    inputs = tick(tracker, torch.Generator().manual_seed(8))
    picture = torch.tensor([[True], [False], [True]])
    tracker.zero_grad()
    tracker(**{**inputs, "seen": inputs["seen"]._replace(picture=picture)}).square().sum().backward()
    gradients = [p.grad for name, p in tracker.named_parameters() if not name.startswith("detector.")]
    assert all(g is not None and torch.isfinite(g).all() and g.any() for g in gradients)


def test_robots_without_joints_have_trackers_too():
    bare = replace(SIGNALS, vectors=())
    tracker = made(bare)
    assert tracker.felt is None
    assert tracker.inputs.in_features == made().inputs.in_features - FELT - len(SIGNALS.vectors)
    assert tracker.initial(2).shape == (2, tracker.width)
    assert tracker.vectors({"camera": torch.zeros(2, 9)}, {"camera": torch.ones(2) > 0}).shape == (2, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": ()}, "an image to see it in"),
        ({"targets": ()}, "a target to follow"),
        ({"targets": (("package", 2), ("height", 1))}, "targets of one length"),
    ],
)
def test_what_a_tracker_cannot_stand_beside_is_said(change, words):
    with pytest.raises(WorldModelError, match=words):
        made(replace(SIGNALS, **change))


def test_a_map_has_no_pyramid():
    with pytest.raises(WorldModelError, match="halves at least twice"):
        made(conv="map")
