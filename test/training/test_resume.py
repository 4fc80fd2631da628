"""A run that is killed at any moment and resumed equals the uninterrupted one, bit for bit."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rssm_ros.contract import find_contract
from rssm_ros.training import checkpoint
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.latents import ReplayLatents
from rssm_ros.training.options import options
from rssm_ros.training.trainer import Trainer
from rssm_ros.world_model import State

from . import synthetic

CONTRACT = find_contract("manipulator")
STEPS = 30
TINY = replace(
    options("debug"),
    steps=24,
    log_every=3,
    threads=1,
    imagination_fraction=0.9,
    replay_latents=True,
    chunks=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("data"), 4, 40)


def words(data, out, *more: str) -> list[str]:
    command = [sys.executable, "-m", "rssm_ros.cli.main", "train", "--data", str(data), "--out", str(out)]
    command += ["--val", str(data), "--preset", "debug", "--threads", "1", "--steps", str(STEPS)]
    command += ["--imagination-fraction", "0.5", "--checkpoint-steps", "4", "--validate-steps", "7"]
    return [*command, "--replay-latents", *more]


def tensors(run) -> dict[str, torch.Tensor]:
    saved = checkpoint.read(run)
    return {**saved.model, **saved.optimizer}


def different(one, two) -> list[str]:
    left, right = tensors(one), tensors(two)
    assert left.keys() == right.keys()
    return [name for name in left if not torch.equal(left[name], right[name])]


def maps(run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "latents").glob("*.memmap"))}


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_processes_that_are_resumed_equal_the_uninterrupted_one(data, tmp_path):
    """Killed twice: somewhere, and while a checkpoint is being written."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(words(data, whole), check=True, capture_output=True)
    chance = random.Random(3)
    kills = []
    for attempt in range(2):
        process = start(words(data, killed, *(["--resume"] if killed.exists() else [])))
        began = checkpoint.steps(killed)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if checkpoint.steps(killed)[-1:] != began[-1:]:  # it is under way
                break
            time.sleep(0.002)
        if attempt == 1:
            while process.poll() is None and not list((killed / "checkpoints").glob("partial-*")):
                pass
        else:
            time.sleep(chance.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills.append(process.returncode)
    assert kills == [-signal.SIGKILL] * 2, kills
    assert checkpoint.steps(killed)[-1] < STEPS
    subprocess.run(words(data, killed, "--resume"), check=True, capture_output=True)
    assert checkpoint.steps(killed)[-1] == STEPS
    assert different(whole, killed) == []
    assert maps(whole) == maps(killed)


def test_a_kill_at_any_system_call_of_a_save_leaves_a_checkpoint_to_go_on_from(data, tmp_path, monkeypatch):
    """Every step of a save, one after the other: what is there then is the old checkpoint or the new one."""
    chosen = replace(TINY, replay_latents=False)
    made = Trainer(chosen, CONTRACT, [data], tmp_path / "run", quiet=True)
    made._update()
    made._save()
    calls = [(os, "replace"), (os, "fsync"), (checkpoint, "save_file"), (checkpoint.shutil, "rmtree")]
    seen = 0
    for nth in range(30):
        made._update()
        done = []

        with monkeypatch.context() as patch:
            for module, name in calls:
                patch.setattr(module, name, counted(getattr(module, name), nth, done))
            try:
                made._save()
                break
            except Killed:
                seen += 1
        assert checkpoint.read(tmp_path / "run").state["step"] in (made.step - 1, made.step)
        made._save()
    assert seen >= 7


def counted(real, nth: int, done: list):
    """`real` that a kill comes before as the nth of all calls."""

    def call(*arguments, **keywords):
        if len(done) == nth:
            raise Killed
        done.append(real)
        return real(*arguments, **keywords)

    return call


class Killed(BaseException):
    """No handler of the code sees it, as none sees SIGKILL."""


def run_to(step: int, data, out, chosen=TINY, resume=False, save_at=()):
    made = Trainer(chosen, CONTRACT, [data], out, quiet=True, resume=resume)
    while made.step < step:
        made._update()
        if made.step in save_at:
            made._save()
    made.close()
    return made


def test_replay_latents_roll_back_to_the_checkpoint(data, tmp_path):
    whole = run_to(8, data, tmp_path / "whole", save_at=(2, 5, 8))
    killed = run_to(7, data, tmp_path / "killed", save_at=(2, 5))
    assert maps(tmp_path / "killed") != maps(tmp_path / "whole")
    del killed
    run_to(8, data, tmp_path / "killed", resume=True, save_at=(8,))
    assert different(tmp_path / "whole", tmp_path / "killed") == []
    assert maps(tmp_path / "whole") == maps(tmp_path / "killed")
    assert whole.latents is not None and whole.latents.maps[0].known.sum() > 40


def test_they_roll_back_to_the_checkpoint_before_too(data, tmp_path):
    """Where the newest one was lost: its log is not enough then."""
    run_to(8, data, tmp_path / "whole", save_at=(8,))
    run_to(7, data, tmp_path / "killed", save_at=(2, 5))
    os.remove(tmp_path / "killed" / "checkpoints" / "step-00000005" / "state.json")
    made = run_to(3, data, tmp_path / "killed", resume=True)
    assert made.step == 3
    run_to(8, data, tmp_path / "killed", resume=True, save_at=(8,))
    assert different(tmp_path / "whole", tmp_path / "killed") == []
    assert maps(tmp_path / "whole") == maps(tmp_path / "killed")


def test_without_the_undo_log_a_resumed_run_would_differ(data, tmp_path):
    """The comparison above can fail: this is the same without the roll-back."""
    run_to(8, data, tmp_path / "whole", save_at=(2, 5, 8))
    run_to(24, data, tmp_path / "killed", save_at=(2, 5))
    for log in (tmp_path / "killed" / "latents").glob("undo-*.log"):
        log.write_bytes(b"")
    run_to(8, data, tmp_path / "killed", resume=True, save_at=(8,))
    assert different(tmp_path / "whole", tmp_path / "killed") != []


def everything(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("save", [True, False], ids=["saved", "not yet saved"])
def test_a_second_process_changes_nothing_of_a_run_that_lives(data, tmp_path, resume, save):
    """The lock came after the maps had been rolled back or deleted, and the figures purged."""
    out = tmp_path / "run"
    live = Trainer(TINY, CONTRACT, [data], out, quiet=True)
    live._update()
    if save:
        live._save()
    live._update()
    before = everything(out)
    with pytest.raises(TrainingError, match="another process is training"):
        Trainer(TINY, CONTRACT, [data], out, quiet=True, resume=resume)
    assert everything(out) == before and len(before) > 4
    live.close()
    if resume:
        Trainer(TINY, CONTRACT, [data], out, quiet=True, resume=True).close()


def test_what_is_refused_lets_go_of_the_run(data, tmp_path):
    with pytest.raises(TrainingError, match="does not exist"):
        Trainer(TINY, CONTRACT, [tmp_path / "none"], tmp_path / "run", quiet=True)
    Trainer(TINY, CONTRACT, [data], tmp_path / "run", quiet=True).close()


@pytest.mark.parametrize("room", [0, 60])
def test_a_log_that_takes_less_than_it_was_given_is_an_error_before_the_maps_change(tmp_path, room):
    """A raw write to a disk that fills up is short, and raises nothing: what it had logged was lost then."""
    kept = latents(tmp_path, classes=1)
    kept.write([(0, 0, True)], torch.ones(1, 6, 3), torch.ones(1, 6, 2, 1))
    kept.saved([1])
    held = [array.copy() for array in kept.maps[0]]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(TrainingError, match=r"undo-00000001\.log.*cannot be written.*--resume"):
            kept.write([(0, 0, True)], torch.full((1, 6, 3), 5.0), torch.ones(1, 6, 2, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "latents" / "undo-00000001.log").stat().st_size == room
    for again in (kept, latents(tmp_path, 1, classes=1)):
        for array, old in zip(again.maps[0], held, strict=True):
            np.testing.assert_array_equal(array, old)


def test_maps_that_will_not_fit_are_refused_before_they_are_made(tmp_path, monkeypatch):
    """They are sparse: writing to them on a full disk would end the process without a word."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(TrainingError, match="replay latents still need 0 MB, 0 MB are free"):
        latents(tmp_path)
    assert not list((tmp_path / "latents").iterdir())
    monkeypatch.undo()
    latents(tmp_path).write([(0, 0, True), (1, 0, True)], torch.ones(2, 20, 3), torch.ones(2, 20, 2, 4))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    latents(tmp_path, 0)  # what they need is theirs already


def latents(run, step=None, classes=4) -> ReplayLatents:
    return ReplayLatents(run, [30, 20], 3, 2, classes, step)


def test_what_was_written_is_what_a_jump_starts_from(tmp_path):
    kept = latents(tmp_path)
    deter = torch.arange(2 * 5 * 3.0).reshape(2, 5, 3) / 8
    stoch = torch.nn.functional.one_hot(torch.arange(20).reshape(2, 5, 2) % 4, 4).float()
    kept.write([(0, 10, True), (1, 3, False)], deter, stoch)
    blank = State(torch.full((4, 3), 9.0), torch.zeros(4, 2, 4))
    places = [(0, 13, True), (1, 8, True), (0, 13, False), (1, 3, True)]
    state, known = kept.before(places, blank)
    assert known == [True, True, False, False]
    assert torch.equal(state.deter[0], deter[0, 2]) and torch.equal(state.stoch[0], stoch[0, 2])
    assert torch.equal(state.deter[1], deter[1, 4]) and torch.equal(state.stoch[1], stoch[1, 4])
    assert (state.deter[2:] == 9.0).all() and not kept.before([(0, 0, True)], blank)[1][0]


def test_a_torn_entry_of_the_log_is_no_entry(tmp_path):
    kept = latents(tmp_path, classes=1)
    for step in range(3):
        kept.write([(0, 4 * step, True)], torch.full((1, 6, 3), step + 1.0), torch.ones(1, 6, 2, 1))
        if step == 0:
            kept.saved([1])
            held = [array.copy() for array in kept.maps[0]]
    log = tmp_path / "latents" / "undo-00000001.log"
    whole = log.read_bytes()
    log.write_bytes(whole + whole[:50])  # a header and a part of what was to follow
    again = latents(tmp_path, 1, classes=1)
    for array, before in zip(again.maps[0], held, strict=True):
        np.testing.assert_array_equal(array, before)


def test_lost_or_foreign_latents_are_refused(tmp_path):
    latents(tmp_path)
    with pytest.raises(TrainingError, match=r"deter-0\.memmap is missing or not of"):
        ReplayLatents(tmp_path, [31, 20], 3, 2, 4, 5)
    (tmp_path / "latents" / "known-1.memmap").unlink()
    with pytest.raises(TrainingError, match=r"known-1\.memmap is missing"):
        latents(tmp_path, 5)
