"""What comes of a recording that is played: what counts as hidden, what the latest tick alone says."""

from fractions import Fraction

import numpy as np
import pytest

from rssm_ros.evaluation.playing.imposed import parse_imposed
from rssm_ros.evaluation.playing.play import CHUNK, How, play
from rssm_ros.evaluation.playing.replaying import Replay
from rssm_ros.evaluation.playing.rows import MEMORYLESS_EVERY
from rssm_ros.evaluation.playing.sources import sources
from rssm_ros.evaluation.ticks import TruthByTick
from rssm_ros.online import noise
from rssm_ros.online.grid import stamp_of
from rssm_ros.online.session import Session
from rssm_ros.online.steps import initial_state
from rssm_ros.recordings import Truth
from test.bundles import tiny_bundle
from test.episodes import smooth_episode


@pytest.mark.parametrize("known", [True, False], ids=["truth recorded", "the un-occluded run is the truth"])
def test_ticks_without_a_picture_are_hidden_only_where_somebody_knows_better(tmp_path, known):
    """Where the truth is the same filter's run on uncovered pictures, both see nothing there and agree: a
    camera slower than the ticks made a third of all ticks hidden, with an error of nearly nothing.
    """
    arrays = smooth_episode(4, 120)
    arrays["present_camera"][:] = np.arange(120) % 3 != 2
    arrays["visibility_package"][:] = 1.0
    if not known:
        arrays = {k: v for k, v in arrays.items() if not k.startswith(("target_", "visibility_"))}
    np.savez(tmp_path / "episode-00000004-expert.npz", **arrays)
    session = Session(tiny_bundle(), prove=False)
    recording = sources([tmp_path])[0].open(session.bundle.contract)
    how = How(imposed=parse_imposed("blackout:4-8@0.3"), memoryless=False, open_loop_every=0)
    ticks = play(session, recording, how).ticks
    visibility, seen = ticks.targets["package"].visibility, arrays["present_camera"]
    assert ticks.imposed.sum() > 10 and (visibility[ticks.imposed] == 0.0).all()
    assert (ticks.imposed & ~seen).any(), "covered where there was no picture anyway: hidden all the same"
    bare = ~ticks.imposed & ~seen
    assert bare.sum() > 10 and (visibility[seen & ~ticks.imposed] == 1.0).all()
    assert (visibility[bare] == 0.0).all() if known else np.isnan(visibility[bare]).all()


@pytest.mark.parametrize("particles", [1, 3])
def test_the_latest_tick_alone_is_what_one_step_from_nowhere_says(tmp_path, particles):
    """Ticks are asked many at once, and across the borders of a chunk: the same as one by one."""
    arrays = smooth_episode(5, CHUNK + 60)
    ticks = len(arrays["action"])
    arrays["present_camera"][:] = np.arange(ticks) % 3 != 2
    arrays["present_odom"][:] = np.arange(ticks) % 5 != 4
    arrays["present_joints"][:] = np.arange(ticks) % 7 != 6
    np.savez(tmp_path / "episode-00000005-expert.npz", **arrays)
    session = Session(tiny_bundle(), prove=False)
    recording = sources([tmp_path])[0].open(session.bundle.contract)
    found = play(session, recording, How(particles, seed=9, open_loop_every=0)).ticks
    start, compared = initial_state(session.latent, particles), 0
    alone = found.targets["package"].memoryless
    assert len(found) == ticks
    for row, (belief, taken) in enumerate(Replay(session, recording.contract, recording, particles, 9)):
        if belief.tick % MEMORYLESS_EVERY:
            assert np.isnan(alone[row]).all()
            continue
        drawn = noise.draw(session.latent, 9, belief.tick, particles)
        if taken.tokens:
            step = session.step(start, taken.action, taken.tokens, True, drawn)
        else:
            step = session.predict(start, taken.action, True, drawn)
        np.testing.assert_allclose(alone[row], step.targets["package"].point(), atol=1e-5)
        compared += 1
    assert compared == ticks // MEMORYLESS_EVERY or compared == ticks // MEMORYLESS_EVERY + 1


def test_truths_by_tick_are_the_same_one_by_one_and_together():
    rate = Fraction(20)
    stamps = np.array([stamp_of(tick, rate) for tick in (21, 22, 25)], np.int64)
    truth = TruthByTick(Truth(stamps, np.arange(6.0).reshape(3, 2), np.array([0.1, np.nan, 1.0])), rate)
    ticks = [25, 20, 22, 21, 24]
    values, visibilities = truth.of(ticks)
    for at, tick in enumerate(ticks):
        value, visibility = truth.at(tick)
        np.testing.assert_array_equal(values[at], value)
        np.testing.assert_array_equal(visibilities[at], visibility)
    assert np.isfinite(values).all(-1).sum() == 3
    values, visibilities = TruthByTick(Truth.none(2), rate).of(ticks)
    assert values.shape == (5, 2) and np.isnan(values).all() and np.isnan(visibilities).all()
