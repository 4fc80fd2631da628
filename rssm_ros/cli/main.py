"""`rssm`: every command of the project behind one word.

A command is a module of this package with `add_parser(subparsers)`; it is imported only when asked for, so
that `rssm verify` needs no torch and `rssm train` no ROS. Exit codes: 0 pass, 1 a check failed, 2 usage or
environment, 130 stopped before it was done, 141 nobody reads what is printed.
"""

import argparse
import errno
import importlib
import os
import select
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor

from rssm_ros.nodes.ending import end

# name on the command line -> one line for --help; the module is the name with "_" for "-"
COMMANDS = {
    "doctor": "what is installed and usable here, and what to do about what is missing",
    "contract": "check a contract, and say what it asks of a robot",
    "up": "run the whole node graph without `ros2 launch`, and sum up the run",
    "collect": "record episodes of a simulated robot for training",
    "record": "record a robot, or a simulated one, into MCAP bags by contract",
    "reviews": "what surprised the filter: the monitor's snapshots, why each was taken, how to replay it",
    "replay": "play a bag to a live filter, and record its beliefs",
    "dataset": "turn recorded bags into episodes for training",
    "train": "train world model and actor, resumably",
    "train-baseline": "train what a bundle is held against: a recurrent network, or one of single frames",
    "train-tracker": "train a filter of places beside a trained world model: sharper, more honest targets",
    "export": "turn a checkpoint into a bundle",
    "calibrate": "thresholds and regions of a bundle from held-out data",
    "compare": "scorecards side by side, with intervals",
    "verify": "prove that a bundle computes here what it computed where it was made",
    "bench": "how long a step takes here, beside the least it could take",
    "evaluate": "the occlusion scorecard: how well hidden things are tracked in recordings",
    "evaluate-policy": "sorted packages of a bundle beside expert, memoryless and random",
    "evaluate-dot": "error of a bundle on the hidden moving dot beside the exact Bayes filter",
    "faults": "what losses, delays, disorder and nonsense cost the belief",
    "scene": "measure the sorting cell: is memory what makes the difference?",
}
FULL = (errno.ENOSPC, errno.EDQUOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(prog="rssm", description="A learned belief for robots.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        if name == chosen:
            module = importlib.import_module(f"rssm_ros.cli.{name.replace('-', '_')}")
            module.add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=text, add_help=False)
    return end("rssm", _run(parser.parse_args(words)))


def _run(parsed: argparse.Namespace) -> int:
    """The command, and what it fails of in a line; returns the exit code."""
    try:
        code = int(parsed.run(parsed))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("rssm: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_ours(error):
            raise
        print(f"rssm {parsed.command}: {error}", file=sys.stderr)
        return 2


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone (`rssm ... | head`); what is left for it then
    vanishes.
    """
    output, asked = sys.stdout.fileno(), select.poll()
    asked.register(output, 0)
    if not any(event & select.POLLERR for _, event in asked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _is_ours(error: Exception) -> bool:
    """One of the layers' own errors, a missing optional package, a path that cannot be used, or a worker that
    was killed: told in a line, without a traceback.
    """
    if isinstance(error, ModuleNotFoundError):
        error.msg = f"{error.msg}; install the extra that brings it (pip install 'rssm_ros[train,sim]')"
        return True
    if isinstance(error, BrokenExecutor):
        error.args = ("a worker process was killed, most often for lack of memory; give fewer --workers",)
        return True
    # --out is a file, no right to read, a full disk ...
    named = isinstance(error, OSError) and (error.filename is not None or error.errno in FULL)
    ours = type(error).__module__.split(".")[0] == "rssm_ros"
    return ours or named or isinstance(error, FileNotFoundError)


if __name__ == "__main__":
    sys.exit(main())
