import dataclasses
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.contract import find_contract
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.film.overlay import (
    BANNER,
    SIDE,
    STRIP,
    write_film,
)
from rssm_ros.evaluation.page import page, report
from rssm_ros.evaluation.page.plots_time import runs
from rssm_ros.evaluation.scoring.scorecard import Errors
from rssm_ros.evaluation.statistics import Estimate
from rssm_ros.evaluation.units import PERCENT, Scale
from test.browser import Browser, find_chromium
from test.scorecards import Made, made, recording_of, shown_of

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def run() -> Made:
    return made(episodes=3, ticks=200, error=0.01)


@pytest.fixture(scope="module")
def folder(run: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run.write(tmp_path_factory.mktemp("run"))
    report.write(folder, lambda episode: recording_of(run.trace))
    return folder


@pytest.fixture(scope="module")
def browser(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    if find_chromium() is None:
        pytest.skip(
            "no Chromium here (Debian's package `chromium`, or CHROMIUM=path): the page is not opened"
        )
    browser = Browser(tmp_path_factory.mktemp("profile"))
    browser.open(folder / report.PAGE)
    yield browser
    browser.close()


# -- in a browser --------------------------------------------------------------------------------------


def test_the_page_opens_without_a_complaint_and_asks_for_nothing(browser: Browser, folder: Path) -> None:
    assert browser.evaluate("document.querySelectorAll('svg.plot').length") >= 8
    assert browser.complaints() == []
    outside = [url for url in browser.requests() if not url.startswith(("data:", "file:"))]
    assert outside == []
    files = [url for url in browser.requests() if url.startswith("file:")]
    assert files == [(folder / report.PAGE).resolve().as_uri()]


def test_the_film_plays_and_the_plot_follows(browser: Browser) -> None:
    browser.evaluate("document.querySelector('video').play().then(() => null)")
    told = browser.evaluate(
        """new Promise(resolve => { const film = document.querySelector('video'); const begin = Date.now();
        const look = () => film.currentTime > 0.3 || Date.now() - begin > 15000
          ? resolve([film.currentTime, film.videoWidth, film.error === null])
          : setTimeout(look, 50); look(); })"""
    )
    seconds, width, fine = told
    assert seconds > 0.3 and width == SIDE and fine
    browser.evaluate("document.querySelector('video').pause()")
    at = browser.evaluate("Number(document.querySelector('.cursor').getAttribute('x1'))")
    left, right, begin, end = browser.evaluate(
        "JSON.parse(document.querySelector('[data-spans]').dataset.spans)"
    )
    now = browser.evaluate("document.querySelector('video').currentTime")
    assert at == pytest.approx(left + (right - left) * (now - begin) / (end - begin), abs=25)


def test_tables_sort_from_the_keyboard(browser: Browser) -> None:
    errors = "[...document.querySelectorAll('table')].find(table => table.querySelector('.marked'))"
    column = f"[...{errors}.tBodies[0].rows].map(row => Number(row.cells[4].dataset.key))"
    sorts = f"[...{errors}.tHead.rows[0].cells].map(cell => cell.getAttribute('aria-sort'))"
    assert browser.evaluate(sorts) == ["none"] * 6
    browser.evaluate(f"{errors}.tHead.rows[0].cells[3].querySelector('button').focus()")
    browser.press("Tab")  # to the next heading: fully hidden
    browser.press("Enter")
    up = browser.evaluate(column)
    assert up == sorted(up) and len(set(up)) > 2
    assert browser.evaluate(sorts) == ["none"] * 4 + ["ascending", "none"]
    browser.press("Enter")
    assert browser.evaluate(column) == up[::-1]
    assert browser.evaluate(sorts)[4] == "descending"
    assert browser.evaluate(f"{errors}.querySelectorAll('.marked td')[0].textContent") == "belief"


def test_light_dark_and_narrow(browser: Browser) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    line = "getComputedStyle(document.querySelector('svg.plot path[style*=\"--accent\"]')).stroke"
    seen = []
    for dark in (False, True):
        browser.show(1280, dark)
        seen.append((browser.evaluate(paper), browser.evaluate(line)))
    assert seen[0][0] != seen[1][0] and seen[0][1] != seen[1][1]
    browser.show(390)
    assert browser.evaluate("document.documentElement.scrollWidth") == 390


# -- the page ------------------------------------------------------------------------------------------


def test_the_page_says_what_the_scorecard_says(folder: Path, run: Made) -> None:
    text = (folder / report.PAGE).read_text()
    target = run.scorecard.targets["package"]
    assert "never seen yet, cm" in text
    assert Scale.of("m").interval(target.errors.by_history["never_seen"]) in text
    hidden = target.errors.by_group["hidden"]
    assert Scale.of("m").told(hidden) in text
    assert PERCENT.told(target.coverage["90"]["hidden"]) in text
    for baseline in target.baselines:
        assert baseline.replace("_", " ") in text
    for told in (
        run.scorecard.bundle_sha256,
        run.scorecard.notes[0],
        run.scorecard.created,
        "camera/image_raw",
    ):
        assert told in text


def test_nothing_comes_from_outside(folder: Path) -> None:
    text = (folder / report.PAGE).read_text()
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"|http://www.w3.org/2000/svg', "", text)
    assert "<link" not in text.replace('<link rel="icon" href="data:,">', "")
    assert "#0000f" not in text  # every colour is the page's
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "two plots share an id, and so would share what it names"
    assert all(f'id="{name}"' in text for name in re.findall(r"url\(#([^)]+)\)", text))


def test_a_page_by_itself_needs_no_trace_and_no_recording(run: Made, tmp_path: Path) -> None:
    run.scorecard.write(tmp_path)
    text = report.write(tmp_path).read_text()
    assert "<video" not in text and "The same, drawn" in text


def test_a_page_written_again_keeps_the_film(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    assert "<video" in report.write(again).read_text()


def test_names_from_a_bag_cannot_become_markup(run: Made, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    dataclasses.replace(run.scorecard, bags=(evil,), notes=(evil,)).write(tmp_path)
    text = report.write(tmp_path).read_text()
    assert evil not in text and "&lt;script&gt;alert(1)" in text


def test_a_large_film_stays_beside_the_page(tmp_path: Path) -> None:
    film = tmp_path / "overlay.mp4"
    film.write_bytes(bytes(page.EMBEDDED - 1))
    assert page.film_source(film).startswith("data:video/mp4;base64,")
    film.write_bytes(bytes(page.EMBEDDED))
    assert page.film_source(film) == "overlay.mp4"


def test_a_scorecard_that_says_hardly_anything(run: Made, tmp_path: Path) -> None:
    """Nothing hidden, no baselines, nothing finite: the page stands, and says so."""
    nothing, none = Estimate(np.nan, np.nan, np.nan), Errors({}, {}, {})
    found = dataclasses.replace(
        run.scorecard.targets["package"], errors=none, ticks={"visible": 9, "hidden": 0}, coverage={},
        nll={}, baselines={}, best_classical=None, ratio_to_best_classical=None, open_loop={},
        rmse_after_reappearance={}, rmse_at_reappearance=nothing, ticks_to_reacquire=nothing,
        ticks_to_reacquire_median=nothing, std_visibility_corr=nothing, log_std_visibility_corr=nothing,
    )  # fmt: skip
    card = dataclasses.replace(
        run.scorecard, targets={"package": found}, image_prediction={}, messages={}, checks=()
    )
    card.write(tmp_path)
    assert "hardly ever hidden" in report.write(tmp_path).read_text()


def test_a_robot_without_targets_has_its_pictures_and_its_surprise_scored(run: Made, tmp_path: Path) -> None:
    card = dataclasses.replace(run.scorecard, targets={}, impose="blackout:4-8@0.1", checks=())
    trace = {name: values for name, values in run.trace.items() if "/" not in name}
    Made(card, trace).write(tmp_path)
    pictures = dataclasses.replace(recording_of(run.trace), contract=find_contract("rc_car"))
    text = report.write(tmp_path, lambda episode: pictures).read_text()
    assert (
        "has no target" in text and "foreseen with 24.1 dB (23.0 to 25.2), beside last frame 19.0 dB" in text
    )
    assert "Surprise over time" in text and "<video" in text and "shaded while covered" in text
    with av.open(str(tmp_path / report.FILM)) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (SIDE, BANNER + STRIP + SIDE)


@pytest.mark.parametrize("what", [b"", b"PK\x03\x04 not really"])
def test_a_damaged_trace_is_named(run: Made, tmp_path: Path, what: bytes) -> None:
    run.scorecard.write(tmp_path)
    (tmp_path / "trace.npz").write_bytes(what)
    with pytest.raises(EvaluationError, match=r"trace\.npz cannot be read"):
        report.write(tmp_path)


# -- words ---------------------------------------------------------------------------------------------


# -- which stretch is shown ----------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=60))
def test_runs_are_what_the_mask_says(mask: list[bool]) -> None:
    again = np.zeros(len(mask), bool)
    for begin, end in runs(mask):
        assert begin < end and not again[max(0, begin - 1) : end].any()  # apart, and in order
        again[begin:end] = True
    assert again.tolist() == mask


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 30, 97]))
def test_the_stretch_shows_the_most_that_is_found_again(seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    ticks = int(rng.integers(1, 120))
    hidden = rng.random(ticks) < 0.6
    trace = {
        "episode": np.sort(rng.integers(0, 3, ticks)),
        "package/truth": np.zeros((ticks, 2)),
        "package/visibility": np.where(hidden, 0.0, 1.0),
        "package/hidden_for": hidden.astype(int),
        "t_ns": np.arange(ticks) * 10**9,
    }
    card = SimpleNamespace(targets={"package": None}, rate=1.0)
    short = pytest.MonkeyPatch()
    short.setattr(report, "SECONDS", limit)
    window = report.stretch(card, trace)
    short.undo()
    assert window is not None and 0 < window.stop - window.start <= limit
    assert len(set(trace["episode"][window])) == 1

    def gain(part: slice) -> int:
        ended = [(b, e) for b, e in runs(hidden) if e < ticks and trace["episode"][e] == trace["episode"][b]]
        return sum(e - b for b, e in ended if part.start <= e < part.stop)

    others = [
        slice(at, at + limit) for at in range(ticks) if len(set(trace["episode"][at : at + limit])) == 1
    ]
    assert gain(window) >= max(gain(slice(part.start, min(part.stop, ticks))) for part in others)


def test_a_stretch_has_no_holes(run: Made) -> None:
    trace = dict(run.trace)
    trace["t_ns"] = trace["t_ns"] + 10**10 * (np.arange(len(trace["t_ns"])) >= 90)  # within the first episode
    window = report.stretch(run.scorecard, trace, 0)
    assert window is not None and np.diff(trace["t_ns"][window]).max() == 50_000_000


def test_an_episode_that_is_not_there(run: Made) -> None:
    assert report.stretch(run.scorecard, dict(run.trace), 1) is not None
    with pytest.raises(EvaluationError, match="no episode 3; it has 0 to 2"):
        report.stretch(run.scorecard, dict(run.trace), 3)


# -- the film ------------------------------------------------------------------------------------------


def test_the_film_shows_the_stretch_in_real_time(folder: Path) -> None:
    with av.open(str(folder / report.FILM)) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 20
        assert (stream.width, stream.height) == (SIDE, BANNER + STRIP + SIDE)
        assert sum(1 for _ in film.decode(stream)) == 200


def test_a_recording_without_pictures_leaves_the_page_without_a_film(
    run: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run.write(tmp_path)
    blind = SimpleNamespace(contract=find_contract("manipulator"), observations=lambda: iter(()))
    with caplog.at_level(logging.WARNING):
        text = report.write(tmp_path, lambda episode: blind).read_text()
    assert "<video" not in text and "no picture of 'camera'" in caplog.text
    with pytest.raises(EvaluationError, match="no film"):
        write_film(shown_of(run, "manipulator"), blind, tmp_path / "film.mp4")
