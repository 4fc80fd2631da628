"""Backends: the same answers, buffers that stay, and a device that vanishes in the middle of a run."""

import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from rssm_ros.contract import find_contract
from rssm_ros.online import noise
from rssm_ros.online import session as session_module
from rssm_ros.online.backends import backend as registry
from rssm_ros.online.backends import onnx, parity
from rssm_ros.online.backends.backend import DEFAULT, known_backends, open_backend
from rssm_ros.online.backends.bound import Bound
from rssm_ros.online.backends.fallback import LOST, Fallback
from rssm_ros.online.errors import FilterError
from rssm_ros.online.filter import Filter
from rssm_ros.online.session import Session
from rssm_ros.online.steps import State, initial_state
from test.bundles import tiny_bundle

CONTRACT = find_contract("manipulator")
TICK = 50_000_000
WORDS = "CUDA failure 719: unspecified launch failure"


class Vanishing:
    """A GPU for tests: computes on the CPU with a last bit of its own, and is gone from call `until` on."""

    name, device, tolerance = "pretended", "cuda", 1e-5

    def __init__(self, bundle, until=10**9):
        self.inner, self.until, self.calls, self.warm, self.closed = (
            open_backend(DEFAULT, bundle),
            until,
            0,
            [],
            0,
        )

    def run(self, graph, feeds):
        self.calls += 1
        if self.calls > self.until:
            raise RuntimeError(WORDS)
        outputs = self.inner.run(graph, feeds)
        if "next_deter" in outputs:
            outputs["next_deter"] = outputs["next_deter"] + np.float32(2e-7)
        return outputs

    def warm_up(self, graph, feeds):
        self.warm.append((graph, feeds))

    def close(self):
        self.closed += 1


@pytest.fixture(scope="module")
def cpu():
    return Session(tiny_bundle())


@pytest.fixture
def device(monkeypatch):
    """Opens a session on a device that vanishes: `device(until)` -> session, backend."""

    def opened(until=10**9, prove=False):
        made = []
        real = session_module.open_backend

        def opener(name, bundle, threads=1):
            if name != "pretended":
                return real(name, bundle, threads)
            made.append(Vanishing(bundle, until))
            return made[-1]

        monkeypatch.setattr(session_module, "open_backend", opener)
        return Session(tiny_bundle(), prove=prove, backend="pretended"), made[-1]

    return opened


def observed(tick):
    draw = np.random.default_rng(tick)
    return {
        "camera": draw.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        "odom": draw.normal(size=2).astype(np.float32),
        "joints": draw.normal(size=8).astype(np.float32),
    }


def drive(filter_, ticks, start=20):
    beliefs = []
    for tick in range(start, start + ticks):
        filter_.advance(tick * TICK)
        for name, value in observed(tick).items():
            filter_.observe(name, tick * TICK, value)
        beliefs += filter_.advance(tick * TICK + 26_000_000)
    return beliefs


# A device that vanishes


def test_after_the_device_is_gone_the_cpu_goes_on_from_the_same_belief_bit_for_bit(cpu, device, caplog):
    session, gone = device(until=30)
    filter_ = Filter(session, CONTRACT, 3, seed=4)
    before, ticks = [], 0
    with caplog.at_level(logging.ERROR):
        while not session.lost:
            before += drive(filter_, 1, start=20 + ticks)
            ticks += 1
        last = before[-2]  # the last belief that the device has computed
        filter_and_after = [before[-1], *drive(filter_, 10, start=20 + ticks)]
    state = State(last.deter, last.stoch)
    for belief in filter_and_after:
        seen = {name: cpu.encode(name, value) for name, value in observed(belief.tick).items()}
        action, _ = filter_._action_into(belief.tick)
        drawn = noise.draw(session.latent, filter_.seed, belief.tick, 3)
        step = cpu.step(state, action, seen, False, drawn)
        assert step.state.deter.tobytes() == belief.deter.tobytes()
        assert step.state.stoch.tobytes() == belief.stoch.tobytes()
        state = step.state
    assert len(filter_and_after) == 11 and gone.calls == 31  # the device is not asked again
    assert [record.message for record in caplog.records] == [session.lost]  # said once
    assert WORDS in session.lost and "onnxruntime computes from here on" in session.lost
    assert session.counters == {LOST: 1} and session.backend == DEFAULT


def test_the_belief_before_the_loss_is_the_device_s_own(cpu, device):
    session, _ = device()
    drawn = np.full((1, session.latent.stoch), 0.5, np.float32)
    arguments = (initial_state(session.latent, 1), np.zeros(6, np.float32), True, drawn)
    assert not np.array_equal(session.predict(*arguments).state.deter, cpu.predict(*arguments).state.deter)
    assert session.lost == "" and not session.counters and session.backend == "pretended"


def test_wrong_inputs_are_no_loss(device):
    session, gone = device()
    with pytest.raises(Exception, match=r"(?i)deter|dimension|shape"):
        session.run("actor", {"deter": np.zeros((1, 3), np.float32), "stoch": np.zeros((1, 8), np.int64)})
    assert session.lost == "" and gone.calls == 1


