"""What is drawn over the pictures: where it is, and nothing that is not known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.contract import find_contract
from rssm_ros.evaluation.film import overlay
from rssm_ros.evaluation.film.overlay import BANNER, BELIEF, SIDE, STRIP, Painter
from rssm_ros.evaluation.film.projection import projection_of
from test.scorecards import Made, made, shown_of

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("av")


@pytest.fixture(scope="module")
def run() -> Made:
    return made(episodes=3, ticks=200, error=0.01)


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


def test_the_belief_is_drawn_where_it_believes(run: Made) -> None:
    """The only blue in an empty grey picture is around the projected mean."""
    shown = shown_of(run, "manipulator")
    painter = Painter(shown, 64, 64)
    picture = painter.paint(5, np.full((64, 64, 3), 90, np.uint8))[BANNER + STRIP :]
    rows, columns = np.nonzero((picture.astype(int) - BELIEF == 0).all(axis=2))
    project = projection_of(shown.contract, "package", SIDE, SIDE)
    assert project is not None and len(rows) > 20
    (place,) = project(run.trace["package/mean"][5][None])
    assert np.abs([columns.mean() - place[0], rows.mean() - place[1]]).max() < 6


def test_without_a_projection_there_is_a_view_from_above(run: Made) -> None:
    painter = Painter(shown_of(run, "rc_car"), 128, 64)
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
        shown_of(run, "manipulator", **changes, **{"package/baseline/hold_last": nothing}), 64, 64
    )
    picture = painter.paint(0, np.full((64, 64, 3), 90, np.uint8))[BANNER + STRIP :]
    assert (picture == 90).all()
