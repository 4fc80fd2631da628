"""Recording episodes: what is stored, what is refused, and that a second run only fills gaps."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rssm_ros.cli.collect import parse_mix
from rssm_ros.cli.main import main
from rssm_ros.contract import find_contract
from rssm_ros.envs.cell import BIN_MIDDLE, MOUTHS
from rssm_ros.envs.dot import DotEnv
from rssm_ros.envs.errors import SimError
from rssm_ros.envs.expert import expert_command
from rssm_ros.envs.manipulator import ManipulatorEnv
from rssm_ros.training import collect_manipulator
from rssm_ros.training.collect import collect
from rssm_ros.training.collect_dot import plan_blocks
from rssm_ros.training.collect_dot import source as dot_source
from rssm_ros.training.collect_manipulator import (
    MANIPULATOR,
    EpisodePlan,
    Noise,
    plan_episodes,
    record_episode,
)
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.replay import open_storage
from rssm_ros.world_model import Signals
from test.bundles import tiny_bundle

SECONDS = 1.0
LAZY = np.array([-1, 0, 0, -0.9, -0.9, -0.9], np.float32)


def test_plans_follow_the_mix() -> None:
    """Shares are met at every prefix, so that an interrupted collection is balanced too."""
    plans = plan_episodes(20_000, {"expert": 0.6, "random": 0.4}, seed=1000)
    kinds = [plan.kind for plan in plans]
    assert len(plans) == 33 and len({plan.seed for plan in plans}) == 33
    assert abs(kinds[:10].count("expert") - 6) <= 1 and abs(kinds.count("random") - 13) <= 1


def test_ticks_and_noise_follow_the_contract_s_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is written down in the contract and nowhere else."""
    slower = replace(find_contract("manipulator"), rate=Fraction(10))
    monkeypatch.setattr("rssm_ros.contract.find_contract", lambda name: slower)
    assert len(plan_episodes(3010, {"expert": 1.0}, seed=1000)) == 10
    assert Noise(1000, True, slower.dt)._keep == pytest.approx(Noise(1000, True, 0.05)._keep ** 2)


