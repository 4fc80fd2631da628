"""`rssm bench filter`: one tick as the robot computes it, onnxruntime and numpy included."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros import paths
from rssm_ros.contract import Contract, ObservationSpec
from rssm_ros.evaluation.bench.costs import encoder_parts, filter_parts, tracker_parts
from rssm_ros.evaluation.bench.models import camera_contract, core_graph, temporary_bundle
from rssm_ros.evaluation.bench.rows import Row
from rssm_ros.evaluation.bench.setting import Bench
from rssm_ros.evaluation.bench.soak import Robot, soak
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.online import noise
from rssm_ros.online.backends.backend import DEFAULT
from rssm_ros.online.filter import Filter
from rssm_ros.online.grid import stamp_of, tick_of
from rssm_ros.online.preprocess import prepare
from rssm_ros.online.session import Session
from rssm_ros.online.steps import initial_state
from rssm_ros.world_model import Signals, Sizes, WorldModel
from rssm_ros.world_model.tracking import Tracker

Array = npt.NDArray[Any]
PARTICLES = 32
SMALL = "size1m"
RAW = (480, 640, 3)  # of a camera


class Tick:
    """A session with one observation of everything, ready to be stepped."""

    def __init__(self, session: Session, particles: int = 1) -> None:
        self.session, latent = session, session.latent
        self.seen = {spec.name: made_up(spec) for spec in session.bundle.contract.observations}
        self.state = initial_state(latent, particles)
        self.action = np.zeros(latent.action, np.float32)
        self.noise = noise.draw(latent, 0, 1, particles)
        self.tokens = self.encode()

    def encode(self) -> dict[str, Array]:
        """Every observation's tokens."""
        return {name: self.session.encode(name, value) for name, value in self.seen.items()}

    def step(self) -> None:
        """Predict and correct, from tokens."""
        self.session.step(self.state, self.action, self.tokens, False, self.noise)

    def whole(self) -> None:
        """Observations in, all outputs out."""
        self.session.step(self.state, self.action, self.encode(), False, self.noise)


def rows(bench: Bench) -> list[Row]:
    """All rows of the filter."""
    if bench.device.type != "cpu":
        raise EvaluationError("bench filter: --device is torch's; say --backend, e.g. onnxruntime-cuda")
    shipped = bench.request.bundle or paths.share_path("models", "manipulator")
    backend = bench.request.backend
    # First: the bundle, or the backend, may not be there.
    session = Session(shipped, bench.request.threads, prove=False, backend=backend)
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rssm-bench-") as made:
        for size in dict.fromkeys((bench.request.size, SMALL)):
            for conv in bench.request.convolutions:
                found += _preset(bench, size, conv, Path(made), core=not found and backend == DEFAULT)
    world_model = described(session)
    conv = world_model.sizes.conv
    tracker = Tracker(world_model) if session.latent.track else None
    found += _steps(bench, world_model, session, session.bundle.name, conv, tracker)
    found += _replay(bench, session, conv)
    if bench.request.steps:
        found.append(_soak(bench, session, conv))
    return found + _images(bench, session.bundle.contract)


def _preset(bench: Bench, size: str, conv: str, folder: Path, core: bool) -> list[Row]:
    """An untrained model of a preset as a bundle; its core by itself where asked for."""
    backend = bench.request.backend
    model, place = temporary_bundle(
        size, conv, camera_contract(), folder, torchscript=backend.startswith("torchscript")
    )
    session = Session(place, bench.request.threads, prove=False, backend=backend)
    found = [_core(bench, model.world_model, session, folder)] if core else []
    return found + _steps(bench, model.world_model, session, size, conv)


def described(session: Session) -> WorldModel:
    """An untrained model of a bundle's sizes: for its shapes."""
    told = session.bundle.training.get("sizes")
    if not isinstance(told, dict):
        raise EvaluationError(f"{session.bundle.folder}: does not say its sizes; export the bundle again")
    return WorldModel(Signals.from_contract(session.bundle.contract), Sizes.from_dict(told))


def made_up(spec: ObservationSpec) -> Array:
    """An observation in the contract's form."""
    random = np.random.default_rng(0)
    if spec.kind == "image":
        return random.integers(0, 256, spec.shape, np.uint8)
    return random.standard_normal(spec.shape, np.float32)


