"""`rssm up`: the node graph as real processes, watched, recorded and summed up."""

import argparse
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rssm_ros import provenance
from rssm_ros.bundle import BundleError, load_bundle
from rssm_ros.contract import HIDDEN, Contract, find_contract
from rssm_ros.evaluation.runs import summary as summaries
from rssm_ros.nodes.ending import at_the_end
from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.graph import PLANNERS, GraphOptions, manipulator_graph
from rssm_ros.nodes.processes import NodeProcess, child_environment, end_all
from rssm_ros.nodes.recorded import belief_topics, plan_topics, robot_topics, truth_topics

FAILED, USAGE = 1, 2
VERSIONS = ("numpy", "onnxruntime", "mujoco", "ros-rclpy", "rosbags")  # what a run depends on
AFTERMATH = 0.8  # s that the sim goes on after a failure, so that its trace shows the robot stopping
LOOK = 0.05  # s between looks at the processes
SHOWN = 4  # status lines per second in a terminal
LOGGED = 10.0  # s between status lines anywhere else
GRACE = 30.0  # s of wall time beyond what a run should take


def add_parser(subparsers: Any) -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "up", help="run the whole node graph without `ros2 launch`, and sum up the run"
    )
    parser.add_argument(
        "robot", nargs="?", default="manipulator", help="a shipped contract's name, or a path"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of simulated time (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the episode and of the filter's noise")
    parser.add_argument(
        "--out", type=Path, help="folder for summary, traces, bag and video (default out/ROBOT)"
    )
    parser.add_argument("--bundle", default="", help="folder of an exported model (default: the shipped one)")
    parser.add_argument("--planner", default="actor", choices=PLANNERS, help="how actions are chosen")
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second (default 1)")
    parser.add_argument("--lockstep", action="store_true", help="the sim waits for every answer")
    parser.add_argument("--view", action="store_true", help="open a window, where there is a screen")
    parser.add_argument("--record", action="store_true", help="write an MCAP bag and a video")
    parser.add_argument(
        "--monitor",
        action="store_true",
        help="snapshots in OUT/reviews of what surprises the filter, ~/panel",
    )
    parser.add_argument(
        "--domain", type=_domain, help="ROS domain, 0 to 101 (default: one that nobody uses here)"
    )
    parser.add_argument(
        "--no-references", action="store_true", help="skip the expert's and the random policy's run"
    )
    parser.add_argument("--json", action="store_true", help="print summary.json instead of the table")
    parser.set_defaults(run=run)


def _domain(text: str) -> int:
    if not text.isdecimal() or int(text) > 101:  # the ports of later ones belong to the system
        raise argparse.ArgumentTypeError(f"{text!r} is no ROS domain; expected 0 to 101")
    return int(text)


@dataclass
class Outcome:
    """How a run ended."""

    error: str = ""  # empty: all went well
    started: bool = False  # the nodes came to life
    fault_ns: int = 0  # CLOCK_MONOTONIC when the node at fault was last heard
    missing: str = ""  # a node that ended on the way, and the run went on
    recorded: dict[str, int] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)


def run(arguments: argparse.Namespace) -> int:
    """The command; returns its exit code."""
    started = time.monotonic()
    contract = find_contract(arguments.robot)
    out = _fresh(arguments.out or Path("out") / contract.name, contract)
    options = _options(arguments, contract, out)
    console = Console(stderr=True, quiet=arguments.json)
    outcome = _run_graph(options, contract, out, console, arguments)
    found = _summary(outcome, options, contract, out)
    summaries.write_summary(out / "summary.json", found)  # before anything else that may fail
    if not outcome.error:
        _afterwards(outcome, options, contract, out, found, arguments, console)
    found["total_wall_s"] = round(time.monotonic() - started, 2)
    whole = summaries.write_summary(out / "summary.json", found)
    if arguments.json:
        print(json.dumps(json.loads((out / "summary.json").read_text())))
    elif outcome.started:
        _show(whole, out, console)
    if outcome.missing:
        print(f"rssm up: {outcome.missing}; the run went on without it", file=sys.stderr)
    if outcome.error:
        print(f"rssm up: {outcome.error}", file=sys.stderr)
        return FAILED if outcome.started else USAGE
    return 0 if whole["status"] == "pass" else FAILED


def _fresh(out: Path, contract: Contract) -> Path:
    """The run's folder without what an earlier run left there. Raises NodeError for what is of none."""
    out = out.absolute()
    there = [out / name for name in ("bag", "reviews") if (out / name).exists()]
    if (
        there and not (out / "log").exists()
    ):  # every run has a log, `rssm record` and a robot's monitor have none
        raise NodeError(f"{there[0]}: there already, and not of a run; choose another --out")
    for name in ("bag", "trace", "log", "reviews"):
        shutil.rmtree(out / name, ignore_errors=True)
    for file in (out / "summary.json", _film(out, contract)):
        file.unlink(missing_ok=True)
    for name in ("trace", "log"):
        (out / name).mkdir(parents=True)
    return out


def _options(arguments: argparse.Namespace, contract: Contract, out: Path) -> GraphOptions:
    named = (
        arguments.robot
        if not arguments.robot.endswith((".yaml", ".yml"))
        else str(Path(arguments.robot).absolute())
    )
    return GraphOptions(
        contract=named,
        bundle=str(Path(arguments.bundle).absolute()) if arguments.bundle else "",
        planner=arguments.planner,
        seed=arguments.seed,
        seconds=arguments.seconds,
        speed=arguments.speed,
        lockstep=arguments.lockstep,
        view=arguments.view,
        trace=str(out / "trace"),
        monitor=arguments.monitor,
        reviews=str(out / "reviews"),
    )


def _run_graph(
    options: GraphOptions, contract: Contract, out: Path, console: Console, arguments: argparse.Namespace
) -> Outcome:
    """Starts, watches and ends the processes; whatever happens, none is left behind."""
    environment = child_environment(out, arguments.domain)
    for name in set(os.environ) - set(environment):
        del os.environ[name]  # what may lead to a robot
    os.environ.update(environment)  # this process is a part of the same ROS graph
    # rclpy is imported from here on, and only here
    from rssm_ros.nodes.recorder import Recorder
    from rssm_ros.nodes.supervisor import Supervisor

    outcome = Outcome()
    asked = _catch_signals()
    console.print(f"starting the nodes (ROS_DOMAIN_ID {environment['ROS_DOMAIN_ID']}) ...")
    processes = [NodeProcess(node, out / "log", environment) for node in manipulator_graph(options)]
    recorder = None
    try:
        supervisor = Supervisor(contract, processes, options.lockstep)
        at_the_end(supervisor.close)
        if arguments.record:
            watched = supervisor
            topics = [
                *robot_topics(contract),
                *truth_topics(contract),
                *belief_topics(contract),
                *plan_topics(),
            ]
            recorder = Recorder(supervisor.node, out / "bag", topics, lambda: watched.sim_ns)
        supervisor.bring_up(lambda: bool(asked))
        outcome.started = True
        outcome.error = _watch(supervisor, options, console, asked)
        outcome.missing = supervisor.missing()
        if outcome.error:
            outcome.fault_ns = supervisor.fault_ns or time.monotonic_ns()
            supervisor.stop_robot()
            supervisor.spin(AFTERMATH)
    except NodeError as error:
        outcome.error = str(error)
    except Exception as error:  # a fault of ours or of ROS: the summary names it, the log has the rest
        outcome.error = f"{type(error).__name__}: {error}"
        (out / "log" / "rssm_up.log").write_text(traceback.format_exc())
    finally:
        outcome.killed = end_all(processes)
        if recorder is not None:
            recorder.close()
            outcome.recorded = recorder.counts
            outcome.error = outcome.error or recorder.error
    return outcome


def _catch_signals() -> list[int]:
    """SIGINT and SIGTERM end the run in order: the robot stops first."""
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    return asked


def _watch(supervisor: Any, options: GraphOptions, console: Console, asked: list[int]) -> str:
    """Until the simulated time is over; returns what went wrong, or nothing."""
    score = _score_reader(Path(options.trace))
    pace = 1 / SHOWN if console.is_terminal else LOGGED
    longest = (options.seconds / options.speed if not options.lockstep else 20 * options.seconds) + GRACE
    deadline, shown = time.monotonic() + longest, 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not supervisor.finished(options.seconds):
            supervisor.spin(LOOK)
            if trouble := supervisor.trouble():
                return str(trouble)
            if asked:
                return f"stopped by {signal.Signals(asked[0]).name}"
            if time.monotonic() > deadline:
                return (
                    f"the simulation is too slow: {options.seconds:g} s were not over after {longest:.0f} s"
                )
            if not console.quiet and time.monotonic() - shown > pace:
                shown = time.monotonic()
                line = _line(supervisor.status(), score(), options)
                if console.is_terminal:
                    live.update(line, refresh=True)
                else:
                    console.print(line, soft_wrap=True)
        supervisor.settle()
    return ""


def _score_reader(traces: Path) -> Callable[[], tuple[int, ...]]:
    """Sorted, missed, wrong so far, from the last record of the sim's growing trace."""
    from rssm_ros.evaluation.runs.trace import TraceError, read_last

    def read() -> tuple[int, ...]:
        try:
            last = read_last(traces / "sim.trace")
        except TraceError:
            return (0, 0, 0)
        _, done, wrong, missed = (int(value) for value in last["score"])
        return done, missed, wrong

    return read


def _line(status: Any, score: tuple[int, ...], options: GraphOptions) -> Text:
    done, missed, wrong = score
    seen = status.visibility
    line = Text(f"{max(0.0, status.sim_s - 1):.1f}/{options.seconds:g} s tick {status.tick} ", no_wrap=True)
    line.append(f"{status.loop_hz:.1f} Hz ")
    line.append(f"sorted {done} missed {missed} wrong {wrong} ", "bold")
    if seen != seen:
        line.append("no package  ", "dim")
    elif seen <= HIDDEN:
        line.append("hidden      ", "bold yellow")
    else:
        line.append(f"visible {seen:4.0%} ", "green")
    line.append(f"{100 * status.error_m:.1f} cm {status.surprise:.1f} nats")
    return line


def _summary(outcome: Outcome, options: GraphOptions, contract: Contract, out: Path) -> dict[str, Any]:
    """What summary.json says of the run itself. A trace that cannot be read is the run's error."""
    found: dict[str, Any] = {
        "seed": options.seed,
        "machine": provenance.machine(),
        "versions": {**provenance.versions(*VERSIONS), "ros_distro": os.environ.get("ROS_DISTRO", "")},
    }
    try:
        found["bundle_sha256"] = load_bundle(options.bundle_folder()).sha256
    except BundleError:
        found["bundle_sha256"] = None
    if outcome.started:
        try:
            traced = summaries.load_run(out / "trace", contract.dt)
            found |= summaries.summarise(traced, float(contract.rate), options.speed, options.lockstep)
            if outcome.error:
                found["stopped_after_s"] = summaries.stopped_after(traced, outcome.fault_ns)
        except summaries.TraceError as error:
            outcome.error = outcome.error or str(error)
    if outcome.missing:
        found["monitor_error"] = outcome.missing
    if outcome.error:
        return {**found, "status": "error", "error": outcome.error}
    return {**found, "status": "pass" if all(check["pass"] for check in found["checks"]) else "fail"}


def _afterwards(
    outcome: Outcome,
    options: GraphOptions,
    contract: Contract,
    out: Path,
    found: dict[str, Any],
    arguments: argparse.Namespace,
    console: Console,
) -> None:
    """What only shows the run: references and film, after it so that they steal nothing from the loop."""

    def references() -> None:
        for name, count in summaries.reference_scores(options.seed, options.seconds).items():
            found[f"{name}_sorted"] = count

    def film() -> None:
        from rssm_ros.evaluation.film.video import render_video

        render_video(out / "trace", _film(out, contract), contract.dt)

    if not arguments.no_references:
        console.print("the same seed with the expert and the random policy ...")
        _attempt("reference", references, found, console)
    if arguments.record:
        found["messages_recorded"] = sum(outcome.recorded.values())
        console.print("rendering the video ...")
        _attempt("video", film, found, console)


def _attempt(what: str, action: Callable[[], None], found: dict[str, Any], console: Console) -> None:
    """Does it, and takes the time. Whatever goes wrong is told, never fatal: the run itself is over."""
    started = time.monotonic()
    try:
        action()
    except Exception as error:  # no GL, a dead worker, a full disk, a codec: none of them is the run's
        ours = type(error).__module__.startswith("rssm_ros")
        told = str(error) if ours else f"{type(error).__name__}: {error}"
        found[f"{what}_error"] = told
        console.print(told, style="yellow")
    found[f"{what}_wall_s"] = round(time.monotonic() - started, 2)


def _film(out: Path, contract: Contract) -> Path:
    return out / f"{contract.name}.mp4"


def _show(whole: dict[str, Any], out: Path, console: Console) -> None:
    table = Table(title=f"{whole['status']}: {out}", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")

    def row(name: str, value: Any, note: str = "") -> None:
        told = "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
        table.add_row(name, told, note)

    known = whole["expert_sorted"] is not None
    beside = f"expert {whole['expert_sorted']}, random {whole['random_sorted']}" if known else ""
    row("packages sorted", whole["sorted"], beside)
    row("missed / wrong", f"{whole['missed']} / {whole['wrong']}", f"of {whole['packages']} finished")
    errors, hold = whole["belief_error_m"] or {}, whole["hold_last_error_m"] or {}
    row("belief error, visible (m)", errors.get("visible"))
    row("belief error, hidden (m)", errors.get("hidden"), f"{whole['hidden_ticks']} ticks")
    row("hold last, hidden (m)", hold.get("hidden"))
    row("constant guess, hidden (m)", whole["climatology_error_m"])
    latency = whole["latency_ms"] or {}
    row("latency p50 / p99 (ms)", " / ".join(_number(latency.get(key)) for key in ("p50", "p99")))
    if (watched := (whole["counters"] or {}).get("monitor_node")) is not None:
        row(
            "reviews",
            watched.get("reviews", 0),
            f"{watched.get('snapshots', 0)} snapshots: rssm reviews {out}",
        )
    for check in whole["checks"]:
        mark = "[green]pass[/]" if check["pass"] else "[bold red]FAIL[/]"
        table.add_row(f"check {check['name']}", _number(check["value"]), f"{check['bound']}  {mark}")
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
