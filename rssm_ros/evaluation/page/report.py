"""What people see of an evaluation: `scorecard.html` and `overlay.mp4` beside `scorecard.json`."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.film.overlay import Shown, hidden_of, write_film
from rssm_ros.evaluation.page.page import Film, film_source, render_page
from rssm_ros.evaluation.page.plots_time import runs
from rssm_ros.evaluation.scoring.scorecard import TRACE_FILE, Scorecard, read_scorecard
from rssm_ros.files import write_whole
from rssm_ros.recordings.recording import Recording

PAGE, FILM = "scorecard.html", "overlay.mp4"
SECONDS = 30.0  # of the stretch that is filmed and drawn over time, at most
Trace = dict[str, npt.NDArray[Any]]
log = logging.getLogger(__name__)


def write(
    directory: Path,
    recording_of: Callable[[int], Recording | None] | None = None,
    episode: int | None = None,
) -> Path:
    """Writes the page, and the film where there is a recording, beside the scorecard.json in `directory`.

    recording_of: index of an episode -> what the filter was given then, covered pictures included.
    episode: the one to show; without it the stretch with the most hidden runs that end well inside it.
    Returns the page's path. Raises EvaluationError, the JSON untouched, where it cannot be made; a film that
    cannot be made is only said (logging), and the page is without. Written again without a recording, the
    page keeps the film that lies there.
    """
    card, trace = read_scorecard(directory), read_trace(directory)
    window = None if trace is None else stretch(card, trace, episode)
    film = None
    if trace is not None and window is not None:
        recording = recording_of(int(trace["episode"][window.start])) if recording_of else None
        if recording is not None:
            film = _filmed(card, trace, window, recording, directory / FILM)
        elif recording_of is None and episode is None and (directory / FILM).exists():
            film = Film(film_source(directory / FILM), main_target(card, trace), window)
    return write_whole(directory / PAGE, render_page(card, trace, film, window))


def read_trace(directory: Path) -> Trace | None:
    """The trace beside a scorecard; None where there is none. Raises EvaluationError for a damaged one."""
    path = directory / TRACE_FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise EvaluationError(f"{path} cannot be read ({error}); run `rssm evaluate` again") from error


def stretch(card: Scorecard, trace: Trace, episode: int | None = None) -> slice | None:
    """Up to 30 s of one episode, the ones in which the most hidden ticks end in a re-appearance.

    None where the trace is empty. Raises EvaluationError where there is no such episode.
    """
    episodes, target = trace["episode"], main_target(card, trace)
    if episode is not None and not (episodes == episode).any():
        raise EvaluationError(
            f"the trace has no episode {episode}; it has 0 to {int(episodes.max(initial=0))}"
        )
    if not len(episodes):
        return None
    length = max(1, round(SECONDS * card.rate))
    late = np.diff(trace["t_ns"]) > 1.5e9 / card.rate  # a film and its plot have no holes
    pieces = np.cumsum(np.r_[False, (np.diff(episodes) != 0) | late])
    worth = np.zeros(len(episodes) + 1)
    for begin, end in runs(hidden_of(trace, target)):
        if end < len(episodes) and pieces[end] == pieces[begin]:
            worth[end] += end - begin  # counted where it is over, so that its end is in the stretch
    total = np.concatenate([[0.0], np.cumsum(worth[:-1])])
    best: tuple[float, slice] | None = None
    for number in np.unique(pieces if episode is None else pieces[episodes == episode]):
        (ticks,) = np.nonzero(pieces == number)
        first, last = int(ticks[0]), int(ticks[-1]) + 1
        begins = np.arange(first, max(first, last - length) + 1)
        ends = np.minimum(begins + length, last)
        gains = total[ends] - total[begins]
        chosen = int(np.argmax(gains))
        if best is None or gains[chosen] > best[0]:
            best = (float(gains[chosen]), slice(int(begins[chosen]), int(ends[chosen])))
    return best[1] if best else None


def main_target(card: Scorecard, trace: Trace) -> str | None:
    """The target that is shown: the first whose visibility is known, else the first; None without any."""
    names = [name for name in card.targets if f"{name}/truth" in trace]
    seen = [name for name in names if np.isfinite(trace[f"{name}/visibility"]).any()]
    return next(iter(seen or names), None)


def _filmed(card: Scorecard, trace: Trace, window: slice, recording: Recording, path: Path) -> Film | None:
    """The film; None, and a word why, where it cannot be made."""
    target = main_target(card, trace)
    here = {name: values[window] for name, values in trace.items()}
    unit, best = "", None
    if target is not None:
        unit, best = card.targets[target].unit, card.targets[target].best_classical
    try:
        write_film(Shown(recording.contract, here, target, unit, best), recording, path)
    except EvaluationError as error:
        log.warning("%s", error)
        return None
    return Film(film_source(path), target, window)
