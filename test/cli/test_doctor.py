import json
import os
import subprocess
import sys

import pytest

from rssm_ros.cli import doctor, main


def test_every_finding_that_failed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package must end up as advice, not as a traceback."""

    def broken(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    monkeypatch.setattr(doctor, "_opengl", lambda: "skipped")
    findings = {finding.name: finding for finding in doctor.examine()}
    assert not findings["gymnasium"].ok
    assert "rssm_ros[sim]" in findings["gymnasium"].advice
    assert all(finding.advice for finding in findings.values() if not finding.ok)


def test_json_and_exit_code_follow_the_purpose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = doctor.Finding("b", False, "2", doctor.SIM, "do")
    findings = [doctor.Finding("a", True, "1", doctor.ROBOT), bad]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert main.main(["doctor", "--json", "--for", "sim"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "fail"
    assert report["findings"][1]["advice"] == "do"
    assert main.main(["doctor", "--for", "robot"]) == 0
    assert "Ready for robot" in capsys.readouterr().out


def test_without_an_opengl_backend_the_answer_names_the_packages() -> None:
    """The renderer is tried in a process of its own, since a broken driver may end it."""
    result = subprocess.run(
        [sys.executable, "-m", "rssm_ros.cli.main", "doctor", "--json"],
        env={**os.environ, "MUJOCO_GL": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    opengl = next(f for f in json.loads(result.stdout)["findings"] if f["name"] == "OpenGL")
    assert not opengl["ok"]
    assert "nonsense" in opengl["value"]
    assert "libegl1" in opengl["advice"]
