"""A run as a film, rendered afterwards: the spectator's view beside what the robot sees, with the belief
drawn in.

Truth is a white cross, the belief a coloured ellipse of two standard deviations, the bin where the package
is believed to belong a yellow square, the imagined path a dotted line; the strip below shows when the package
was hidden and how far off the belief was.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import HIDDEN
from rssm_ros.evaluation.film.projection import BIN_RIM, PACKAGE_TOP, Pinhole, ellipse, pinhole, to_world
from rssm_ros.evaluation.runs.summary import Run, aligned_beliefs, load_run
from rssm_ros.evaluation.runs.trace import Records, TraceError, read_trace

Image = npt.NDArray[np.uint8]
WIDTH, HEIGHT = 640, 480  # of the spectator's view
ROBOT = 480  # pixels a side of the enlarged robot camera
STRIP = 80  # height of the timeline
PATH_AGE = 3  # ticks that an imagined path stays in the picture
SPAN = 0.30  # m: full height of the error curve
BACK, INK, DIM = (24, 26, 30), (236, 236, 236), (120, 124, 132)
SEEN, UNSEEN, TRUTH = (88, 200, 120), (255, 154, 60), (255, 255, 255)
PATH, BIN = (120, 190, 255), (255, 226, 90)


class VideoError(RuntimeError):
    """A film that cannot be made; the message says why."""


@dataclass(frozen=True)
class Frame:
    """All that one picture needs; small, because it is sent to another process."""

    state: npt.NDArray[np.float64]
    camera: Image  # what the robot saw
    base: npt.NDArray[np.float64]
    truth: npt.NDArray[np.float64]  # [2] NaN: no package
    mean: npt.NDArray[np.float64]  # [2] NaN: no belief
    covariance: npt.NDArray[np.float64]
    bin: npt.NDArray[np.float64]  # [2] where it is believed to belong; NaN: not told
    path: npt.NDArray[np.float64]  # [H, 3] in the world
    hidden: bool
    caption: tuple[str, str]
    progress: float  # 0..1
    scale: float  # m of the belief's error, NaN where there is none


def render_video(traces: Path, output: Path, dt: float, fps: int = 10, workers: int | None = None) -> Path:
    """Renders the traces in a folder to an H.264 MP4 that browsers play; returns its path.

    fps: pictures per second of film, in real time; every (1 / dt / fps)-th tick is drawn. Raises VideoError.
    """
    try:
        import av
        import cv2  # noqa: F401  the workers draw with it
    except ModuleNotFoundError as error:
        raise VideoError(f"no video: {error.name} is not installed (pip install 'rssm_ros[sim]')") from error
    run = load_run(traces, dt)
    if not len(run.sim):
        raise VideoError(f"no video: {traces} holds no trace of a simulation")
    frames = list(_frames(run, _plans(traces), max(1, round(1 / dt / fps))))
    strip = _strip(run)
    count = workers or min(2, os.cpu_count() or 1)
    with (
        ProcessPoolExecutor(count, get_context("spawn"), _start_worker, (strip,)) as pool,
        av.open(str(output), "w", options={"movflags": "+faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "21"})
        stream.width, stream.height, stream.pix_fmt = WIDTH + ROBOT, HEIGHT + STRIP, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for picture in pool.map(draw, frames, chunksize=4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return output


def _plans(traces: Path) -> Records | None:
    try:
        return read_trace(traces / "planner.trace")
    except TraceError:
        return None


def _frames(run: Run, plans: Records | None, step: int) -> Iterator[Frame]:
    imagining = () if plans is None else (plan for plan in plans if np.isfinite(plan["path"]).all())
    paths = {int(plan["stamp_ns"]): np.asarray(plan["path"], np.float64) for plan in imagining}
    covariances = {int(item["stamp_ns"]): item["covariance"] for item in run.filter}
    told = "destination" in (run.filter.dtype.names or ())
    bins = {int(item["stamp_ns"]): item["destination"] for item in run.filter if told}
    means, _ = aligned_beliefs(run)
    error = np.linalg.norm(means - run.sim["package"], axis=1)
    for index in range(0, len(run.sim), step):
        record = run.sim[index]
        stamp = int(record["stamp_ns"])
        hidden = bool(record["visibility"] <= HIDDEN)
        _, done, wrong, missed = (int(value) for value in record["score"])
        present = bool(np.isfinite(record["package"]).all())
        seen = "no package" if not present else "HIDDEN" if hidden else f"visible {record['visibility']:.0%}"
        off = "" if not math.isfinite(error[index]) else f"   belief off by {100 * error[index]:.1f} cm"
        yield Frame(
            state=np.asarray(record["state"], np.float64),
            camera=np.asarray(record["camera"], np.uint8),
            base=np.asarray(record["base"], np.float64),
            truth=np.asarray(record["package"], np.float64),
            mean=means[index],
            covariance=np.asarray(covariances.get(stamp, np.full((2, 2), np.nan)), np.float64),
            bin=np.asarray(bins.get(stamp, np.full(2, np.nan)), np.float64),
            path=_imagined(run, paths, index),
            hidden=hidden,
            caption=(
                f"{index * run.dt:5.1f} s   sorted {done}   missed {missed}   wrong {wrong}",
                f"{seen}{off}",
            ),
            progress=index / max(1, len(run.sim) - 1),
            scale=float(error[index]),
        )


def _imagined(run: Run, paths: dict[int, npt.NDArray[np.float64]], index: int) -> npt.NDArray[np.float64]:
    """The newest path at a tick, [H, 3] in the world; [0, 3] without one.

    Its points are in the robot's frame at the tick when the command acts: the one after it was answered.
    """
    for begun in range(index, max(-1, index - PATH_AGE), -1):
        path = paths.get(int(run.sim["stamp_ns"][begun]))
        if path is not None:
            return to_world(run.sim["base"][min(begun + 1, len(run.sim) - 1)], path, PACKAGE_TOP)
    return np.zeros((0, 3))


def _strip(run: Run) -> Image:
    """The timeline of the whole run, [STRIP, width, 3]: bands where hidden, the belief's error as a curve."""
    width, top, bottom = WIDTH + ROBOT, 30, STRIP - 6
    strip = np.full((STRIP, width, 3), BACK, np.uint8)
    means, _ = aligned_beliefs(run)
    error = np.linalg.norm(means - run.sim["package"], axis=1)
    count = len(run.sim)
    for x in range(width):
        ticks = slice(x * count // width, max(x * count // width + 1, (x + 1) * count // width))
        here = run.sim[ticks]
        present = np.isfinite(here["package"]).all(axis=1)
        if present.any():
            hidden = (here["visibility"][present] <= HIDDEN).mean() > 0.5
            strip[top:bottom, x] = (70, 48, 28) if hidden else (30, 52, 38)
        values = error[ticks][np.isfinite(error[ticks])]
        if len(values):
            length = int(min(1.0, values.mean() / SPAN) * (bottom - top))
            strip[bottom - length : bottom, x] = UNSEEN if present.any() and hidden else SEEN
    return strip


# -- in the workers ------------------------------------------------------------------------------------


class Painter:
    """Renders and draws one frame; lives in a worker process with its own OpenGL contexts."""

    def __init__(self, strip: Image) -> None:
        import mujoco

        from rssm_ros.envs.cell import load_model
        from rssm_ros.envs.render import SpectatorRenderer

        self._mujoco = mujoco
        self._spectator = SpectatorRenderer(WIDTH, HEIGHT, shadows=1024, samples=0)
        self._model = load_model()
        self._data = mujoco.MjData(self._model)
        self._strip = strip

    def paint(self, frame: Frame) -> Image:
        """The whole picture, uint8 [HEIGHT + STRIP, WIDTH + ROBOT, 3]."""
        import cv2

        self._data.qpos[:] = frame.state[: self._model.nq]
        self._mujoco.mj_forward(self._model, self._data)
        left = np.ascontiguousarray(self._spectator.render(frame.state))
        right = np.ascontiguousarray(
            cv2.resize(frame.camera, (ROBOT, ROBOT), interpolation=cv2.INTER_NEAREST)
        )
        self._annotate(left, frame, pinhole(self._model, self._data, "spectator", WIDTH, HEIGHT))
        self._annotate(right, frame, pinhole(self._model, self._data, "camera", ROBOT, ROBOT))
        label(right, "robot camera, 64 x 64", (10, 22), 0.5, INK)
        return np.concatenate([np.concatenate([left, right], axis=1), self._timeline(frame)], axis=0)

    def _annotate(self, picture: Image, frame: Frame, camera: Pinhole) -> None:
        colour = UNSEEN if frame.hidden else SEEN
        if np.isfinite(frame.mean).all():
            if np.isfinite(frame.covariance).all():
                outline = ellipse(frame.mean, frame.covariance)
                polyline(picture, camera.project(to_world(frame.base, outline, PACKAGE_TOP)), colour, 2)
            if len(frame.path):
                dots = camera.project(frame.path)
                for dot in dots[np.isfinite(dots).all(axis=1)]:
                    disc(picture, dot, 3, PATH)
            (middle,) = camera.project(to_world(frame.base, frame.mean, PACKAGE_TOP))
            disc(picture, middle, 4, colour)
        if np.isfinite(frame.bin).all() and np.isfinite(frame.truth).all():
            (belongs,) = camera.project(to_world(frame.base, frame.bin, BIN_RIM))
            square(picture, belongs, 7, BIN)
        if np.isfinite(frame.truth).all():
            (place,) = camera.project(to_world(frame.base, frame.truth, PACKAGE_TOP))
            cross(picture, place, 6, TRUTH)

    def _timeline(self, frame: Frame) -> Image:
        strip = self._strip.copy()
        x = min(strip.shape[1] - 2, int(frame.progress * (strip.shape[1] - 1)))
        strip[28:, x : x + 2] = INK
        label(strip, frame.caption[0], (10, 20), 0.5, INK)
        label(strip, frame.caption[1], (WIDTH - 150, 20), 0.5, UNSEEN if frame.hidden else SEEN)
        label(
            strip,
            f"+ truth  o belief  [] its bin  . imagined   curve: 0 to {100 * SPAN:.0f} cm",
            (WIDTH + ROBOT - 330, 20),
            0.42,
            DIM,
        )
        return strip


_painter: Painter | None = None


def _start_worker(strip: Image) -> None:
    global _painter
    os.environ.setdefault("LP_NUM_THREADS", "1")  # the workers share the cores; before the driver loads
    _painter = Painter(strip)


def draw(frame: Frame) -> Image:
    """One frame, in a worker."""
    assert _painter is not None
    return _painter.paint(frame)


# -- drawing -------------------------------------------------------------------------------------------


def _pixel(point: npt.ArrayLike) -> tuple[int, int]:
    x, y = np.clip(np.asarray(point, np.float64), -5000, 5000)
    return round(float(x)), round(float(y))


def polyline(picture: Image, points: npt.NDArray[Any], colour: tuple[int, int, int], width: int) -> None:
    """A line through the finite points [n, 2]."""
    import cv2

    good = points[np.isfinite(points).all(axis=1)]
    if len(good) > 1:
        cv2.polylines(
            picture, [np.clip(good, -5000, 5000).round().astype(np.int32)], False, colour, width, cv2.LINE_AA
        )


def disc(picture: Image, point: npt.ArrayLike, radius: int, colour: tuple[int, int, int]) -> None:
    """A filled circle, if the point is finite."""
    import cv2

    if np.isfinite(point).all():
        cv2.circle(picture, _pixel(point), radius, colour, -1, cv2.LINE_AA)


def square(picture: Image, point: npt.ArrayLike, size: int, colour: tuple[int, int, int]) -> None:
    """An open square with a dark rim, if the point is finite."""
    import cv2

    if np.isfinite(point).all():
        for shade, width in (((0, 0, 0), 4), (colour, 2)):
            cv2.drawMarker(picture, _pixel(point), shade, cv2.MARKER_SQUARE, 2 * size, width, cv2.LINE_AA)


def cross(picture: Image, point: npt.ArrayLike, size: int, colour: tuple[int, int, int]) -> None:
    """A cross with a dark rim, if the point is finite."""
    import cv2

    if np.isfinite(point).all():
        for shade, width in (((0, 0, 0), 3), (colour, 1)):
            cv2.drawMarker(picture, _pixel(point), shade, cv2.MARKER_CROSS, 2 * size, width, cv2.LINE_AA)


def label(
    picture: Image, text: str, place: tuple[int, int], size: float, colour: tuple[int, int, int]
) -> None:
    """Text on a dark plate, its lower left corner at `place`."""
    import cv2

    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    x, y = place
    cv2.rectangle(picture, (x - 4, y - height - 4), (x + width + 4, y + below), BACK, -1)
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
