"""`rssm record`: a bag of a robot, or of a simulated one, by contract."""

import argparse
import json
import math
import shutil
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rssm_ros.contract import Contract, find_contract
from rssm_ros.nodes.ending import at_the_end
from rssm_ros.nodes.recorded import Recorded, belief_topics, robot_topics, truth_topics

FAILED, STOPPED = 1, 130
LOOK = 0.05  # s between looks at the signals
SHOWN = 0.5  # s between two status lines in a terminal
LOGGED = 10.0  # s between them anywhere else
LEAST_FREE = 200 << 20  # bytes of disk at which recording ends by itself
MEGABYTE, GIGABYTE = 1e6, 1e9


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "record",
        help="record a robot, or a simulated one, into MCAP bags by contract",
        description="Listens to the topics that a contract names and writes them into a rosbag2 folder "
        "(MCAP). Ctrl-C or SIGTERM ends it in order; after SIGKILL the bag lacks its last second, no more.",
    )
    parser.add_argument(
        "--contract", default="manipulator", help="a shipped contract's name, or a path (default manipulator)"
    )
    parser.add_argument("--out", type=Path, help="folder of the bag (default out/recordings/CONTRACT-DATE)")
    parser.add_argument(
        "--seconds",
        type=_amount,
        default=0.0,
        help="of log time, from the first observation on; 0: until Ctrl-C",
    )
    parser.add_argument("--truth", action="store_true", help="the contract's targets and visibilities, too")
    parser.add_argument("--beliefs", action="store_true", help="what filter_node says, too")
    parser.add_argument(
        "--split", type=_amount, default=2000.0, metavar="MB", help="size of one file; 0: one (default 2000)"
    )
    parser.add_argument("--namespace", default="", help="of the robot's topics")
    parser.add_argument(
        "--sim-time", action="store_true", help="log time is /clock, as for a simulated robot"
    )
    parser.add_argument("--json", action="store_true", help="print what was recorded as JSON")
    parser.set_defaults(run=run)


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0.0):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount; expected a number from 0 up")
    return value


