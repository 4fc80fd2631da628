import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rssm_ros.evaluation.film.projection import Pinhole, ellipse, pinhole, to_world
from rssm_ros.evaluation.film.video import HEIGHT, ROBOT, STRIP, WIDTH, VideoError, render_video


def test_a_pinhole_sees_ahead_right_and_down() -> None:
    """Columns of the rotation: right, up, backward. Looking along +x of the world here."""
    rotation = np.array([[0, 0, -1], [-1, 0, 0], [0, 1, 0]], float)
    camera = Pinhole(np.zeros(3), rotation, (100.0, 200.0), 640, 480)
    got = camera.project([[1, 0, 0], [2, -1, 0.5], [-1, 0, 0]])
    np.testing.assert_allclose(got[:2], [[320, 240], [370, 190]])
    assert np.isnan(got[2]).all()


def test_points_of_the_robot_in_the_world() -> None:
    got = to_world((1.0, 2.0, math.pi / 2), [[0.5, 0.25]], 0.4)
    np.testing.assert_allclose(got, [[0.75, 2.5, 0.4]])


def test_an_ellipse_has_the_covariance_it_was_made_of() -> None:
    covariance = np.array([[0.04, 0.01], [0.01, 0.09]])
    outline = ellipse([1.0, -1.0], covariance, sigmas=1.0, points=721)[:-1] - [1.0, -1.0]
    np.testing.assert_allclose(2 * outline.T @ outline / len(outline), covariance, atol=1e-12)
    assert ellipse([0, 0], np.zeros((2, 2))).tolist() == [[0.0, 0.0]] * 40


