"""The moving dot: its model as documented, its seeds, its figures."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import rssm_ros.envs  # noqa: F401  (registers)
from rssm_ros.contract import find_contract
from rssm_ros.envs.dot import (
    HARD,
    PUBLISHED,
    DotEnv,
    DotSetting,
    find_setting,
    move,
    next_masks,
    no_masks,
    picture,
    simulate,
)
from rssm_ros.envs.errors import SimError

from .gymnasium_checks import assert_gymnasium_accepts

NUMBERS = st.floats(-1.0, 1.0)
SEEDS = st.integers(0, 2**31 - 1)


@pytest.mark.parametrize("setting", ["hard", "published", replace(HARD, size=64, ticks=8, wall="clip")])
def test_gymnasium_checks_pass(setting: DotSetting | str) -> None:
    made = gymnasium.make("rssm_ros/Dot-v0", setting=setting)
    assert_gymnasium_accepts(made)
    made.close()


def test_the_settings_are_the_published_ones_and_the_issue_s() -> None:
    assert (PUBLISHED.size, PUBLISHED.ticks, PUBLISHED.blur, PUBLISHED.max_speed) == (32, 64, 1.5, 2.0)
    assert (PUBLISHED.push, PUBLISHED.walk, PUBLISHED.pixel_noise, PUBLISHED.background) == (0.5, 0, 0, 0)
    assert (PUBLISHED.mask_probability, PUBLISHED.mask_ticks, PUBLISHED.mask_side) == (0.3, (3, 10), (4, 12))
    assert (HARD.size, HARD.blur, HARD.walk, HARD.max_speed, HARD.wall) == (32, 1.5, 0.1, 2.0, "reflect")
    assert (HARD.pixel_noise, HARD.background) == (0.05, 0.2)
    assert (HARD.mask_ticks, HARD.mask_side) == ((3, 10), (10, 20))


@pytest.mark.parametrize(("setting", "least", "most"), [(HARD, 0.34, 0.39), (PUBLISHED, 0.005, 0.011)])
def test_share_of_hidden_ticks(setting: DotSetting, least: float, most: float) -> None:
    """36 % where it is hard, 0.7 % with the published defaults: 400 episodes each."""
    hidden = np.concatenate(
        [simulate(setting, range(a, a + 100)).visibility < 0.05 for a in range(0, 400, 100)]
    )
    assert least < hidden.mean() < most


@given(
    state=arrays.arrays(np.float64, 4, elements=NUMBERS),
    action=arrays.arrays(np.float64, 2, elements=NUMBERS),
    shock=arrays.arrays(np.float64, 2, elements=st.floats(-5.0, 5.0)),
    wall=st.sampled_from(["reflect", "clip"]),
)
def test_the_dot_stays_inside_and_keeps_its_speed_limit(
    state: np.ndarray, action: np.ndarray, shock: np.ndarray, wall: str
) -> None:
    setting = replace(PUBLISHED, walk=0.3, wall=wall)
    place = np.concatenate([(state[:2] + 1) / 2 * 31, state[2:] * 2])
    after = move(setting, place, action, shock)
    assert (after[:2] >= 0).all() and (after[:2] <= 31).all() and (np.abs(after[2:]) <= 2).all()
    velocity = np.clip(place[2:] + (0.5 * action + 0.3 * shock), -2, 2)
    free = place[:2] + velocity
    inside = (free >= 0) & (free <= 31)
    np.testing.assert_array_equal(after[:2][inside], free[inside])
    np.testing.assert_array_equal(after[2:][inside], velocity[inside])
    if wall == "reflect":  # as far behind the mirror as it would have been beyond, and turned round
        np.testing.assert_allclose(np.abs(after[2:]), np.abs(velocity))
        beyond = np.where(free < 0, -free, free - 31)
        np.testing.assert_allclose(np.minimum(after[:2], 31 - after[:2])[~inside], beyond[~inside], atol=1e-9)
        assert (np.sign(after[2:]) == -np.sign(velocity))[~inside].all()
    else:
        assert (after[2:][~inside] == 0).all() and np.isin(after[:2][~inside], (0, 31)).all()


@given(seed=SEEDS)
def test_an_episode_is_its_seed_s(seed: int) -> None:
    """Environment and vectorised simulation agree bit for bit, and a seed gives the same episode again."""
    setting = replace(HARD, ticks=6, push=0.5)
    made = simulate(setting, [seed, seed + 1])
    env = DotEnv(setting)
    for row in (0, 1, 0):
        observation, info = env.reset(seed=seed + row)
        for tick in range(6):
            if tick:
                observation, reward, over, out_of_time, info = env.step(made.actions[row, tick])
                assert reward == 0.0 and not over and out_of_time == (tick == 5)
            np.testing.assert_array_equal(observation["camera"][..., 0], made.images[row, tick])
            np.testing.assert_array_equal(info["state"], made.states[row, tick])
            np.testing.assert_array_equal(info["mask"], made.covered[row, tick])
            np.testing.assert_array_equal(info["applied"], made.actions[row, tick])
            assert info["visibility"] == made.visibility[row, tick]
    assert not np.array_equal(made.images[0], made.images[1])


def test_what_cannot_be_controlled_is_told_so() -> None:
    env = DotEnv("hard")
    env.reset(seed=3)
    states = []
    for action in (np.zeros(2), np.ones(2)):
        env.reset(seed=3)
        _, _, _, _, info = env.step(action)
        assert (info["applied"] == 0).all()
        states.append(info["state"])
    np.testing.assert_array_equal(*states)
    assert not simulate(HARD, [5]).actions.any() and np.abs(simulate(PUBLISHED, [5]).actions[0, 1:]).min() > 0


@given(
    x=st.floats(0, 31),
    y=st.floats(0, 31),
    box=st.tuples(*[st.integers(0, 32)] * 4),
)
def test_visible_share(x: float, y: float, box: tuple[int, int, int, int]) -> None:
    """Between 0 and 1; a mask and its opposite share out the blob; pixels are what the model says."""
    covered = np.zeros((32, 32), bool)
    top, bottom, left, right = min(box[:2]), max(box[:2]), min(box[2:]), max(box[2:])
    covered[top:bottom, left:right] = True
    grey, visible = picture(PUBLISHED, np.array([x, y]), covered, None)
    _, other = picture(PUBLISHED, np.array([x, y]), ~covered, None)
    assert 0 <= visible <= 1 and visible + other == pytest.approx(1, abs=1e-5)
    rows, columns = np.mgrid[:32, :32]
    clean = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.5**2))
    assert np.abs(grey - clean)[~covered].max(initial=0) <= 0.501 and (grey[covered] == 0).all()


def test_pixels_are_noisy_around_the_background_and_masks_are_plain_grey() -> None:
    made = simulate(HARD, range(8))
    far = made.states[:, :, None, None, :2] - np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1)
    empty = made.images[(np.abs(far).max(-1) > 8) & ~made.covered] / 255.0
    assert empty.mean() == pytest.approx(0.2, abs=5e-4) and empty.std() == pytest.approx(0.05, abs=5e-4)
    assert (made.images[made.covered] == 128).all()


def test_rectangles_stay_as_long_and_are_as_large_as_told() -> None:
    """Followed slot by slot over 400 ticks: durations and sides fill their ranges, inside the picture."""
    setting, random = HARD, np.random.default_rng(0)
    slots, begun, ages = no_masks(setting), [], []
    for _ in range(400):
        before = slots
        slots = next_masks(setting, slots, random.random((setting.masks, 6)))
        for slot in range(setting.masks):
            if before.left[slot] <= 1 and slots.left[slot] > 0:
                begun.append(slots.box[slot])
                ages.append(slots.left[slot])
            elif slots.left[slot] > 0:
                assert slots.left[slot] == before.left[slot] - 1
                np.testing.assert_array_equal(slots.box[slot], before.box[slot])
    boxes = np.stack(begun)
    sides = np.concatenate([boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]])
    assert set(ages) == set(range(3, 11)) and set(sides) == set(range(10, 21))
    assert boxes.min() >= 0 and boxes.max() <= 32
    # Empty slots begin one in 0.3 of their ticks: 6.5 ticks of it, 1 / 0.3 - 1 without.
    assert len(begun) == pytest.approx(400 * 6 / (6.5 + 1 / 0.3 - 1), rel=0.1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"wall": "open"}, "wall is 'open'"),
        ({"blur": 0.0}, "blur"),
        ({"background": 1.2}, "levels"),
        ({"mask_side": (10, 40)}, "mask_side"),
        ({"mask_ticks": (4, 3)}, "mask_ticks"),
        ({"margin": 16.0}, "margin"),
        ({"max_speed": 40.0}, "max_speed"),
        ({"walk": -0.1}, "expected 0 or more"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(SimError, match=says):
        replace(HARD, **changes)  # type: ignore[arg-type]


def test_unknown_settings_and_actions_are_refused() -> None:
    with pytest.raises(SimError, match="'easy' is unknown, expected one of published, hard"):
        find_setting("easy")
    env = DotEnv()
    env.reset(seed=0)
    for action in ([0.0], [np.nan, 0.0]):
        with pytest.raises(SimError, match="2 finite numbers"):
            env.step(np.array(action))
    with pytest.raises(SimError, match="render_mode"):
        DotEnv(render_mode="human")


def test_render_shows_the_observation() -> None:
    env = DotEnv(render_mode="rgb_array")
    observation, _ = env.reset(seed=1)
    shown = env.render()
    assert shown is not None and shown.shape == (256, 256, 3) and shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[::8, ::8, 1], observation["camera"][..., 0])
    assert DotEnv().render() is None


def test_the_contract_fits_the_environment() -> None:
    contract, env = find_contract("dot"), DotEnv()
    assert contract.observation("camera").shape == env.observation_space["camera"].shape
    assert contract.action_dim == 2 and contract.actuation_delay == 0
    assert contract.targets[0].unit == "px" and contract.targets[0].dim == 2
    np.testing.assert_array_equal(contract.high, [PUBLISHED.push] * 2)
    # A command may go from one limit to the other within a tick: the environment knows no slew.
    assert (contract.slew * contract.dt >= contract.high - contract.low).all()