def run(arguments: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    contract = find_contract(arguments.contract)
    topics = robot_topics(contract)
    topics += truth_topics(contract) if arguments.truth else []
    topics += belief_topics(contract) if arguments.beliefs else []
    date = datetime.now().strftime("%Y%m%d-%H%M%S")
    out = (arguments.out or Path("out") / "recordings" / f"{contract.name}-{date}").absolute()
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    console = Console(stderr=True, quiet=arguments.json)
    node, executor = _node(arguments.namespace, arguments.sim_time)
    recorder = _recorder(node, out, topics, contract, arguments)
    try:
        trouble = _watch(recorder, node, executor, arguments, console, asked)
    finally:
        recorder.close()
    found = _found(recorder, out, trouble or recorder.error)
    print(json.dumps(found)) if arguments.json else console.print(_table(recorder, out))
    if found["error"]:
        print(f"rssm record: {found['error']}", file=sys.stderr)
        return FAILED
    return STOPPED if asked and arguments.seconds else 0


def _node(namespace: str, sim_time: bool) -> tuple[Any, Any]:
    """A ROS node of our own, and what spins it; rclpy's signal handlers would end it before the bag is
    closed.
    """
    import rclpy
    from rclpy.exceptions import InvalidNamespaceException
    from rclpy.node import Node
    from rclpy.parameter import Parameter
    from rclpy.signals import SignalHandlerOptions
    from rclpy.validate_namespace import validate_namespace

    from rssm_ros.nodes.errors import NodeError
    from rssm_ros.nodes.executors import make_executor

    try:
        validate_namespace(f"/{namespace.lstrip('/')}")
    except InvalidNamespaceException as error:
        raise NodeError(f"--namespace {namespace!r}: {str(error).splitlines()[0]}") from error
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(
        "rssm_record",
        namespace=namespace or None,
        enable_rosout=False,
        start_parameter_services=False,
        parameter_overrides=[Parameter("use_sim_time", value=sim_time)],
    )
    executor = make_executor(node)

    def leave() -> None:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()

    at_the_end(leave)
    return node, executor


def _recorder(
    node: Any, out: Path, topics: list[Recorded], contract: Contract, arguments: argparse.Namespace
) -> Any:
    from rssm_ros.nodes.recorder import Recorder

    clock, split = node.get_clock(), int(arguments.split * MEGABYTE)
    return Recorder(
        node, out, topics, lambda: int(clock.now().nanoseconds), split, {"contract": contract.name}
    )


def _watch(
    recorder: Any, node: Any, executor: Any, arguments: argparse.Namespace, console: Console, asked: list[int]
) -> str:
    """Records until it is over; returns what went wrong, or nothing."""
    looked, shown = -math.inf, -math.inf
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not asked and not recorder.error:
            executor.spin_once(timeout_sec=LOOK)
            now, steady = int(node.get_clock().now().nanoseconds), time.monotonic()
            seconds = (now - recorder.begun_ns) * 1e-9 if recorder.begun_ns else 0.0
            if arguments.seconds and seconds >= arguments.seconds:
                break
            if steady - looked < SHOWN:
                continue
            looked, free = steady, shutil.disk_usage(recorder.folder).free
            if free < LEAST_FREE:
                return (
                    f"{recorder.folder}: the disk is nearly full ({free / MEGABYTE:.0f} MB); stopped in time"
                )
            if not console.quiet and (console.is_terminal or steady - shown > LOGGED):
                shown = steady
                _show(live, console, recorder, seconds, free, arguments.sim_time)
    return ""


def _show(live: Live, console: Console, recorder: Any, seconds: float, free: int, sim_time: bool) -> None:
    pace = recorder.size / seconds if seconds > 0 else 0.0
    left = f"{free / GIGABYTE:.1f} GB left"
    if pace > MEGABYTE / 1000:
        left += f" ({free / pace / 3600:.1f} h)"
    line = Text(f"{seconds:.1f} s  {recorder.size / MEGABYTE:.1f} MB  {left}", no_wrap=True)
    missing = [status.topic for status in recorder.status() if status.needed and not status.count]
    if missing:
        line.append(f"  waiting for {', '.join(missing)}", "bold yellow")
    if not sim_time and any(s.topic == "/clock" and s.count for s in recorder.status()):
        line.append("  somebody publishes /clock: --sim-time would log in its time", "yellow")
    if console.is_terminal:
        live.update(Group(_table(recorder, recorder.folder), line), refresh=True)
    else:
        console.print(line, soft_wrap=True)


def _table(recorder: Any, out: Path) -> Table:
    table = Table(title=str(out), title_justify="left", box=None)
    for name, side in (("topic", "left"), ("messages", "right"), ("Hz", "right"), ("gaps", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("longest", justify="right")
    table.add_column("")
    for status in recorder.status():
        if not (status.count or status.needed):
            continue
        style = "" if status.count else "bold yellow"
        cells = (str(status.count), f"{status.hz:.1f}", str(status.gaps), f"{status.longest_gap:.2f} s")
        table.add_row(status.topic, *cells, status.note, style=style)
    return table


def _found(recorder: Any, out: Path, trouble: str) -> dict[str, Any]:
    """What was recorded, and what a bag without it is not good for."""
    topics = recorder.status()
    missing = [f"{status.topic} ({status.note})" for status in topics if status.needed and not status.count]
    if missing and not trouble:
        trouble = f"nothing was recorded of {', '.join(missing)}"
    return {
        "bag": str(out),
        "bytes": recorder.size,
        "error": trouble,
        "topics": {
            status.topic: {
                "messages": status.count,
                "gaps": status.gaps,
                "longest_gap_s": round(status.longest_gap, 3),
            }
            for status in topics
        },
    }
