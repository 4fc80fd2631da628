"""Overshooting: predictions over several ticks, held against labels at the right places."""

from dataclasses import replace

import pytest
import torch

from rssm_ros.contract import find_contract
from rssm_ros.training.distributed import World
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.learner import Learner
from rssm_ros.training.options import options
from rssm_ros.training.overshooting import overshoot
from rssm_ros.world_model import Beliefs, Signals, State, WorldModel, preset

SIGNALS = Signals.from_contract(find_contract("manipulator"))
ROWS, TICKS, HORIZON, PARTICLES = 3, 7, 2, 2


@pytest.fixture
def model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(SIGNALS, replace(preset("debug"), latent="gaussian", classes=1))


def beliefs_of(model: WorldModel) -> Beliefs:
    sizes = model.sizes
    deter = torch.randn(ROWS, TICKS, sizes.deter, requires_grad=True)
    stoch = torch.randn(ROWS, TICKS, sizes.stoch, sizes.classes)
    distribution = torch.ones(ROWS, TICKS, sizes.stoch, 2)
    return Beliefs(deter, stoch, distribution, distribution)


def test_every_start_rolls_its_own_actions_and_is_held_against_its_own_ticks(model):
    """All starts there are, each compared with imagination from that very belief."""
    beliefs, action = beliefs_of(model), torch.rand(ROWS, TICKS, SIGNALS.action_dim) * 2 - 1
    first = torch.zeros(ROWS, TICKS, dtype=torch.bool)
    first[1, 4] = True
    count = ROWS * (TICKS - HORIZON)
    noise = torch.Generator().manual_seed(3)
    ahead = overshoot(model, beliefs, action, first, HORIZON, 100, PARTICLES, World(), noise)
    assert ahead.features.shape == (PARTICLES, count, HORIZON, model.sizes.features)
    again = torch.Generator().manual_seed(3)
    torch.rand(ROWS, TICKS - HORIZON, generator=again)
    draws = model.rssm.latent.noise(count, PARTICLES, HORIZON, generator=again)
    starts = []
    for index, place in enumerate(ahead.places.tolist()):
        row, tick = divmod(place[0] - 1, TICKS)
        starts.append((row, tick))
        assert place == [row * TICKS + tick + 1, row * TICKS + tick + 2] and tick + HORIZON < TICKS
        state = State(beliefs.deter[None, row, tick], beliefs.stoch[None, row, tick])
        applied = action[None, row, tick + 1 : tick + 1 + HORIZON]
        for particle in range(PARTICLES):
            alone = model.imagine(state, applied, draws[None, index, particle])
            torch.testing.assert_close(
                ahead.features[particle, index], alone.features[0], rtol=1e-4, atol=1e-5
            )
        crossed = [row == 1 and tick < 4 <= tick + step for step in (1, 2)]
        assert ahead.within[index].tolist() == [not c for c in crossed]
    assert sorted(starts) == [(row, tick) for row in range(ROWS) for tick in range(TICKS - HORIZON)]


def test_the_gradient_reaches_the_beliefs(model):
    beliefs, action = beliefs_of(model), torch.zeros(ROWS, TICKS, SIGNALS.action_dim)
    first = torch.zeros(ROWS, TICKS, dtype=torch.bool)
    ahead = overshoot(
        model, beliefs, action, first, HORIZON, 6, PARTICLES, World(), torch.Generator().manual_seed(0)
    )
    ahead.features.sum().backward()
    touched = beliefs.deter.grad.abs().sum(-1) > 0
    assert touched.sum(1).tolist() == [2, 2, 2] and not touched[:, -HORIZON:].any()


@pytest.mark.parametrize("horizon", [0, 7, 12])
def test_a_horizon_that_no_sequence_reaches_is_refused_before_anything_else(horizon):
    base = options("debug")
    asked = replace(base.scales, overshoot=1.0)
    assert replace(base, length=7, overshoot_horizon=horizon).overshoot_horizon == horizon  # nobody asked
    with pytest.raises(TrainingError, match=f"overshoot_horizon is {horizon}.*1 to 6"):
        replace(base, length=7, overshoot_horizon=horizon, scales=asked)


def test_unlabelled_and_crossing_predictions_count_for_nothing():
    """With labels only where no prediction within an episode lands the term is exactly 0."""
    torch.manual_seed(0)
    chosen = options("debug")
    chosen = replace(
        chosen, overshoot_horizon=HORIZON, overshoot_starts=100, scales=replace(chosen.scales, overshoot=1.0)
    )
    learner = Learner(SIGNALS, preset("debug"), chosen)
    sizes = learner.world_model.sizes
    stoch = torch.zeros(ROWS, TICKS, sizes.stoch, sizes.classes)
    beliefs = Beliefs(torch.randn(ROWS, TICKS, sizes.deter), stoch, stoch, stoch)
    first = torch.zeros(ROWS, TICKS, dtype=torch.bool)
    first[:, 3] = True

    def term(labelled: list[int]) -> float:
        label = torch.full((ROWS, TICKS, 2), torch.nan)
        label[:, labelled] = 0.3
        batch = {"action": torch.zeros(ROWS, TICKS, SIGNALS.action_dim), "is_first": first}
        batch |= {f"target_{name}": label for name, _ in SIGNALS.targets}
        found: dict[str, float] = {}
        ahead = overshoot(
            learner.world_model,
            beliefs,
            batch["action"],
            first,
            HORIZON,
            100,
            PARTICLES,
            World(),
            torch.Generator().manual_seed(0),
        )
        learner._ahead(batch, ahead, lambda n, _, v: found.update({n: v.item()}))
        assert set(found) == {f"target_{name}_ahead" for name, _ in SIGNALS.targets}
        return found["target_package_ahead"]

    assert term([0]) == 0.0  # nobody predicts the first tick
    assert term([3]) == 0.0  # the tick that begins an episode is not predicted from the one before
    assert term([4]) != 0.0 and term([2]) != 0.0
