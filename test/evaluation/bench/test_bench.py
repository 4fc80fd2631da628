"""The benchmarks' arithmetic and form. Nothing here looks at how long anything took."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rssm_ros.cli import bench as bench_command
from rssm_ros.cli import main
from rssm_ros.evaluation.bench import costs, page, peaks, suite, ticks, training
from rssm_ros.evaluation.bench.models import camera_contract, untrained
from rssm_ros.evaluation.bench.rows import Floor, Part, Row, floor, scaled, size_of
from rssm_ros.evaluation.bench.setting import Bench, Request
from rssm_ros.evaluation.bench.timing import Effort, Timing, measure
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.online.session import Session
from rssm_ros.training.learner import Learner
from rssm_ros.training.machine import compile_parts
from rssm_ros.training.options import Options
from rssm_ros.world_model import Signals, WorldModel, preset
from rssm_ros.world_model.tracking import Tracker
from test.bundles import tiny_bundle

KEYS = {"name", "size", "variant", "batch", "threads", "backend", "device", "dtype"}
KEYS |= {"median_ms", "p99_ms", "repeats", "floor_ms", "floor_by", "versions"}
QUICK = Request(size="debug", seconds=0.0, repeats=1, batch=2, length=3, starts=2, horizon=2)


class Known:
    """A machine of 100 GFLOP/s, half of it with torch's own product, and 25 GB/s."""

    def operations(self, dtype: str) -> dict[str, float]:
        return {"torch": 50e9, "onednn": 100e9}

    def bandwidth(self, size: int) -> float:
        return 25e9


class Machine(Known):
    """The same, in place of `Peaks`."""

    def finish(self) -> None:
        """There is nothing to wait for."""


def size12m(conv: str) -> WorldModel:
    return untrained("size12m", conv, camera_contract()).world_model