def test_a_device_that_computes_something_else_is_refused_not_replaced(device, monkeypatch):
    real = Vanishing.run

    def wrong(self, graph, feeds):
        return {name: value + 1 for name, value in real(self, graph, feeds).items()}

    monkeypatch.setattr(Vanishing, "run", wrong)
    with pytest.raises(ValueError, match="does not compute here"):
        device(prove=True)


def test_both_are_warmed_up_in_configure_and_a_lost_device_is_left_alone(device):
    session, gone = device(until=0)
    spare = Vanishing(session.bundle)
    session._backend.spare = spare
    session.warm_up(particles=3, candidates=5)
    graphs = [
        "encode_camera",
        "encode_odom",
        "encode_joints",
        "predict",
        "filter",
        "actor",
        "decoder",
        "rollout",
    ]
    assert sorted(graph for graph, _ in gone.warm) == sorted(graphs) == sorted(g for g, _ in spare.warm)
    rows = {graph: len(feeds["deter"]) for graph, feeds in gone.warm if "deter" in feeds}
    assert rows == {"predict": 3, "filter": 3, "actor": 3, "decoder": 3, "rollout": 5}
    session.act(initial_state(session.latent, 1))
    session.close()
    assert session.lost and gone.closed == 0 and spare.closed == 1


def test_warming_up_takes_the_shapes_that_the_filter_uses(cpu, monkeypatch):
    asked, real = [], cpu._backend.run

    def listening(graph, feeds):
        used = cpu._backend._inputs[graph]
        asked.append((graph, *((name, feeds[name].shape, feeds[name].dtype.str) for name in used)))
        return real(graph, feeds)

    monkeypatch.setattr(cpu._backend, "run", listening)
    cpu.warm_up(particles=2)
    warm = set(asked)
    asked.clear()
    drive(Filter(cpu, CONTRACT, 2), 3)
    assert asked and set(asked) <= warm


# Found by name


def test_every_name_is_known_and_an_unknown_one_is_refused_with_them():
    assert {DEFAULT, "onnxruntime-cuda", "onnxruntime-tensorrt", "torchscript", "torchscript-cuda"} <= set(
        known_backends()
    )
    with pytest.raises(FilterError, match=r"no backend 'abacus'; known are onnxruntime, onnxruntime-cuda"):
        Session(tiny_bundle(), backend="abacus")


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_provider_that_is_not_there_is_refused_with_what_to_do(name, monkeypatch):
    monkeypatch.setattr(onnx.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        FilterError, match=r"this onnxruntime has CPUExecutionProvider; pip install onnxruntime-gpu"
    ):
        Session(tiny_bundle(), backend=name)


def test_a_provider_that_onnxruntime_silently_drops_is_refused(cpu, monkeypatch):
    monkeypatch.setattr(onnx, "_check_available", lambda *_: None)
    monkeypatch.setattr(onnx, "open_graph", lambda *_: SimpleNamespace(get_providers=lambda: [onnx.CPU]))
    with pytest.raises(FilterError, match="CUDAExecutionProvider does not start here"):
        open_backend("onnxruntime-cuda", cpu.bundle)


def test_a_missing_package_is_named(cpu, monkeypatch):
    point = registry.metadata.EntryPoint("far", "no_such_package.backend:open", registry.GROUP)
    monkeypatch.setattr(registry, "OURS", (point,))
    with pytest.raises(FilterError, match="backend 'far' needs no_such_package, which is not installed"):
        open_backend("far", cpu.bundle)


# Fixed buffers, as on a GPU but in the CPU's memory


def a_step(session, particles, seed):
    draw, latent = np.random.default_rng(seed), session.latent
    state = State(
        draw.uniform(-1, 1, (particles, latent.deter)).astype(np.float32),
        draw.integers(0, latent.classes, (particles, latent.stoch)),
    )
    feeds = session._feeds(
        state, np.zeros(latent.action, np.float32), False, draw.random((particles, latent.stoch), np.float32)
    )
    tokens = {name: draw.standard_normal((1, size), np.float32) for name, size in latent.tokens.items()}
    return session._seen(feeds, tokens)


@pytest.mark.parametrize("provider", [onnx.CPU, "CUDAExecutionProvider"])  # of which only the name is used
def test_bound_buffers_give_the_same_bits_and_what_was_given_out_stays(cpu, provider):
    backend = cpu._backend
    feeds = [a_step(cpu, 3, seed) for seed in range(4)]
    feeds = [{name: one[name] for name in backend._inputs["filter"]} for one in feeds]
    plain = [backend.run("filter", one) for one in feeds]
    bound = Bound(backend._sessions["filter"], feeds[0], plain[0], "cpu", provider)
    kept = [bound.run(one) for one in feeds]
    for left, right in zip(plain, kept, strict=True):
        assert left.keys() == right.keys()
        assert all(left[name].tobytes() == right[name].tobytes() for name in left)
    with pytest.raises(TypeError):
        bound.run({**feeds[0], "deter": feeds[0]["deter"].astype(np.float64)})


