"""Trained networks beside a bundle: the same ticks in order, no more, and no word left out about them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rssm_ros.cli.main import main
from rssm_ros.contract import find_contract
from rssm_ros.evaluation.baselines.networks import Follower, about
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.evaluate import evaluate
from rssm_ros.evaluation.page import report
from rssm_ros.evaluation.playing import play as playing
from rssm_ros.evaluation.playing.play import How
from rssm_ros.evaluation.playing.sources import sources
from rssm_ros.evaluation.scoring.notes import NO_MODELS
from rssm_ros.training.baseline_networks import KINDS, load_baseline
from rssm_ros.training.baseline_trainer import BaselineTrainer
from rssm_ros.training.checkpoint import find
from rssm_ros.training.options import options
from test.bundles import tiny_bundle
from test.training import synthetic

CONTRACT = find_contract("manipulator")
QUICK = How(1, 5, memoryless=False, open_loop_every=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """NAME -> folder, of two updates each."""
    folder = tmp_path_factory.mktemp("runs")
    data = synthetic.write(folder / "drift", 2, 30)
    (data / "dataset.json").write_text(json.dumps({"sha256": "ab" * 32}))
    tiny = replace(options("debug"), steps=2, threads=1)
    for kind in KINDS:
        BaselineTrainer(kind, tiny, CONTRACT, [data], folder / kind, quiet=True).run()
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    return {"gru": str(folder / "recurrent"), "cnn": str(folder / "frames")}


@pytest.fixture(scope="module")
def evaluation(data, session, runs):
    return evaluate(session, sources([data]), replace(QUICK, models=runs))


def test_they_are_told_what_came_and_nothing_else(evaluation, data, runs):
    """Of every episode from its beginning, with what was lost left out: the network's own claims."""
    for name, folder in runs.items():
        network, _ = load_baseline(Path(folder))
        told = []
        for file in sorted(data.glob("*.npz")):
            with np.load(file) as arrays:
                seen = {m: torch.from_numpy(arrays[m])[None] for m in ("camera", "odom", "joints")}
                here = {m: torch.from_numpy(arrays[f"present_{m}"])[None] for m in seen}
                action = torch.from_numpy(arrays["action"])[None]
            assert not here["camera"].all()
            first = torch.zeros(action.shape[:2], dtype=torch.bool)
            first[:, 0] = True
            with torch.no_grad():
                features, _ = network.features(network.encode(seen, here), here, action, first)
                told.append(network.claims(features)["package"][0][0].numpy())
        path = evaluation.trace[f"package/baseline/{name}"]
        np.testing.assert_allclose(path, np.concatenate(told), atol=1e-5)


def test_they_are_rows_of_the_table_and_no_classical_ones(evaluation, session, data):
    score = evaluation.scorecard.targets["package"]
    for name in ("gru", "cnn"):
        item = score.baselines[name]
        assert item.kind == "learned" and set(item.coverage) == {"50", "90", "95"}
        assert np.isfinite([item.errors.by_group["hidden"].value, item.nll["visible"].value]).all()
        assert item.errors.by_hidden_ticks["2-4"].value > 0
    plain = evaluate(session, sources([data]), QUICK).scorecard
    assert plain.targets["package"].ratio_to_best_classical == score.ratio_to_best_classical
    assert NO_MODELS in plain.notes and NO_MODELS not in evaluation.scorecard.notes


def test_the_page_says_what_each_is_and_was_taught(evaluation, runs, tmp_path):
    evaluation.write(tmp_path)
    page = re.sub(r"\s+", " ", report.write(tmp_path).read_text())
    for name, words in (("gru", "recurrent network (GRU of 32)"), ("cnn", "told this tick&#39;s pictures")):
        assert f"<dt>{name}</dt>" in page or name in page
        assert words in page
    for word in (
        "other data than the bundle",
        "drift: 60 ticks, SHA-256",
        "2 updates in 0 minutes",
        "parameters;",
    ):
        assert word in page, word
    assert "gru: negative log likelihood, nats" in page and "region that it claims itself" in page
    assert str(tmp_path.parent) not in page


def test_the_bundles_own_data_are_recognised(runs, session):
    bundle = replace(
        session.bundle, dataset={"drift": {"sha256": "ab" * 32}}, training={"steps": 7, "hours": 2.0}
    )
    text = about({"gru": runs["gru"]}, bundle)["gru"]
    assert "the bundle's own training data" in text and "(the bundle: 7 in 120 minutes by the clock)" in text


@pytest.mark.parametrize("size", [1, 7, 256])
def test_how_many_ticks_are_told_at_once_changes_nothing(evaluation, session, data, runs, monkeypatch, size):
    monkeypatch.setattr(playing, "CHUNK", size)
    found = evaluate(session, sources([data])[:1], replace(QUICK, models=runs))
    for name in runs:
        path = found.trace[f"package/baseline/{name}"]
        np.testing.assert_allclose(path, evaluation.trace[f"package/baseline/{name}"][: len(path)], atol=1e-5)


def test_no_ticks_are_no_claims(runs, session):
    follower = Follower.of(Path(runs["gru"]), session.bundle.contract)
    assert {name: rows.shape for name, rows in follower.follow([]).items()} == {
        "package": (0, 2, 2),
        "destination": (0, 2, 2),
    }


def test_another_contract_is_refused_before_anything_is_played(runs, session, data, tmp_path):
    state = tmp_path / "other"
    checkpoint = state / "checkpoints" / "step-00000002"
    checkpoint.parent.mkdir(parents=True)
    shutil.copytree(find(Path(runs["gru"])), checkpoint)
    words = json.loads((checkpoint / "state.json").read_text())
    words["contract"]["rate"] = 10
    words["contract"]["actions"]["arm"]["high"][0] = 0.6
    (checkpoint / "state.json").write_text(json.dumps(words))
    with pytest.raises(EvaluationError, match=r"another contract than the bundle's \(rate, actions differ\)"):
        evaluate(session, sources([data]), replace(QUICK, models={"gru": str(state)}))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["gru"], "expected NAME=RUN"),
        (["GRU!=RUN"], "expected NAME=RUN"),
        (["kalman=RUN"], "another baseline has that name"),
        (["gru=RUN", "gru=RUN"], "two of that name"),
        (["gru=/nowhere"], "no checkpoint in /nowhere"),
    ],
)
def test_the_command_refuses_in_words(data, runs, tmp_path, capsys, said, told):
    words = [
        "evaluate",
        str(data),
        "--bundle",
        str(tiny_bundle()),
        "--out",
        str(tmp_path / "out"),
        "--workers",
        "1",
    ]
    for item in said:
        words += ["--baseline-model", item.replace("RUN", runs["gru"])]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert told in err and "Traceback" not in err and not (tmp_path / "out").exists()
