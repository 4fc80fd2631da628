"""filter_node: the belief. ROS around online.Filter: messages in, beliefs out, everything else counted."""

import time
from collections import deque
from typing import Any

from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from rssm_ros import messages
from rssm_ros.nodes import state_file
from rssm_ros.nodes.belief_topics import BeliefTopics
from rssm_ros.nodes.diagnostics import Diagnostics
from rssm_ros.nodes.filter_trace import FilterTrace
from rssm_ros.nodes.interfaces import COMMANDS, WATCHDOG, message_type, sensing
from rssm_ros.nodes.managed import ManagedNode
from rssm_ros.nodes.model import BACKEND, load_model
from rssm_ros.nodes.parameters import Parameter
from rssm_ros.nodes.running import run
from rssm_ros.online.belief import NEVER, Belief
from rssm_ros.online.filter import FUTURE_NS, Filter
from rssm_ros.online.frozen import AFTER

LOCKSTEP_PATIENCE = 0.6  # s without any message; less than the second that the simulation waits
RECENT = 16  # observations, of which the newest tick is looked for
FROZEN = "shows the same picture again and again while odometry says that the robot moves; it does not count"


class FilterNode(ManagedNode):
    """Advances the filter on ROS time and publishes each tick's belief once."""

    parameters = (
        Parameter("bundle", "", "folder of the exported model"),
        Parameter("particles", 8, "equally weighted noise streams", 1, 1024),
        Parameter("deterministic", False, "one particle, the mode instead of a draw; no covariance"),
        Parameter("seed", 0, "of the filter's noise", 0, 2**31 - 1),
        Parameter("threads", 1, "of the inference runtime", 1, 64),
        BACKEND,
        Parameter("best_effort", False, "listen to observations as best effort"),
        Parameter("lockstep", False, "the clock waits for answers: compute a tick when all of it is there"),
        Parameter(
            "frozen_after",
            AFTER,
            "pictures in a row that repeat the one before bit for bit, while odometry says that the robot "
            "moves, until the camera is called frozen and its pictures no longer count; 0: never",
            0,
            10000,
        ),
        Parameter(
            "state_file", "filter_state.bin", "where ~/save_state and ~/load_state keep the belief", live=True
        ),
    )

    def __init__(self) -> None:
        super().__init__("filter_node")
        self._inbox: deque[tuple[str, Any]] = deque(maxlen=512)
        self._recent: deque[tuple[str, int]] = deque(maxlen=RECENT)
        self._told: set[str] = set()
        self._answered = self._asked = 0  # stamps: the last command applied, the last belief published
        self._came = 0.0  # steady s at which the latest message came
        self._refused: dict[str, int] = {}
        self._latest: Belief | None = None  # as it was published
        self._picture: Any = None  # the latest that came, uint8 [H, W, C]

    def set_up(self) -> None:
        """Bundle (proven on this machine), filter, topics, services."""
        self.session, self.contract = load_model(self)
        mode = self.value("deterministic")
        particles = 1 if mode else self.value("particles")
        self.session.warm_up(particles)  # what a first call costs is paid before the first tick
        after = self.value("frozen_after")
        self.filter = Filter(self.session, self.contract, particles, self.value("seed"), mode, after)
        self._specs = {spec.name: spec for spec in self.contract.observations}
        self._topics = BeliefTopics(self, self.contract, self.session)
        self._diagnostics = Diagnostics(self, "belief", self.session.fingerprint[:12])
        self._listen()
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/save_state", self._on_save)
        self.create_service(Trigger, "~/load_state", self._on_load)
        folder = self.value("trace")
        self._trace = FilterTrace(folder, self.contract) if folder else None
        if self._trace is not None:
            self.filter.on_final = self._trace.final

    def _listen(self) -> None:
        def keep(kind: str) -> Any:
            return self.while_running(lambda message: self._inbox.append((kind, message)))

        # The trigger last: with everything ready at once, it is also taken last.
        for spec in sorted(self.contract.observations, key=lambda item: item.trigger):
            self.create_subscription(
                message_type(spec.type),
                spec.topic,
                keep(spec.name),
                sensing(self.value("best_effort"), spec.kind),
            )
        self.create_subscription(JointState, "gate_node/applied", keep("/applied"), COMMANDS)
        if self.contract.episode is not None:
            kind = message_type(self.contract.episode.type)
            self.create_subscription(kind, self.contract.episode.topic, keep("/episode"), COMMANDS)

    def start(self) -> None:
        """From now on; what waited before activation is old."""
        self._inbox.clear()

    def stop(self) -> None:
        """The belief stays; what became of the messages is told."""
        self.keep_counters(self._counts())

    def _counts(self) -> dict[str, int]:
        """Everything that is counted, by cause."""
        return {**self.filter.counters, **self._refused, **self.session.counters}

    def idle(self) -> float:
        """Often enough to notice that a tick has waited long enough."""
        return 0.25 * self.contract.dt

    def work(self) -> None:
        """Messages into the filter, beliefs out of it."""
        while self._inbox:
            self._came = time.monotonic()
            kind, message = self._inbox.popleft()
            try:
                self._take(kind, message)
            except messages.MessageError as error:
                self._refuse(kind, error)
        if self.value("lockstep") and not self._complete():
            return
        self._advance(self._now_ns())
        for name in self.filter.frozen_cameras:
            self.get_logger().warning(f"{name} {FROZEN}", throttle_duration_sec=10.0)
        self._tell()

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _advance(self, now_ns: int) -> None:
        for belief in self.filter.advance(now_ns):
            self._asked, self._latest = belief.stamp_ns, belief
            self._topics.publish(belief, self.filter.ahead(belief), self._picture)
            if self._trace is not None:
                self._trace.online(belief)

    def _catch_up(self, stamp_ns: int) -> None:
        """Where this node was held up, what came meanwhile must not be judged by the time of before: from its
        future the filter takes nothing.
        """
        before, now_ns = self.filter.now_ns, self._now_ns()
        if before is not None and before + FUTURE_NS < stamp_ns <= now_ns + FUTURE_NS:
            self._advance(min(stamp_ns, now_ns))

    def _tell(self) -> None:
        """What became of the messages, and what is wrong with them, as diagnostics."""
        if not self._diagnostics.due:
            return
        bad, lost = sum(self._refused.values()), self.session.lost
        told = [lost] if lost else []
        told += self._unseen()
        told += [f"{name} {FROZEN}" for name in sorted(self.filter.frozen_cameras)]
        told += [f"{bad} messages refused"] if bad else []
        self._diagnostics.publish(
            {**self._counts(), "backend": self.session.backend},
            "; ".join(told) or "ok",
            "warn" if told else "ok",
        )

    def _unseen(self) -> list[str]:
        """What the belief does without, by the limits at which the gate holds the robot."""
        belief, dt = self._latest, self.contract.dt
        if belief is None:
            return ["nothing was observed yet"]
        if belief.lost:
            return [f"lost: nothing was seen for {self.contract.max_gap:g} s"]
        ages = ((spec, belief.age[spec.name]) for spec in self.contract.observations)
        missing = [(spec, age) for spec, age in ages if age == NEVER or age * dt > spec.stale]
        return [
            f"{s.name} " + ("was never seen" if a == NEVER else f"unseen for {a * dt:.1f} s")
            for s, a in missing
        ]

    def _complete(self) -> bool:
        """Whether the newest tick is all there, and the command that answers the belief before it.

        They come from different nodes in any order; a late one is put where it belongs, but the belief ahead
        that was answered without it is out. So a run in lockstep could not be repeated bit for bit.
        """
        newest = max((stamp for _, stamp in self._recent), default=0)
        here = {name for name, stamp in self._recent if stamp == newest}
        waited = time.monotonic() - self._came > LOCKSTEP_PATIENCE  # something is missing for good
        answered = self._answered > self._asked or not self._asked
        return waited or newest == self._asked or (answered and here == set(self._specs))

    def _take(self, kind: str, message: Any) -> None:
        stamp = messages.stamp_ns((message if kind == "/episode" else message.header).stamp)
        if not self.value("lockstep"):
            self._catch_up(stamp)
        if kind == "/applied":
            values = messages.read_joints(message, self.contract.channels, ("position",))
            if message.header.frame_id != WATCHDOG:
                self._answered = max(self._answered, stamp)
            self.filter.applied(stamp, values)
        elif kind == "/episode":
            if message.frame_id == "reset":
                self.filter.begin_episode(stamp)
        else:
            value = messages.read_observation(message, self._specs[kind])
            self._recent.append((kind, stamp))
            self.filter.observe(kind, stamp, value)
            if self._specs[kind].kind == "image":
                self._picture = value

    def _refuse(self, kind: str, error: messages.MessageError) -> None:
        """Counted every time, said once."""
        key = f"{kind}/{error.cause}"
        self._refused[key] = self._refused.get(key, 0) + 1
        if str(error) not in self._told:
            self._told.add(str(error))
            self.get_logger().error(f"{kind.lstrip('/')}: {error}")

    # -- services -----------------------------------------------------------------------------------------

    def _on_reset(self, _: Any, response: Any) -> Any:
        self.filter.reset()
        response.success, response.message = True, "the belief starts anew"
        return response

    def _on_save(self, _: Any, response: Any) -> Any:
        return state_file.save(response, self.value("state_file"), self.filter.save_state)

    def _on_load(self, _: Any, response: Any) -> Any:
        return state_file.load(response, self.value("state_file"), self.filter.load_state)


def main() -> int:
    """Entry point."""
    return run(FilterNode)


if __name__ == "__main__":
    raise SystemExit(main())
