"""DESIGN 6's guarantee with every stream at its own rate: whatever the order, bitwise what the oracle has.

Camera, odometry, joints and applied commands at 30, 50, 100 and 20 Hz with jitter, delays beyond the window,
copies, contradictions, silences, a modality that dies, a camera that hangs, episodes that begin, and a
scheduler that misses its ticks.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rssm_ros.contract import ObservationSpec
from rssm_ros.online.filter import Filter
from rssm_ros.online.grid import tick_of
from rssm_ros.online.session import Session
from test.bundles import tiny_bundle
from test.online import oracle
from test.online.model import TinyModel
from test.online.oracle import Message
from test.online.streams import MS, TICK, small_contract

RATES = {"camera": 30, "odom": 50, "joints": 100, "applied": 20}  # Hz
DELAYS = {  # ms: what a stream's messages are late by
    "none": [0],
    "jitter": [0, 1, 5, 12, 30],
    "late": [0, 0, 60, 120, 250, 360],
    "hopeless": [0, 200, 390, 399, 420, 700],
}
TAKEN = ("accepted", "superseded", "duplicate", "conflict")

_small = small_contract()
_joints = ObservationSpec(
    "joints", "sensor_msgs/msg/JointState", "joints", fields=("position",), names=("a", "b")
)
CONTRACT = replace(_small, observations=(*_small.observations, _joints))
SEED = 3


@dataclass(frozen=True)
class World:
    """What a generated case is made of; everything else follows from `seed`."""

    seed: int
    ticks: int
    jitter: float  # share of a stream's own period
    delays: dict[str, str]
    lost: float  # share of messages that never come
    silence: tuple[int, int]  # first tick, ticks without anything
    dead: tuple[str, int]  # a modality, and the tick it dies at
    hangs: tuple[int, int]  # first tick, ticks in which the camera shows the same
    speed: float  # of the robot, about, m/s
    copies: int
    contradictions: int
    episodes: int  # how many begin on the way
    advances: str
    particles: int


worlds = st.builds(
    World,
    seed=st.integers(0, 2**31),
    ticks=st.integers(2, 24),
    jitter=st.sampled_from([0.0, 0.1, 0.4]),
    delays=st.fixed_dictionaries({name: st.sampled_from(sorted(DELAYS)) for name in RATES}),
    lost=st.sampled_from([0.0, 0.0, 0.3, 0.9]),
    silence=st.tuples(st.integers(0, 24), st.sampled_from([0, 0, 3, 6, 12])),
    dead=st.tuples(st.sampled_from(sorted(RATES)), st.integers(0, 48)),
    hangs=st.tuples(st.integers(0, 6), st.sampled_from([0, 12, 24])),
    speed=st.sampled_from([0.01, 0.3, 1.0]),
    copies=st.integers(0, 4),
    contradictions=st.integers(0, 4),
    episodes=st.sampled_from([0, 0, 1, 3]),
    advances=st.sampled_from(["every message", "ticks", "rarely", "bursts"]),
    particles=st.sampled_from([1, 1, 3]),
)


def _value(name, shapes, rng):
    if name == "applied":
        value = rng.uniform(-0.4, 0.4, shapes[name])
        return np.where(rng.random(value.shape) < 0.2, np.nan, value) if rng.random() < 0.3 else value
    if len(shapes[name]) == 3:
        return rng.integers(0, 256, shapes[name], dtype=np.uint8)
    return rng.normal(size=shapes[name]).astype(np.float32)


def _history(world: World, shapes) -> list[tuple[int, Message]]:
    """(arrival, message), in the order of arrival."""
    rng, start = np.random.default_rng(world.seed), 20 * TICK
    events: list[tuple[int, Message]] = []
    hung = None
    for name, rate in RATES.items():
        period = 1000 * MS // rate
        for index in range(world.ticks * TICK // period):
            stamp = start + index * period + int(world.jitter * period * rng.uniform(-1, 1))
            tick = (stamp - start) // TICK
            quiet = world.silence[0] <= tick < sum(world.silence)
            dies = name == world.dead[0] and tick >= world.dead[1]
            value = _value(name, shapes, rng)
            if name == "odom":
                value = (value + 1) * np.float32(world.speed)
            elif name == "camera" and world.hangs[0] <= tick < sum(world.hangs):
                value = hung = value if hung is None else hung
            if not quiet and not dies and rng.random() >= world.lost and not np.isnan(value).all():
                delay = int(rng.choice(DELAYS[world.delays[name]])) * MS
                events.append((stamp + delay, Message(name, stamp, value)))
    for index in range((world.copies + world.contradictions) * bool(events)):
        arrival, message = events[int(rng.integers(len(events)))]
        value = message.value if index < world.copies else _value(message.name, shapes, rng)
        if not np.isnan(value).all():
            events.append((arrival + int(rng.integers(0, 300)) * MS, message._replace(value=value)))
    for _ in range(world.episodes):  # a little off the grid, and as late as commands are
        stamp = start + int(rng.integers(world.ticks)) * TICK + int(rng.choice([0, 0, -20, 20])) * MS
        delay = int(rng.choice(DELAYS[world.delays["applied"]])) * MS
        events.append((stamp + delay, Message("episode", stamp, None)))
    order = rng.permutation(len(events))  # of what arrives at the same time, too
    return sorted((events[i] for i in order), key=lambda event: event[0])


def _times(world: World, events) -> list[int]:
    """When `advance` is called."""
    rng = np.random.default_rng([world.seed, 1])
    end = max((arrival for arrival, _ in events), default=20 * TICK) + 30 * MS
    if world.advances == "every message":
        return [arrival for arrival, _ in events] + [end]
    step = {"ticks": 10 * MS, "rarely": 270 * MS, "bursts": 50 * MS}[world.advances]
    times = np.arange(19 * TICK, end, step)
    if world.advances == "bursts":  # a scheduler that misses some of its ticks
        times = times[rng.random(len(times)) < 0.5]
    return [int(time) for time in times] + [end]


def _put(filter_: Filter, message: Message) -> str:
    if message.name == "applied":
        return filter_.applied(message.stamp, message.value)
    if message.name == "episode":
        return filter_.begin_episode(message.stamp)
    return filter_.observe(message.name, message.stamp, message.value)


def _run(filter_: Filter, world: World, events) -> tuple[list[Message], dict[int, object]]:
    """Returns what was accepted, and the beliefs: final ones, then those still in the ring."""
    final: dict[int, object] = {}
    filter_.on_final = lambda belief: final.__setitem__(belief.tick, belief)
    accepted: list[Message] = []
    calls = [(at, 1, index) for index, (at, _) in enumerate(events)]
    calls += [(at, 0, -1) for at in _times(world, events)]
    filter_.advance(19 * TICK)
    for at, kind, index in sorted(calls):
        if kind == 0:
            _bounded(filter_, at)
        else:
            verdict = _put(filter_, events[index][1])
            assert verdict in (*TAKEN, "too_old", "future")
            if verdict in TAKEN:
                accepted.append(events[index][1])
    ring = {belief.tick: belief for belief in filter_.revised()}
    assert all(
        final[tick].deter.tobytes() == ring[tick].deter.tobytes() for tick in final.keys() & ring.keys()
    )
    return accepted, final | ring


def _bounded(filter_: Filter, now: int) -> None:
    calls = getattr(filter_.session, "calls", None)
    before = 0 if calls is None else calls["step"] + calls["predict"]
    filter_.advance(now)
    if calls is not None:
        assert calls["step"] + calls["predict"] - before <= filter_.most_steps


def _check(session, contract, world: World, shapes) -> tuple[int, int]:
    """How many beliefs were compared, and how many pictures of a frozen camera there were."""
    filter_ = Filter(session, contract, world.particles, SEED)
    events = _history(world, shapes)
    accepted, found = _run(filter_, world, events)
    last = max(found, default=-1)
    expected = oracle.beliefs(session, contract, accepted, world.particles, SEED, last)
    wrong = [tick for tick, belief in found.items() if not oracle.same(belief, expected[tick])]
    assert not wrong, f"ticks {wrong[:5]} of {sorted(found)} differ from the oracle"
    if expected:  # not where the only observation's tick is still to come
        now = tick_of(filter_.now_ns, contract.rate)
        ring = range(max(min(expected), now - filter_._history), now)
        assert set(ring) <= set(found), "the ring has a hole"
    return len(found), filter_.counters["frozen"]


SHAPES = {"camera": (4, 4, 1), "odom": (2,), "joints": (2,), "applied": (2,)}


@pytest.mark.parametrize("part", range(4))  # 4 x 550 cases; parts so that several processes can share them
def test_any_disorder_gives_bitwise_what_the_oracle_has(part):
    compared = []

    @settings(max_examples=550, deadline=None, suppress_health_check=list(HealthCheck))
    @given(worlds)
    def check(world):
        world = replace(world, seed=world.seed * 4 + part)
        weighs = world.seed % 3 == 0
        compared.append(_check(TinyModel(CONTRACT, weighs), CONTRACT, world, SHAPES))

    check()
    beliefs, frozen = np.array(compared).T
    assert len(beliefs) >= 550 and np.mean(beliefs > 0) > 0.9, "too many worlds without a belief"
    assert np.mean(frozen > 0) > 0.05, "too few worlds with a camera that hangs"


@pytest.mark.parametrize(
    ("variant", "particles"), [("concat", 1), ("concat", 32), ("grounded", 32), ("tracked", 8)]
)
def test_a_real_bundle_too(variant, particles):
    """onnxruntime's own arithmetic, at the batch shape of the robot."""
    session = Session(tiny_bundle(variant), prove=False)
    contract = session.bundle.contract
    shapes = {spec.name: spec.shape for spec in contract.observations} | {"applied": (contract.action_dim,)}
    for seed, advances in enumerate(("every message", "ticks", "bursts")):
        world = World(
            seed=seed,
            ticks=12,
            jitter=0.4,
            delays=dict.fromkeys(RATES, "hopeless" if seed else "late"),
            lost=0.2,
            silence=(5, 3 * seed),
            dead=("joints", 8),
            hangs=(0, 12 * (seed == 2)),
            speed=1.0,
            copies=4,
            contradictions=4,
            episodes=2,
            advances=advances,
            particles=particles,
        )
        assert _check(session, contract, world, shapes)[0] > 0
