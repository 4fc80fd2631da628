"""One way to wait for messages, on whichever executor this ROS has.

rclpy's EventsExecutor runs callbacks in the order of arrival, as the wait-set executor does not; it
is still called experimental, and its own `spin` neither sleeps nor ends on a signal, so only
`spin_once` is used. Older distributions have the wait-set executor only: then everything that is ready is
taken together.
"""

from typing import Any

from rclpy.executors import ShutdownException, SingleThreadedExecutor, TimeoutException

MOST = 1000  # callbacks at most before the node works


class WaitSetExecutor(SingleThreadedExecutor):
    """rclpy's own, with a `spin_once` that takes whatever has come at once."""

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Waits for something to do, and does all that is ready with it."""
        worked = False
        for _ in range(MOST):
            try:
                handler, _, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
            except ShutdownException:
                return
            except TimeoutException:  # also behind the last callback of a look that did not wait
                if not worked:
                    return
                worked = False
                continue
            handler()
            handler.result()  # raises what the callback raised
            worked, timeout_sec = True, 0.0


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


def take_all(executor: Any, timeout_sec: float) -> None:
    """Waits for something to do, and does all that has come by then.

    `/clock` is kept to its newest message, so whoever works after each callback knows a time that is ahead of
    the observations still waiting, judges them by it, and falls back ever further.
    """
    executor.spin_once(timeout_sec=timeout_sec)
    if isinstance(executor, WaitSetExecutor):
        return  # it did
    here: list[bool] = []
    executor.create_task(lambda: here.append(True))  # behind everything else
    for _ in range(MOST):
        if here:
            return
        executor.spin_once(timeout_sec=0.0)
