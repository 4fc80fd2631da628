"""What the simulated robot is told: commands as they come, and the gate's word on what they answer."""

from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import JointState

from rssm_ros import messages
from rssm_ros.contract import ActionSpec, Contract
from rssm_ros.nodes.interfaces import COMMANDS, WATCHDOG, message_type


class RobotCommands:
    """Subscriptions made from a contract; `node` is the lifecycle node that owns them."""

    def __init__(self, node: Any, contract: Contract, hear: Callable[[str, Any], bool]) -> None:
        """hear: takes an action's name and its command in SI, and returns whether it is one."""
        self._contract, self._hear, self._complain = contract, hear, node.get_logger().error
        self.answer: tuple[int, Any] | None = None  # stamp and SI [A] of the latest command that was applied
        self.bad = 0  # messages that were none
        for action in contract.actions:
            node.create_subscription(
                message_type(action.type), action.topic, self._on_command(action), COMMANDS
            )
        node.create_subscription(JointState, "gate_node/applied", self.on_applied, COMMANDS)

    def _on_command(self, action: ActionSpec) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            try:
                values = messages.read_command(message, action.fields, action.names)
            except messages.MessageError as error:
                self._refuse(error)
                return
            self.bad += not self._hear(action.name, values)

        return take

    def on_applied(self, message: Any) -> None:
        """The answer of the latest stamp: a watchdog's word on its way must not undo a newer command."""
        try:
            values = messages.read_joints(message, self._contract.channels, ("position",))
        except messages.MessageError as error:
            self._refuse(error)
            return
        stamp = messages.stamp_ns(message.header.stamp)
        answers = message.header.frame_id != WATCHDOG  # a watchdog has not looked at this observation
        if answers and (self.answer is None or stamp >= self.answer[0]):
            self.answer = (stamp, values)

    def _refuse(self, error: messages.MessageError) -> None:
        self._complain(str(error), throttle_duration_sec=5.0)
        self.bad += 1
