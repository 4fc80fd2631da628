"""What every node here shares: a managed life, described parameters, a last word before the end."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn

from rssm_ros.evaluation.runs.trace import write_counters
from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.parameters import COMMON, Parameter, judge

IDLE = 0.1  # s between looks at the signals when nothing happens


class ManagedNode(LifecycleNode):
    """A lifecycle node. Subclasses override set_up, start, stop, work, idle and tear_down."""

    parameters: tuple[Parameter, ...] = ()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.running = False  # active, in lifecycle terms
        self.finished = False  # its work is done, or cannot go on: the process ends by itself
        self.code = 0  # the process's exit code then
        self.failure = ""  # why the last transition failed
        self._standing: set[int] | None = None  # what was on the graph before set_up; None: not configured
        self._described = {item.name: item for item in COMMON + self.parameters}
        for item in self._described.values():
            self.declare_parameter(item.name, item.default, item.descriptor())
        self.add_on_set_parameters_callback(self._on_parameters)

    def value(self, name: str) -> Any:
        """A parameter's value; refuses one that is not among its choices."""
        value = self.get_parameter(name).value
        if refusal := self._described[name].refusal(value, configured=False):
            raise NodeError(refusal)
        return value

    def _on_parameters(self, changes: list[Any]) -> SetParametersResult:
        return judge(self._described, changes, self._standing is not None)

    def set_up(self) -> None:
        """Load, create publishers and subscriptions. Raise an error of the layers to refuse."""

    def start(self) -> None:
        """Begin to work."""

    def stop(self) -> None:
        """Cease to work; the last thing sent must be safe."""

    def work(self) -> None:
        """Called after callbacks have stored, and at least every `idle()` seconds, while active."""

    def keep_counters(self, counters: Mapping[str, int]) -> None:
        """Leaves them in the trace folder, where there is one, for the run's summary. A full disk is told:
        nothing that ends in order ends otherwise for it.
        """
        if folder := self.value("trace"):
            try:
                write_counters(Path(folder), self.get_name(), counters)
            except OSError as error:
                told = f"{folder}: what was counted cannot be written ({error.strerror})"
                self.get_logger().error(told)

    def while_running(self, take: Callable[[Any], Any]) -> Callable[[Any], None]:
        """A subscription's callback that takes nothing before activation: hundreds of old pictures, say."""

        def heard(message: Any) -> None:
            if self.running:
                take(message)

        return heard

    def idle(self) -> float:
        """Seconds the loop may wait for messages before `work` is called."""
        return IDLE

    def tear_down(self) -> None:
        """Let go of what set_up has opened; topics and services are destroyed by themselves."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Runs set_up; a refusal is one line in the log and a failed transition that leaves nothing."""
        self._standing = {id(entity) for _, entity in self._entities()}
        made = False
        try:
            made = self._guarded(self.set_up)
        finally:
            if not made:
                self._destroy_made()
        return super().on_configure(state) if made else TransitionCallbackReturn.FAILURE

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As before set_up: configured again, every message must come once, not twice."""
        self._let_go()
        return super().on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A fault of ours, told already, in a transition: as before set_up, where it may be tried again."""
        self.running = False
        self._let_go()
        return TransitionCallbackReturn.SUCCESS

    def _let_go(self) -> None:
        if self._standing is not None:
            self.tear_down()
            self._destroy_made()

    def _entities(self) -> list[tuple[str, Any]]:
        """Everything on the graph that belongs to this node, with its kind."""
        kinds = ("publisher", "subscription", "service", "client", "timer")
        return [(kind, entity) for kind in kinds for entity in list(getattr(self, f"{kind}s"))]

    def _destroy_made(self) -> None:
        """Destroys what set_up has created."""
        standing, self._standing = self._standing or set(), None
        for kind, entity in self._entities():
            if id(entity) in standing:
                continue
            if kind == "publisher" and isinstance(entity, LifecyclePublisher):
                kind = "lifecycle_publisher"  # else it would be told of transitions after its end
            getattr(self, f"destroy_{kind}")(entity)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publishers first, so that start may publish."""
        result = super().on_activate(state)
        if result != TransitionCallbackReturn.SUCCESS:
            return result
        if not self._guarded(self.start):
            super().on_deactivate(state)  # the publishers again
            return TransitionCallbackReturn.FAILURE
        self.running = True
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """stop may still publish."""
        self.halt()
        return super().on_deactivate(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivation and cleaning up: a folder or a window is of no use to a node that has ended."""
        self.halt()
        self._let_go()
        return super().on_shutdown(state)

    def halt(self) -> None:
        """Calls stop once after each start."""
        if self.running:
            self.running = False
            self._guarded(self.stop)

    def close(self) -> None:
        """Saves and lets go, in whatever state it is; of the graph it still is a part."""
        self.halt()
        if self._standing is not None:
            self._guarded(self.tear_down)

    def _guarded(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:
            if not _is_refusal(error):
                self.get_logger().fatal(f"{type(error).__name__}: {error}")
                raise
            self.failure = " ".join(str(error).split())
            self.get_logger().error(self.failure)
            return False
        return True


def _is_refusal(error: Exception) -> bool:
    """An error of this package's layers, of the disk, or of what is not installed: told in one line."""
    ours = type(error).__module__.split(".")[0] == "rssm_ros"
    return ours or isinstance(error, OSError | ModuleNotFoundError)
