"""rssm export and rssm verify, from a model in memory to exit codes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from rssm_ros.bundle import load_bundle
from rssm_ros.cli import main as cli
from rssm_ros.contract import find_contract
from rssm_ros.export.bundle import export_bundle, shuffled
from rssm_ros.export.errors import ExportError
from rssm_ros.online.session import Session
from rssm_ros.online.steps import initial_state
from test.bundles import tiny_bundle, tiny_model

CONTRACT = find_contract("manipulator")


def test_equal_tensors_are_stored_once():
    import onnx

    stored = sum(
        int(next(e.value for e in tensor.external_data if e.key == "length"))
        for path in tiny_bundle().glob("*.onnx")
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        if tensor.external_data
    )
    assert (tiny_bundle() / "weights.bin").stat().st_size < 0.7 * stored


def test_no_graph_carries_its_weights_inside():
    assert all(path.stat().st_size < 250_000 for path in tiny_bundle().glob("*.onnx"))


def test_the_model_card_says_where_it_comes_from():
    text = (tiny_bundle() / "README.md").read_text()
    for part in (
        "# tiny",
        "made up",
        "deter 32, categorical stoch 4 x 4",
        "rssm verify models/tiny",
        "random weights",
    ):
        assert part in text


def test_shuffled_weights_load_and_mean_nothing(tmp_path):
    model = tiny_model()
    nonsense = shuffled(model, 1)
    for left, right in zip(model.modules(), nonsense.modules(), strict=True):
        for a, b in zip(left.parameters(), right.parameters(), strict=True):
            assert torch.equal(a.flatten().sort().values, b.flatten().sort().values)
    export_bundle(nonsense, CONTRACT, tmp_path / "nonsense", horizon=1)
    good, bad = Session(tiny_bundle()), Session(tmp_path / "nonsense")
    state, noise = initial_state(good.latent, 1), np.full((1, good.latent.stoch), 0.3, np.float32)
    left, right = (s.predict(state, np.zeros(6, np.float32), True, noise) for s in (good, bad))
    assert np.abs(left.prior - right.prior).max() > 0.01


def test_a_failed_export_leaves_what_was_there(tmp_path):
    folder = shutil.copytree(tiny_bundle(), tmp_path / "kept")
    model = tiny_model()
    with torch.no_grad():
        model.actor.mean.bias.fill_(float("nan"))
    with pytest.raises(ExportError, match=r"mean\.bias holds values that are not finite"):
        export_bundle(model, CONTRACT, folder)
    assert load_bundle(folder).sha256 == load_bundle(tiny_bundle()).sha256
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_model_for_another_contract_is_refused(tmp_path):
    other = replace(CONTRACT, observations=CONTRACT.observations[:1])
    with pytest.raises(ExportError, match=r"the model knows \['camera', 'joints', 'odom'\].*train a model"):
        export_bundle(tiny_model(), other, tmp_path / "x")


def test_verify_passes_with_0_and_reports_every_output(capsys):
    assert cli.main(["verify", str(tiny_bundle()), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "pass" and len(report["outputs"]) > 25
    assert all(row["pass"] and row["error"] <= row["allowed"] for row in report["outputs"])
    assert cli.main(["verify", str(tiny_bundle())]) == 0
    assert "proven on this machine" in capsys.readouterr().out


def test_verify_fails_with_1_on_a_damaged_bundle(tmp_path, capsys):
    folder = shutil.copytree(tiny_bundle(), tmp_path / "damaged")
    (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:-4])
    assert cli.main(["verify", str(folder)]) == 1
    assert "weights.bin: is damaged" in capsys.readouterr().out


def test_verify_ends_with_2_where_there_is_no_bundle(tmp_path, capsys):
    assert cli.main(["verify", str(tmp_path / "none")]) == 2
    assert "there is no such bundle" in capsys.readouterr().err


@pytest.fixture
def checkpoint(monkeypatch, tmp_path):
    """`load_checkpoint` without a training run."""
    from rssm_ros.training import checkpoint

    (tmp_path / "cell").mkdir()
    about = {"sha256": "abc", "ticks": 9, "seeds": [4, 2, 3]}
    (tmp_path / "cell" / "dataset.json").write_text(json.dumps(about))
    model = tiny_model()
    meta = {
        "step": 12,
        "elapsed_s": 3600.0,
        "contract": CONTRACT.to_dict(),
        "data": [str(tmp_path / "cell")],
    }
    monkeypatch.setattr(checkpoint, "load_checkpoint", lambda _: (*model.modules(), meta))
    return meta


@pytest.mark.parametrize("extra", [[], ["--shuffle-weights", "3"]])
def test_the_export_command_writes_a_bundle_that_verifies(checkpoint, tmp_path, capsys, extra):
    out = tmp_path / "models" / "mine"
    assert cli.main(["export", "runs/x", "--out", str(out), "--horizon", "1", *extra]) == 0
    assert "proven here" in capsys.readouterr().out
    bundle = load_bundle(out)
    assert bundle.name == "mine" and bundle.training["steps"] == 12 and bundle.training["hours"] == 1.0
    assert bundle.dataset == {"cell": {"sha256": "abc", "ticks": 9, "seeds": "2 to 4"}}
    assert bundle.latent.horizon == 1 and str(tmp_path) not in (out / "bundle.json").read_text()
    assert bundle.training.get("shuffled_with_seed") == (3 if extra else None)


def test_scores_and_commands_reach_the_card(checkpoint, tmp_path):
    scores, commands = tmp_path / "scores.json", tmp_path / "commands.txt"
    assert cli.main(["export", "runs/x", "--out", str(tmp_path / "unscored"), "--horizon", "1"]) == 0
    told = {"sorted": {"bundle": {"value": 0.8125, "ci95": [0.7, 0.9]}}, "all": [0] * 30}
    told["weights_sha256"] = load_bundle(tmp_path / "unscored").files["weights.bin"]
    scores.write_text(json.dumps(told))
    commands.write_text(
        "rssm collect manipulator --out data/cell\nrssm train --data data/cell --out runs/x\n"
    )
    out = tmp_path / "m"
    extra = ["--scores", str(scores), "--commands", str(commands), "--horizon", "1"]
    assert cli.main(["export", "runs/x", "--out", str(out), *extra]) == 0
    text = (out / "README.md").read_text()
    assert "| sorted bundle | 0.8125 (95 %: 0.7 to 0.9) |" in text and "| all |" not in text
    assert "rssm collect manipulator --out data/cell\n" in text and "| cell ticks | 9 |" in text
    assert load_bundle(out).scores["all"] == [0] * 30


def test_the_export_command_refuses_an_empty_horizon(checkpoint, tmp_path, capsys):
    assert cli.main(["export", "runs/x", "--out", str(tmp_path / "m"), "--horizon", "0"]) == 2
    assert "at least 1 tick" in capsys.readouterr().err


def test_the_card_tells_all_runs_that_the_weights_went_through(checkpoint, tmp_path, monkeypatch):
    """What the checkpoint remembers, and by name what one of an older version does not."""
    from rssm_ros.training import checkpoint as module

    about = {"elapsed_s": 1800.0, "data": [str(tmp_path / "old")], "options": {"rate": 1e-3, "threads": 2}}
    checkpoint["chain"] = [
        {"name": "second", "step": 5, **about, "hardware": "a toaster", "commit": "c0ffee"}
    ]
    monkeypatch.setattr(module, "read_state", lambda run: {"step": 3, **about})
    out = tmp_path / "m"
    words = ["export", "runs/x", "--out", str(out), "--horizon", "1", "--earlier", "runs/first"]
    assert cli.main(words) == 0
    training = load_bundle(out).training
    assert (training["hours"], training["steps"]) == (2.0, 20)
    assert list(training["stages"]) == ["1 first", "2 second", "3 x"]
    assert set(load_bundle(out).dataset) == {"old", "cell"}
    text = (out / "README.md").read_text()
    assert (
        "| stages 2 second hardware | a toaster |" in text and "| stages 2 second commit | c0ffee |" in text
    )
    assert "| stages 1 first hours | 0.5 |" in text and "| stages 3 x hours | 1 |" in text
    assert str(tmp_path) not in (out / "bundle.json").read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"weights_sha256": "0" * 64}, "other weights"),
        ({"sorted": 3}, "evaluate-policy"),
        ([1], "evaluate-policy"),
        (None, "cannot be read as JSON"),
    ],
)
def test_scores_of_another_model_are_refused(checkpoint, tmp_path, capsys, content, says):
    scores, out = tmp_path / "scores.json", tmp_path / "m"
    scores.write_text("{" if content is None else json.dumps(content))
    words = ["export", "runs/x", "--out", str(out), "--horizon", "1", "--scores", str(scores)]
    assert cli.main(words) == 2 and says in capsys.readouterr().err
    assert not out.exists()


def test_surprise_thresholds_come_from_validation_or_from_a_file(checkpoint, tmp_path):
    seen = {"camera", "joints", "odom"}
    checkpoint["validation"] = {"kl": 1.0, "surprise_p999_camera+joints+odom": 7.5}
    words = ["export", "runs/x", "--horizon", "1", "--out"]
    assert cli.main([*words, str(tmp_path / "own")]) == 0
    assert load_bundle(tmp_path / "own").surprise_threshold(seen) == 7.5
    assert "| surprise camera+joints+odom | 7.5 |" in (tmp_path / "own" / "README.md").read_text()
    file = tmp_path / "thresholds.json"
    file.write_text(json.dumps({"surprise": {"camera+joints+odom": 9, "joints+odom": 2.5}}))
    assert cli.main([*words, str(tmp_path / "given"), "--thresholds", str(file)]) == 0
    bundle = load_bundle(tmp_path / "given")
    assert (bundle.surprise_threshold(seen), bundle.surprise_threshold(seen - {"camera"})) == (9.0, 2.5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"camera": 3}, "one key 'surprise'"),
        ({"surprise": {"odom+camera": 3}}, "no pattern of this contract"),
        ({"surprise": {"lidar": 3}}, "no pattern of this contract"),
        ({"surprise": {"camera": "3"}}, "finite number of nats"),
        ({"surprise": {"camera": float("nan")}}, "finite number of nats"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(checkpoint, tmp_path, capsys, content, says):
    file = tmp_path / "thresholds.json"
    file.write_text(json.dumps(content))
    words = ["export", "runs/x", "--out", str(tmp_path / "m"), "--horizon", "1", "--thresholds", str(file)]
    assert cli.main(words) == 2 and says in capsys.readouterr().err
