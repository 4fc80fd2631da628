"""The sorting cell as an environment: time, limits, seeds, labels."""

import os
import subprocess
import sys
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest

import rssm_ros.envs  # noqa: F401  (registers)
from rssm_ros.envs.cell import GREEN, RED
from rssm_ros.envs.errors import SimError
from rssm_ros.envs.manipulator import ManipulatorEnv
from rssm_ros.envs.policies import ExpertPolicy, RandomPolicy, reference_policies
from rssm_ros.envs.render import SpectatorRenderer

from .gymnasium_checks import assert_gymnasium_accepts


@pytest.fixture(scope="module")
def env() -> Iterator[ManipulatorEnv]:
    made = ManipulatorEnv(episode_seconds=None)
    yield made
    made.close()


def blind() -> ManipulatorEnv:
    return ManipulatorEnv(episode_seconds=None, camera=False)


def test_gymnasium_checks_pass() -> None:
    """The registered id builds an environment that Gymnasium's own checker accepts, without a warning."""
    made = gymnasium.make("rssm_ros/Manipulator-v0", episode_seconds=1.0)
    assert_gymnasium_accepts(made)
    made.close()


def test_same_seed_same_bits(env: ManipulatorEnv) -> None:
    """Two runs of a seed agree in every bit, picture and noise included; another seed does not."""

    def run(seed: int) -> list[bytes]:
        policy = RandomPolicy(0.3)
        policy.reset(0)
        observation, info = env.reset(seed=seed)
        record = []
        for _ in range(30):
            observation, reward, _, _, info = env.step(policy.act(observation, info))
            record.append(b"".join(observation[name].tobytes() for name in sorted(observation)))
            record.append(np.float64(reward).tobytes() + info["package"].tobytes())
        return record

    first = run(5)
    assert run(5) == first
    assert run(6) != first


def test_tick_in_three_parts_is_a_step() -> None:
    """begin, physics in two portions and end give what step gives: the sim node is no second simulator."""
    whole, parts = blind(), blind()
    whole.reset(seed=3)
    parts.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        one = whole.step(action)
        parts.begin_tick()
        parts.advance_physics(4)
        parts.command_si(parts.limits.scale(action))
        parts.advance_physics(6)
        two = parts.end_tick()
        for name in one[0]:
            np.testing.assert_array_equal(one[0][name], two[0][name])
        assert one[1:4] == two[1:4]
        np.testing.assert_array_equal(whole.state(), parts.state())


def test_a_command_acts_from_the_next_tick() -> None:
    """The actuation delay is exactly one tick: nothing moves in the first, everything in the second."""
    env = blind()
    _, info = env.reset(seed=0)
    rest = info["applied"]
    push = np.array([1, 0, 0, 1, 1, 1], np.float32)
    _, _, _, _, info = env.step(push)
    np.testing.assert_array_equal(info["applied"], rest)
    _, _, _, _, info = env.step(rest)
    assert info["applied"][0] > 0.1 and info["applied"][3] > rest[3] + 0.05
    before = info["applied"]
    _, _, _, _, info = env.step(rest)
    assert info["applied"][0] < before[0]


def test_no_command_keeps_the_last() -> None:
    """A tick without a new command goes on with the pending one (timeouts are the sim node's)."""
    env = blind()
    env.reset(seed=0)
    env.step(np.array([1, 0, 0, 0, 0, 0], np.float32))
    for _ in range(8):
        env.begin_tick()
        env.advance_physics(10)
        _, _, _, _, info = env.end_tick()
    assert info["applied"][0] == pytest.approx(1.0)


def test_slew_limits_hold() -> None:
    """However wild the actions, no channel moves faster than its contract says."""
    env = blind()
    env.reset(seed=1)
    step = env.limits.slew * env.contract.dt
    previous = None
    rng = np.random.default_rng(2)
    for _ in range(40):
        *_, info = env.step(np.sign(rng.normal(size=6)).astype(np.float32))
        applied = env.limits.scale(info["applied"])
        if previous is not None:
            assert (np.abs(applied - previous) <= step + 1e-6).all()
        previous = applied


def test_bad_actions_are_refused() -> None:
    env = blind()
    env.reset(seed=0)
    with pytest.raises(SimError, match="6 finite numbers"):
        env.step(np.full(6, np.nan))
    with pytest.raises(SimError, match="6 finite numbers"):
        env.step(np.zeros(5))


