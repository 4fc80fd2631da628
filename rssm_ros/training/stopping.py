"""Ctrl-C and SIGTERM end a run between two updates, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Stop:
    """Whether somebody wants the run to end."""

    asked: bool = False


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM sets `asked`, even where a shell started this ignoring SIGINT.

    A run that ended in the middle of an update would save half of it. The second one does not wait: it is a
    KeyboardInterrupt, and what was done since the last checkpoint is lost.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(_number: int, _frame: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        say("stopping after this update; once more to stop at once, without saving")

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
