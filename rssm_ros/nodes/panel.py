"""The monitor's picture, for the eye: the camera with the beliefs drawn in, how surprised the filter has been
against its threshold, and how old each modality is. Made only while somebody looks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract, TargetSpec
from rssm_ros.nodes.overlay import COLOURS, Overlay
from rssm_ros.online.belief import Belief
from rssm_ros.online.grid import SECOND
from rssm_ros.online.reviews import Surprise

Picture = npt.NDArray[np.uint8]  # [H, W, 3]
Colour = tuple[int, int, int]
WIDTH = 512  # pixels; a picture of 64 is enlarged 8 times
BANNER, LINE, CHART = 34, 22, 120  # heights
MARGIN = 10
CURVE, LIMIT, OVER = (96, 165, 255), (236, 236, 236), (255, 110, 90)
OLD_BELIEF = 0.5  # s after which the picture says that no belief comes


@dataclass(frozen=True)
class View:
    """What one picture shows."""

    now_ns: int
    belief: Belief | None  # the latest
    picture: Picture | None  # the latest, [H, W, 1 or 3]
    surprises: Sequence[Surprise]  # of the last seconds, oldest first
    streak: int  # ticks in a row above the threshold
    review_after: int
    note: str  # what became of snapshots


class Panel:
    """Draws views of one robot. Needs OpenCV."""

    def __init__(self, contract: Contract, seconds: float) -> None:
        """seconds: that the chart of surprise reaches back."""
        self._contract, self._seconds = contract, seconds
        self._overlay = Overlay(contract, WIDTH)

    def draw(self, view: View) -> Picture:
        """uint8 [height, WIDTH, 3], of the same height as long as the camera's picture is.

        Raises ModuleNotFoundError where OpenCV is not installed.
        """
        parts = [
            self._banner(view),
            self._camera(view),
            *(self._target(target, index, view) for index, target in enumerate(self._contract.targets)),
            self._chart(view),
            *(self._modality(spec.name, spec.stale, view) for spec in self._contract.observations),
            self._words(view.note, (150, 154, 162)),
        ]
        return np.concatenate(parts)

    def _banner(self, view: View) -> Picture:
        from rssm_ros.evaluation.film.video import SEEN, UNSEEN

        belief = view.belief
        if belief is None:
            return self._words("no belief yet", UNSEEN, BANNER, 0.6)
        quiet = (view.now_ns - belief.stamp_ns) / SECOND
        told = f"{belief.stamp_ns / SECOND:.2f} s  tick {belief.tick}  "
        if quiet > OLD_BELIEF:
            return self._words(f"{told}no belief for {quiet:.1f} s", OVER, BANNER, 0.6)
        if view.streak >= view.review_after:
            return self._words(f"{told}REVIEW: surprised for {view.streak} ticks", OVER, BANNER, 0.6)
        if belief.lost:
            return self._words(f"{told}lost", OVER, BANNER, 0.6)
        if view.streak:
            return self._words(f"{told}surprised for {view.streak} ticks", UNSEEN, BANNER, 0.6)
        return self._words(f"{told}as expected", SEEN, BANNER, 0.6)

    def _camera(self, view: View) -> Picture:
        import cv2

        if view.picture is None:
            return self._words("no picture yet", LIMIT)
        drawn = view.picture if view.belief is None else self._overlay.draw(view.picture, view.belief)
        if drawn.shape[2] == 1:
            drawn = np.repeat(drawn, 3, axis=2)
        size = (WIDTH, max(1, round(drawn.shape[0] * WIDTH / drawn.shape[1])))
        if drawn.shape[1::-1] == size:
            return drawn
        how = cv2.INTER_AREA if drawn.shape[1] > WIDTH else cv2.INTER_NEAREST
        return np.asarray(cv2.resize(drawn, size, interpolation=how), np.uint8)

    def _target(self, target: TargetSpec, index: int, view: View) -> Picture:
        """Where it is believed to be, and the standard deviation over all its axes."""
        from rssm_ros.evaluation.film.video import disc

        row = self._row(LINE)
        disc(row, (MARGIN + 4, LINE // 2), 5, COLOURS[index % len(COLOURS)])
        if view.belief is not None:
            decoded = view.belief.targets[target.name]
            place = ", ".join(f"{value:.3f}" for value in np.atleast_1d(decoded.point()))
            spread = math.sqrt(max(0.0, float(np.trace(np.atleast_2d(decoded.covariance())))))
            sure = f" +- {spread:.3f}" if math.isfinite(spread) else ""
            self._write(row, f"{target.name}  {place}{sure} {target.unit}", (MARGIN + 16, LINE - 7), LIMIT)
        return row

    def _chart(self, view: View) -> Picture:
        """The last seconds: a bar per tick, red above its threshold, which is the bright line."""
        chart, top, bottom = self._row(CHART), 24, CHART - 8
        chart[top:bottom] = (34, 37, 43)
        span_ns = self._seconds * SECOND
        newest = max((item.stamp_ns for item in view.surprises), default=view.now_ns)
        shown = [item for item in view.surprises if item.stamp_ns > newest - span_ns]
        limits = [item.threshold for item in shown if math.isfinite(item.threshold)]
        nats = [item.nats for item in shown if math.isfinite(item.nats)]
        ceiling = max([1.5 * max(limits, default=0.0), 1.1 * max(nats, default=0.0), 1e-6])
        wide = max(1, math.floor(WIDTH / (self._seconds * float(self._contract.rate))))

        def height(value: float) -> int:
            return bottom - 1 - round(min(1.0, value / ceiling) * (bottom - 1 - top))

        for item in shown:
            right = max(wide, round(WIDTH * (1 - (newest - item.stamp_ns) / span_ns)))
            columns = slice(right - wide, right)
            if math.isfinite(item.nats):
                above = item.nats > item.threshold
                chart[height(item.nats) : bottom, columns] = OVER if above else CURVE
            if math.isfinite(item.threshold):
                chart[height(item.threshold), columns] = LIMIT
        latest = next((item for item in reversed(shown) if math.isfinite(item.nats)), None)
        told = "-" if latest is None else f"{latest.nats:.1f}"
        limit = f"{limits[-1]:.1f}" if limits else "not calibrated"
        text = f"surprise {told} nats, threshold {limit}; {self._seconds:g} s, 0 to {ceiling:.0f}"
        self._write(chart, text, (MARGIN, 16), LIMIT)
        return chart

    def _modality(self, name: str, stale: float, view: View) -> Picture:
        """Seconds since the belief saw it, beside the limit beyond which the gate holds the robot."""
        from rssm_ros.evaluation.film.video import SEEN, UNSEEN

        row, left, right = self._row(LINE), 220, WIDTH - MARGIN
        row[4 : LINE - 4, left:right] = (34, 37, 43)
        age = math.inf
        if view.belief is not None and view.belief.age[name] >= 0:
            quiet = max(0.0, (view.now_ns - view.belief.stamp_ns) / SECOND)
            age = view.belief.age[name] * self._contract.dt + quiet
        length = round(min(1.0, age / (2 * stale)) * (right - left)) if stale > 0 else right - left
        row[4 : LINE - 4, left : left + length] = UNSEEN if age > stale else SEEN
        middle = (left + right) // 2
        row[2 : LINE - 2, middle : middle + 2] = LIMIT
        told = f"{age:.2f} s" if math.isfinite(age) else "never seen"
        self._write(row, f"{name}  {told}", (MARGIN, LINE - 7), LIMIT)
        return row

    def _row(self, height: int) -> Picture:
        from rssm_ros.evaluation.film.video import BACK

        return np.full((height, WIDTH, 3), BACK, np.uint8)

    def _words(self, text: str, colour: Colour, height: int = LINE, size: float = 0.42) -> Picture:
        row = self._row(height)
        self._write(row, text, (MARGIN, height - height // 3), colour, size)
        return row

    def _write(
        self, picture: Picture, text: str, place: tuple[int, int], colour: Colour, size: float = 0.42
    ) -> None:
        import cv2

        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
