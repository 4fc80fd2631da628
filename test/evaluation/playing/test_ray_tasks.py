"""The same evaluation as Ray tasks: equal to every figure, and a line for whatever a cluster can lack."""

import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rssm_ros.cli.main import main
from rssm_ros.evaluation.evaluate import evaluate
from rssm_ros.evaluation.playing import ray_tasks
from rssm_ros.evaluation.playing.play import How, Played
from rssm_ros.evaluation.playing.ray_tasks import Bundled, Done, Refused, Shares, work
from rssm_ros.evaluation.playing.sources import sources
from test.bundles import tiny_bundle
from test.episodes import write_smooth

QUICK = How(1, 5, memoryless=False, open_loop_every=0)
OF_THE_RUN = ("latency_ms", "wall_s", "realtime_factor", "created", "machine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two good recordings and one that is cut off."""
    made = write_smooth(tmp_path_factory.mktemp("data"), 3, 110)
    cut = made / "episode-00000002-expert.npz"
    cut.write_bytes(cut.read_bytes()[:2000])
    return made


class Told:
    """Stands in for the actor that hears of progress."""

    def __init__(self) -> None:
        self.shares = Shares(3)
        self.tell = self
        self.remote = self.shares.tell


def test_a_task_does_what_is_done_here(folder, session, monkeypatch):
    monkeypatch.setattr(ray_tasks, "TOLD_S", 0.0)
    good, cut, _ = sources([folder])
    told, bundled = Told(), Bundled.of(session)
    made = work(bundled, 1, replace(good, path="given.npz"), good.path, QUICK, told)
    assert isinstance(made, Done) and isinstance(made.outcome, Played)
    here = evaluate(session, [good], QUICK, check=False)
    np.testing.assert_array_equal(made.outcome.ticks.targets["package"].mean, here.trace["package/mean"])
    assert told.shares.all()[1] > 0.5 and told.shares.all()[0] == 0
    made = work(bundled, 0, replace(cut, path="given.npz"), cut.path, QUICK, told)
    assert isinstance(made, Done) and "given.npz cannot be read" in str(made.outcome)
    assert cut.path not in str(made.outcome), "as if it had been read here"


def test_a_machine_that_cannot_take_part_says_why(folder, session, tmp_path):
    good, other, _ = sources([folder])
    bundled = Bundled.of(session)
    older = replace(bundled, versions=bundled.versions | {"numpy": "1.0"})

    def why(bundled: Bundled, path: str, how: How = QUICK) -> str:
        made = work(bundled, 0, good, path, how, Told())
        assert isinstance(made, Refused)
        return made.why

    assert "is not there" in why(bundled, str(tmp_path / "nothing.npz"))
    assert "another recording" in why(bundled, other.path)
    assert "numpy 1.0" in why(older, good.path)
    trained = replace(QUICK, models={"gru": str(tmp_path / "run")})
    assert "--baseline-model" in why(bundled, good.path, trained)


def test_nobody_there_is_told_in_time(folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_tasks, "REACH_S", 0.5)
    command = [
        "evaluate",
        str(folder),
        "--bundle",
        str(tiny_bundle()),
        "--out",
        str(tmp_path),
        "--json",
        "--ray",
    ]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and never speaks
        port = silent.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "ray://127.0.0.1:1", "somewhere"):
            begun = time.monotonic()
            assert main([*command, address]) == 2
            assert time.monotonic() - begun < 20
            told = capsys.readouterr().err.strip()
            assert len(told.splitlines()) == 1 and f"--ray {address}: " in told, told
    assert list(tmp_path.iterdir()) == []


def test_without_ray_what_to_install_is_said(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["evaluate", str(folder), "--bundle", str(tiny_bundle()), "--out", str(tmp_path), "--json"]
    assert main([*command, "--ray", "local"]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1 and "rssm_ros[ray]" in told


@pytest.mark.slow
def test_a_local_cluster_finds_what_is_found_here(folder, session):
    pytest.importorskip("ray")
    shares: list[float] = []
    arguments = (session, sources([folder]), QUICK, 2)
    here = evaluate(*arguments)
    there = evaluate(*arguments, watch=shares.append, ray=ray_tasks.LOCAL)
    one, two = (item.scorecard.to_dict() for item in (here, there))
    for name in OF_THE_RUN:
        one.pop(name), two.pop(name)
    assert one == two and len(one["episodes"]) == 2 and "00000002" in one["notes"][0]
    assert {name: values.tobytes() for name, values in here.trace.items()} == {
        name: values.tobytes() for name, values in there.trace.items()
    }
    assert shares[-1] == 1.0 and shares == sorted(shares)
