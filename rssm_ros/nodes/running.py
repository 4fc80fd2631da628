"""One loop for every node's process, from its first signal handler to its last breath.

The loop takes whatever has come and then lets the node work: callbacks only store, so parameter services and
fresh messages are never starved by inference (and nothing needs a lock). Signals only ask the
loop to end: rclpy's own handlers would take the publishers away before the safe action is sent.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from rssm_ros.nodes import ending
from rssm_ros.nodes.executors import make_executor, take_all
from rssm_ros.nodes.managed import IDLE, ManagedNode
from rssm_ros.nodes.processes import PARENT

FAULT, USAGE = 1, 2  # exit codes: a fault of ours; this node cannot be configured here
_STARTER = os.getppid()


def run(make: Callable[[], ManagedNode], arguments: Sequence[str] | None = None) -> int:
    """Runs a node until SIGINT, SIGTERM, shutdown or its own end; returns the exit code (2 when autostart is
    refused). The process has to end behind this.
    """
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    words = list(sys.argv if arguments is None else arguments)
    rclpy.init(args=words, signal_handler_options=SignalHandlerOptions.NO)
    node = make()
    executor = make_executor(node)
    name, code = node.get_name(), FAULT

    def leave() -> None:
        nonlocal node, executor
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
        del node, executor

    try:
        try:
            code = _live(node, executor, asked)
        finally:
            node.close()
    except Exception:
        code = FAULT
        traceback.print_exc()  # now: leaving may be the end
    ending.at_the_end(leave)
    ending.end(name, code)
    for number in (signal.SIGINT, signal.SIGTERM):  # a second one, while Python ends, would be a failure
        signal.signal(number, signal.SIG_IGN)
    return code


def _live(node: ManagedNode, executor: Any, asked: Sequence[int]) -> int:
    """The loop, until there is a reason to end; returns the exit code."""
    if node.value("autostart") and not _autostart(node):
        return USAGE
    with suppress(ExternalShutdownException):
        while rclpy.ok() and not (asked or node.finished or orphaned()):
            _turn(node, executor)
    return node.code


def _turn(node: ManagedNode, executor: Any) -> None:
    take_all(executor, node.idle() if node.running else IDLE)
    if node.running:
        node.work()


def _autostart(node: ManagedNode) -> bool:
    return all(
        transition() == TransitionCallbackReturn.SUCCESS
        for transition in (node.trigger_configure, node.trigger_activate)
    )


def orphaned() -> bool:
    """Whether the process that started this node (and said so) is gone: a robot must not go on unwatched.

    Between the two another may stand, a debugger that `launch-prefix` names, say.
    """
    parent = os.environ.get(PARENT)
    if parent is None:
        return False
    try:
        os.kill(int(parent), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return os.getppid() not in (int(parent), _STARTER)
