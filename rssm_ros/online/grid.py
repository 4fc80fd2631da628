"""The fixed grid of ticks: t_k = k / rate seconds of ROS time, in integers only.

Floats never decide which tick a message belongs to, so that two machines never disagree about it.
"""

from collections.abc import Iterable
from fractions import Fraction

SECOND = 1_000_000_000  # ns


def tick_of(stamp_ns: int, rate: Fraction) -> int:
    """The tick nearest to a stamp in ns; exactly between two ticks it is the later one."""
    p, q = rate.as_integer_ratio()
    return (2 * stamp_ns * p + q * SECOND) // (2 * q * SECOND)


def stamp_of(tick: int, rate: Fraction) -> int:
    """t_k in ns, rounded to the nearest one (half up); `tick_of(stamp_of(k)) == k` below 500 MHz."""
    p, q = rate.as_integer_ratio()
    return (2 * tick * q * SECOND + p) // (2 * p)


def tick_from(stamp_ns: int, rate: Fraction) -> int:
    """The first tick k with t_k >= stamp."""
    tick = tick_of(stamp_ns, rate)
    return tick if stamp_of(tick, rate) >= stamp_ns else tick + 1


def nearest_by_tick(stamps_ns: Iterable[int], rate: Fraction) -> dict[int, int]:
    """Tick -> index of the stamp nearest to it, as observations are chosen; of two as near the first."""
    found: dict[int, tuple[int, int]] = {}
    for index, stamp in enumerate(stamps_ns):
        tick = tick_of(stamp, rate)
        off = abs(stamp - stamp_of(tick, rate))
        if tick not in found or off < found[tick][0]:
            found[tick] = (off, index)
    return {tick: index for tick, (_, index) in found.items()}