def _core(bench: Bench, model: WorldModel, session: Session, folder: Path) -> Row:
    """Tokens in, prior and posterior out: the graph alone."""
    graph = core_graph(model, folder, bench.request.threads)
    tick = Tick(session)
    feeds: dict[str, Array] = {"deter": tick.state.deter, "stoch": tick.state.stoch, "noise": tick.noise}
    feeds |= {"action": tick.action[None], "is_first": np.zeros(1, np.bool_)}
    for name, tokens in tick.tokens.items():
        feeds |= {f"tokens_{name}": tokens, f"presence_{name}": np.ones(1, np.bool_)}
    used = {item.name: feeds[item.name] for item in graph.get_inputs()}
    timing = bench.time(lambda: graph.run(None, used))
    return bench.row("filter", "core", 1, timing, filter_parts(model, heads=False), backend=DEFAULT)


def _steps(
    bench: Bench, model: WorldModel, session: Session, size: str, conv: str, tracker: Tracker | None = None
) -> list[Row]:
    """Observations in, all outputs out, for one particle and for many."""
    seen = [part for name, encoder in model.encoders.items() for part in encoder_parts(encoder, "encode")]
    found = []
    for particles in (1, PARTICLES):
        session.warm_up(particles)
        tick = Tick(session, particles)
        parts = seen + filter_parts(model, particles) + tracker_parts(tracker, particles)
        timing = bench.time(tick.whole)
        where = {"encode": bench.time(tick.encode).to_dict(), "step": bench.time(tick.step).to_dict()}
        told: dict[str, Any] = {"size": size, **_computed_by(session)}
        found.append(bench.row("filter", conv, particles, timing, parts, **told, where=where))
    return found


def _computed_by(session: Session) -> dict[str, Any]:
    """For a row: the backend, and its device."""
    return {"backend": session.backend, "device": session.device}


def _replay(bench: Bench, session: Session, conv: str) -> list[Row]:
    """Every frame arrives as late as it may: each costs its encoding and a replay of the whole window."""
    contract = session.bundle.contract
    late = next((spec.name for spec in contract.observations if spec.kind == "image"), None)
    if late is None or len(contract.observations) < 2:
        return []
    ticks = contract.history_ticks
    filter_ = Filter(session, contract)
    seen = {spec.name: made_up(spec) for spec in contract.observations}
    wait_ns = contract.patience_ns
    tick = tick_of(10**9, contract.rate)

    def arrive() -> None:
        nonlocal tick
        tick += 1
        now = stamp_of(tick, contract.rate) + wait_ns
        for name, value in seen.items():
            if name != late:
                filter_.observe(name, stamp_of(tick, contract.rate), value)
        filter_.observe(late, stamp_of(tick - ticks + 1, contract.rate), seen[late])
        filter_.advance(now)

    for _ in range(ticks + 2):
        arrive()
    before = filter_.counters["replayed"]
    timing = bench.time(arrive)
    calls = timing.repeats + bench.effort().warmup
    where = {"ticks": ticks, "replayed_per_call": (filter_.counters["replayed"] - before) / calls}
    size = session.bundle.name
    return [bench.row(f"replay_{ticks}", conv, 1, timing, size=size, where=where, **_computed_by(session))]


def _soak(bench: Bench, session: Session, conv: str) -> Row:
    """So many ticks in a row: does memory grow?"""
    seen = {spec.name: made_up(spec) for spec in session.bundle.contract.observations}
    robot = Robot(session, seen)
    growth = soak(robot, bench.request.steps)
    timing = bench.time(robot.step)
    size, where = session.bundle.name, growth.to_dict()
    return bench.row(f"soak_{growth.steps}", conv, 1, timing, size=size, where=where, **_computed_by(session))


def _images(bench: Bench, contract: Contract) -> list[Row]:
    """A raw frame of a camera to the contract's size, and, apart from it, the decoding of a JPEG."""
    spec = next((spec for spec in contract.observations if spec.kind == "image"), None)
    if spec is None:
        return []
    height, width, channels = *RAW[:2], spec.shape[2]
    rows_, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([(rows_ + columns) // 5, rows_ // 2, columns // 3], -1)[..., :channels]
    grain = np.random.default_rng(0).integers(0, 16, smooth.shape)
    raw = (smooth % 240 + grain).astype(np.uint8)
    size = f"{width} x {height}"
    resized = bench.time(lambda: prepare(spec, raw))
    found = [bench.row("preprocess", "area", 1, resized, size=size, dtype="uint8", backend="numpy")]
    try:
        import cv2
    except ImportError:
        return found
    data = cv2.imencode(".jpg", raw)[1]
    decoded = bench.time(lambda: cv2.imdecode(data, cv2.IMREAD_UNCHANGED))
    where = {"bytes": len(data)}
    return [
        *found,
        bench.row("decode", "jpeg", 1, decoded, size=size, dtype="uint8", backend="opencv", where=where),
    ]
