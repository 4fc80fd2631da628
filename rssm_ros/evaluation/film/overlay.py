"""The report's film: what the camera saw, with truth and belief drawn in and a word on what is hidden.

White cross: the truth; blue ellipse: two standard deviations of the belief, and its mean; grey ring: the best
classical baseline. Where nobody knows how a target's place falls into the picture, it is drawn from above,
beside the picture. The strip above is the whole stretch: shaded while hidden, the belief's error as a curve;
it is not below because players lay their controls there.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import VISIBLE, Contract
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.film.projection import Project, ellipse, projection_of
from rssm_ros.evaluation.film.video import (
    BACK,
    DIM,
    INK,
    SEEN,
    TRUTH,
    UNSEEN,
    cross,
    disc,
    label,
    polyline,
)
from rssm_ros.evaluation.units import NATS, Scale
from rssm_ros.online.grid import tick_of
from rssm_ros.recordings.recording import Recording

Image = npt.NDArray[np.uint8]
Trace = Mapping[str, npt.NDArray[Any]]
SIDE = 480  # pixels of the picture's longer side, and of the view from above
BANNER, STRIP = 40, 72  # heights
BELIEF, OTHER, PARTLY = (96, 165, 255), (170, 176, 184), (240, 205, 90)
FASTEST = 20  # pictures per second of film
CURVE_AT = 22  # pixels from the strip's top to its curve
DARK_BAND, CURVE_TOP = (58, 62, 70), 1.1


@dataclass(frozen=True)
class Shown:
    """What one film is about."""

    contract: Contract
    trace: Trace  # of the stretch alone
    target: str | None  # None: nothing has a place; what the camera saw, and the surprise at it
    unit: str
    best: str | None  # a baseline of the trace


def hidden_of(trace: Trace, target: str | None) -> npt.NDArray[np.bool_]:
    """[T] ticks at which a target is hidden; without a target, those with a covered picture."""
    found = trace["imposed"] if target is None else trace[f"{target}/hidden_for"]
    return np.asarray(found, np.int64) > 0


def places(shown: Shown) -> tuple[npt.NDArray[np.float64], ...]:
    """Truth and mean [T, d] and covariance [T, d, d] of the target; NaN without one."""
    count, name = len(shown.trace["t_ns"]), shown.target
    if name is None:
        return np.full((count, 2), np.nan), np.full((count, 2), np.nan), np.full((count, 2, 2), np.nan)
    return tuple(np.asarray(shown.trace[f"{name}/{part}"], float) for part in ("truth", "mean", "covariance"))


def write_film(shown: Shown, recording: Recording, path: Path) -> Path:
    """Writes the stretch as an H.264 MP4 that browsers play, in real time; returns its path.

    Raises EvaluationError where a package lacks or the recording has no picture in this stretch.
    """
    try:
        import av
        import cv2  # noqa: F401  drawing uses it
    except ModuleNotFoundError as error:
        raise EvaluationError(
            f"no film: {error.name} is not installed (pip install 'rssm_ros[viz]')"
        ) from error
    rate = float(shown.contract.rate)
    step = max(1, round(rate / FASTEST))
    pictures = _pictures(shown, recording)
    first = next(pictures, None)
    if first is None:
        raise EvaluationError(f"no film: the recording has no picture of {_camera(shown.contract)!r} there")
    painter = Painter(shown, first.shape[1], first.shape[0])
    speed = Fraction(rate / step).limit_denominator(1000)
    temporary = path.with_suffix(".tmp.mp4")
    with av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=speed, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = painter.width, painter.height, "yuv420p"
        stream.time_base = 1 / speed
        stream.codec_context.thread_count = 1  # a film is made beside other work
        for tick, picture in enumerate(chain([first], pictures)):
            if tick % step == 0:
                drawn = av.VideoFrame.from_ndarray(painter.paint(tick, picture), format="rgb24")
                container.mux(stream.encode(drawn))
        container.mux(stream.encode())
    temporary.replace(path)
    return path


def _camera(contract: Contract) -> str:
    """The camera that is shown: the one that ticks wait for, else the first. Raises EvaluationError."""
    cameras = [spec for spec in contract.observations if spec.kind == "image"]
    if not cameras:
        raise EvaluationError(f"no film: the contract {contract.name!r} has no camera")
    return min(cameras, key=lambda spec: not spec.trigger).name


def _pictures(shown: Shown, recording: Recording) -> Iterator[Image]:
    """The newest picture at each tick of the stretch, uint8 [H, W, 3]; ticks before the first one show it.

    Streams: one picture is kept.
    """
    camera, rate = _camera(shown.contract), shown.contract.rate
    ticks = [tick_of(int(stamp), rate) for stamp in shown.trace["t_ns"]]
    at, held = 0, None
    for observation in recording.observations():
        if observation.name != camera:
            continue
        tick = tick_of(observation.stamp_ns, rate)
        while held is not None and at < len(ticks) and ticks[at] < tick:
            yield held
            at += 1
        if at == len(ticks):
            return
        if tick >= ticks[0]:
            held = _coloured(observation.value)
    while held is not None and at < len(ticks):
        yield held
        at += 1


def _coloured(image: npt.NDArray[Any]) -> Image:
    """uint8 [H, W, 1 or 3] -> [H, W, 3]."""
    picture = np.asarray(image, np.uint8)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


# -- drawing -------------------------------------------------------------------------------------------


class Painter:
    """Draws one tick of the stretch at a time."""

    def __init__(self, shown: Shown, width: int, height: int) -> None:
        self._shown, trace, name = shown, shown.trace, shown.target
        factor = SIDE / max(width, height)
        self._size = (_even(width * factor), _even(height * factor))
        self._nearest = factor > 1
        truth, mean, covariance = places(shown)
        self._truth, self._mean, self._covariance = truth[:, :2], mean[:, :2], covariance[:, :2, :2]
        self._other = trace.get(f"{name}/baseline/{shown.best}")
        self._hidden = hidden_of(trace, name)
        error = np.linalg.norm(mean - truth, axis=1)
        self._curve = error if name is not None else np.asarray(trace["surprise"], float)
        self._scale = Scale.of(shown.unit) if name is not None else NATS
        self._rate = float(shown.contract.rate)
        flat = name is not None and mean.shape[1] >= 2
        self._project = projection_of(shown.contract, str(name), *self._size) if flat else None
        self._above = self._from_above() if flat and self._project is None else None
        self.width = self._size[0] + (SIDE if self._above else 0)
        self.height = BANNER + max(self._size[1], SIDE if self._above else 0) + STRIP
        self._strip = self._timeline()

    def paint(self, tick: int, picture: Image) -> Image:
        """The whole picture of one tick, uint8 [height, width, 3]."""
        import cv2

        how = cv2.INTER_NEAREST if self._nearest else cv2.INTER_AREA
        enlarged = np.ascontiguousarray(cv2.resize(picture, self._size, interpolation=how))
        whole = np.full((self.height, self.width, 3), BACK, np.uint8)
        if self._project is not None:
            self._annotate(enlarged, tick, self._project)
        top = BANNER + STRIP
        whole[top : top + self._size[1], : self._size[0]] = enlarged
        if self._above is not None:
            view = self._ground.copy()
            self._annotate(view, tick, self._above)
            whole[top : top + SIDE, self._size[0] :] = view
        self._banner(whole, tick)
        whole[BANNER:top] = self._strip
        x = min(self.width - 2, round(tick / max(1, len(self._curve) - 1) * (self.width - 1)))
        whole[BANNER + CURVE_AT : top - 4, x : x + 2] = INK
        return whole

    def _annotate(self, picture: Image, tick: int, project: Project) -> None:
        import cv2

        if self._other is not None:
            (place,) = project(np.asarray(self._other[tick, :2], float)[None])
            if np.isfinite(place).all():
                at = tuple(np.clip(place, -999, 9999).round().astype(int).tolist())
                cv2.circle(picture, at, 9, OTHER, 2, cv2.LINE_AA)
        if np.isfinite(self._mean[tick]).all() and np.isfinite(self._covariance[tick]).all():
            outline = project(ellipse(self._mean[tick], self._covariance[tick]))
            polyline(picture, outline, (0, 0, 0), 4)
            polyline(picture, outline, BELIEF, 2)
            disc(picture, project(self._mean[tick][None])[0], 4, BELIEF)
        if np.isfinite(self._truth[tick]).all():
            cross(picture, project(self._truth[tick][None])[0], 7, TRUTH)

    def _from_above(self) -> Project:
        """Metres to pixels: x up, y to the left, as robots count them; all truths fit, and a margin.

        Draws the ground, too: lines a round number apart.
        """
        places = self._truth[np.isfinite(self._truth).all(axis=1)]
        places = places if len(places) else np.zeros((1, 2))
        middle = (places.max(0) + places.min(0)) / 2
        zoom = SIDE / max(1.3 * float(np.ptp(places, axis=0).max()), 1e-6)

        def project(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            offset = (np.asarray(points, np.float64) - middle) * zoom
            return np.stack([SIDE / 2 - offset[:, 1], SIDE / 2 - offset[:, 0]], axis=1)

        self._ground = np.full((SIDE, SIDE, 3), (34, 37, 43), np.uint8)
        apart = _round_length(SIDE / zoom / 4)
        for axis, (low, high) in enumerate(zip(middle - SIDE / zoom / 2, middle + SIDE / zoom / 2)):
            for place in apart * np.arange(math.ceil(low / apart), math.floor(high / apart) + 1):
                at = int(np.clip(SIDE / 2 - (place - middle[axis]) * zoom, 0, SIDE - 1))
                self._ground[(at, slice(None)) if axis == 0 else (slice(None), at)] = (54, 58, 66)
        told = f"from above, x up; lines {apart:g} {self._shown.unit} apart"
        label(self._ground, told, (10, SIDE - 12), 0.42, OTHER)
        return project

    def _banner(self, whole: Image, tick: int) -> None:
        import cv2

        text, colour = self._state(tick)
        whole[: BANNER - 4] = BACK
        whole[BANNER - 4 : BANNER] = colour
        cv2.putText(whole, text, (12, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.62, colour, 2, cv2.LINE_AA)
        if np.isfinite(self._curve[tick]):
            told = self._scale.with_unit(float(self._curve[tick]))
            said = f"surprise {told}" if self._shown.target is None else f"off by {told}"
            (width, _), _ = cv2.getTextSize(said, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)
            place = (self.width - width - 12, 25)
            cv2.putText(whole, said, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, BELIEF, 1, cv2.LINE_AA)

    def _state(self, tick: int) -> tuple[str, tuple[int, int, int]]:
        """What can be seen at a tick, in words and as a colour."""
        trace, name = self._shown.trace, self._shown.target
        if self._hidden[tick]:
            since = (
                tick - int(np.argmin(self._hidden[tick::-1])) if not self._hidden[: tick + 1].all() else -1
            )
            return f"{'COVERED' if name is None else 'HIDDEN'}  {(tick - since) / self._rate:.2f} s", UNSEEN
        if name is None:
            return "in view", SEEN
        share = float(trace[f"{name}/visibility"][tick])
        if not np.isfinite(share):
            return "visibility unknown", DIM
        if share >= VISIBLE:
            return f"visible  {share:.0%}", SEEN
        return f"partly visible  {share:.0%}", PARTLY

    def _timeline(self) -> Image:
        """The strip without its cursor, [STRIP, width, 3]."""
        strip = np.full((STRIP, self.width, 3), BACK, np.uint8)
        count, top, bottom = len(self._hidden), CURVE_AT, STRIP - 4
        known = self._curve[np.isfinite(self._curve)]
        ceiling = CURVE_TOP * float(np.percentile(known, 99.5)) if len(known) else 1.0
        for x in range(self.width):
            begin = x * count // self.width
            ticks = slice(begin, max(begin + 1, (x + 1) * count // self.width))
            if self._hidden[ticks].any():
                strip[top:bottom, x] = DARK_BAND
            here = self._curve[ticks][np.isfinite(self._curve[ticks])]
            if len(here):
                length = int(min(1.0, float(here.max()) / max(ceiling, 1e-12)) * (bottom - top))
                strip[bottom - length : bottom, x] = BELIEF
        what = ("covered", "surprise") if self._shown.target is None else ("hidden", "error")
        told = f"{count / self._rate:.0f} s   shaded: {what[0]}   "
        told += f"curve: {what[1]}, 0 to {self._scale.with_unit(ceiling)}"
        label(strip, told, (10, 15), 0.42, OTHER)
        return strip


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5, 10, ... (and their tenths, hundredths, ...) that is at most this."""
    decade = 10.0 ** math.floor(math.log10(length))
    return decade * max(step for step in (1, 2, 5) if step * decade <= length * (1 + 1e-9))


def _even(length: float) -> int:
    """H.264 halves colours: sides are even."""
    return max(2, 2 * round(length / 2))
