"""Stamps as integer nanoseconds of ROS time."""

import struct
from typing import Any

SECOND = 1_000_000_000  # ns


def stamp_ns(stamp: Any) -> int:
    """builtin_interfaces/Time -> ns."""
    return int(stamp.sec) * SECOND + int(stamp.nanosec)


def set_stamp(stamp: Any, nanoseconds: int) -> None:
    """Writes ns into a builtin_interfaces/Time in place."""
    stamp.sec, stamp.nanosec = divmod(int(nanoseconds), SECOND)


def cdr_stamp_ns(data: bytes | memoryview) -> int:
    """The header stamp of a serialised message whose first field is a std_msgs/Header, in ns.

    Reads 12 bytes instead of decoding a picture; the second byte of the encapsulation is the byte order.
    """
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, 4)
    return int(seconds) * SECOND + int(nanoseconds)
