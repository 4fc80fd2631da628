"""How figures are said to people: centimetres where metres are small, intervals beside values."""

import math
from dataclasses import dataclass

from rssm_ros.evaluation.statistics import Estimate

NONE = "–"  # where there is nothing to tell


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
