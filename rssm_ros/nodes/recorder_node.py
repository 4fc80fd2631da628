"""recorder_node: a Recorder with a managed life, for graphs that record themselves."""

from pathlib import Path

from rssm_ros.contract import find_contract
from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.managed import ManagedNode
from rssm_ros.nodes.parameters import Parameter
from rssm_ros.nodes.recorded import belief_topics, robot_topics, truth_topics
from rssm_ros.nodes.recorder import Recorder
from rssm_ros.nodes.running import run


class RecorderNode(ManagedNode):
    """Writes a bag from its configuration until it is deactivated or ends."""

    parameters = (
        Parameter("out", "", "folder of the bag; must not exist yet"),
        Parameter("robot", True, "record the contract's observations, actions, episode and reward"),
        Parameter("truth", False, "record the contract's targets and visibilities"),
        Parameter("beliefs", False, "record what filter_node says"),
        Parameter("split", 2000.0, "MB of one file of the bag; 0: one file", 0.0, 1e6),
    )

    def __init__(self) -> None:
        super().__init__("recorder_node")
        self._recorder: Recorder | None = None

    def set_up(self) -> None:
        """Listens before anybody speaks."""
        if not self.value("out"):
            raise NodeError("no folder is given; set the parameter `out` (out:=FOLDER)")
        contract = find_contract(self.value("contract"))
        chosen = (("robot", robot_topics), ("truth", truth_topics), ("beliefs", belief_topics))
        topics = [item for name, list_of in chosen if self.value(name) for item in list_of(contract)]
        clock, split = self.get_clock(), int(self.value("split") * 1e6)
        about = {"contract": contract.name}
        folder = Path(self.value("out")).absolute()
        self._recorder = Recorder(self, folder, topics, lambda: int(clock.now().nanoseconds), split, about)
        self._told = False

    def work(self) -> None:
        """The recorder's own timer does it all; a full disk is told once."""
        if self._recorder is not None and self._recorder.error and not self._told:
            self._told = True
            self.get_logger().error(self._recorder.error)

    def stop(self) -> None:
        """Ends the bag."""
        if self._recorder is not None:
            self._recorder.close()
            self.keep_counters(self._recorder.counts)
            self._recorder = None

    def tear_down(self) -> None:
        """As stop, where it was never activated."""
        self.stop()


def main() -> int:
    """Entry point."""
    return run(RecorderNode)


if __name__ == "__main__":
    raise SystemExit(main())
