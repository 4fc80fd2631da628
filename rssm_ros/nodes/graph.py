"""The node graph, described once: what `ros2 launch` and `rssm up` both start, and in which order.

Nothing here imports ROS: the launch file turns a description into launch actions, `rssm up` into processes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rssm_ros import paths

Value = bool | int | float | str
PLANNERS = ("actor", "cem")
LOCKSTEP_SPEED = 0.1  # robot seconds per steady second that watchdogs count while the sim waits for the nodes


@dataclass(frozen=True)
class NodeDescription:
    """One managed node: the executable (also the module in rssm_ros.nodes), its name and parameters."""

    executable: str
    name: str
    parameters: Mapping[str, Value]
    parameter_files: tuple[str, ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    heartbeat: str = ""  # a topic that is heard at every tick while the node is well
    essential: bool = True  # without it the robot must not go on
    environment: Mapping[str, str] = field(default_factory=dict)

    def ros_arguments(self) -> list[str]:
        """The command line after the executable; later entries override earlier ones, as with launch."""
        words = ["--ros-args", "-r", f"__node:={self.name}"]
        for source, target in self.remappings:
            words += ["-r", f"{source}:={target}"]
        for file in self.parameter_files:
            words += ["--params-file", file]
        for name, value in self.parameters.items():
            words += ["-p", f"{name}:={json.dumps(value)}"]  # JSON scalars are YAML scalars of the same type
        return words


@dataclass(frozen=True)
class GraphOptions:
    """What the user may choose; everything else is in config/params and the contract."""

    contract: str = "manipulator"
    bundle: str = ""  # empty: the shipped bundle of the contract's name
    planner: str = "actor"
    seed: int = 0
    seconds: float = 0.0  # of simulated time; 0: until stopped
    speed: float = 1.0  # simulated seconds per second
    lockstep: bool = False
    particles: int = 0  # 0: as the parameter file says
    view: bool = False
    trace: str = ""  # folder for the nodes' binary traces; empty: none
    monitor: bool = False  # a fifth process that hears everything: only for who wants it
    reviews: str = ""  # folder of its snapshots; empty: out/reviews
    parameter_file: str = ""  # empty: config/params/manipulator.yaml

    def bundle_folder(self) -> str:
        """Where the bundle is, existing or not: the filter says it best when it is missing."""
        return _bundle_folder(self.contract, self.bundle)


@dataclass(frozen=True)
class ReplayOptions:
    """What the user may choose of a replay."""

    bag: str = ""
    contract: str = "manipulator"
    bundle: str = ""  # empty: the shipped bundle of the contract's name
    out: str = ""  # folder for the bag of beliefs and the traces; empty: out/replay-DATE
    seed: int = 0
    speed: float = 1.0  # recorded seconds per second
    patient: bool = True
    particles: int = 0  # 0: as the parameter file says
    namespace: str = ""
    stamps: str = "header"
    parameter_file: str = ""  # empty: config/params/CONTRACT.yaml


def manipulator_graph(options: GraphOptions) -> tuple[NodeDescription, ...]:
    """Filter, planner, gate and the simulated robot, in the order in which they are to be activated; and
    before the robot the monitor, where one is wanted.

    The robot comes last: when its clock starts, whoever answers it is ready.
    """
    sim = NodeDescription(
        executable="sim_node",
        name="sim_node",
        parameters={
            **_common(options),
            "use_sim_time": False,  # it is the clock
            "seed": options.seed,
            "seconds": float(options.seconds),
            "speed": float(options.speed),
            "lockstep": options.lockstep,
            "view": options.view,
        },
        parameter_files=_files(options),
        heartbeat="clock",
    )
    return (*filter_graph(options, use_sim_time=True), sim)


def filter_graph(options: GraphOptions, use_sim_time: bool = False) -> tuple[NodeDescription, ...]:
    """Filter, planner and gate for a robot that is already there; and the monitor, where one is wanted."""
    common, files = _common(options), _files(options)
    model: dict[str, Value] = {**common, "use_sim_time": use_sim_time, "bundle": options.bundle_folder()}
    seeded: dict[str, Value] = {**model, "seed": options.seed}
    chosen: dict[str, Value] = {"particles": options.particles} if options.particles else {}
    chosen["lockstep"] = options.lockstep
    patience = LOCKSTEP_SPEED if options.lockstep else float(options.speed)
    gate: dict[str, Value] = {**common, "use_sim_time": use_sim_time, "speed": patience}
    return (
        NodeDescription("gate_node", "gate_node", gate, files, heartbeat="gate_node/applied"),
        NodeDescription(
            "planner_node",
            "planner_node",
            {**seeded, "planner": options.planner},
            files,
            heartbeat="planner_node/command/channels",
        ),
        NodeDescription(
            "filter_node", "filter_node", {**seeded, **chosen}, files, heartbeat="filter_node/belief"
        ),
        *((_monitor(options, model, files),) if options.monitor else ()),
    )


def _monitor(options: GraphOptions, model: Mapping[str, Value], files: tuple[str, ...]) -> NodeDescription:
    """It only listens, so neither its end nor its silence ends anything else."""
    out = str(Path(options.reviews or "out/reviews").absolute())
    return NodeDescription("monitor_node", "monitor_node", {**model, "out": out}, files, essential=False)


def replay_graph(options: ReplayOptions) -> tuple[NodeDescription, ...]:
    """A recorder of beliefs, the filter, and last the player of a bag, which ends when all is played."""
    out = Path(options.out or f"out/replay-{datetime.now():%Y%m%d-%H%M%S}").absolute()
    files, trace = _files(options), str(out / "trace")
    common: dict[str, Value] = {"contract": options.contract, "use_sim_time": True}
    recorder: dict[str, Value] = {**common, "out": str(out / "bag"), "robot": False}
    model: dict[str, Value] = {
        **common,
        "trace": trace,
        "bundle": _bundle_folder(options.contract, options.bundle),
        "seed": options.seed,
        "lockstep": False,
    }
    if options.particles:
        model["particles"] = options.particles
    player: dict[str, Value] = {
        **common,
        "use_sim_time": False,  # it is the clock
        "trace": trace,
        "bag": str(Path(options.bag).absolute()) if options.bag else "",
        "speed": float(options.speed),
        "patient": options.patient,
        "namespace": options.namespace,
        "stamps": options.stamps,
    }
    return (
        NodeDescription(
            "recorder_node", "recorder_node", {**recorder, "truth": True, "beliefs": True}, files
        ),
        NodeDescription("filter_node", "filter_node", model, files, heartbeat="filter_node/belief"),
        NodeDescription("player_node", "player_node", player, files, heartbeat="clock"),
    )


def _bundle_folder(contract: str, bundle: str) -> str:
    return bundle or str(paths.share_path("models", Path(contract).stem))


def _common(options: GraphOptions) -> dict[str, Value]:
    return {"contract": options.contract, "trace": options.trace}


def _files(options: GraphOptions | ReplayOptions) -> tuple[str, ...]:
    if options.parameter_file:
        return (options.parameter_file,)
    shipped = paths.share_path("config", "params", f"{Path(options.contract).stem}.yaml")
    return (str(shipped),) if shipped.is_file() else ()
