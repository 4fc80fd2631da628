"""Bags -> episodes: what was recorded comes back, and training sees what the online filter sees."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rssm_ros.contract import Contract, find_contract
from rssm_ros.online import noise
from rssm_ros.online.clock import RecordingClock
from rssm_ros.online.filter import Filter
from rssm_ros.online.limits import Limits
from rssm_ros.recordings import Event, Observation, Truth, open_bag
from rssm_ros.training.bag_dataset import Conversion, convert
from rssm_ros.training.collect_bags import episodes_of
from test import bags
from test.online.model import TinyModel

SECOND = 1_000_000_000
MANIPULATOR = find_contract("manipulator")


def episode(seed: int, ticks: int, contract: Contract = MANIPULATOR, loss: float = 0.2) -> dict:
    """A random episode in the form that `rssm collect` stores; its first and last ticks are seen."""
    rng = np.random.default_rng(seed)
    arrays: dict = {"action": rng.uniform(-1, 1, (ticks, contract.action_dim)).astype(np.float32)}
    for spec in contract.observations:
        if spec.kind == "image":
            arrays[spec.name] = rng.integers(0, 256, (ticks, *spec.shape), np.uint8)
        else:
            arrays[spec.name] = rng.normal(size=(ticks, spec.dim)).astype(np.float32)
        present = rng.random(ticks) >= loss
        present[[0, -1]] = True
        arrays[f"present_{spec.name}"] = present
    for target in contract.targets:
        label = rng.normal(size=(ticks, target.dim)).astype(np.float32)
        label[rng.random(ticks) < 0.2] = np.nan
        arrays[f"target_{target.name}"] = label
        seen = rng.random(ticks).astype(np.float32)
        arrays[f"visibility_{target.name}"] = (
            seen if target.visibility else np.full(ticks, np.nan, np.float32)
        )
    arrays["reward"] = rng.normal(size=ticks).astype(np.float32)
    for name in ("is_first", "is_last", "is_terminal"):
        arrays[name] = np.zeros(ticks, bool)
    arrays["is_first"][0] = arrays["is_last"][-1] = True
    arrays["is_terminal"][-1] = bool(rng.random() < 0.5)
    return arrays


def assert_equal(found: dict, made: dict) -> None:
    assert set(found) == set(made) - {"expert_action"}
    for name, column in found.items():
        expected = made[name]
        assert column.dtype == expected.dtype and column.shape == expected.shape, name
        if f"present_{name}" in made:
            here = made[f"present_{name}"]
            np.testing.assert_array_equal(column[here], expected[here], name)
            away = column[~here]
            assert (away == 0).all() if column.dtype == np.uint8 else np.isnan(away).all(), name
        else:
            np.testing.assert_array_equal(column, expected, name)


def load(folder: Path) -> list[dict]:
    return [dict(np.load(file)) for file in sorted(folder.glob("episode-*.npz"))]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31), ticks=st.integers(10, 40), how=st.sampled_from(["mcap", "db3", "mcap+zstd"])
)
def test_an_episode_recorded_and_converted_is_the_episode(
    tmp_path_factory: pytest.TempPathFactory, seed: int, ticks: int, how: str
) -> None:
    folder = tmp_path_factory.mktemp("round")
    made = [episode(seed, ticks), episode(seed + 1, ticks + 3)]
    entries = bags.episode_entries(MANIPULATOR, made[0])
    entries += bags.episode_entries(MANIPULATOR, made[1], first_tick=20 + ticks)
    path = bags.write(folder / "bag", entries, how)
    done = convert([path], "manipulator", MANIPULATOR, folder / "data", Conversion())
    found = load(folder / "data")
    assert len(found) == 2 and done.summary["ticks"] == 2 * ticks + 3
    # The action before a tick with a reset is the old episode's last or nobody's: it means nothing there.
    made[1]["action"][0] = found[1]["action"][0]
    for one, other in zip(found, made, strict=True):
        assert_equal(one, other)


# The same ticks as online ---------------------------------------------------------------------------------


class Made:
    """A Recording made of observations."""

    def __init__(self, contract: Contract, observations: list[Observation], resets: tuple[int, ...] = ()):
        self.contract, self._observations = contract, observations
        self.truth = {target.name: Truth.none(target.dim) for target in contract.targets}
        self.reward, self.counts = Truth.none(1), Counter()
        self.events = [Event(stamp, stamp, "reset") for stamp in sorted(resets)]
        self.start_ns, self.end_ns = observations[0].received_ns, observations[-1].received_ns

    def observations(self):
        yield from self._observations


SMALL = Contract.from_dict(
    {
        **MANIPULATOR.to_dict(),
        "observations": {
            name: spec for name, spec in MANIPULATOR.to_dict()["observations"].items() if name != "camera"
        }
        | {"odom": {**MANIPULATOR.to_dict()["observations"]["odom"], "trigger": True, "wait": 0.02}},
        "history": 0.5,
        "max_gap": 0.3,
    }
)


class Watching(TinyModel):
    """Remembers by noise (the tick's own) what each step was given; a tick's last call is the final one."""

    def __init__(self, contract: Contract) -> None:
        super().__init__(contract)
        self.given: dict[bytes, tuple] = {}

    def encode(self, name, value):
        return np.asarray(value, np.float32)[None]

    def _step(self, state, action, tokens, first, noise):
        self.given[noise.tobytes()] = (np.array(action), {k: v[0] for k, v in tokens.items()}, bool(first))
        rows = len(state.deter)
        small = {name: np.zeros((1, 3), np.float32) for name in tokens}
        assert rows == 1
        return super()._step(state, action, small, first, noise)


def streams(seed: int) -> tuple[list[Observation], tuple[int, ...]]:
    """Messages at odd times, late, doubled and with gaps; commands; now and then a reset."""
    rng = np.random.default_rng(seed)
    items: list[Observation] = []
    time = 5.0
    while time < 9.0:
        time += float(rng.choice([0.02, 0.05, 0.06, 0.2, 0.6], p=[0.3, 0.4, 0.2, 0.07, 0.03]))
        stamp = int(time * SECOND)
        delay = int(rng.choice([0, 0.01, 0.2, 0.45, 0.7], p=[0.6, 0.2, 0.1, 0.05, 0.05]) * SECOND)
        for name, length in (("odom", 2), ("joints", 8)):
            if rng.random() < 0.8:
                items.append(
                    Observation(name, stamp, stamp + delay, rng.normal(size=length).astype(np.float32))
                )
        if rng.random() < 0.7:
            command = Limits(SMALL).scale(rng.uniform(-1, 1, 6))
            command[rng.random(6) < 0.2] = np.nan
            if not np.isnan(command).all():
                items.append(Observation("applied", stamp - 7, stamp + delay, command))
        if items and rng.random() < 0.1:
            items.append(items[-1])
    items.sort(key=lambda item: item.received_ns)
    resets = tuple(int(t * SECOND) for t in rng.uniform(5.5, 8.5, int(rng.integers(0, 3))))
    return items, resets


def _same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_rows_are_what_the_filter_steps_through(seed: int) -> None:
    messages, resets = streams(seed)
    recording = Made(SMALL, messages, resets)
    model = Watching(SMALL)
    tracker, finals = Filter(model, SMALL), []
    tracker.on_final = finals.append
    clock = RecordingClock.of((m.received_ns, m.stamp_ns) for m in messages)
    waiting = list(recording.events)
    for message in messages:
        now = clock.tell(message.received_ns, message.stamp_ns)
        while waiting and waiting[0].stamp_ns <= now:
            tracker.advance(max(tracker.now_ns or 0, waiting[0].stamp_ns))
            tracker.begin_episode(waiting.pop(0).stamp_ns)
        tracker.advance(now)  # before the message, too: it is judged by its own time
        if message.name == "applied":
            tracker.applied(message.stamp_ns, message.value)
        else:
            tracker.observe(message.name, message.stamp_ns, message.value)
        tracker.advance(now)
    tracker.advance(now + 2 * SECOND)
    observed = [belief.tick for belief in finals if any(belief.presence.values())]
    drawn = {tick: noise.draw(model.latent, tracker.seed, tick, tracker.particles) for tick in observed}
    seen = {tick: model.given[uniforms.tobytes()] for tick, uniforms in drawn.items()}
    counters: Counter = Counter()
    rows: list[tuple] = []
    for _, arrays in episodes_of(recording, 2, 10_000, counters):
        if arrays is not None:
            for at in np.flatnonzero(arrays["present_odom"] | arrays["present_joints"]):
                rows.append((arrays, int(at)))
    # Short episodes are dropped: compare by what was seen, in order.
    expected = iter(sorted(seen.items()))
    for arrays, at in rows:
        here = {n: arrays[n][at] for n in ("odom", "joints") if arrays[f"present_{n}"][at]}
        action, tokens, first = next(
            (given for _, given in expected if _same(given[1], here)), (None, None, None)
        )
        assert tokens is not None, "a row that the filter never stepped through"
        assert bool(first) == bool(arrays["is_first"][at])
        if not first:
            np.testing.assert_array_equal(action, arrays["action"][at])
    assert len(rows) + counters["ticks_of_short_episodes"] == len(seen)


def test_pictures_of_a_frozen_camera_are_not_there() -> None:
    """As in the filter: from the fifth repetition on, 2 cm a tick; a new episode has shown nothing yet."""
    messages: list[Observation] = []
    picture = np.zeros((64, 64, 3), np.uint8)
    for tick in range(100, 140):
        stamp = tick * SECOND // 20
        shown = picture if 110 <= tick < 135 else picture + np.uint8(tick)
        messages.append(Observation("odom", stamp, stamp, np.array([0.4, 0.0], np.float32)))
        messages.append(Observation("camera", stamp, stamp, shown))
    found, counters = pieces(Made(MANIPULATOR, messages, (125 * SECOND // 20,)))
    assert [len(arrays["reward"]) for arrays in found] == [25, 15]
    unseen = [np.flatnonzero(~arrays["present_camera"]).tolist() for arrays in found]
    assert unseen == [[*range(15, 25)], [*range(5, 10)]]
    assert all(arrays["present_odom"].all() for arrays in found)
    assert (counters["camera/repeated"], counters["camera/frozen"]) == (8, 15)


# Where episodes begin and end -----------------------------------------------------------------------------


def steady(ticks: list[int], name: str = "odom") -> list[Observation]:
    return [Observation(name, k * SECOND // 20, k * SECOND // 20, np.full(2, k, np.float32)) for k in ticks]


def pieces(recording: Made, shortest: int = 2, longest: int = 1000) -> tuple[list[dict], Counter]:
    counters: Counter = Counter()
    return [a for _, a in episodes_of(recording, shortest, longest, counters) if a is not None], counters


def test_gaps_within_max_gap_are_rows_and_longer_ones_begin_an_episode() -> None:
    bridged = SMALL.max_gap_ticks  # 6
    ticks = [*range(100, 110), *range(109 + bridged, 120), *range(119 + bridged + 1, 140)]
    found, counters = pieces(Made(SMALL, steady(ticks)))
    assert [len(a["reward"]) for a in found] == [20, 140 - 126]
    assert found[0]["present_odom"].sum() == 15
    assert np.isnan(found[0]["odom"][~found[0]["present_odom"]]).all()
    assert counters["gaps"] == 1 and counters["ticks_unseen"] == 5
    for arrays in found:
        assert arrays["is_first"].nonzero()[0].tolist() == [0]
        assert arrays["is_last"].nonzero()[0].tolist() == [len(arrays["reward"]) - 1]
        assert not arrays["is_terminal"].any() and not arrays["present_joints"].any()


def test_long_episodes_are_cut_and_short_ones_dropped() -> None:
    found, counters = pieces(
        Made(SMALL, steady([*range(100, 150), *range(200, 204)])), shortest=5, longest=20
    )
    assert [len(a["reward"]) for a in found] == [20, 20, 10]
    assert counters["cuts"] == 2 and counters["ticks_of_short_episodes"] == 4


def test_resets_and_ends_of_episodes() -> None:
    recording = Made(SMALL, steady(list(range(100, 140))), resets=(120 * SECOND // 20,))
    recording.events.append(Event(129 * SECOND // 20, 129 * SECOND // 20, "terminal"))
    found, _ = pieces(recording)
    assert [len(a["reward"]) for a in found] == [20, 10, 10]
    assert [bool(a["is_terminal"][-1]) for a in found] == [False, True, False]


def test_labels_go_to_the_nearest_tick_and_rewards_add_up() -> None:
    recording = Made(SMALL, steady(list(range(100, 104))))
    half = SECOND // 40
    stamps = np.array([100 * 2 * half - 9, 100 * 2 * half + 4, 102 * 2 * half, 103 * 2 * half - half])
    recording.truth["package"] = Truth(stamps, np.arange(8.0).reshape(4, 2), np.arange(4.0))
    recording.reward = Truth(stamps, np.array([[1.0], [2.0], [np.nan], [5.0]]), np.full(4, np.nan))
    (found,), _ = pieces(recording)
    np.testing.assert_array_equal(found["target_package"], [[2, 3], [np.nan] * 2, [4, 5], [6, 7]])
    np.testing.assert_array_equal(found["visibility_package"], [1, np.nan, 2, 3])
    assert np.isnan(found["target_destination"]).all()
    np.testing.assert_array_equal(found["reward"], [3.0, 0.0, 0.0, 5.0])


def test_unstamped_commands_follow_a_log_on_another_clock() -> None:
    """The log runs 1000 s behind the headers; commands have log time only."""
    lag = 1000 * SECOND
    messages = []
    for k in range(20_100, 20_160):
        stamp = k * SECOND // 20
        messages.append(Observation("odom", stamp, stamp - lag, np.full(2, k, np.float32)))
        command = Limits(SMALL).scale(np.full(6, (k - 20_100) / 60))
        messages.append(Observation("applied", stamp - lag, stamp - lag, command, stamped=False))
    (found,), counters = pieces(Made(SMALL, messages))
    assert len(found["reward"]) == 60 and counters["applied/unstamped"] == 60
    np.testing.assert_allclose(found["action"][5:, 0], np.arange(4, 59) / 60, atol=1e-6)


def test_what_was_observed_decides_which_clock_a_recording_is_read_by() -> None:
    """As in `Replay`: three commands per tick, stamped by a machine whose clock is 5 s behind, do not."""
    messages = []
    for k in range(100, 160):
        stamp = k * SECOND // 20
        messages.append(Observation("odom", stamp, stamp + 1_000_000, np.full(2, k, np.float32)))
        for part in range(3):
            at = stamp + part * 15_000_000
            command = Limits(SMALL).scale(np.full(6, (k - 100) / 60))
            messages.append(Observation("applied", at - 5 * SECOND, at, command))
    (_,), counters = pieces(Made(SMALL, sorted(messages, key=lambda m: m.received_ns)))
    # Log time is now; by the headers, most of which are the commands, they would count as late by the clock.
    assert counters["odom/accepted"] == 60 and counters["odom/future"] == 0
    assert not any(key.startswith("clock/") for key in counters), counters


def test_the_reader_and_the_dot(tmp_path: Path) -> None:
    """A contract with a grey camera and nothing else."""
    dot = find_contract("dot")
    made = episode(3, 20, dot, loss=0.3)
    entries = bags.episode_entries(dot, made)
    recording = open_bag(bags.write(tmp_path / "bag", entries), dot)
    (found,), _ = pieces(recording)
    made["reward"][:] = 0.0
    assert_equal(found, made)
