"""The last thing a process does with ROS, which cannot keep it from its end.

Leaving the graph may never return: Fast DDS spins in `destroy_participant` when another participant vanishes
in that moment, and holds Python's lock meanwhile. So no Python of ours could notice, and neither could a
signal handler. A POSIX timer can: it runs one function of the C library on a thread of its own. First
`warnx` says what happens, then `_exit` ends the process with the code that it would have had; whatever was
to be saved is saved before that. It also ends what hangs behind us, while the interpreter itself ends.
Nothing here imports ROS.
"""

import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress

# For leaving the graph and for the interpreter's own end. A busy machine takes its time, so it is processor
# time that tells a spin; who only stands still is waited for longer, but ends before `ros2 launch` kills.
SPINNING, STANDING = 2.0, 8.0  # s of processor time, s
AFTER = 0.1  # s from the words to the end
WORDS = (
    "all is saved, but ROS does not let go: ended without it (others may see this one for some seconds more)"
)
_MONOTONIC, _PROCESSOR, _THREAD = 1, 2, 2  # CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, SIGEV_THREAD
_leaving: list[Callable[[], None]] = []
_words: list[object] = []  # what the C library still points at


class _Event(ctypes.Structure):
    """`struct sigevent`: one argument, and the function that a new thread gives it to."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("room", ctypes.c_char * 32),
    ]


class _Span(ctypes.Structure):
    """`struct itimerspec`: how often, and when first, in s and ns."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")]


def at_the_end(leave: Callable[[], None]) -> None:
    """Leaves it to `end`: what is still to be done with what a run has brought must not wait for ROS."""
    _leaving.append(leave)


def end(name: str, code: int) -> int:
    """Leaves the graph as `at_the_end` was told and returns `code`; or ends the process with it where
    that takes too long.

    name: of the node or program, for the words on standard error. Everything must be saved by now. Where
    there is nothing to leave nothing happens. The process has to end behind this: the limits stay.
    """
    if _leaving:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody may read them any more
                stream.flush()
        guard(name, code)
        while _leaving:
            _leaving.pop()()
        gc.collect()  # a lifecycle node leaves with its last reference, of which it holds some itself
    return code


def guard(name: str, code: int) -> None:
    """Ends this process with `code` when the limits are over, whoever holds Python's lock. Without POSIX
    timers it does nothing.
    """
    try:
        library = ctypes.CDLL(None)
        create, say, leave = library.timer_create, library.warnx, library._exit
        ctypes.c_char_p.in_dll(library, "program_invocation_short_name").value = _kept(name)
    except (AttributeError, OSError, TypeError, ValueError):
        return
    text = ctypes.cast(ctypes.c_char_p(_kept(WORDS)), ctypes.c_void_p).value
    for clock, limit in ((_PROCESSOR, SPINNING), (_MONOTONIC, STANDING)):
        for seconds, function, argument in ((limit, say, text), (limit + AFTER, leave, code)):
            address = ctypes.cast(function, ctypes.c_void_p).value
            event = _Event(value=argument, notify=_THREAD, function=address)
            timer = ctypes.c_void_p()
            span = _Span(first_s=int(seconds), first_ns=int(seconds % 1 * 1e9))
            if create(clock, ctypes.byref(event), ctypes.byref(timer)) == 0:
                library.timer_settime(timer, 0, ctypes.byref(span), None)


def _kept(text: str) -> bytes:
    """As the C library reads it, for as long as it may."""
    made = text.encode()
    _words.append(made)
    return made
