"""One way to wait for messages, on whichever executor this ROS has.

rclpy's EventsExecutor runs callbacks in the order of arrival, as the wait-set executor does not; it
is still called experimental, and its own `spin` neither sleeps nor ends on a signal, so only
`spin_once` is used. Older distributions have the wait-set executor only: then everything that is ready is
taken together.
"""

from typing import Any

from rclpy.executors import ShutdownException, SingleThreadedExecutor, TimeoutException

TOGETHER = 16  # callbacks at most before the node works


class WaitSetExecutor(SingleThreadedExecutor):
    """rclpy's own, with a `spin_once` that takes whatever is ready at once."""

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Waits for something to do, and does all that is ready with it."""
        for _ in range(TOGETHER):
            try:
                handler, _, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
            except (TimeoutException, ShutdownException):
                return
            handler()
            handler.result()  # raises what the callback raised
            timeout_sec = 0.0


def make_executor(node: Any) -> Any:
    """The best executor there is, for one node."""
    executor: Any
    try:
        from rclpy.experimental import EventsExecutor

        executor = EventsExecutor()
    except ImportError:
        executor = WaitSetExecutor()
    executor.add_node(node)
    return executor
