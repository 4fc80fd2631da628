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
from rssm_ros.evaluation.film import overlay
from rssm_ros.evaluation.film.overlay import (
    BANNER,
    BELIEF,
    SIDE,
    STRIP,
    Painter,
    Shown,
    write_film,
)
from rssm_ros.evaluation.film.projection import projection_of
from rssm_ros.evaluation.page import page, report, tables
from rssm_ros.evaluation.page.plots_time import runs
from rssm_ros.evaluation.page.words import headline, shortfall, standing, verdict
from rssm_ros.evaluation.scoring.scorecard import Errors, Scorecard, TargetScore
from rssm_ros.evaluation.statistics import Estimate
from rssm_ros.evaluation.units import PERCENT, RATIO, Scale
from test.browser import Browser, find_chromium
from test.scorecards import Made, made, recording_of

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


def _judged(
    score: TargetScore, ratio: tuple[float, ...], visible: tuple[float, ...], hidden: tuple[float, ...]
):
    coverage = {"90": {"visible": Estimate(*visible), "hidden": Estimate(*hidden)}}
    return verdict(
        "package", dataclasses.replace(score, ratio_to_best_classical=Estimate(*ratio), coverage=coverage)
    )


def test_words_are_only_said_where_intervals_say_so(run: Made) -> None:
    score, honest = run.scorecard.targets["package"], (0.9, 0.89, 0.91)
    assert "tracked well" in _judged(score, (0.4, 0.35, 0.45), honest, honest).headline
    open_ = _judged(score, (0.4, 0.3, 0.6), honest, honest)
    assert "better than by any classical" in open_.headline and "not surely" in open_.tracking
    assert "about as well" in _judged(score, (0.9, 0.7, 1.1), honest, honest).headline
    assert "worse than by constant velocity" in _judged(score, (1.3, 1.1, 1.5), honest, honest).headline
    wide = _judged(score, (0.4, 0.35, 0.45), honest, (0.8, 0.7, 0.9))
    assert "not shown to be honest while hidden" in wide.headline and "too wide to tell" in wide.confidence
    assert "too high while hidden" in _judged(score, (0.4, 0.3, 0.45), honest, (0.8, 0.75, 0.85)).headline
    assert "too low while visible" in _judged(score, (0.4, 0.3, 0.45), (0.96, 0.95, 0.97), honest).headline
    mixed = _judged(score, (0.4, 0.3, 0.45), (0.93, 0.925, 0.935), (0.8, 0.7, 0.9)).headline
    assert mixed.endswith("its confidence is too low")  # what is sure is said, not what is farther off
    vague = _judged(score, (0.4, 0.35, 0.45), honest, (0.9, 0.82, 0.95))
    assert vague.headline.endswith("honest as far as can be told") and "more episodes" in vague.confidence
    both = _judged(score, (0.4, 0.3, 0.45), (0.8, 0.7, 0.85), (0.8, 0.75, 0.85)).headline
    assert both.endswith("but its confidence is too high")


def test_what_the_scene_asks_for_stands_beside_what_is_claimed(run: Made) -> None:
    def told(by_tick: float, claimed: float, honest: float) -> TargetScore:
        pairs = {"claimed": claimed, "honest": honest}
        groups = {name: Estimate(value, value - 0.1, value + 0.1) for name, value in pairs.items()}
        return dataclasses.replace(
            run.scorecard.targets["package"],
            log_std_visibility_corr=Estimate(by_tick, np.nan, np.nan),
            log_std_visibility_corr_by_group=groups,
            log_std_log_error_corr=Estimate(0.73, 0.6, 0.8),
        )

    words = verdict("package", told(-0.4, -0.66, -0.64)).confidence
    assert (
        "correlate by -0.40; averaged by group of ticks by -0.66, where its own errors ask for -0.64."
        in words
    )
    assert "hardly follow what it sees, nor do its errors: " in verdict("p", told(0, 0.1, 0.3)).confidence
    assert "hardly follow what it sees: " in verdict("p", told(0, 0.1, -0.8)).confidence
    rows = {row[0].text: row[1] for row in tables.others(told(-0.4, -0.66, -0.64)).rows}
    (asked,) = (cell for text, cell in rows.items() if "what this scene asks for" in text)
    assert asked.text == "-0.64" and "-0.74" in asked.aside
    assert rows["correlation of log deviation and log error"].text == "0.73"


