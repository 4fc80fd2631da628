"""What `rssm up` leaves behind when something fails after, or around, the run; without any node."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rssm_ros.cli import up
from rssm_ros.evaluation.film import video
from rssm_ros.evaluation.runs import summary as summaries
from rssm_ros.evaluation.runs.trace import TraceWriter, belief_dtype, gate_dtype, simulation_dtype
from rssm_ros.nodes.errors import NodeError


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    up.add_parser(parser.add_subparsers())
    return parser.parse_args(["up", "manipulator", *words])


def leave_traces(out: Path) -> None:
    """Three ticks of a run in order."""
    dtype = simulation_dtype(3, 6, {"odom": (2,), "joints": (8,)})
    kinds = {"sim": dtype, "gate": gate_dtype(6), "filter": belief_dtype(2)}
    for name, kind in kinds.items():
        writer = TraceWriter(out / "trace" / f"{name}.trace", kind)
        for tick in range(20, 23):
            writer.write(stamp_ns=tick * 50_000_000, monotonic_ns=tick * 50_000_000 + (name == "gate"))
        writer.close()


def ran(monkeypatch: pytest.MonkeyPatch, out: Path, outcome: up.Outcome, *words: str) -> dict[str, Any]:
    """The summary of `rssm up` around a run that ended in this way."""

    def run_graph(*_: Any) -> up.Outcome:
        if not (out / "trace" / "sim.trace").exists():
            leave_traces(out)
        return outcome

    monkeypatch.setattr(up, "_run_graph", run_graph)
    assert up.run(arguments("--out", str(out), "--json", *words)) in (0, 1)
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_a_monitor_that_ended_is_told_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = "monitor_node (pid 7) was killed by SIGKILL"
    outcome = up.Outcome(started=True, missing=ended)
    found = ran(monkeypatch, tmp_path, outcome, "--monitor", "--no-references")
    assert found["monitor_error"] == ended and found["status"] in ("pass", "fail")
    assert capsys.readouterr().err == f"rssm up: {ended}; the run went on without it\n"


def test_a_film_and_references_that_fail_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        assert json.loads((tmp_path / "summary.json").read_text())["ticks"] == 2  # already there
        raise RuntimeError("no GL")

    monkeypatch.setattr(video, "render_video", fail)
    monkeypatch.setattr(summaries, "reference_scores", fail)
    found = ran(monkeypatch, tmp_path, up.Outcome(started=True, recorded={"odom": 3}), "--record")
    assert found["video_error"] == found["reference_error"] == "RuntimeError: no GL"
    assert found["ticks"] == 2 and found["status"] in ("pass", "fail") and found["messages_recorded"] == 3


def test_a_torn_trace_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(*_: Any) -> Any:
        raise summaries.TraceError("sim.trace is not a trace of a run: torn")

    monkeypatch.setattr(summaries, "load_run", torn)
    found = ran(monkeypatch, tmp_path, up.Outcome(started=True))
    assert found["status"] == "error" and "torn" in found["error"]


def test_an_old_film_is_gone_whatever_the_contracts_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkout: Path
) -> None:
    shipped = (checkout / "config" / "contracts" / "manipulator.yaml").read_text()
    other, out = tmp_path / "other.yaml", tmp_path / "out"
    other.write_text(shipped.replace("name: manipulator", "name: other"))
    out.mkdir()
    (out / "other.mp4").write_text("of an earlier run")
    monkeypatch.setattr(up, "_run_graph", lambda *_: up.Outcome(error="nothing ran"))
    words = arguments("--out", str(out), "--json")
    words.robot = str(other)
    assert up.run(words) == 2 and not (out / "other.mp4").exists()


@pytest.mark.parametrize("name", ["bag", "reviews"])
def test_a_recording_is_not_deleted_to_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`rssm record --out OUT/bag`, or a robot's monitor in OUT/reviews, first, `rssm up --out OUT` then."""
    kept = tmp_path / name / "bag_0.mcap"
    kept.parent.mkdir()
    kept.write_text("an hour of a robot")
    monkeypatch.setattr(up, "_run_graph", lambda *_: up.Outcome(error="nothing ran"))
    with pytest.raises(NodeError, match="choose another --out"):
        up.run(arguments("--out", str(tmp_path), "--json"))
    assert kept.exists() and not (tmp_path / "log").exists()
    (tmp_path / "log").mkdir()  # now it is of an earlier run
    assert up.run(arguments("--out", str(tmp_path), "--json")) == 2 and not kept.exists()


@pytest.mark.parametrize("domain", ["-1", "102", "x"])
def test_a_domain_that_is_none_is_refused(domain: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments("--domain", "7").domain == 7
    with pytest.raises(SystemExit):
        arguments(f"--domain={domain}")
    assert "expected 0 to 101" in capsys.readouterr().err


@pytest.mark.ros
def test_any_error_around_the_nodes_is_in_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rclpy")
    from rssm_ros.nodes import supervisor

    def broken(*_: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr(supervisor, "Supervisor", broken)
    monkeypatch.setattr(up, "manipulator_graph", lambda _: ())
    monkeypatch.setattr(up, "child_environment", lambda *_: dict(os.environ))
    monkeypatch.setattr(up, "_catch_signals", list)
    assert up.run(arguments("--out", str(tmp_path), "--json")) == 2
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["status"] == "error" and found["error"] == "OSError: no space left on device"
    assert "broken" in (tmp_path / "log" / "rssm_up.log").read_text()
