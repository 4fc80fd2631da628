"""A bundle proves itself on loading, and says what is wrong where it cannot."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from rssm_ros.bundle import STEPS, BundleError, sha256_of
from rssm_ros.contract import find_contract
from rssm_ros.online import noise
from rssm_ros.online.filter import Filter
from rssm_ros.online.golden import compare_golden
from rssm_ros.online.session import Session
from rssm_ros.online.steps import State, initial_state
from test.bundles import tiny_bundle

CONTRACT = find_contract("manipulator")
TICK = 50_000_000


@pytest.fixture(scope="module")
def session():
    return Session(tiny_bundle())


@pytest.fixture
def broken(tmp_path):
    return shutil.copytree(tiny_bundle(), tmp_path / "bundle")


def sign_again(folder, name):
    """Makes the manifest agree with a changed file: what is left to find it is the proof itself."""
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = sha256_of(folder / name)
    path.write_text(json.dumps(manifest))


def made_up(tick):
    draw = np.random.default_rng(tick)
    return {
        "camera": draw.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        "odom": draw.normal(size=2).astype(np.float32),
        "joints": draw.normal(size=8).astype(np.float32),
    }


def drive(filter_, ticks, start=20, skip=()):
    beliefs = []
    for tick in range(start, start + ticks):
        filter_.advance(tick * TICK)
        for name, value in made_up(tick).items():
            if (tick, name) not in skip:
                filter_.observe(name, tick * TICK, value)
        beliefs += filter_.advance(tick * TICK + 26_000_000)
        filter_.applied(tick * TICK + 1, CONTRACT.low + 0.3)
    return beliefs


def same(left, right):
    return left.deter.tobytes() == right.deter.tobytes() and left.stoch.tobytes() == right.stoch.tobytes()


@pytest.mark.parametrize("particles", [1, 4])
def test_late_and_shuffled_data_give_bitwise_the_same_beliefs(session, particles):
    steady = drive(Filter(session, CONTRACT, particles), 25)
    late = Filter(session, CONTRACT, particles)
    hidden = {(tick, name) for tick in range(26, 40) for name in ("camera", "joints")}
    drive(late, 24, skip=hidden)
    for tick, name in sorted(hidden, key=lambda item: hash(item[1]) + item[0] * 7 % 5):
        assert late.observe(name, tick * TICK, made_up(tick)[name]) == "accepted"
    (last,) = drive(late, 1, start=44)
    assert same(last, steady[-1])
    ring = {belief.tick: belief for belief in late.revised()}
    assert all(same(ring[belief.tick], belief) for belief in steady if belief.tick in ring)


def test_a_saved_state_of_a_real_model_continues_bitwise(session):
    first = Filter(session, CONTRACT, 2, seed=5)
    drive(first, 10)
    second = Filter(session, CONTRACT, 2)
    second.load_state(first.save_state())
    left, right = drive(first, 5, start=30), drive(second, 5, start=30)
    assert all(same(a, b) for a, b in zip(left, right, strict=True))


def test_nothing_seen_is_what_predict_says_bitwise(session):
    filter_ = Filter(session, CONTRACT, 4)
    beliefs = drive(filter_, 5)
    ahead = filter_.ahead(beliefs[-1])
    (unseen,) = drive(filter_, 1, start=25, skip={(25, name) for name in ("camera", "odom", "joints")})
    assert same(unseen, ahead) and np.isnan(unseen.surprise)
    assert unseen.prior_entropy == unseen.posterior_entropy


def test_step_with_nothing_present_is_predict(session):
    """The graph's own mask, behind the filter's short cut."""
    latent = session.latent
    draw = np.random.default_rng(0)
    state = State(
        draw.uniform(-1, 1, (3, latent.deter)).astype(np.float32),
        draw.integers(0, latent.classes, (3, latent.stoch)),
    )
    uniforms = noise.uniforms(0, 1, 3, latent.stoch)
    action = np.zeros(6, np.float32)
    step = session.step(state, action, {}, False, uniforms)
    predicted = session.predict(state, action, False, uniforms)
    np.testing.assert_array_equal(step.posterior, step.prior)
    np.testing.assert_array_equal(step.surprise, 0)
    np.testing.assert_allclose(step.prior, predicted.prior, atol=1e-6)


def test_a_first_step_forgets_state_and_action(session):
    latent = session.latent
    uniforms = noise.uniforms(0, 1, 2, latent.stoch)
    fresh = session.predict(initial_state(latent, 2), np.zeros(6, np.float32), True, uniforms)
    dirty = State(np.full((2, latent.deter), np.nan, np.float32), np.ones((2, latent.stoch), np.int64))
    again = session.predict(dirty, np.full(6, np.nan, np.float32), True, uniforms)
    assert again.state.deter.tobytes() == fresh.state.deter.tobytes()


def test_particles_agree_with_one_particle_up_to_rounding(session):
    one, many = drive(Filter(session, CONTRACT, 1), 1), drive(Filter(session, CONTRACT, 8), 1)
    np.testing.assert_allclose(many[0].deter[0], one[0].deter[0], atol=1e-5)
    np.testing.assert_array_equal(many[0].stoch[0], one[0].stoch[0])


def test_the_surprise_threshold_is_per_presence_pattern(session):
    assert session.bundle.surprise_threshold(["odom", "camera", "joints"]) == 3.5
    assert np.isnan(session.bundle.surprise_threshold(["odom"]))


def test_every_output_is_in_the_proof(session):
    found = {(item.graph, item.output) for item in compare_golden(session.bundle.folder, session.run)}
    for graph in (*STEPS, "encode_camera", "encode_odom", "encode_joints"):
        assert {(graph, output) for output in session.outputs(graph)} <= found


# What is wrong, and where


def test_a_missing_bundle_says_what_to_do(tmp_path):
    with pytest.raises(BundleError, match=r"nothing: there is no such bundle.*rssm export"):
        Session(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["filter.onnx", "weights.bin", "golden.npz", "encode_camera.onnx"])
def test_a_missing_file_is_named(broken, name):
    (broken / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: is missing"):
        Session(broken)


@pytest.mark.parametrize("name", ["filter.onnx", "weights.bin", "golden.npz"])
def test_one_flipped_bit_is_found_and_named(broken, name):
    raw = bytearray((broken / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (broken / name).write_bytes(raw)
    with pytest.raises(BundleError, match=rf"{name}: is damaged"):
        Session(broken)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "schema"),
        ('{"schema": 99}', "schema is 99"),
        ('{"schema": 1}', "misses"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(broken, text, message):
    (broken / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=message):
        Session(broken)


def test_a_missing_manifest_says_so(broken):
    (broken / "bundle.json").unlink()
    with pytest.raises(BundleError, match=r"bundle.json: cannot be read"):
        Session(broken)


def test_a_contract_inside_that_is_wrong_is_a_bundle_error(broken):
    path = broken / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["contract"]["rate"] = -1
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"bundle.json: contract: rate"):
        Session(broken)


def test_other_weights_with_honest_hashes_fail_the_proof_by_name(broken):
    raw = np.fromfile(broken / "weights.bin", np.uint8)
    weights = raw[: len(raw) // 4 * 4].view(np.float32)
    weights[len(weights) // 3 :] *= np.float32(1.01)
    raw.tofile(broken / "weights.bin")
    sign_again(broken, "weights.bin")
    with pytest.raises(
        BundleError, match=r"\.onnx does not compute here.*output '\w+' differs by [\d.e+-]+ \(allowed"
    ):
        Session(broken)


def test_a_golden_record_that_differs_names_output_and_size(broken):
    with np.load(broken / "golden.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["filter/1/out/next_deter"][0, 3] += 0.25
    np.savez_compressed(broken / "golden.npz", **arrays)
    sign_again(broken, "golden.npz")
    with pytest.raises(BundleError, match=r"filter.onnx .*'next_deter' differs by 0.25 .*case 1, and 0 more"):
        Session(broken)


def test_one_other_sample_is_a_mismatch(broken):
    with np.load(broken / "golden.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["predict/0/out/next_stoch"][0, 0] ^= 1
    np.savez_compressed(broken / "golden.npz", **arrays)
    sign_again(broken, "golden.npz")
    with pytest.raises(BundleError, match=r"predict.onnx .*'next_stoch' differs by 1 \(allowed 0\)"):
        Session(broken)


def test_a_graph_of_other_sizes_is_named_with_its_input(broken):
    path = broken / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["latent"]["deter"] = 48
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"filter.onnx: input 'deter' is tensor\(float\).*32.*expected.*48"):
        Session(broken)


def test_something_that_is_no_graph_is_named(broken):
    (broken / "actor.onnx").write_bytes(b"not a graph")
    sign_again(broken, "actor.onnx")
    with pytest.raises(BundleError, match=r"actor.onnx: onnxruntime refuses it"):
        Session(broken)


@pytest.mark.parametrize("own_tokens", [True, False], ids=["one call", "a bundle of before"])
def test_steps_apart_are_single_steps_of_their_own(session, own_tokens, monkeypatch):
    """Five rows, each with another state, action and presence: what `step` and `predict` give each alone."""
    rows, latent, draw = 5, session.latent, np.random.default_rng(3)
    state = State(
        draw.standard_normal((rows, latent.deter), np.float32),
        draw.integers(0, latent.classes, (rows, latent.stoch)),
    )
    actions = draw.uniform(-1, 1, (rows, latent.action)).astype(np.float32)
    tokens = {m: draw.standard_normal((rows, size), np.float32) for m, size in latent.tokens.items()}
    presence = {m: np.arange(rows) % 3 != at for at, m in enumerate(tokens)}
    for name in presence:
        presence[name][-1] = False
    drawn = noise.draw(latent, 0, 7, rows)
    monkeypatch.setattr(
        session, "bundle", replace(session.bundle, latent=replace(latent, own_tokens=own_tokens))
    )
    calls = []
    run = session.run
    monkeypatch.setattr(session, "run", lambda name, feeds: calls.append(name) or run(name, feeds))
    found = session.step_apart(state, actions, tokens, presence, False, drawn)
    assert calls == ["filter"] * (1 if own_tokens else rows)
    for at in range(rows):
        one, row = State(state.deter[at : at + 1], state.stoch[at : at + 1]), slice(at, at + 1)
        seen = {m: value[row] for m, value in tokens.items() if presence[m][at]}
        assert bool(seen) == (at < rows - 1), "the last one sees nothing"
        if seen:
            alone = session.step(one, actions[at], seen, False, drawn[row])
        else:
            alone = session.predict(one, actions[at], False, drawn[row])
        np.testing.assert_allclose(found.state.deter[row], alone.state.deter, atol=1e-5)
        np.testing.assert_allclose(
            found.posterior[row], alone.prior if alone.posterior is None else alone.posterior, atol=1e-5
        )
        for name, target in alone.targets.items():
            np.testing.assert_allclose(found.targets[name].mean[row], target.mean, atol=1e-5)


def test_the_proof_holds_a_step_of_rows_with_tokens_of_their_own(session):
    arrays = np.load(session.bundle.folder / "golden.npz")
    rows = [a for n, a in arrays.items() if n.startswith("filter/") and "/in/presence_" in n and len(a) > 1]
    assert len(rows) == len(session.latent.tokens) and not np.array_equal(rows[0], rows[1])
