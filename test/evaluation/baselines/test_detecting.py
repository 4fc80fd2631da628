"""The detector without a neural network, and the Kalman filter that lives on it."""

from functools import cache

import numpy as np
import pytest

from rssm_ros.contract import find_contract
from rssm_ros.evaluation.baselines import detecting
from rssm_ros.evaluation.evaluate import evaluate
from rssm_ros.evaluation.film.projection import projection_of
from rssm_ros.evaluation.playing.collected import CollectedRecording
from rssm_ros.evaluation.playing.play import How
from rssm_ros.evaluation.playing.sources import sources
from rssm_ros.online.session import Session
from rssm_ros.recordings import RecordingError
from test.bundles import tiny_bundle
from test.episodes import smooth_episode

CONTRACT = find_contract("manipulator")


@cache
def cell():
    """Places of the package to pixels; compiling the scene takes a moment."""
    return projection_of(CONTRACT, "package", 64, 64)


def painted(seed, ticks=240, hidden=()):
    """An episode in whose pictures the package is a dark red square where it is, on a noisy, uneven ground
    with a red sign that always hangs in the same place; ticks in `hidden` show the ground alone.
    """
    rng, arrays = np.random.default_rng(seed), smooth_episode(seed, ticks)
    project = cell()
    phase = np.arange(ticks) / 40 + seed
    arrays["target_package"] = np.stack([-0.1 + 0.25 * np.sin(phase), 0.6 + 0.05 * np.cos(phase)], -1).astype(
        np.float32
    )
    arrays["visibility_package"] = np.where(np.isin(np.arange(ticks), hidden), 0.0, 1.0).astype(np.float32)
    ground = rng.integers(60, 200, (1, 64, 64, 1)) + np.arange(64)[None, None, :, None] // 2
    pictures = np.repeat(np.clip(ground + rng.normal(0, 6, (ticks, 64, 64, 1)), 0, 255), 3, -1)
    pictures[:, 2:8, 2:8] = [220, 30, 30]
    at = project(arrays["target_package"]).astype(int)
    assert ((at > 3) & (at < 60)).all(), "inside the picture"
    for tick, (x, y) in enumerate(at):
        if arrays["visibility_package"][tick]:
            pictures[tick, y - 2 : y + 3, x - 2 : x + 3] = [190, 20, 20]
    arrays["camera"] = pictures.astype(np.uint8)
    arrays["present_camera"][:] = True
    return arrays


@pytest.fixture(scope="module")
def detector():
    recordings = [CollectedRecording(painted(seed), CONTRACT) for seed in (1, 2)]
    made = detecting.calibrated(CONTRACT, "package", recordings)
    assert made is not None
    return made


def test_it_finds_what_it_never_saw_to_a_pixel_and_knows_when_nothing_is_there(detector):
    arrays = painted(3, hidden=range(100, 140))
    found = [detector.find(picture) for picture in arrays["camera"]]
    places, nats = np.array([place for place, _ in found]), np.array([value for _, value in found])
    seen = arrays["visibility_package"] > 0
    off = np.linalg.norm(places - arrays["target_package"], axis=-1)[seen]
    assert np.quantile(off, 0.95) < 0.03, "m; a pixel is 2 cm"
    assert nats[~seen].max() < np.quantile(nats[seen], 0.02), "the sign is the background's"
    for colour in ((0, 0, 0), (255, 0, 255)):
        nats = detector.find(np.tile(np.array(colour, np.uint8), (64, 64, 1)))[1]
        assert abs(nats) < 0.1, "a covered picture, or one as never before, says nothing"


def test_only_where_the_picture_s_geometry_and_the_visible_share_are_known():
    arrays = painted(1)
    assert detecting.calibrated(find_contract("rc_car"), "package", []) is None
    unknown = {name: values for name, values in arrays.items() if name != "visibility_package"}
    assert detecting.calibrated(CONTRACT, "package", [CollectedRecording(unknown, CONTRACT)]) is None
    few = {name: values[:100] for name, values in arrays.items()}
    assert detecting.calibrated(CONTRACT, "package", [CollectedRecording(few, CONTRACT)]) is None
    assert detecting.calibrated(CONTRACT, "package", [CollectedRecording(arrays, CONTRACT)] * 2) is not None


def test_what_breaks_off_is_used_as_far_as_it_goes_and_no_more_is_opened_than_needed(monkeypatch):
    class Broken(CollectedRecording):
        def observations(self):
            yield from list(super().observations())[:-20]
            raise RecordingError("cut off")

    opened = []

    def recordings():
        for seed in (1, 2, 5):
            opened.append(seed)
            yield Broken(painted(seed), CONTRACT)

    monkeypatch.setattr(detecting, "MOST", 60)
    assert detecting.calibrated(CONTRACT, "package", recordings()) is not None
    assert opened == [1, 2], "the second one is enough"


def test_validation_data_bring_a_kalman_filter_on_detections(tmp_path):
    for name, seed, ticks in (("validation", 1, 240), ("validation", 2, 240), ("held-out", 3, 120)):
        (tmp_path / name).mkdir(exist_ok=True)
        arrays = painted(seed, ticks, range(60, 70))
        np.savez(tmp_path / name / f"episode-0000000{seed}-expert.npz", **arrays)
    session = Session(tiny_bundle(), prove=False)
    how = How(memoryless=False, open_loop_every=0)
    held, validation = (sources([tmp_path / name]) for name in ("held-out", "validation"))
    card = evaluate(session, held, how, validation=validation, check=False).scorecard
    found = card.targets["package"].baselines
    mine = found["kalman_detections"]
    assert mine.kind == "classical" and "nats a pixel" in mine.about and "no truth" in mine.about
    assert mine.errors.by_group["visible"].value < 0.04, "it is told by the picture, not by the truth"
    assert mine.errors.by_group["visible"].value > found["kalman"].errors.by_group["visible"].value
    without = evaluate(session, held, how, check=False).scorecard.targets["package"].baselines
    assert "kalman_detections" not in without and "kalman" in without