def test_a_warmed_up_shape_runs_bound_and_another_one_does_not(cpu, monkeypatch):
    made = []

    def counted(*arguments):
        made.append(arguments[4])
        return Bound(*arguments)

    backend = open_backend(DEFAULT, cpu.bundle)
    monkeypatch.setattr(onnx, "Bound", counted)
    feeds = a_step(cpu, 3, 0)
    backend.warm_up("filter", feeds)
    backend.warm_up("filter", feeds)
    assert len(made) == 1 and len(backend._bound) == 1
    for particles in (3, 2):
        given = a_step(cpu, particles, 9)
        left, right = cpu.run("filter", given), backend.run("filter", given)
        assert all(left[name].tobytes() == right[name].tobytes() for name in left)
    assert len(made) == 1


def test_threads_that_share_bound_buffers_do_not_mix_them_up(cpu):
    backend = open_backend(DEFAULT, cpu.bundle)
    feeds = [a_step(cpu, 3, seed) for seed in range(8)]
    plain = [cpu.run("filter", one) for one in feeds]
    backend.warm_up("filter", feeds[0])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: backend.run("filter", feeds[at % 8]), range(400)))
    for at, outputs in enumerate(found):
        assert all(outputs[name].tobytes() == plain[at % 8][name].tobytes() for name in outputs)


# Parity


def test_a_session_agrees_with_itself_and_a_last_bit_is_within_tolerance(cpu, device):
    session, _ = device()
    forced = parity.teacher_forced(cpu, session, ticks=30, particles=3)
    assert forced.passed and 1e-7 < forced.worst["deter"] < 1e-6 and forced.worst["tokens_camera"] == 0
    free = parity.free_run(cpu, session, ticks=30, particles=3)
    assert free.passed and 0 < free.worst < 1e-3


def test_an_error_of_a_thousandth_and_a_wrong_sample_are_found(cpu, device, monkeypatch):
    session, _ = device()
    real = Vanishing.run

    def wrong(self, graph, feeds):
        outputs = real(self, graph, feeds)
        if "next_stoch" in outputs:
            outputs["prior"] = outputs["prior"] + np.float32(1e-3)
            outputs["next_stoch"] = (outputs["next_stoch"] + 1) % session.latent.classes
        return outputs

    monkeypatch.setattr(Vanishing, "run", wrong)
    forced = parity.teacher_forced(cpu, session, ticks=5, particles=2)
    assert not forced.passed and forced.different == forced.samples - forced.near
    assert forced.worst["prior"] == pytest.approx(1e-3, rel=0.01)
    free = parity.free_run(cpu, session, ticks=20, particles=2)
    assert free.first_difference == 0 and free.apart == 1.0


@pytest.mark.parametrize("output", ["next_deter", "target_package_std", "surprise", "tokens"])
def test_a_nan_passes_nowhere(cpu, device, monkeypatch, output):
    """Of one backend alone, in one call only: what is compared later must not hide it."""
    session, _ = device()
    real, spoilt = Vanishing.run, []

    def wrong(self, graph, feeds):
        outputs = real(self, graph, feeds)
        if output in outputs and not spoilt:
            spoilt.append(graph)
            outputs[output] = np.full_like(outputs[output], np.nan)
        return outputs

    monkeypatch.setattr(Vanishing, "run", wrong)
    forced = parity.teacher_forced(cpu, session, ticks=5, particles=2)
    if output != "surprise":  # a statistic of the free run alone
        assert spoilt and not forced.passed
    spoilt.clear()
    if output != "tokens":  # a free run compares the steps alone
        free = parity.free_run(cpu, session, ticks=5, particles=2)
        assert spoilt and (not free.passed or output == "next_deter")


def test_samples_at_an_edge_are_counted_not_compared(cpu):
    latent = cpu.latent
    drawn = np.full((2, latent.stoch), 0.5, np.float32)
    step = cpu.predict(initial_state(latent, 2), np.zeros(6, np.float32), True, drawn)
    edge = np.cumsum(step.prior, -1)[1, 3, 2]
    drawn[1, 3] = edge
    clear = parity.clear_of_edges(latent, step, drawn)
    assert not clear[1, 3] and clear.sum() >= clear.size - 4


def test_a_fallback_says_what_computes_now(cpu):
    one = Vanishing(cpu.bundle, until=1)
    both = Fallback(one, open_backend(DEFAULT, cpu.bundle))
    assert (both.name, both.device, both.tolerance) == ("pretended", "cuda", 1e-5)
    feeds = {"value": np.zeros((1, 2), np.float32)}
    both.run("encode_odom", feeds)
    assert not both.lost
    both.run("encode_odom", feeds)
    assert (both.name, both.device) == (DEFAULT, "cpu")
    assert both.lost.startswith("cuda is lost: pretended failed in encode_odom (CUDA failure 719")
