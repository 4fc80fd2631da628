"""The report's plots over time: one stretch of a run, shaded where hidden, in step with the film."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.page.plots import (
    ACCENT,
    ALARM,
    INK,
    MUTED,
    SHADE,
    Array,
    Plot,
    deviation,
    figure,
    inline,
    spoken,
)
from rssm_ros.evaluation.units import Scale

POINTS = 2000  # of a line over time; more cannot be seen


def timeline(
    trace: Mapping[str, Array], target: str, best: str | None, scale: Scale, window: slice, name: str
) -> Plot:
    """Error, claimed deviation and surprise over one stretch of time; shaded where hidden."""
    here = {key: values[window] for key, values in trace.items()}
    seconds = 1e-9 * (here["t_ns"] - here["t_ns"][0])
    step = max(1, len(seconds) // POINTS)
    truth = here[f"{target}/truth"]
    error = scale.factor * np.linalg.norm(here[f"{target}/mean"] - truth, axis=1)
    claim = scale.factor * deviation(here[f"{target}/covariance"])
    claim = np.where(np.isfinite(error), claim, np.nan)  # of what is not there, nothing is claimed wrongly
    grid = {"nrows": 2, "sharex": True, "gridspec_kw": {"height_ratios": (3, 1.4)}}
    with figure(1080, 400, **grid) as (drawn, (top, bottom)):
        for axis in (top, bottom):
            _shade(axis, seconds, here[f"{target}/hidden_for"] > 0)
        top.fill_between(seconds[::step], 0, 2 * claim[::step], color=ACCENT, alpha=0.14, linewidth=0,
                         label="two claimed deviations")  # fmt: skip
        if best is not None:
            other = scale.factor * np.linalg.norm(here[f"{target}/baseline/{best}"] - truth, axis=1)
            top.plot(seconds[::step], other[::step], color=MUTED, linewidth=1.1, label=spoken(best))
        top.plot(seconds[::step], error[::step], color=ACCENT, label="belief")
        shown = np.concatenate([error, 2 * claim])
        ceiling = float(np.nanpercentile(shown, 99.5)) * 1.6 if np.isfinite(shown).any() else 1.0
        top.set(ylim=(0, ceiling), ylabel=f"error, {scale.unit}")
        top.legend(loc="upper right", ncols=3, labelcolor=INK, bbox_to_anchor=(1, 1.19), borderaxespad=0)
        _surprise(bottom, here, seconds)
        return _timed(drawn, bottom, seconds, name, "Error, claimed deviation and surprise over time")


def surprise(trace: Mapping[str, Array], window: slice, name: str) -> Plot:
    """Surprise alone over one stretch of time, where no target has a truth; shaded where covered."""
    here = {key: values[window] for key, values in trace.items()}
    seconds = 1e-9 * (here["t_ns"] - here["t_ns"][0])
    with figure(1080, 220) as (drawn, axis):
        _shade(axis, seconds, here["imposed"] > 0)
        _surprise(axis, here, seconds)
        return _timed(drawn, axis, seconds, name, "Surprise over time")


def _surprise(axis: Any, here: Mapping[str, Array], seconds: Array) -> None:
    step = max(1, len(seconds) // POINTS)
    axis.plot(seconds[::step], here["surprise"][::step], color=ACCENT, linewidth=1.2)
    axis.plot(seconds[::step], here["threshold"][::step], color=MUTED, linestyle="--", linewidth=1.0)
    events = here["review"].astype(bool) & np.isfinite(here["surprise"])
    axis.plot(seconds[events], here["surprise"][events], "v", color=ALARM, markersize=7)
    axis.set(xlabel="s", ylabel="surprise, nats", ylim=(0, None), xlim=(0, max(seconds[-1], 1e-3)))


def _timed(drawn: Any, axis: Any, seconds: Array, name: str, label: str) -> Plot:
    """The figure, and where its time begins and ends in pixels: so that a film can move in it."""
    plot = inline(drawn, name, label)
    left, right = (axis.transData.transform((x, 0))[0] for x in (0.0, seconds[-1]))
    return Plot(plot.svg, plot.width, (float(left), float(right), 0.0, float(seconds[-1])))


def _shade(axis: Any, seconds: Array, hidden: Array) -> None:
    half = float(np.median(np.diff(seconds))) / 2 if len(seconds) > 1 else 0.0
    for begin, end in runs(hidden):
        axis.axvspan(seconds[begin] - half, seconds[end - 1] + half, color=SHADE, linewidth=0)


def runs(mask: npt.ArrayLike) -> list[tuple[int, int]]:
    """Stretches [begin, end) in which a mask [T] holds."""
    edges = np.diff(np.concatenate([[0], np.asarray(mask, np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist()))
