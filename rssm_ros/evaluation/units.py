"""How figures are said to people: centimetres where metres are small, intervals beside values."""

import math
from dataclasses import dataclass, replace

from rssm_ros.evaluation.statistics import Estimate

NONE = "–"  # where there is nothing to tell


def bounds_of(bound: str) -> tuple[float, float]:
    """The ends of what a check asks for: "0.88 to 0.92", or "<= 2"."""
    low, separator, high = bound.partition(" to ")
    return (float(low), float(high)) if separator else (-math.inf, float(bound.removeprefix("<=")))


def checked(value: float, bound: str) -> str:
    """A check's figure with three digits, and more where those would lie on the other side of its bound."""
    low, high = bounds_of(bound)
    texts = (f"{value:.{digits}g}" for digits in range(3, 18))
    return next(text for text in texts if (low <= float(text) <= high) == (low <= value <= high))


@dataclass(frozen=True)
class Scale:
    """The unit in which lengths are shown."""

    factor: float  # shown = factor x stored
    unit: str
    digits: int

    @staticmethod
    def of(unit: str) -> "Scale":
        """Centimetres for metres, everything else as it is stored."""
        return Scale(100.0, "cm", 1) if unit == "m" else Scale(1.0, unit, 2)

    def value(self, number: float | None) -> str:
        """A number without its unit."""
        if number is None or not math.isfinite(number):
            return NONE
        return f"{self.factor * number:z.{self.digits}f}"

    def telling(self, number: float, low: float, high: float) -> "Scale":
        """This scale, with more digits where the number as shown would lie on the other side of a bound."""
        ends = (round(self.factor * end, 9) for end in (low, high))
        least, most = ends
        for digits in range(self.digits, self.digits + 9):
            shown = round(self.factor * number, digits)
            if (least <= shown <= most) == (low <= number <= high):
                return replace(self, digits=digits)
        return self

    def interval(self, found: Estimate | None) -> str:
        """`3.4 to 4.3`; empty where there is no interval."""
        if found is None or not (math.isfinite(found.low) and math.isfinite(found.high)):
            return ""
        return f"{self.value(found.low)} to {self.value(found.high)}"

    def told(self, found: Estimate | None) -> str:
        """`3.9 cm (3.4 to 4.3)`."""
        if found is None or not math.isfinite(found.value):
            return NONE
        between = self.interval(found)
        return self.with_unit(found.value) + (f" ({between})" if between else "")

    def with_unit(self, number: float | None) -> str:
        """`3.9 cm`."""
        return f"{self.value(number)} {self.unit}".rstrip()


PERCENT, RATIO, NATS, TICKS = (
    Scale(100.0, "%", 1),
    Scale(1.0, "", 2),
    Scale(1.0, "nats", 2),
    Scale(1.0, "ticks", 1),
)
