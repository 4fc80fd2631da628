"""sim_node: the sorting cell as a robot. ROS around envs.ManipulatorEnv, free-running or in lockstep."""

import time
from typing import Any

from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool, Trigger

from rssm_ros import messages
from rssm_ros.contract import find_contract
from rssm_ros.nodes.camera_faults import Faults
from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.interfaces import COMMANDS
from rssm_ros.nodes.managed import ManagedNode
from rssm_ros.nodes.parameters import Parameter
from rssm_ros.nodes.robot_commands import RobotCommands
from rssm_ros.nodes.robot_topics import RobotTopics, open_viewer
from rssm_ros.nodes.running import run
from rssm_ros.nodes.simulated_robot import CLOCK, SimulatedRobot, SimulationTrace
from rssm_ros.online.grid import SECOND, stamp_of

START = 1.0  # s of ROS time: 0 means "unset"
LOCKSTEP_PATIENCE = 1.0  # s of wall time for an answer
GREETING = 1.0  # s at most that the first picture waits for someone to look at it
FORGIVEN = 0.5  # s of lag beyond which time is dropped instead of caught up


class SimNode(ManagedNode):
    """The simulated robot: physics, sensors, its own command timeout, and the truth for scoring."""

    parameters = (
        Parameter("seed", 0, "of the first episode; later ones count on", 0, 2**31 - 1),
        Parameter("seconds", 0.0, "simulated time after which it stands still; 0: never", 0.0, 1e6),
        Parameter("speed", 1.0, "simulated seconds per second", 0.01, 100.0),
        Parameter(
            "lockstep", False, "wait at each tick for the command that answers it, instead of real time"
        ),
        Parameter("view", False, "open a window"),
        Parameter(
            "camera_drop",
            0.0,
            "share of pictures withheld, to show what the belief is worth",
            0.0,
            1.0,
            live=True,
        ),
        Parameter(
            "camera_freeze",
            0.0,
            "share of pictures in whose place the one before comes again",
            0.0,
            1.0,
            live=True,
        ),
        Parameter("camera_delay", 0.0, "s that pictures come late, to whole ticks", 0.0, 10.0, live=True),
    )

    def __init__(self) -> None:
        super().__init__("sim_node")
        self._paused, self._steps, self._reset_asked = False, 0, False
        self.counters = {"lockstep_timeout": 0, "dropped_time_ms": 0}

    def set_up(self) -> None:
        """The cell, its renderer, topics and services."""
        try:
            from rssm_ros.envs.manipulator import ManipulatorEnv
        except (ImportError, AttributeError) as error:
            told = f"the simulator cannot be loaded: {error}; pip install 'rssm_ros[sim]'"
            raise NodeError(told) from error
        self.contract = find_contract(self.value("contract"))
        self.robot = SimulatedRobot(ManipulatorEnv(episode_seconds=None), self.contract)
        self.topics = RobotTopics(self, self.contract, self.robot.env.cell.model, self.value("seed"))
        self._clock_topic = self.create_lifecycle_publisher(Clock, "clock", COMMANDS)
        self._commands = RobotCommands(
            self, self.contract, lambda name, values: self.robot.hear(name, values, self._now())
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self.create_service(Trigger, "~/step", self._on_step)
        self._viewer = open_viewer(self.robot.env.cell) if self.value("view") else None

    def start(self) -> None:
        """A new episode; the clock starts at 1 s, before anything is observed."""
        self._seed = int(self.value("seed"))
        self._commands.answer = None
        self._first = self._tick = round(START * self.contract.rate)
        self._greeting: Any = self.robot.reset(self._seed, self._now())
        self._greeted_until = time.monotonic() + GREETING
        folder = self.value("trace")
        self._trace = SimulationTrace(folder, self.robot) if folder else None
        self._publish_clock()

    def stop(self) -> None:
        """Nothing moves without ticks; the trace is complete."""
        if self._trace is not None:
            self._trace.close()
        counted = {**self.counters, "bad_command": self._commands.bad}
        self.keep_counters(counted)
        if any(counted.values()):
            self.get_logger().info(f"counted: {counted}")

    def tear_down(self) -> None:
        """The renderer's OpenGL context and the window."""
        self.robot.env.close()
        if self._viewer is not None:
            self._viewer.close()

    @property
    def stamp(self) -> int:
        """ROS time of the latest tick, ns."""
        return stamp_of(self._tick, self.contract.rate)

    def _now(self) -> float:
        return time.monotonic() * float(self.value("speed"))

    @property
    def _done(self) -> bool:
        limit = float(self.value("seconds"))
        return bool(limit) and (self._tick - self._first) * self.contract.dt >= limit - 1e-9

    # -- time ---------------------------------------------------------------------------------------------

    def idle(self) -> float:
        """Seconds until the next piece of physics is due."""
        if self._greeting is not None or self._paused or self._done:
            return CLOCK
        if self.value("lockstep"):
            return 0.0 if self._answered else CLOCK
        return max(0.0, self._due - time.monotonic())

    def work(self) -> None:
        """Whatever is due: the first observation, a lockstep tick, or the physics up to now."""
        if self._greeting is not None:
            self._greet()
        elif self._done:
            return
        elif self._paused:
            while self.robot.piece:  # a pause begins between ticks
                self._piece()
            if self._steps:
                self._steps -= 1
                self._whole_tick()
        elif self.value("lockstep"):
            self._lockstep()
        else:
            self._real_time()

    def _greet(self) -> None:
        """The first observation, once someone listens (or nobody came)."""
        self._publish_clock()
        if time.monotonic() < self._greeted_until and not self.topics.watched():
            return
        self._greeting = self.robot.reset(self._seed, self._now())
        first, self._greeting = self._greeting, None
        self._publish_tick(first, reset=True)
        self._due = time.monotonic() + CLOCK

    def _real_time(self) -> None:
        late = time.monotonic() - self._due
        if late < 0:
            return
        if late > FORGIVEN:
            self.counters["dropped_time_ms"] += int(1000 * late)
            self._due += late
        self._due += self.contract.dt / self.robot.pieces / float(self.value("speed"))
        self.robot.brake_if_silent(self._now(), self.get_logger().warning)
        self._piece()

    def _lockstep(self) -> None:
        if self._answered:
            assert self._commands.answer is not None
            answer = self._commands.answer[1]
        elif time.monotonic() < self._published + LOCKSTEP_PATIENCE:
            return
        else:
            self.counters["lockstep_timeout"] += 1
            answer = self.robot.safe()
        self._whole_tick(answer)

    @property
    def _answered(self) -> bool:
        answer = self._commands.answer
        return answer is not None and answer[0] > self.stamp

    def _whole_tick(self, answer: Any = None) -> None:
        self._piece(answer)
        while self.robot.piece:
            self._piece()

    def _piece(self, answer: Any = None) -> None:
        """A clock period of physics; at the end of a tick everything is observed."""
        if self.robot.piece == 0 and self._reset_asked:  # takes a tick of its own: the clock never steps back
            self._reset_asked, self._seed = False, self._seed + 1
            outcome = self.robot.reset(self._seed, self._now())
            reset = True
        else:
            outcome, reset = self.robot.advance(answer), False
        if outcome is not None:
            self._tick += 1
        self._publish_clock()
        if outcome is not None:
            self._publish_tick(outcome, reset)

    # -- messages -----------------------------------------------------------------------------------------

    def _publish_clock(self) -> None:
        tick_ns = stamp_of(self._tick + 1, self.contract.rate) - self.stamp
        message = Clock()
        messages.set_stamp(message.clock, self.stamp + tick_ns * self.robot.piece // self.robot.pieces)
        self._clock_topic.publish(message)

    def _publish_tick(self, outcome: Any, reset: bool = False) -> None:
        observation, reward, terminal, _, info = outcome
        self._reset_asked = self._reset_asked or terminal
        late = int(SECOND * self.value("camera_delay"))
        faults = Faults(self.value("camera_drop"), self.value("camera_freeze"), late)  # may change on the way
        self.topics.publish_episode(self.stamp, "reset" * reset or "terminal" * terminal)
        seen_ns = self.topics.publish_robot(self.stamp, observation, reset, faults)
        self._published = time.monotonic()
        self.topics.publish_truth(self.stamp, info, reward)
        if self._trace is not None:
            self._trace.write(self._tick, self.stamp, seen_ns, outcome, reset)
        if self._viewer is not None:
            self._viewer.sync()

    def _on_reset(self, _: Any, response: Any) -> Any:
        self._reset_asked = True
        response.success, response.message = True, "at the next tick"
        return response

    def _on_pause(self, request: Any, response: Any) -> Any:
        self._paused, self._due = bool(request.data), time.monotonic()
        response.success, response.message = True, "paused" if request.data else "running"
        return response

    def _on_step(self, _: Any, response: Any) -> Any:
        response.success = self._paused
        response.message = "one tick" if self._paused else "pause first"
        self._steps += int(self._paused)
        return response


def main() -> int:
    """Entry point."""
    return run(SimNode)


if __name__ == "__main__":
    raise SystemExit(main())