def test_both_cameras_are_projected_where_they_draw() -> None:
    """The pixel that a package's centre projects to has the package's colour, in either view."""
    import mujoco

    from rssm_ros.envs.cell import load_model
    from rssm_ros.envs.manipulator import ManipulatorEnv
    from rssm_ros.envs.render import SpectatorRenderer

    env = ManipulatorEnv(episode_seconds=None)
    observation, info = env.reset(seed=0)
    beyond_the_hood = 0.5  # m
    while not (info["visibility"] > 0.95 and info["truth"].package[0] > beyond_the_hood) and env.time < 30:
        observation, _, _, _, info = env.step(info["applied"])  # the arm stays where it is
    spectator, model = SpectatorRenderer(WIDTH, HEIGHT, shadows=256, samples=0), load_model()
    data = mujoco.MjData(model)
    data.qpos[:] = env.state()[: model.nq]
    mujoco.mj_forward(model, data)
    views = {"camera": observation["camera"], "spectator": spectator.render(env.state())}
    for name, picture in views.items():
        camera = pinhole(model, data, name, picture.shape[1], picture.shape[0])
        ((x, y),) = camera.project([info["truth"].package])
        reach = max(1, picture.shape[1] // 100)
        around = picture[int(y) - reach : int(y) + reach + 1, int(x) - reach : int(x) + reach + 1].astype(int)
        red, green, blue = around.reshape(-1, 3).T
        coloured = (np.abs(red - blue) > 50) & (green < np.maximum(red, blue))  # the rest is its tape
        assert coloured.mean() > 0.3, (name, around)
    # and through base_link, as the film does
    world = to_world(info["truth"].base, info["package"], info["truth"].package[2])
    np.testing.assert_allclose(world[0], info["truth"].package, atol=0.01)
    spectator.close()
    env.close()


def record(folder: Path, ticks: int) -> None:
    """A run of the expert, traced as the nodes do."""
    from rssm_ros.envs.manipulator import ManipulatorEnv
    from rssm_ros.evaluation.runs.trace import TraceWriter, belief_dtype, plan_dtype
    from rssm_ros.nodes.simulated_robot import SimulatedRobot, SimulationTrace

    env = ManipulatorEnv(episode_seconds=None)
    robot = SimulatedRobot(env, env.contract)
    outcome = robot.reset(0, 0.0)
    trace = SimulationTrace(str(folder), robot)
    beliefs = TraceWriter(folder / "filter.trace", belief_dtype(2, 2))
    plans = TraceWriter(folder / "planner.trace", plan_dtype(4, 2))
    for tick in range(ticks):
        stamp = (20 + tick) * 50_000_000
        trace.write(20 + tick, stamp, stamp, outcome, reset=tick == 0)
        package, goal = outcome[4]["package"], outcome[4]["destination"]
        beliefs.write(stamp_ns=stamp, mean=package + 0.05, covariance=0.01 * np.eye(2), destination=goal)
        plans.write(stamp_ns=stamp, path=np.full((4, 2), 0.3) if tick % 2 else np.nan)
        answer = env.limits.scale(outcome[4]["expert_action"])
        outcome = robot.advance(answer)
        while outcome is None:
            outcome = robot.advance()
    env.close()


def test_a_film_that_browsers_play(tmp_path: Path) -> None:
    """H.264, yuv420p, index at the front; the right length and size; truth and belief drawn in."""
    import av

    record(tmp_path, 21)
    path = render_video(tmp_path, tmp_path / "film.mp4", 0.05, fps=10)
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (WIDTH + ROBOT, HEIGHT + STRIP)
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 11
    assert np.abs(frames[-1].astype(int) - frames[0]).max() > 100  # something moves
    assert frames[-1][:HEIGHT].std() > 20


def test_truth_belief_bin_and_path_are_in_the_picture(tmp_path: Path) -> None:
    """The square only with a package, and in the bin where the belief says that it belongs."""
    from dataclasses import replace

    from rssm_ros.evaluation.film.video import BIN, PATH, TRUTH, Painter, _frames, _strip
    from rssm_ros.evaluation.runs.summary import load_run
    from rssm_ros.evaluation.runs.trace import read_trace

    def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
        return int((np.abs(picture[:HEIGHT, :WIDTH].astype(int) - colour).max(axis=2) < 12).sum())

    record(tmp_path, 3)
    run = load_run(tmp_path, 0.05)
    run = replace(run, sim=run.sim.copy(), filter=run.filter.copy())
    run.sim["package"], run.filter["mean"], run.filter["destination"] = (0.5, 0.5), (0.5, 0.5), (0.6, 0.9)
    *_, frame = _frames(run, read_trace(tmp_path / "planner.trace"), 1)
    painter = Painter(_strip(run))
    nothing = np.full(2, np.nan)
    shown, without = painter.paint(frame), painter.paint(replace(frame, bin=nothing, path=np.zeros((0, 3))))
    empty = painter.paint(replace(frame, truth=nothing))
    for colour in (BIN, PATH):
        assert count(shown, colour) > count(without, colour) + 8, colour
    assert count(empty, BIN) == count(without, BIN) and count(shown, TRUTH) > count(empty, TRUTH)


def test_a_path_stays_in_the_world_where_it_was_imagined() -> None:
    """Its frame is that of the tick after the answer; the base has moved on when it is drawn."""
    from rssm_ros.evaluation.film.video import PACKAGE_TOP, _frames
    from rssm_ros.evaluation.runs.summary import Run
    from rssm_ros.evaluation.runs.trace import plan_dtype, simulation_dtype

    sim = np.zeros(6, simulation_dtype(1, 1, {"camera": (4, 4, 3)}))
    sim["stamp_ns"], sim["base"][:, 0] = np.arange(6), 0.02 * np.arange(6)
    plans = np.zeros(6, plan_dtype(3, 2))
    plans["stamp_ns"], plans["path"] = np.arange(6), np.nan
    plans["path"][2] = (0.5, 0.1)
    none = np.zeros(0, [("stamp_ns", "<i8"), ("mean", "<f4", 2), ("covariance", "<f4", (2, 2))])
    frames = list(_frames(Run(sim, none, none, 0.05), plans, 1))
    assert [len(frame.path) for frame in frames] == [0, 0, 3, 3, 3, 0]
    for frame in frames[2:5]:
        np.testing.assert_allclose(frame.path, np.tile([0.56, 0.1, PACKAGE_TOP], (3, 1)), atol=1e-6)


def test_no_trace_no_film(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no trace"):
        render_video(tmp_path, tmp_path / "film.mp4", 0.05)


def test_the_timeline_is_green_where_seen_and_orange_where_hidden() -> None:
    """With the error as height, so that a look at the strip tells the run."""
    from rssm_ros.evaluation.film.video import SEEN, UNSEEN, _strip
    from rssm_ros.evaluation.runs.summary import Run
    from rssm_ros.evaluation.runs.trace import belief_dtype, simulation_dtype

    sim = np.zeros(100, simulation_dtype(1, 1, {}))
    sim["stamp_ns"] = np.arange(100)
    sim["visibility"][:50] = 1.0
    beliefs = np.zeros(100, belief_dtype(2))
    beliefs["stamp_ns"], beliefs["mean"] = np.arange(100), 0.1
    strip = _strip(Run(sim, np.zeros(0, sim.dtype), beliefs, 0.05))
    assert SimpleNamespace(left=tuple(strip[-8, 10]), right=tuple(strip[-8, -10])) == SimpleNamespace(
        left=SEEN, right=UNSEEN
    )
