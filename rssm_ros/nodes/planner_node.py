"""planner_node: commands. ROS around online.planner; the belief comes rolled forward to when the
command acts.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path as PathMessage
from sensor_msgs.msg import JointState, PointCloud2

from rssm_ros import messages
from rssm_ros.evaluation.runs.trace import TraceWriter, plan_dtype
from rssm_ros.nodes.beliefs import belief_of
from rssm_ros.nodes.diagnostics import Diagnostics
from rssm_ros.nodes.graph import PLANNERS
from rssm_ros.nodes.interfaces import COMMANDS
from rssm_ros.nodes.managed import ManagedNode
from rssm_ros.nodes.model import BACKEND, load_model
from rssm_ros.nodes.motion import PlannedMotion
from rssm_ros.nodes.parameters import Parameter
from rssm_ros.nodes.running import run
from rssm_ros.online import noise
from rssm_ros.online.belief import Belief
from rssm_ros.online.grid import stamp_of
from rssm_ros.online.limits import Limits
from rssm_ros.online.planner import Plan, make_planner
from rssm_ros.online.steps import State


class PlannerNode(ManagedNode):
    """Answers the latest belief with a command, then imagines where the first target goes."""

    parameters = (
        Parameter("bundle", "", "folder of the exported model"),
        Parameter("planner", "actor", "how actions are chosen", choices=PLANNERS),
        Parameter("deadline", 0.5, "share of a tick that planning may take", 0.05, 2.0, live=True),
        Parameter("seed", 0, "of the planner's noise", 0, 2**31 - 1),
        Parameter("threads", 1, "of the inference runtime", 1, 64),
        BACKEND,
        Parameter(
            "imagine_every", 2, "ticks between two imagined paths on ~/plan; 0: none", 0, 1000, live=True
        ),
        Parameter("imagine_particles", 2, "particles that the imagined path averages", 1, 64, live=True),
    )

    def __init__(self) -> None:
        super().__init__("planner_node")
        self._waiting: Any = None
        self._standing: Any = None  # SI [A]: the command that the gate sent last
        self._restarted = False  # the filter did, in a belief that was skipped
        self._skipped = 0

    def set_up(self) -> None:
        """Bundle (proven on this machine), planner, topics."""
        self.session, self.contract = load_model(self)
        self.limits = Limits(self.contract)
        self.horizon = self.session.latent.horizon
        seed = int(self.value("seed"))
        self.planner = make_planner(self.value("planner"), self.session, self.contract, self.horizon, seed)
        self._command = self.create_lifecycle_publisher(JointState, "~/command/channels", COMMANDS)
        self._path = self.create_lifecycle_publisher(PathMessage, "~/plan", COMMANDS)
        self.create_subscription(PointCloud2, "filter_node/belief_ahead", self._keep, COMMANDS)
        self.create_subscription(JointState, "gate_node/applied", self._on_applied, COMMANDS)
        self._diagnostics = Diagnostics(self, "plans", self.session.fingerprint[:12])
        self._target = self.contract.targets[0] if self.contract.targets else None
        self._motion = PlannedMotion(self.contract, self._target) if self._target else None
        folder = self.value("trace")
        dtype = plan_dtype(self.horizon, self._target.dim if self._target else 1)
        self._trace = TraceWriter(Path(folder) / "planner.trace", dtype) if folder else None

    def _keep(self, message: Any) -> None:
        """Only the newest belief is worth an answer."""
        if self._waiting is not None:
            self._skipped += 1
            self._restarted |= _says_first(self._waiting)
        self._waiting = message

    def _on_applied(self, message: Any) -> None:
        """Where the next plan begins."""
        try:
            self._standing = messages.read_joints(message, self.contract.channels, ("position",))
            self.planner.applied(self._standing)
        except messages.MessageError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)

    def start(self) -> None:
        """Nothing planned before is of any use."""
        self._waiting = self._standing = None
        self._restarted = False
        self.planner.reset()

    def work(self) -> None:
        """One answer per belief."""
        self._tell()
        if self._waiting is None:
            return
        received, message, self._waiting = time.monotonic(), self._waiting, None
        try:
            stamp = messages.stamp_ns(message.header.stamp)
            belief = belief_of(messages.read_belief(message), stamp, self.contract, self.session.latent.kind)
        except messages.MessageError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        if belief.first or self._restarted:
            self._restarted = False
            self.planner.reset()
            if self._standing is not None:  # the gate goes on, whatever the filter forgot
                self.planner.applied(self._standing)
        plan = self.planner.plan(belief, received + float(self.value("deadline")) * self.contract.dt)
        answered = stamp_of(belief.tick - self.contract.actuation_delay, self.contract.rate)
        self._publish(plan, answered)
        self._imagine(belief, plan, answered)

    def _tell(self) -> None:
        """Who planned, how often a better planner had nothing to offer, and beliefs that came too fast."""
        counts = self.planner.counters
        refused = sum(count for name, count in counts.items() if name.startswith("refused/"))
        told = f"{refused} plans refused" if refused else "ok"
        self._diagnostics.publish({**counts, "skipped": self._skipped}, told, "warn" if refused else "ok")

    def _publish(self, plan: Plan, answered: int) -> None:
        """The command, stamped with the tick whose observation it answers."""
        command = JointState()
        messages.set_stamp(command.header.stamp, answered)
        command.header.frame_id = plan.kind
        si = self.limits.scale(plan.actions[0])
        messages.fill_joint_state(command, self.contract.channels, position=si)
        self._command.publish(command)

    def _imagine(self, belief: Belief, plan: Plan, answered: int) -> None:
        """Where the first target goes if this is carried out, after the command is on its way."""
        every = int(self.value("imagine_every"))
        path = None
        answered_tick = belief.tick - self.contract.actuation_delay
        if self._target is not None and every and answered_tick % every == 0:
            path = self._imagined_path(belief, plan)
            if self._path.get_subscription_count():
                self._path.publish(self._path_message(path, belief))
        if self._trace is not None:
            self._trace.write(
                stamp_ns=answered,
                monotonic_ns=time.monotonic_ns(),
                path=np.nan if path is None else path,
                value=plan.value,
            )

    def _imagined_path(self, belief: Belief, plan: Plan) -> Any:
        """[H, d], in the robot's frame at the belief's tick: along the plan, and the actor where it ends."""
        assert self._target is not None and self._motion is not None
        rows = slice(int(self.value("imagine_particles")))
        state = State(belief.deter[rows], belief.stoch[rows])
        particles = len(state.stoch)
        actions: Iterator[Any] = iter(plan.actions)
        means, commands = [], []
        for ahead in range(self.horizon):
            action = next(actions, None)
            if action is None:
                action = self.session.act(state).mean(axis=0)
            drawn = noise.draw(
                self.session.latent, int(self.value("seed")), belief.tick + 1 + ahead, particles
            )
            step = self.session.predict(state, action, False, drawn)
            state = step.state
            means.append(step.targets[self._target.name].point())
            commands.append(self.limits.scale(action))
        return self._motion.to_first(means, commands)  # the model says each in its own tick's frame

    def _path_message(self, path: Any, belief: Belief) -> Any:
        assert self._target is not None
        made = PathMessage()
        messages.set_stamp(made.header.stamp, belief.stamp_ns)
        made.header.frame_id = self.contract.frame
        for ahead, point in enumerate(path):
            pose = PoseStamped()
            pose.header.frame_id = self.contract.frame
            messages.set_stamp(pose.header.stamp, stamp_of(belief.tick + 1 + ahead, self.contract.rate))
            for field, value in zip(self._target.fields, point, strict=True):
                messages.write_field(pose, field, float(value))
            pose.pose.orientation.w = 1.0
            made.poses.append(pose)
        return made


def _says_first(message: Any) -> bool:
    """Whether the filter (re)started at this belief; of one that cannot be read nothing is known."""
    try:
        return bool(messages.read_belief(message)["first"][0])
    except messages.MessageError:
        return False


def main() -> int:
    """Entry point."""
    return run(PlannerNode)


if __name__ == "__main__":
    raise SystemExit(main())