def test_labels_make_sense() -> None:
    """NaN exactly without a package; seen at the entry, hidden under the hood; base_link is where it says."""
    env = blind()
    _, info = env.reset(seed=0)
    assert np.isfinite(info["package"]).all() and info["visibility"] > 0.5
    entry, hood = [], []
    for _ in range(200):
        *_, info = env.step(info["expert_action"])
        truth = info["truth"]
        assert np.isnan(info["package"]).any() == (truth.package is None) == np.isnan(info["visibility"])
        if truth.package is None:
            continue
        x, y, heading = truth.base
        dx, dy = truth.package[0] - x, truth.package[1] - y
        c, s = np.cos(heading), np.sin(heading)
        back = np.array([c * dx + s * dy, c * dy - s * dx])
        np.testing.assert_allclose(info["package"], back, atol=1e-5)
        if -0.42 < truth.package[0] < -0.34:
            entry.append(info["visibility"])
        elif -0.12 < truth.package[0] < 0.30 and truth.package[1] < 0.1:
            hood.append(info["visibility"])
    assert min(entry) > 0.3 and max(hood) <= 0.05


def test_the_picture_shows_what_the_labels_say(env: ManipulatorEnv) -> None:
    """At the entry the package's colour is in the picture; lamp and signs are as they should be."""
    for seed, left in ((0, "red"), (5, "blue")):
        observation, info = env.reset(seed=seed)
        while not info["visibility"] > 0.99:
            observation, _, _, _, info = env.step(info["expert_action"])
        picture = observation["camera"].astype(int)
        entry = picture[20:56, :16]
        red = (entry[..., 0] > 150) & (entry[..., 1] < 90) & (entry[..., 2] < 90)
        blue = (entry[..., 2] > 150) & (entry[..., 0] < 90)
        assert (red if env.cell.active is not None and env.cell.active % 2 == 0 else blue).sum() >= 4
        signs = picture[:20]
        columns = {
            "red": np.argwhere((signs[..., 0] > 200) & (signs[..., 1] < 90))[:, 1].mean(),
            "blue": np.argwhere((signs[..., 2] > 200) & (signs[..., 0] < 90))[:, 1].mean(),
        }
        assert (columns["red"] < columns["blue"]) == (left == "red")
        lamp = GREEN if env.state()[-1] else RED
        assert (env.cell.model.geom("lamp").rgba == lamp.astype(np.float32)).all()


def test_expert_sorts_and_memory_matters() -> None:
    """In 40 s the expert sorts packages and the memoryless expert fewer; rewards add up with the score."""
    sorted_by = {}
    for name in ("expert", "belt_informed", "memoryless"):
        env, policy, total = blind(), reference_policies()[name], 0.0
        policy.reset(0)
        observation, info = env.reset(seed=0)
        for _ in range(800):
            observation, reward, _, _, info = env.step(policy.act(observation, info))
            total += reward
        score = info["score"]
        assert score.packages == score.sorted + score.wrong + score.missed
        assert total <= score.sorted - score.wrong - 0.5 * score.missed
        sorted_by[name] = score.sorted
    assert sorted_by["expert"] >= 4
    assert sorted_by["belt_informed"] >= sorted_by["expert"] - 1
    assert sorted_by["memoryless"] < sorted_by["expert"] / 2


def test_truncation_and_tipping() -> None:
    """The time limit truncates; a robot on its side terminates with a penalty."""
    env = ManipulatorEnv(episode_seconds=0.25, camera=False)
    _, info = env.reset(seed=0)
    ends = [env.step(info["expert_action"])[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]
    env.reset(seed=0)
    root = env.cell._base_q
    env.cell.data.qpos[root + 2] = 0.6
    env.cell.data.qpos[root + 3 : root + 7] = [np.cos(0.6), np.sin(0.6), 0, 0]
    _, reward, terminated, truncated, info = env.step(ExpertPolicy().act({}, info))
    assert terminated and not truncated and info["tipped"] and reward <= -1.0


def test_spectator_draws_recorded_states() -> None:
    """A recorded state is enough for the pretty picture; anything else is refused by its shape."""
    env = blind()
    env.reset(seed=0)
    renderer = SpectatorRenderer(160, 120)
    picture = renderer.render(env.state())
    assert picture.shape == (120, 160, 3) and picture.dtype == np.uint8 and picture.std() > 20
    with pytest.raises(SimError, match="shape"):
        renderer.render(np.zeros(3))
    renderer.close()


def test_missing_gl_backend_is_one_clear_error() -> None:
    """Without a usable OpenGL the error says what to install."""
    code = (
        "from rssm_ros.envs.errors import SimError\n"
        "try:\n"
        "    from rssm_ros.envs.manipulator import ManipulatorEnv\n"
        "    ManipulatorEnv()\n"
        "except SimError as error:\n"
        "    print('SimError:', error)\n"
    )
    for broken in ("disabled", "nonsense"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "MUJOCO_GL": broken},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "SimError:" in done.stdout and "libegl1" in done.stdout, (broken, done.stderr[-800:])