@pytest.fixture(autouse=True)
def _machine_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark sets threads and denormals for the whole process; other tests want them as they were."""
    monkeypatch.setattr("rssm_ros.evaluation.bench.setting.prepare", lambda threads: None)


@pytest.mark.parametrize(("conv", "millions"), [("strided", 18.9), ("exact", 75.4)])
def test_convolutions_cost_what_they_are_known_to_cost(conv: str, millions: float) -> None:
    """19 M and 75 M multiply-adds a frame each way at size12m; the decoder has two linear layers besides."""
    model = size12m(conv)
    there = costs.multiply_adds(costs.encoder_parts(model.encoders["camera"], "encode"))
    back = [
        part for part in costs.decoder_parts(model.image_decoders["camera"], "decode") if ".conv" in part.name
    ]
    assert there / 1e6 == pytest.approx(millions, abs=0.1)
    assert costs.multiply_adds(back) == there


def test_a_rollout_of_15_x_1024_is_155_billion_operations() -> None:
    parts = costs.rollout_parts(size12m("strided"), 1024, 15)
    assert 2 * costs.multiply_adds(parts) / 1e9 == pytest.approx(155, abs=0.5)


def test_a_filter_step_reads_33_megabytes() -> None:
    model = size12m("strided")
    parts = costs.encoder_parts(model.encoders["camera"], "encode") + costs.filter_parts(model)
    assert 4 * costs.weights(parts) / 1e6 == pytest.approx(33, abs=0.5)


@pytest.mark.parametrize("conv", ["strided", "exact"])
@pytest.mark.parametrize("posterior", ["concat", "product"])
def test_counts_agree_with_torch(conv: str, posterior: str) -> None:
    """Torch counts what really runs: tokens, one tick, heads, and what is decoded."""
    sizes = replace(preset("debug", conv=conv), posterior=posterior)
    model = WorldModel(Signals((("odom", 3),), (("camera", (32, 64, 3)),), 2, (("goal", 2),)), sizes)
    seen = {"camera": torch.zeros(1, 32, 64, 3, dtype=torch.uint8), "odom": torch.zeros(1, 3)}
    here = {name: torch.ones(1, dtype=torch.bool) for name in seen}
    state, first = model.initial_state(1), torch.zeros(1, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokens = {name: model.encode(name, value) for name, value in seen.items()}
        noise = model.rssm.latent.noise(1)
        state, _, _ = model.obs_step(state, torch.zeros(1, 2), tokens, here, first, noise)
        model.predict_reward(state.features)
        model.predict_continue(state.features)
        model.predict_target(state.features)
        model.decode(state.features)
        model.decode_vectors(state.features)
    parts = costs.filter_parts(model)
    parts += [part for name, module in model.encoders.items() for part in costs.encoder_parts(module, name)]
    for decoders in (model.image_decoders, model.vector_decoders):
        parts += [part for name, module in decoders.items() for part in costs.decoder_parts(module, name)]
    assert sum(part.operations for part in parts) == counter.get_total_flops()


def test_a_tracker_is_counted_as_torch_counts_it() -> None:
    model = size_of_tiny()
    tracker = Tracker(model)
    maps = model.encoders["camera"].maps(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    heads = (torch.zeros(1, tracker.numbers), torch.ones(1, tracker.numbers))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        said = tracker.detector.likeliest(tracker.detector(maps))
        seen = tracker.unseen()._replace(detections=said)
        tracker(tracker.initial(1), torch.zeros(1, model.sizes.features), heads, torch.zeros(1, 6), seen)
    assert sum(part.operations for part in costs.tracker_parts(tracker)) == counter.get_total_flops()
    one, many = (costs.tracker_parts(tracker, particles) for particles in (1, 32))
    often = {a.name for a, b in zip(one, many, strict=True) if b.operations == 32 * a.operations}
    assert {part.name for part in one} - often == {
        part.name for part in one if part.name.startswith("encode.") or ".felt." in part.name
    }
    assert costs.tracker_parts(None) == []


@pytest.mark.parametrize("particles", [1, 7])
def test_an_update_is_counted_as_torch_counts_it(particles: int) -> None:
    """Within what torch does on top: input gradients of the first layers of heads that need none."""
    request, sizes = QUICK, preset("debug", conv="strided")
    signals = Signals.from_contract(camera_contract())
    options = Options(preset="debug", autocast=False, particles=particles)
    learner = Learner(signals, sizes, options)
    batch = training.made_up(signals, request.batch, request.length)
    with FlopCounterMode(display=False) as counter:
        loss = learner(batch, None, torch.Generator().manual_seed(0), False).loss
        torch.autograd.grad(loss, [p for _, p in learner.trained()], allow_unused=True)
    parts = costs.training_parts(
        learner.world_model, learner.actor, request.batch, request.length, options.particles
    )
    counted = sum(part.operations for part in parts)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.001)
    assert counted < sum(part.operations for part in scaled(parts, 2))


def test_a_floor_is_the_larger_of_arithmetic_and_bytes_layer_by_layer() -> None:
    wide = Part("conv.a", 10**8, 10**6)  # 2 ms of arithmetic, 0.16 ms of bytes
    deep = Part("core.b", 10**7, 10**7)  # 0.2 ms of arithmetic, 1.6 ms of bytes
    found = floor([wide, deep], 100e9, 25e9, "float32")
    groups = {"conv": pytest.approx(2.0), "core": pytest.approx(1.6)}
    assert found == Floor(pytest.approx(3.6), "compute", groups)
    assert size_of([wide, deep], "float32") == 4 * (10**6 + 10**7)
    often = floor(scaled([deep], 1, 3), 100e9, 25e9, "bfloat16")
    assert (often.ms, often.by) == (pytest.approx(3 * 0.8), "bandwidth")
    assert size_of(scaled([deep], 1, 3), "bfloat16") == 2 * 10**7


def test_particles_share_the_tokens() -> None:
    model = size12m("strided")
    one, many = ({part.name: part for part in costs.filter_parts(model, particles)} for particles in (1, 32))
    assert one.keys() == many.keys()
    assert many[costs.TOKENS] == one[costs.TOKENS]
    for name in one.keys() - {costs.TOKENS}:
        assert many[name].operations == 32 * one[name].operations
        assert many[name].weights == one[name].weights


def test_a_measurement_ends_and_says_how_often_it_called() -> None:
    calls: list[int] = []
    timing = measure(lambda: calls.append(0), Effort(repeats=5, seconds=60.0, warmup=2))
    assert (len(calls), timing.repeats) == (7, 5)
    assert timing.best_ms <= timing.median_ms <= timing.p99_ms
    assert measure(lambda: calls.append(0), Effort(repeats=5, seconds=0.0, warmup=0)).repeats == 1


def test_rows_of_rollout_and_training_have_the_documented_form(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(QUICK)
    monkeypatch.setattr(bench.peaks, "operations", Known().operations)
    monkeypatch.setattr(bench.peaks, "bandwidth", Known().bandwidth)
    found = suite.measure_all(bench, ["rollout", "train"])
    assert [(row.variant, row.dtype) for row in found["rollout"]] == [
        ("core", "float32"),
        ("core", "bfloat16"),
    ]
    kinds = [(conv, dtype) for conv in ("strided", "exact") for dtype in ("float32", "bfloat16")]
    assert [(row.variant, row.dtype) for row in found["train"]] == kinds
    for row in (row for rows in found.values() for row in rows):
        told = json.loads(json.dumps(row.to_dict()))
        assert told.keys() >= KEYS
        assert (told["size"], told["threads"], told["device"]) == ("debug", 1, "cpu")
        assert told["floor_ms"] == pytest.approx(sum(told["parts"]["floors_ms"].values()))
        assert told["floor_ms"] <= told["floor_torch_ms"] <= 2.0 * told["floor_ms"]
        assert told["ratio"] == pytest.approx(told["median_ms"] / told["floor_ms"])
        assert told["versions"]["torch"] and told["machine"]["cores"] >= 1
    assert {"forward", "backward", "optimizer", "encoder", "recurrence", "decoder"} <= found["train"][
        0
    ].parts.keys()


@pytest.mark.filterwarnings("default")  # torch.compile looks at what it warns of
def test_training_is_measured_compiled_too_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced only: the C++ compiler takes a minute."""
    compiled: list[str] = []

    def compile_some(learner: Learner) -> None:
        compiled.append("update")
        compile_parts(learner, backend="eager")

    monkeypatch.setattr(training, "compile_parts", compile_some)
    bench = Bench(replace(QUICK, compile=True, convolutions=("strided",), dtypes=("float32",)))
    monkeypatch.setattr(bench.peaks, "operations", Known().operations)
    monkeypatch.setattr(bench.peaks, "bandwidth", Known().bandwidth)
    found = suite.measure_all(bench, ["train"])["train"]
    assert [row.backend for row in found] == ["torch", "torch.compile"] and compiled == ["update"]
    assert [page.cells(row)[2] for row in found] == ["strided", "strided, compiled"]
    assert "peak_memory_gb" not in found[1].parts  # a GPU's