def test_what_a_reader_sees_first_does_not_contradict_the_checks(run: Made, tmp_path: Path) -> None:
    """It said "tracked well" beside a badge "checks failed"."""
    missed = {"name": "package ticks_to_reacquire", "value": 9.0, "bound": "<= 2", "pass": False}
    held = {"name": "package hidden_to_best_classical", "value": 0.4, "bound": "<= 0.5", "pass": True}
    coverage = {"90": {name: Estimate(0.9, 0.89, 0.91) for name in ("visible", "hidden")}}
    ratio = Estimate(0.4, 0.35, 0.45)
    score = dataclasses.replace(
        run.scorecard.targets["package"], ratio_to_best_classical=ratio, coverage=coverage
    )

    def with_checks(*checks: dict[str, object]) -> Scorecard:
        status = "pass" if all(check["pass"] for check in checks) else "fail"
        return dataclasses.replace(run.scorecard, targets={"package": score}, checks=checks, status=status)

    well = "Package is tracked well while hidden, and its confidence is honest"
    failed = with_checks(held, missed)
    assert headline(failed) == f"{well}, but 1 of 2 checks fails."
    assert shortfall(failed) == "Not reached: package ticks to reacquire 9 (asked for <= 2)."
    assert headline(with_checks(held)) == headline(with_checks()) == f"{well}."
    assert shortfall(with_checks(held)) == shortfall(with_checks()) == standing(with_checks()) == ""
    Made(failed, run.trace).write(tmp_path)
    text = report.write(tmp_path).read_text()
    assert "<h1>" + headline(failed) in text and 'href="#checks"' in text and 'id="checks"' in text
    bad = dataclasses.replace(score, ratio_to_best_classical=Estimate(1.3, 1.1, 1.5))
    assert headline(dataclasses.replace(failed, targets={"package": bad})).endswith("; 1 of 2 checks fails.")


@pytest.mark.parametrize(
    ("scale", "value", "told"),
    [(Scale.of("m"), 0.0391, "3.9 cm"), (Scale.of("px"), 1.5, "1.50 px"), (PERCENT, 0.9, "90.0 %"),
     (RATIO, -0.001, "0.00"), (RATIO, float("nan"), "–")],
)  # fmt: skip
def test_figures_in_words(scale: Scale, value: float, told: str) -> None:
    assert scale.with_unit(value).strip() == told


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


def test_a_robots_camera_sees_its_frame_the_same_wherever_it_drives() -> None:
    """The manipulator's projection is taken where the base stands at first; it must not matter."""
    mujoco = pytest.importorskip("mujoco")
    from rssm_ros.envs.cell import Cell
    from rssm_ros.evaluation.film.projection import pinhole, to_world
    from rssm_ros.evaluation.film.video import PACKAGE_TOP

    cell = Cell()
    at = int(cell.model.joint("base").qposadr[0])
    cell.data.qpos[at : at + 2] += (1.3, -0.4)
    cell.data.qpos[at + 3 : at + 7] = (np.cos(0.35), 0, 0, np.sin(0.35))
    mujoco.mj_forward(cell.model, cell.data)
    points = np.array([[-0.5, 0.5], [0.0, 0.6], [0.4, 0.7]])
    world = to_world(cell.base_pose(), points, PACKAGE_TOP)
    expected = pinhole(cell.model, cell.data, "camera", 480, 480).project(world)
    project = projection_of(find_contract("manipulator"), "package", 480, 480)
    assert project is not None
    np.testing.assert_allclose(project(points), expected, atol=0.5)


