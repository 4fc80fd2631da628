"""What counts as hidden while a recording is played."""

import numpy as np
import pytest

from rssm_ros.evaluation.imposed import parse_imposed
from rssm_ros.evaluation.playing import How, play
from rssm_ros.evaluation.sources import sources
from rssm_ros.online.session import Session
from test.bundles import tiny_bundle
from test.evaluation.test_evaluate import smooth_episode


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
