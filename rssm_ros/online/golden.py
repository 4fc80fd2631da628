"""The golden vectors: inputs with the outputs they gave where the bundle was made, replayed here.

`golden.npz` holds arrays `<graph>/<case>/in/<name>` and `<graph>/<case>/out/<name>`, and where an output is a
small difference of large terms their size, `<graph>/<case>/scale/<name>`. Every step starts from
the recorded state (teacher-forced), and its noise was drawn at least 1e-3 away from every edge of the
distribution functions: a sample that differs is a different model, not a rounding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rssm_ros.bundle import GOLDEN, BundleError
from rssm_ros.online.steps import Array

TOLERANCE = 1e-5  # of one step, relative to the largest value (or recorded scale) where that exceeds 1
LOOSER = {"tokens": 1e-4, "returns": 1e-4, "values": 1e-4}  # sums of many terms, or many steps in a row
_DECODED = 1e-4
Run = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class Difference:
    """How far one output is from the record."""

    graph: str
    case: str
    output: str
    error: float  # largest absolute difference; for integers the number of differing entries
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether it is within tolerance (a NaN is not)."""
        return self.error <= self.allowed


def read_golden(folder: Path) -> dict[str, Array]:
    """The arrays of golden.npz. Raises BundleError."""
    path = folder / GOLDEN
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); export the bundle again") from error


def compare_golden(folder: Path, run: Run, tolerance: float = TOLERANCE) -> list[Difference]:
    """Replays every case; one Difference per graph, case and output.

    tolerance: of one step of the backend behind `run`; everything allowed grows with it.
    """
    arrays = read_golden(folder)
    cases = sorted({(graph, case) for graph, case, *_ in (name.split("/") for name in arrays)})
    if not cases:
        raise BundleError(f"{folder / GOLDEN}: holds no case; export the bundle again")
    found = []
    for graph, case in cases:
        prefix = f"{graph}/{case}/"
        feeds = {n.removeprefix(prefix + "in/"): a for n, a in arrays.items() if n.startswith(prefix + "in/")}
        expected = {
            n.removeprefix(prefix + "out/"): a for n, a in arrays.items() if n.startswith(prefix + "out/")
        }
        outputs = run(graph, feeds)
        for name, value in expected.items():
            scale = float(arrays.get(f"{prefix}scale/{name}", np.zeros(())))
            difference = _difference(graph, case, name, outputs[name], value, scale)
            found.append(replace(difference, allowed=difference.allowed * tolerance / TOLERANCE))
    return found


def replay_golden(folder: Path, run: Run, tolerance: float = TOLERANCE) -> list[Difference]:
    """`compare_golden`, refusing what does not hold. Raises BundleError naming graph, output and
    difference."""
    differences = compare_golden(folder, run, tolerance)
    wrong = [item for item in differences if not item.passed]
    if wrong:
        worst = max(wrong, key=lambda item: np.nan_to_num(item.error / max(item.allowed, 1e-12), nan=np.inf))
        raise BundleError(
            f"{folder}: {worst.graph}.onnx does not compute here what it computed where it was made: output "
            f"{worst.output!r} differs by {worst.error:.3g} (allowed {worst.allowed:.3g}), golden case "
            f"{worst.case}, and {len(wrong) - 1} more; export the bundle here, or use another onnxruntime"
        )
    return differences


def _difference(graph: str, case: str, name: str, found: Array, expected: Array, scale: float) -> Difference:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return Difference(graph, case, name, float("inf"), 0.0)
    if expected.dtype.kind in "iub":
        return Difference(graph, case, name, float(np.count_nonzero(found != expected)), 0.0)
    base = _DECODED if graph == "decoder" else LOOSER.get(name, _DECODED if graph == "rollout" else TOLERANCE)
    allowed = base * max(1.0, float(np.abs(expected).max(initial=0.0)), scale)
    return Difference(graph, case, name, float(np.abs(found - expected).max(initial=0.0)), allowed)