def test_the_dot_is_where_the_picture_is_brightest() -> None:
    from rssm_ros.envs.dot import find_setting, simulate

    episodes = simulate(find_setting("published"), [0])
    project = projection_of(find_contract("dot"), "dot", 320, 320)
    assert project is not None
    clear = np.flatnonzero(episodes.visibility[0] > 0.99)
    for tick in clear[:5]:
        picture = np.squeeze(episodes.images[0, tick])
        row, column = np.unravel_index(picture.argmax(), picture.shape)
        (place,) = project(episodes.states[0, tick, :2][None])
        np.testing.assert_allclose(place, [10 * (column + 0.5), 10 * (row + 0.5)], atol=7.1)


def _shown(run: Made, contract: str, ticks: int = 20, **changes: np.ndarray) -> Shown:
    trace = {name: values[:ticks] for name, values in (dict(run.trace) | changes).items()}
    return Shown(find_contract(contract), trace, "package", "m", "hold_last")


def test_the_belief_is_drawn_where_it_believes(run: Made) -> None:
    """The only blue in an empty grey picture is around the projected mean."""
    shown = _shown(run, "manipulator")
    painter = Painter(shown, 64, 64)
    picture = painter.paint(5, np.full((64, 64, 3), 90, np.uint8))[BANNER + STRIP :]
    rows, columns = np.nonzero((picture.astype(int) - BELIEF == 0).all(axis=2))
    project = projection_of(shown.contract, "package", SIDE, SIDE)
    assert project is not None and len(rows) > 20
    (place,) = project(run.trace["package/mean"][5][None])
    assert np.abs([columns.mean() - place[0], rows.mean() - place[1]]).max() < 6


def test_without_a_projection_there_is_a_view_from_above(run: Made) -> None:
    painter = Painter(_shown(run, "rc_car"), 128, 64)
    picture = painter.paint(3, np.full((64, 128, 3), 90, np.uint8))
    assert picture.shape == (BANNER + STRIP + SIDE, 2 * SIDE, 3)
    body = picture[BANNER + STRIP :]
    blue = (body == BELIEF).all(axis=2)
    assert blue[:, SIDE:].any() and not blue[:, :SIDE].any()


@given(st.floats(1e-3, 1e4))
def test_lines_on_the_ground_are_a_round_number_apart(length: float) -> None:
    apart = overlay._round_length(length)
    assert apart <= length * (1 + 1e-6) and length < 2.5 * apart * (1 + 1e-6)
    assert f"{apart:.0e}"[0] in "125" and float(f"{apart:.0e}") == pytest.approx(apart)


def test_what_is_not_known_is_not_drawn(run: Made) -> None:
    nothing = np.full_like(run.trace["package/mean"], np.nan)
    unknown = np.full_like(run.trace["package/visibility"], np.nan)
    changes = {"package/mean": nothing, "package/truth": nothing, "package/visibility": unknown}
    painter = Painter(
        _shown(run, "manipulator", **changes, **{"package/baseline/hold_last": nothing}), 64, 64
    )
    picture = painter.paint(0, np.full((64, 64, 3), 90, np.uint8))[BANNER + STRIP :]
    assert (picture == 90).all()


def test_a_recording_without_pictures_leaves_the_page_without_a_film(
    run: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run.write(tmp_path)
    blind = SimpleNamespace(contract=find_contract("manipulator"), observations=lambda: iter(()))
    with caplog.at_level(logging.WARNING):
        text = report.write(tmp_path, lambda episode: blind).read_text()
    assert "<video" not in text and "no picture of 'camera'" in caplog.text
    with pytest.raises(EvaluationError, match="no film"):
        write_film(_shown(run, "manipulator"), blind, tmp_path / "film.mp4")
