"""`rssm` itself: which errors are told in a line, and which are faults of ours."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from rssm_ros.cli import compare
from rssm_ros.cli.main import main
from rssm_ros.evaluation.errors import EvaluationError


def killed_worker(_):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(os.kill, os.getpid(), 0).result()
        pool.submit(signal.raise_signal, signal.SIGKILL).result()


def raising(error):
    def run(_):
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (killed_worker, "a worker process was killed"),
        (raising(PermissionError(13, "Permission denied", "out")), "Permission denied: 'out'"),
        (raising(OSError(28, "No space left on device")), "No space left on device"),
        (raising(EvaluationError("a page: is not one")), "a page: is not one"),
        (raising(ModuleNotFoundError("No module named 'av'")), "install the extra"),
    ],
)
def test_what_people_can_help_is_one_line_and_exit_2(run, told, monkeypatch, capsys):
    monkeypatch.setattr(compare, "run", run)
    assert main(["compare", "a", "b"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rssm compare: ") and error.count("\n") == 1 and told in error


@pytest.mark.parametrize("fault", [ValueError("ours"), OSError("without a path")])
def test_a_fault_of_ours_keeps_its_traceback(fault, monkeypatch):
    monkeypatch.setattr(compare, "run", raising(fault))
    with pytest.raises(type(fault)):
        main(["compare", "a", "b"])


def test_a_reader_that_goes_away_ends_it_without_a_word():
    """`rssm ... | head`: no traceback, and the code that a shell gives for a closed pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "rssm_ros.cli.main", "contract", "manipulator", "--json"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_another_broken_pipe_is_a_fault_of_ours(monkeypatch, capfd):
    monkeypatch.setattr(compare, "run", raising(BrokenPipeError(32, "Broken pipe")))
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    with pytest.raises(BrokenPipeError):
        main(["compare", "a", "b"])