@pytest.mark.parametrize(
    ("mix", "seed", "says"),
    [
        ({"expert": 1.0}, 7, "held out"),
        ({"teleop": 1.0}, 1000, "kinds of"),
        ({"expert": 0.0}, 1000, "shares > 0"),
        ({"policy": 1.0}, 1000, "--policy"),
    ],
)
def test_impossible_plans_are_refused(mix: dict[str, float], seed: int, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        plan_episodes(1000, mix, seed)
    with pytest.raises(TrainingError, match="kind=share"):
        parse_mix("expert")


def test_rows_are_aligned() -> None:
    """action[t] is what acted over [t-1, t): replaying the stored actions gives the stored observations."""
    env = ManipulatorEnv(episode_seconds=2.0, camera=False)
    episode = record_episode(EpisodePlan(2000, "perturbed", 2.0), env)
    rows = len(episode["reward"])
    assert rows == 41 and episode["is_first"].tolist() == [True] + [False] * 40
    assert episode["is_last"].tolist() == [False] * 40 + [True] and not episode["is_terminal"].any()
    env.reset(seed=2000)
    for t in range(1, rows):
        env._pending = env.limits.scale(episode["action"][t])
        env.begin_tick()
        env.advance_physics(10)
        observation, reward, *_, info = env.end_tick()
        np.testing.assert_allclose(info["applied"], episode["action"][t], atol=2e-6)
        np.testing.assert_allclose(observation["joints"], episode["joints"][t], atol=2e-3)
        np.testing.assert_allclose(reward, episode["reward"][t], atol=1e-4)


def test_collect_resumes(tmp_path: Path) -> None:
    """A second run records only what is missing, bit for bit the same, and leaves no partial file."""
    plans = plan_episodes(84, {"expert": 1.0, "random": 1.0}, seed=1000, seconds=SECONDS)
    assert len(plans) == 4
    done = collect(MANIPULATOR, plans, tmp_path, workers=1)
    assert (done.files, done.skipped, done.ticks) == (4, 0, 84)
    summary = json.loads((tmp_path / "dataset.json").read_text())
    assert summary["ticks"] == 84 and summary["kinds"] == {"expert": 2, "random": 2}
    assert summary["seeds"] == [1000, 1001, 1002, 1003]
    victim = tmp_path / plans[2].filename
    with np.load(victim) as stored:
        before = {name: stored[name] for name in stored}
    victim.unlink()
    (tmp_path / ".episode-00001002-expert.npz.1.part").write_bytes(b"half")
    again = collect(MANIPULATOR, plans, tmp_path, workers=1)
    assert (again.files, again.skipped) == (1, 3)
    assert not list(tmp_path.glob(".*"))
    with np.load(victim) as stored:
        assert set(stored) == set(before)
        for name in stored:
            np.testing.assert_array_equal(stored[name], before[name])
    assert json.loads((tmp_path / "dataset.json").read_text())["sha256"] == summary["sha256"]
    assert before["camera"].dtype == np.uint8 and before["camera"].shape == (21, 64, 64, 3)
    assert before["camera"].std() > 20


def test_dagger_asks_the_policy_and_labels_with_the_expert() -> None:
    """In kind 'policy' the policy sees exactly what the data say was there, and the label is the expert's."""

    class Lazy:
        def __init__(self) -> None:
            self.seen: list[set[str]] = []
            self.labels: list[np.ndarray] = []

        def reset(self, seed: int) -> None:
            assert not self.seen

        def act(self, observation: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
            self.seen.append(set(observation))
            self.labels.append(np.clip(env.limits.normalise(expert_command(info["truth"])), -1, 1))
            return LAZY

        def told(self, action: np.ndarray) -> None:
            pass

    lazy = Lazy()
    env = ManipulatorEnv(episode_seconds=6.0, camera=False)
    plan = EpisodePlan(3041, "policy", 6.0, "bundle")  # a seed that drops all three
    episode = record_episode(plan, env, lazy)
    present = {name: episode[f"present_{name}"] for name in ("camera", "odom", "joints")}
    assert lazy.seen == [{name for name in present if present[name][t]} for t in range(120)]
    assert all(not rows.all() for rows in present.values())
    np.testing.assert_allclose(episode["expert_action"][:120], lazy.labels, atol=1e-6)
    ours = np.abs(episode["expert_action"] - LAZY).max(1)
    assert (ours > 0.1).mean() > 0.5  # and not what the policy did


def test_dagger_tells_the_policy_what_is_really_pending() -> None:
    """Its filter predicts with it: while the expert leads, its own proposal never acts."""

    class Listener:
        def __init__(self) -> None:
            self.pending: list[np.ndarray] = []

        def reset(self, seed: int) -> None:
            assert not self.pending

        def act(self, observation: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
            return LAZY

        def told(self, action: np.ndarray) -> None:
            self.pending.append(np.array(action))

    listener = Listener()
    env = ManipulatorEnv(episode_seconds=6.0, camera=False)
    episode = record_episode(EpisodePlan(3001, "policy", 6.0, "bundle"), env, listener)  # both lead in turn
    assert len(listener.pending) == 120
    by_policy = [np.array_equal(action, LAZY) for action in listener.pending]
    assert 0.1 < np.mean(by_policy) < 0.9
    for t, pending in enumerate(listener.pending[:-1]):  # told at t: acts over [t + 1, t + 2)
        expected = env.limits.step(
            env.limits.scale(episode["action"][t + 1]), env.limits.scale(pending), env.contract.dt
        )
        np.testing.assert_allclose(episode["action"][t + 2], env.limits.normalise(expected), atol=1e-5)


def test_an_episode_of_the_policy_depends_on_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers take episodes as they come: the data must be the same for any number of workers."""
    bundle = str(tiny_bundle())
    plans = [EpisodePlan(seed, "policy", 1.0, bundle) for seed in (3000, 3001)]
    runs = []
    for order in (plans, plans[::-1]):
        monkeypatch.setattr(collect_manipulator, "_worker", {})
        runs.append({plan.seed: collect_manipulator.record(plan) for plan in order})
    for plan in plans:
        one, two = (run[plan.seed] for run in runs)
        assert sorted(one) == sorted(two)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_the_destination_is_the_right_bin_in_the_robot_s_frame() -> None:
    """Column `target_destination`: the middle of the bin that the sign gives the package's colour, from where
    the robot stands and as it is turned; none without a package."""
    env = ManipulatorEnv(episode_seconds=20.0, camera=False)
    poses, bins = [], []

    class Watch:
        def reset(self, seed: int) -> None:
            pass

        def act(self, observation: dict[str, np.ndarray], info: dict[str, Any]) -> np.ndarray:
            truth = info["truth"]
            poses.append(truth.base)
            bins.append(np.nan if truth.package is None else truth.bin)
            return np.array([0.3, 0.4, 0, 0, 0, 0], np.float32)  # turned, so that the frame matters

        def told(self, action: np.ndarray) -> None:
            pass

    seen = set()
    for seed in (3000, 3005):  # the sign the one way round and the other
        poses.clear()
        bins.clear()
        episode = record_episode(EpisodePlan(seed, "policy", 20.0, "bundle"), env, Watch())
        found = episode["target_destination"]
        assert found.dtype == np.float32 and found.shape == (len(episode["reward"]), 2)
        assert np.array_equal(np.isnan(found), np.isnan(episode["target_package"]))
        for (x, y, heading), which, place in zip(poses, bins, found):
            if np.isnan(which):
                continue
            turn = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
            world = turn @ place + [x, y]
            left, right = MOUTHS[int(which)]
            assert left < world[0] < right and world == pytest.approx(
                [(left + right) / 2, BIN_MIDDLE], abs=1e-4
            )
            seen.add((env.cell.swap, int(which)))
        np.testing.assert_array_equal(episode["visibility_destination"], episode["visibility_package"])
    assert len({swap for swap, _ in seen}) == 2 and len({which for _, which in seen}) == 2


# -- the moving dot ---------------------------------------------------------------------------------------


def test_dot_data_are_what_the_environment_gives(tmp_path: Path) -> None:
    """Whole blocks of episodes in one file, in the columns that training reads, the same for each seed."""
    plans = plan_blocks(66 * 64, "published", seed=1000)
    assert [plan.seed for plan in plans] == [1000, 1064]
    done = collect(dot_source("published"), plans, tmp_path, workers=1)
    assert (done.files, done.ticks) == (2, 128 * 64)
    summary = json.loads((tmp_path / "dataset.json").read_text())
    assert summary["contract"] == "dot" and summary["setting"]["push"] == 0.5
    assert summary["episodes"] == 128 and summary["kinds"] == {"published": 128}
    storage = open_storage(tmp_path, Signals.from_contract(find_contract("dot")))
    assert len(storage) == 128 * 64 and int(storage["is_first"].sum()) == 128
    env, start = DotEnv("published"), 65 * 64  # one of the second block: seed 1065
    observation, info = env.reset(seed=1065)
    for row in range(64):
        if row:
            observation, *_, info = env.step(storage["action"][start + row].numpy())
        np.testing.assert_array_equal(observation["camera"], storage["camera"][start + row])
        np.testing.assert_allclose(info["dot"], storage["target_dot"][start + row], atol=1e-5)
        assert info["visibility"] == pytest.approx(float(storage["visibility_dot"][start + row]), abs=1e-6)
    assert storage["is_last"][start + 63] and not storage["is_terminal"].any()


def test_a_dot_data_set_that_grows_is_the_larger_one(tmp_path: Path) -> None:
    """Once a short last block kept its name when more was asked for, and its other episodes were lost."""
    for ticks in (100, 70 * 64):
        grown = collect(dot_source("hard"), plan_blocks(ticks, "hard", 1000), tmp_path / "grown", workers=1)
    assert (grown.files, grown.skipped) == (1, 1)
    collect(dot_source("hard"), plan_blocks(70 * 64, "hard", 1000), tmp_path / "once", workers=1)
    summaries = [json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("grown", "once")]
    assert summaries[0] == summaries[1] and summaries[0]["episodes"] == 128


def test_dot_data_repeat_bit_for_bit(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("one", 1000), ("same", 1000), ("other", 2000)):
        plans = plan_blocks(128, "hard", seed)
        collect(dot_source("hard"), plans, tmp_path / name, workers=1)
        hashes.append(json.loads((tmp_path / name / "dataset.json").read_text())["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_dot_seeds_for_evaluation_are_refused() -> None:
    with pytest.raises(TrainingError, match="held out"):
        plan_blocks(64, "hard", seed=999)
    with pytest.raises(SimError, match="unknown"):
        plan_blocks(64, "harder", seed=1000)


def test_an_option_of_another_robot_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "dot", "--out", str(tmp_path), "--mix", "expert=1"]) == 2
    assert "--mix is an option of `rssm collect manipulator`" in capsys.readouterr().err
    assert main(["collect", "manipulator", "--out", str(tmp_path), "--setting", "hard"]) == 2
    assert "--setting is an option of `rssm collect dot`" in capsys.readouterr().err