@pytest.mark.parametrize("variant", ["concat", "tracked"])
def test_rows_of_the_filter_name_every_case(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    """Sizes, convolutions, particles, the bundle, a replay of the whole window, and images."""
    monkeypatch.setattr(ticks, "SMALL", "debug")
    bench = Bench(replace(QUICK, bundle=tiny_bundle(variant), convolutions=("strided",)))
    monkeypatch.setattr(bench.peaks, "operations", Known().operations)
    monkeypatch.setattr(bench.peaks, "bandwidth", Known().bandwidth)
    monkeypatch.setattr(ticks, "described", lambda session: size_of_tiny())
    found = {(row.name, row.size, row.variant, row.batch): row for row in ticks.rows(bench)}
    assert ("filter", "debug", "core", 1) in found
    for size in ("debug", "tiny"):
        for particles in (1, ticks.PARTICLES):
            assert {"encode", "step", "floors_ms"} <= found["filter", size, "strided", particles].parts.keys()
    replayed = found["replay_40", "tiny", "strided", 1]
    assert replayed.parts["replayed_per_call"] == pytest.approx(39, abs=1)
    assert found["preprocess", "640 x 480", "area", 1].floor_ms is None


def size_of_tiny() -> WorldModel:
    from rssm_ros.contract import find_contract

    return WorldModel(Signals.from_contract(find_contract("manipulator")), preset("debug"))


def test_a_bundle_that_does_not_say_its_sizes_is_named() -> None:
    with pytest.raises(EvaluationError, match="sizes"):
        ticks.described(Session(tiny_bundle(), prove=False))


def row(name: str, size: str, variant: str, batch: int, ms: float, floor_ms: float | None = None) -> Row:
    machine = {"cpu": "a processor", "cores": 2, "load_1min": 0.5}
    told = {"name": name, "size": size, "variant": variant, "batch": batch, "dtype": "float32"}
    return Row(
        **told, threads=1, backend="onnxruntime", device="cpu", median_ms=ms, p99_ms=2.5 * ms, repeats=3,
        floor_ms=floor_ms, floor_by="bandwidth", versions={"torch": "1"}, machine=machine,
    )  # fmt: skip


def test_the_command_names_every_benchmark_there_is() -> None:
    assert tuple(suite.SUITE) == bench_command.NAMES


def test_the_page_judges_against_the_goals() -> None:
    rows = [
        row("filter", "size12m", "strided", 1, 1.9, 1.7),
        row("filter", "size12m", "strided", 32, 9.5),
        row("filter", "size12m", "exact", 1, 3.2, 2.0),
        row("filter", "manipulator", "strided", 1, 0.5),
    ]
    text = page.page({"filter": rows})
    assert "| <= 2: met |" in text and "| <= 3.1: missed |" in text
    assert page.judged(replace(rows[2], cpu_ms=1.0)) == "<= 3.1: busy"
    assert page.judged(replace(rows[2], cpu_ms=3.0)) == "<= 3.1: missed"
    assert "32 particles / 1, size12m strided: 5.0 x (<= 4.5: missed)" in text
    assert "size12m strided / floor: 1.12 x (<= 1.2: met)" in text
    assert "size12m exact / floor: 1.60 x (<= 1.2: missed)" in text
    assert "p99 / median, manipulator: 2.50 x (<= 2: missed)" in text
    assert "2 cores, a processor" in text and "torch 1" in text


def test_nothing_is_judged_from_busy_rows() -> None:
    """Once "32 / 1: 1.0 x met" came from one particle's row that another program had slowed down."""
    slow = replace(row("filter", "size12m", "strided", 1, 1.9, 1.7), cpu_ms=1.0)
    many = replace(row("filter", "size12m", "strided", 32, 1.9), cpu_ms=1.9)
    small = replace(row("filter", "manipulator", "strided", 1, 0.5), cpu_ms=0.2, p99_ms=0.6)
    text = page.page({"filter": [slow, many, small]})
    assert "32 particles / 1, size12m strided: 1.0 x (<= 4.5: busy)" in text
    assert "size12m strided / floor: 1.12 x (<= 1.2: busy)" in text
    assert "p99 / median, manipulator: 1.20 x (<= 2: busy)" in text
    assert "met" not in text.split("## filter")[1]
    other = page.ratios([replace(slow, cpu_ms=1.9), replace(many, cpu_ms=1.0)])
    assert any("strided: 1.0 x (<= 4.5: busy)" in line for line in other)


def test_peaks_are_of_the_best_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a bandwidth was a median, a product's peak a best: under load floors rose, ratios looked good."""
    timing = Timing(median_ms=8.0, p99_ms=9.0, cpu_ms=8.0, repeats=3, best_ms=2.0)
    monkeypatch.setattr(peaks, "measure", lambda *_: timing)
    monkeypatch.setattr(peaks, "READ", 1 << 20)
    monkeypatch.setattr(peaks, "EDGES", {"cpu": (8,)})
    found = peaks.Peaks(torch.device("cpu"), 1)
    assert found.bandwidth(4_000_000) == pytest.approx(2e9)
    about = {"threads": 1, "device": "cpu"}
    rates = {made.name: made.rate for made in peaks.rows(found, about, sizes=(4,))}
    assert rates["matrix_vector"] == pytest.approx(2e9)
    assert rates["read"] == pytest.approx((1 << 20) / 2e-3)
    assert rates["matmul"] == pytest.approx(2 * 8**3 / 2e-3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["flter"], "no benchmark 'flter'"),
        (["train", "--batch", "0"], "batch is 0"),
        (["rollout", "--size", "size13m"], "preset 'size13m' is unknown"),
        (["filter", "--bundle", "no/such/bundle", "--size", "debug"], "no/such/bundle"),
    ],
)
def test_a_wrong_request_is_refused_in_words(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["bench", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["bench", "rollout", "--device", "cuda"]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_json_is_a_list_and_the_page_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rssm_ros.evaluation.bench.setting.Peaks", lambda device, threads: Machine())
    file = tmp_path / "new" / "page.md"
    words = [
        "rollout",
        "--size",
        "debug",
        "--starts",
        "2",
        "--horizon",
        "2",
        "--seconds",
        "0",
        "--repeats",
        "1",
    ]
    assert main.main(["bench", *words, "--json", "--page", str(file)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
    assert "## rollout" in file.read_text()
