"""`rssm evaluate` from end to end on small recordings, and its scorecard's schema."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from rssm_ros.cli.main import main
from rssm_ros.evaluation.compare import PAIRED, Run, compare
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.evaluate import evaluate
from rssm_ros.evaluation.page import tables
from rssm_ros.evaluation.playing.imposed import parse_imposed
from rssm_ros.evaluation.playing.play import How, play
from rssm_ros.evaluation.playing.sources import sources
from rssm_ros.evaluation.scoring.scorecard import Scorecard, read_scorecard
from rssm_ros.evaluation.statistics import Estimate
from test.bundles import tiny_bundle
from test.episodes import smooth_episode

DESIGN_KEYS = {
    "bundle_sha256",
    "bags",
    "seeds",
    "versions",
    "targets",
    "surprise",
    "messages",
    "realtime_factor",
}
TARGET_KEYS = {
    "rmse_m", "rmse_by_hidden_ticks", "ticks_to_reacquire", "nll", "coverage", "std_visibility_corr",
    "baselines", "ratio_to_best_classical", "ratio_to_bayes",
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluation(data, session):
    return evaluate(session, sources([data]), How(2, 5))


def test_the_keys_are_the_designs(evaluation):
    plain = evaluation.scorecard.to_dict()
    assert set(plain) >= DESIGN_KEYS and set(plain["targets"]["package"]) >= TARGET_KEYS
    assert set(plain["targets"]["package"]["rmse_m"]) == {"visible", "partly", "hidden"}
    assert set(plain["targets"]["package"]["rmse_m"]["hidden"]) == {"value", "ci95"}
    assert {"late", "dropped", "duplicate", "out_of_order", "by_topic"} <= set(plain["messages"])
    assert {"p50", "p99", "threshold", "review_events"} <= set(plain["surprise"])
    assert "destination" not in plain["targets"], "nothing says where it was"
    assert any("destination" in note for note in plain["notes"])
    assert not any("privileged baseline is missing" in note for note in plain["notes"])


def test_it_comes_back_as_it_was_written(evaluation, tmp_path):
    evaluation.write(tmp_path)
    card = read_scorecard(tmp_path)
    assert card.to_dict() == evaluation.scorecard.to_dict() == Scorecard.from_dict(card.to_dict()).to_dict()
    with np.load(tmp_path / "trace.npz") as trace:
        ticks = len(trace["t_ns"])
        assert ticks == sum(item.ticks for item in card.episodes) == 240
        assert all(len(trace[name]) == ticks for name in trace.files)
        truth, mean = trace["package/truth"], trace["package/mean"]
        hidden = trace["package/visibility"] <= 0.05
        error = np.sqrt(np.square(mean - truth).sum(-1)[hidden & np.isfinite(truth).all(-1)].mean())
    assert error == pytest.approx(card.targets["package"].errors.by_group["hidden"].value, rel=1e-5)


def test_what_an_honest_deviation_would_correlate_by(evaluation):
    """Told again from the trace, one tick after the other."""
    score, trace = evaluation.scorecard.targets["package"], evaluation.trace
    square = np.square(trace["package/mean"] - trace["package/truth"]).sum(-1)
    variance = np.trace(trace["package/covariance"], axis1=1, axis2=2) / 2
    seen: set[int] = set()
    groups: dict[tuple[str, bool], list[int]] = {}
    for tick, (share, length, number) in enumerate(
        zip(trace["package/visibility"], trace["package/hidden_for"], trace["package/identity"])
    ):
        if share > 0.05:
            seen.add(int(number))
        bins = ((1, "first"), (4, "short"), (8, "longer"), (16, "long"), (np.inf, "longest"))
        name = next(name for most, name in bins if length <= most) if length else f"{share}"
        groups.setdefault((name, bool(length) and int(number) in seen), []).append(tick)
    for name, values in (("honest", square), ("claimed", variance)):
        told = np.zeros(len(square))
        for ticks in groups.values():
            told[ticks] = np.log(values[ticks].mean()) / 2
        found = score.log_std_visibility_corr_by_group[name]
        assert found.value == pytest.approx(np.corrcoef(told, trace["package/visibility"])[0, 1], abs=1e-4)
    log_error, log_std = np.log(square) / 2, np.log(variance) / 2
    expected = np.corrcoef(log_error, log_std)[0, 1]
    assert score.log_std_log_error_corr.value == pytest.approx(expected, abs=1e-4)


def test_a_scorecard_written_before_it_was_measured_is_read(evaluation):
    plain = evaluation.scorecard.to_dict()
    for name in ("log_std_visibility_corr_by_group", "log_std_log_error_corr"):
        assert plain["targets"]["package"].pop(name)
    score = Scorecard.from_dict(plain).targets["package"]
    assert score.log_std_visibility_corr_by_group == {} and score.log_std_log_error_corr is None
    assert not any("by group" in row[0].text for row in tables.others(score).rows)


@pytest.mark.parametrize(
    "damage",
    [lambda d: d.pop("targets"), lambda d: d["targets"]["package"].pop("unit"), lambda d: d.update(schema=9)],
)
def test_a_damaged_scorecard_is_refused_by_name(evaluation, tmp_path, damage):
    plain = evaluation.scorecard.to_dict()
    damage(plain)
    (tmp_path / "scorecard.json").write_text(json.dumps(plain))
    with pytest.raises(EvaluationError, match=r"scorecard.json.*rssm evaluate"):
        read_scorecard(tmp_path)


def test_sums_by_episode_are_the_whole(evaluation):
    score = evaluation.scorecard.targets["package"]
    for group in ("visible", "hidden"):
        parts = [item.targets["package"] for item in evaluation.scorecard.episodes]
        ticks = sum(part["ticks"][group] for part in parts)
        total = sum(part["squared_error_sum"][group] for part in parts)
        assert ticks == score.ticks[group]
        assert np.sqrt(total / ticks) == pytest.approx(score.errors.by_group[group].value)


@pytest.fixture(scope="module")
def long(tmp_path_factory, session):
    """Two evaluations of one long recording, by other noise."""
    folder = tmp_path_factory.mktemp("long")
    np.savez(folder / "episode-00000007-expert.npz", **smooth_episode(7, 1260))
    runs = [How(1, seed, memoryless=False, open_loop_every=0) for seed in (0, 1)]
    return [evaluate(session, sources([folder]), how) for how in runs]


def test_a_long_episode_keeps_its_sums_by_stretch_too(long, evaluation):
    (episode,) = long[0].scorecard.episodes
    whole = episode.targets["package"]
    assert len(whole["blocks"]) == 6, "63 s: the last 3 s are no stretch of their own"
    ticks = [sum(part["ticks"].values()) for part in whole["blocks"]]
    assert max(ticks) - min(ticks) <= 1 and sum(ticks) == episode.ticks
    for name in ("ticks", "squared_error_sum", "nll_sum"):
        for group, total in whole[name].items():
            assert sum(part[name][group] for part in whole["blocks"]) == pytest.approx(total)
    for level, groups in whole["inside"].items():
        for group, total in groups.items():
            assert sum(part["inside"][level][group] for part in whole["blocks"]) == pytest.approx(total)
    assert all(item.targets["package"]["blocks"] == [] for item in evaluation.scorecard.episodes)


def test_two_runs_on_one_long_recording_are_compared_with_intervals(long):
    found = compare([Run(str(at), item.scorecard) for at, item in enumerate(long)])
    for measure in ("RMSE hidden, cm", "RMSE visible, cm", "negative log likelihood hidden, nats"):
        ((difference,),) = [row.differences for row in found.rows if row.measure == measure]
        assert (difference.how, difference.episodes) == (PAIRED, 1)
        assert difference.figure.low < difference.figure.value < difference.figure.high
    same = compare([Run("a", long[0].scorecard), Run("b", long[0].scorecard)])
    ((none,),) = [row.differences for row in same.rows if row.measure == "RMSE hidden, cm"]
    assert none.figure == Estimate(0.0, 0.0, 0.0)


def test_a_scorecard_names_no_folder_of_this_machine(evaluation, data, tmp_path):
    plain = evaluation.scorecard.to_dict()
    assert plain["bags"] == [data.name]
    assert str(data.parent) not in json.dumps(plain) and str(Path.home()) not in json.dumps(plain)
    for folder in ("monday", "tuesday"):
        (tmp_path / folder / "bag").mkdir(parents=True)
    both = sources([tmp_path / "monday" / "bag", tmp_path / "tuesday" / "bag"])
    assert [item.bag for item in both] == ["monday/bag", "tuesday/bag"]


def test_the_camera_decides_what_is_visible(evaluation, data):
    """A label of 1 in a tick whose picture was lost is not seen."""
    with np.load(data / "episode-00000001-expert.npz") as arrays:
        lost = ~arrays["present_camera"]
    visibility = evaluation.trace["package/visibility"][:80]
    assert lost.any() and (visibility[lost] == 0).all()


def test_rivals_know_what_they_may(evaluation):
    baselines = evaluation.scorecard.targets["package"].baselines
    kinds = {name: item.kind for name, item in baselines.items()}
    classical = ("hold_last", "constant_velocity", "kalman", "training_mean")
    assert kinds == dict.fromkeys(classical, "classical") | {"memoryless": "learned", "carried": "privileged"}
    hidden = {name: item.errors.by_group["hidden"].value for name, item in baselines.items()}
    assert hidden["carried"] < 0.3 * hidden["hold_last"], "it is told how the package was carried"
    assert hidden["hold_last"] < hidden["training_mean"]
    assert hidden["kalman"] < 1.05 * hidden["hold_last"], "tuned, holding is among what it can do"
    about = baselines["kalman"].about
    assert "{" not in about and "m²/s³" in about and re.search(r"\d{4}", about) is None, "words and rounded"


def test_the_same_on_more_processes(data, session):
    one = evaluate(session, sources([data]), How(1, 5, open_loop_every=20), 1).scorecard.to_dict()
    two = evaluate(session, sources([data]), How(1, 5, open_loop_every=20), 2).scorecard.to_dict()
    for name in ("latency_ms", "wall_s", "realtime_factor", "created", "machine"):
        one.pop(name), two.pop(name)
    assert one == two


def test_without_truth_the_unoccluded_run_is_the_reference(tmp_path, session):
    arrays = {k: v for k, v in smooth_episode(4, 120).items() if not k.startswith(("target_", "visibility_"))}
    np.savez(tmp_path / "episode-00000004-expert.npz", **arrays)
    with pytest.raises(EvaluationError, match="--impose"):
        evaluate(session, sources([tmp_path]), How())
    found = evaluate(session, sources([tmp_path]), How(imposed=parse_imposed("blackout:4-8@0.3")))
    card = found.scorecard
    assert card.truth == "imposed" and card.impose == "blackout:4-8@0.3"
    score = card.targets["package"]
    assert score.reference == "unoccluded run" and score.hidden_runs >= 2
    hidden = found.trace["package/visibility"] <= 0.05
    assert (hidden >= found.trace["imposed"]).all() and found.trace["imposed"].any()
    assert score.errors.by_group["hidden"].value > 0
    before = np.cumsum(hidden) == 0
    same = found.trace["package/mean"][before] == found.trace["package/truth"][before]
    assert same.all(), "the same filter, the same noise: equal until something is covered"
    pictures = card.image_prediction["camera"]
    assert pictures.when == "covered" and set(pictures.baselines) == {"last picture", "unoccluded run"}
    assert pictures.frames == arrays["present_camera"][found.trace["imposed"]].sum()


def test_imposed_on_what_has_a_truth_keeps_it(data, session, evaluation):
    how = How(imposed=parse_imposed("drop:2-3@0.2"), memoryless=False, open_loop_every=0)
    found = evaluate(session, sources([data])[:1], how)
    card, score = found.scorecard, found.scorecard.targets["package"]
    assert card.truth == "topics" and score.reference == "recorded"
    assert (found.trace["package/visibility"][found.trace["imposed"]] == 0).all()
    np.testing.assert_array_equal(found.trace["package/truth"], evaluation.trace["package/truth"][:80])
    assert "carried" in score.baselines and not score.open_loop
    first, whole = card.episodes[0].id, evaluation.scorecard.episodes[0].id
    assert first != whole and first.startswith(whole), "other data to whoever pairs runs"


def test_open_loop_is_the_filters_own_prediction(tmp_path, session):
    """From a belief on, with no picture and the same noise, the filter and the rollout say the same."""
    arrays = smooth_episode(6, 40)
    for name in ("camera", "odom", "joints"):
        arrays[f"present_{name}"][:] = np.isin(np.arange(40), [*range(21), 39])
    np.savez(tmp_path / "episode-00000006-expert.npz", **arrays)
    source = sources([tmp_path])[0]
    played = play(session, source.open(session.bundle.contract), How(1, 3, open_loop_every=20))
    data = played.ticks.targets["package"]
    horizon = session.latent.horizon
    np.testing.assert_allclose(data.open_loop[20], data.mean[21 : 21 + horizon], atol=1e-4)
    assert np.isfinite(data.open_loop[0]).all() and np.isnan(data.open_loop[1]).all()


def run(*words, capsys):
    code = main(["evaluate", *map(str, words), "--bundle", str(tiny_bundle()), "--workers", "1"])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_command_writes_and_judges(data, tmp_path, capsys):
    code, out, err = run(data, "--out", tmp_path / "out", "--json", "--no-report", capsys=capsys)
    plain = json.loads(out)
    assert code == 1 and plain["status"] == "fail", "random weights meet no bound"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scorecard.json", "trace.npz"}
    assert {check["name"] for check in plain["checks"]} >= {"package hidden_to_best_classical"}
    code, out, err = run(data, "--out", tmp_path / "out", "--no-report", "--no-checks", capsys=capsys)
    assert code == 0 and "hold_last" in out and "Traceback" not in err


@pytest.fixture
def spoiled(data, tmp_path) -> Path:
    """Three recordings of which one is cut off."""
    folder = tmp_path / "spoiled"
    shutil.copytree(data, folder)
    victim = folder / "episode-00000002-expert.npz"
    victim.write_bytes(victim.read_bytes()[:2000])
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_recording_does_not_take_the_others_with_it(spoiled, data, session, workers):
    how = How(1, 5, memoryless=False, open_loop_every=0)
    card = evaluate(session, sources([spoiled]), how, workers, check=False).scorecard
    whole = evaluate(session, sources([data]), how, 1, check=False).scorecard
    kept = [item for item in whole.episodes if "00000002" not in item.name]
    assert [item.id for item in card.episodes] == [item.id for item in kept]
    assert [item.ticks for item in card.episodes] == [item.ticks for item in kept]
    (check,) = card.checks
    assert check["name"] == "recordings_left_out" and check["value"] == 1 and not check["pass"]
    assert card.status == "fail" and whole.status == "pass" and not whole.checks
    assert "episode-00000002-expert" in card.notes[0] and str(spoiled.parent) not in card.notes[0]
    assert card.recorded_s < whole.recorded_s


def test_the_command_tells_what_it_left_out_and_fails(spoiled, tmp_path, capsys):
    """A bag whose recording was cut off, beside good ones."""
    (tmp_path / "cut.mcap").write_bytes(b"\x89MCAP0\r\nnot much of a bag")
    words = (spoiled, tmp_path / "cut.mcap", "--out", tmp_path / "out", "--no-report", "--no-checks")
    for more in ((), ("--json",)):
        code, out, err = run(*words, *more, capsys=capsys)
        assert code == 1 and "Traceback" not in err
        assert err.count("left out: ") == 2 and "cut.mcap" in err and "00000002" in err
    assert len(read_scorecard(tmp_path / "out").episodes) == 2
    assert json.loads(out)["checks"][0]["value"] == 2


def test_nothing_but_bad_recordings_is_an_error(spoiled, session, tmp_path):
    for good in ("1", "3"):
        (spoiled / f"episode-0000000{good}-expert.npz").unlink()
    np.savez(spoiled / "episode-00000009-expert.npz", other=np.zeros(3))
    with pytest.raises(EvaluationError, match=r"episode-00000002-expert.npz cannot be read"):
        evaluate(session, sources([spoiled]), How())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("/nowhere",), "no such bag"),
        (("DATA", "--impose", "fog"), "--impose"),
        (("DATA", "--particles", "0"), "1 or more"),
        (("DATA", "--seed", "-1"), "0 or more"),
        (("DATA", "--impose-seed", "-1"), "0 or more"),
        (("EMPTY",), "is it a bag?"),
    ],
)
def test_the_command_refuses_in_words(data, tmp_path, capsys, words, told):
    (tmp_path / "empty").mkdir()
    places = {"DATA": data, "EMPTY": tmp_path / "empty"}
    code, _, err = run(*(places.get(word, word) for word in words), "--out", tmp_path / "out", capsys=capsys)
    assert code == 2 and told in err and "Traceback (most" not in err and "rssm evaluate:" in err
