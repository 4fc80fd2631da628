"""Black-outs imposed on a bag, with a model whose errors are known: it holds the last brightness it saw."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rssm_ros.bundle import Latent
from rssm_ros.contract import Contract, find_contract
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.blackouts import curve, measure, summary
from rssm_ros.evaluation.playing.imposed import parse_imposed
from rssm_ros.online.steps import State, Step
from rssm_ros.recordings import open_bag
from test import bags

SECOND = 1_000_000_000
REAL = Path(os.environ.get("RSSM_RC_CAR", "/nowhere"))  # the real recording, where there is one
RAMP = 3.0  # grey levels a tick


class Holder:
    """deter: the brightness last seen. What it decodes is that brightness, everywhere."""

    fingerprint = "holder"

    def __init__(self) -> None:
        self.latent = Latent(1, 1, 2, {"camera": 1}, 2, {}, 4)

    def encode(self, name, value):
        return np.full((1, 1), value.mean(), np.float32)

    def step(self, state, action, tokens, first, noise):
        return self._step(np.full_like(state.deter, tokens["camera"][0, 0]), np.ones(len(state.deter)))

    def predict(self, state, action, first, noise):
        return self._step(state.deter, None)

    def decode(self, state: State):
        return {
            "camera": np.broadcast_to(state.deter[:, :, None, None] / 255.0, (len(state.deter), 64, 64, 3))
        }

    def _step(self, deter, surprise) -> Step:
        rows = len(deter)
        prior = np.full((rows, 1, 2), 0.5)
        nothing = np.zeros(rows, np.float32)
        state = State(deter, np.zeros((rows, 1), np.int64))
        return Step(state, prior, nothing, {}, nothing, nothing, prior, surprise, nothing)


def recording(path: Path, ticks: int = 400, gap: tuple[int, int] = (150, 190)):
    """A grey ramp that goes up and down, on a car's topics; frames of `gap` were never recorded."""
    contract: Contract = find_contract("rc_car")
    entries = []
    for tick in range(ticks):
        stamp = (100 + tick) * SECOND // 20
        phase = tick % 160
        grey = 5 + RAMP * (phase if phase < 80 else 160 - phase)
        if not gap[0] <= tick < gap[1]:
            message = bags.compressed(_png(int(grey)), stamp, "png")
            entries.append(bags.Entry("/camera/image_raw/compressed", bags.COMPRESSED, stamp, message))
        command = bags.fields("geometry_msgs/msg/Twist", {"linear.x": 0.5})
        entries.append(bags.Entry("/cmd_vel", "geometry_msgs/msg/Twist", stamp, command))
    return open_bag(bags.write(path, entries), contract)


def _png(grey: int) -> bytes:
    import cv2

    return cv2.imencode(".png", np.full((64, 64, 3), grey, np.uint8))[1].tobytes()


def test_errors_grow_by_what_the_model_misses_and_are_gone_with_the_first_frame(tmp_path: Path) -> None:
    found = measure(Holder(), recording(tmp_path / "bag"), parse_imposed("drop:4-8@0.2"), 2, 0)
    assert found.restarts == 2 and found.lost == 40 - 20 and 390 <= found.ticks <= 400
    for moment in found.moments:
        turns = any((moment.tick - 100 - back) % 80 == 0 for back in range(moment.hidden))
        if moment.hidden and not turns:
            assert moment.picture == pytest.approx(RAMP * moment.hidden, abs=1e-3)
            assert moment.held == pytest.approx(RAMP * moment.hidden, abs=1e-3)
        assert moment.undisturbed == pytest.approx(0.0, abs=1e-3)
        if moment.back:
            assert moment.picture == moment.distance == pytest.approx(0.0, abs=1e-3)
        assert moment.hidden <= 8 and moment.length <= 8 and moment.back < 5
        assert not 250 <= moment.tick < 290 + 20  # the real gap and what follows it
    grown = curve(found.moments, "hidden", "picture")
    assert sorted(grown) == list(range(1, 9)) and grown[1]["count"] == grown[4]["count"]
    told = summary(found)
    assert told["ticks_until_back"] == 1 and told["blackouts"] == grown[1]["count"]
    assert 0.1 < told["largest_rise_share"]["picture"] < 0.3
    assert told["counters"]["camera/accepted"] > 200
    json.dumps(told)
    frames, undisturbed, hidden = found.strip
    assert frames.shape == undisturbed.shape == hidden.shape and len(frames) >= 4


def test_a_cliff_is_no_smooth_rise(tmp_path: Path) -> None:
    class Forgets(Holder):
        """Black as soon as nothing is seen."""

        def predict(self, state, action, first, noise):
            return self._step(np.zeros_like(state.deter), None)

    told = summary(measure(Forgets(), recording(tmp_path / "bag"), parse_imposed("drop:4-8@0.2"), 1, 0))
    assert told["largest_rise_share"]["apart"] > 0.8


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    short = recording(tmp_path / "bag", ticks=30, gap=(0, 0))
    with pytest.raises(EvaluationError, match="frames taken out"):
        measure(Holder(), short, parse_imposed("blackout:4-8@0.2"), 1, 0)
    with pytest.raises(EvaluationError, match="no black-out could be measured"):
        measure(Holder(), short, parse_imposed("drop:4-8@0.2"), 1, 0)


@pytest.mark.skipif(not REAL.exists(), reason="set RSSM_RC_CAR to the real recording's folder")
def test_the_real_recording_is_read_whole(tmp_path: Path) -> None:
    car = open_bag(REAL, find_contract("rc_car"))
    names = [(o.name, o.value.shape) for o in car.observations()]
    assert names.count(("camera", (120, 160, 3))) == names.count(("applied", (2,))) == 5854
    assert not car.counts
    command = [
        sys.executable,
        "-m",
        "rssm_ros.cli.main",
        "dataset",
        str(REAL),
        "--contract",
        "rc_car",
        "--json",
    ]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    (bag,) = told["bags"]
    assert bag["counts"]["gaps"] == 13 and told["episodes"] >= 12
