"""`rssm replay`: a bag played to a live filter over ROS, as `ros2 launch rssm_ros replay.launch.py` does."""

import argparse
import json
import os
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rssm_ros.contract import Contract, find_contract
from rssm_ros.evaluation.runs.trace import TraceError, read_counters
from rssm_ros.nodes.ending import at_the_end
from rssm_ros.nodes.graph import ReplayOptions, replay_graph
from rssm_ros.nodes.processes import NodeProcess, child_environment, end_all
from rssm_ros.recordings import BagRecording, open_bag

FAILED, USAGE = 1, 2
LOOK = 0.05  # s between looks at the processes
SHOWN, LOGGED = 0.25, 10.0  # s between status lines, in a terminal and anywhere else
PLAYER = "player_node"
WRITTEN = ("bag", "trace", "log")  # folders in OUT


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "replay",
        help="play a bag to a live filter, and record its beliefs",
        description="Starts player_node, filter_node and recorder_node in a ROS domain of their own. Beliefs "
        "go into OUT/bag, the traces of online and final beliefs into OUT/trace.",
    )
    parser.add_argument("bag", type=Path, help="a rosbag2 folder, or an .mcap, .db3 or .bag file")
    parser.add_argument("--contract", default="manipulator", help="a shipped contract's name, or a path")
    parser.add_argument("--bundle", default="", help="folder of an exported model (default: the shipped one)")
    parser.add_argument("--out", type=Path, default=Path("out/replay"), help="folder (default out/replay)")
    parser.add_argument("--speed", type=float, default=1.0, help="recorded seconds per second (default 1)")
    parser.add_argument("--particles", type=int, default=0, help="of the filter (default: as its parameters)")
    parser.add_argument("--seed", type=int, default=0, help="of the filter's noise")
    parser.add_argument("--namespace", default="", help="of the contract's topics in the bag")
    parser.add_argument("--stamps", default="header", choices=("header", "log"), help="whose stamps")
    parser.add_argument(
        "--impatient", action="store_true", help="never wait for the filter: what it misses is lost"
    )
    parser.add_argument("--json", action="store_true", help="print what came of it as JSON")
    parser.set_defaults(run=run)


@dataclass
class Outcome:
    """How a replay ended."""

    error: str = ""  # empty: all was played
    started: bool = False
    killed: list[str] = field(default_factory=list)


def run(arguments: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    named = arguments.contract
    if named.endswith((".yaml", ".yml")):
        named = str(Path(named).absolute())
    contract = find_contract(named)
    recording = open_bag(arguments.bag, contract, arguments.namespace, arguments.stamps)
    out = arguments.out.absolute()
    _empty(out, arguments.bag)
    options = ReplayOptions(
        bag=str(arguments.bag),
        contract=named,
        bundle=str(Path(arguments.bundle).absolute()) if arguments.bundle else "",
        out=str(out),
        seed=arguments.seed,
        speed=arguments.speed,
        patient=not arguments.impatient,
        particles=arguments.particles,
        namespace=arguments.namespace,
        stamps=arguments.stamps,
    )
    console = Console(stderr=True, quiet=arguments.json)
    outcome = _run_graph(options, contract, recording, out, console)
    found = _found(outcome, out)
    if arguments.json:
        print(json.dumps(found))
    elif outcome.started:
        console.print(f"beliefs in {out / 'bag'}, traces in {out / 'trace'}; counted: {found['counters']}")
    if outcome.error:
        print(f"rssm replay: {outcome.error}", file=sys.stderr)
        return FAILED if outcome.started else USAGE
    return 0


def _empty(out: Path, bag: Path) -> None:
    """Makes room in OUT: what an earlier replay has written there goes. Raises NodeError where anything else
    would, such as the very bag that is to be played.
    """
    from rssm_ros.nodes.errors import NodeError

    there = [out / name for name in WRITTEN if (out / name).exists()]
    ours = (out / "log" / f"{PLAYER}.log").is_file()
    if any(bag.resolve().is_relative_to(folder.resolve()) for folder in there) or (there and not ours):
        names = ", ".join(str(folder) for folder in there)
        raise NodeError(f"{names}: there already, and not of a replay; choose another --out")
    for folder in there:
        shutil.rmtree(folder)
    (out / "log").mkdir(parents=True)


def _run_graph(
    options: ReplayOptions, contract: Contract, recording: BagRecording, out: Path, console: Console
) -> Outcome:
    """Starts, watches and ends the processes; whatever happens, none is left behind."""
    environment = child_environment(out)
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)  # this process is a part of the same ROS graph
    from rssm_ros.nodes.errors import NodeError
    from rssm_ros.nodes.supervisor import Supervisor

    outcome, asked = Outcome(), list[int]()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    processes = [NodeProcess(node, out / "log", environment) for node in replay_graph(options)]
    try:
        supervisor = Supervisor(contract, processes)
        at_the_end(supervisor.close)
        supervisor.bring_up(lambda: bool(asked))
        outcome.started = True
        outcome.error = _watch(supervisor, recording, console, asked)
    except NodeError as error:
        outcome.error = str(error)
    except Exception as error:  # a fault of ours or of ROS: one line here, the rest in the log
        outcome.error = f"{type(error).__name__}: {error}"
        (out / "log" / "rssm_replay.log").write_text(traceback.format_exc())
    finally:
        outcome.killed = end_all(processes)
    return outcome


def _watch(supervisor: Any, recording: BagRecording, console: Console, asked: list[int]) -> str:
    """Until the player has ended; returns what went wrong, or nothing."""
    length, shown = (recording.end_ns - recording.start_ns) * 1e-9, time.monotonic()
    player = next(process for process in supervisor.processes if process.name == PLAYER)
    begun = 0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            supervisor.spin(LOOK)
            if player.code == 0:
                return ""
            if told := supervisor.dead():
                return str(told)
            if asked:
                return f"stopped by {signal.Signals(asked[0]).name}"
            begun = begun or supervisor.sim_ns
            pace = SHOWN if console.is_terminal else LOGGED
            if console.quiet or time.monotonic() - shown < pace:
                continue
            shown, status = time.monotonic(), supervisor.status()
            line = _line((supervisor.sim_ns - begun) * 1e-9, length, status)
            if console.is_terminal:
                live.update(line, refresh=True)
            else:
                console.print(line, soft_wrap=True)


def _line(played: float, length: float, status: Any) -> Text:
    if played > length:
        return Text("all is played; until every belief is final ...", no_wrap=True)
    line = Text(f"{played:.1f}/{length:.1f} s", no_wrap=True)
    if status.surprise == status.surprise:
        line.append(f"  surprise {status.surprise:.1f} nats")
    if status.error_m == status.error_m:
        line.append(f"  error {100 * status.error_m:.1f} cm")
    return line


def _found(outcome: Outcome, out: Path) -> dict[str, Any]:
    try:
        counters = read_counters(out / "trace")
    except TraceError as error:
        counters = {}
        outcome.error = outcome.error or str(error)
    return {
        "status": "error" if outcome.error else "pass",
        "error": outcome.error,
        "bag": str(out / "bag"),
        "trace": str(out / "trace"),
        "counters": counters,
        "killed": outcome.killed,
    }
