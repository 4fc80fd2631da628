import json
from pathlib import Path

import pytest

from rssm_ros.cli import main
from rssm_ros.evaluation.runs.policy import BUNDLE, REFERENCES
from test.bundles import tiny_bundle


def test_an_untrained_bundle_fails_and_says_by_how_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole road: filter and actor in lockstep, references, statistics, JSON, exit code."""
    out = tmp_path / "new" / "report.json"
    options = ["--seeds", "2", "--seconds", "6", "--workers", "1", "--particles", "2", "--out", str(out)]
    assert main.main(["evaluate-policy", str(tiny_bundle()), *options, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    assert set(report["policies"]) == {BUNDLE, *REFERENCES}
    assert report["seeds"] == [0, 1]
    assert report["status"] == "fail"
    assert report["belief"]["hidden"]["ticks"] > 0
    assert len(report["bundle_sha256"]) == 64 and len(report["weights_sha256"]) == 64


def test_the_table_shows_every_policy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    options = ["--seeds", "1", "--seconds", "2", "--workers", "1", "--particles", "1"]
    main.main(["evaluate-policy", str(tiny_bundle()), *options])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (BUNDLE, *REFERENCES))
    assert "FAIL sorted_of_expert" in shown


def test_a_missing_bundle_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main.main(["evaluate-policy", str(tmp_path / "nothing")]) == 2
    assert "no such bundle" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--seeds", "--workers", "--particles", "--seconds"])
def test_nothing_to_do_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["evaluate-policy", "anything", option, "0"]) == 2
    assert "1 or more" in capsys.readouterr().err
