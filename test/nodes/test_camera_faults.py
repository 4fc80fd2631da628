from itertools import pairwise

import numpy as np

from rssm_ros.nodes.camera_faults import Faults, FaultyCamera

TICK = 50_000_000


def told(camera: FaultyCamera, faults: Faults, ticks: int) -> list[list[tuple[int, int]]]:
    """Per tick (stamp in ticks, what the picture shows) of what goes out; each picture shows its tick."""
    picture, out = np.zeros((2, 2, 3), np.int64), []
    for tick in range(ticks):
        picture[:] = tick  # the renderer's buffer is one and the same
        due = camera.through(tick * TICK, {"camera": picture}, faults)
        out.append([(stamp // TICK, int(images["camera"][0, 0, 0])) for stamp, images in due])
    return out


def test_without_faults_every_picture_goes_out_at_once() -> None:
    assert told(FaultyCamera(0), Faults(), 5) == [[(tick, tick)] for tick in range(5)]


def test_some_are_withheld() -> None:
    out = told(FaultyCamera(0), Faults(drop=0.3), 1000)
    assert 600 < sum(map(len, out)) < 800 and all(due in ([], [(tick, tick)]) for tick, due in enumerate(out))


def test_the_old_one_comes_again_under_a_new_stamp() -> None:
    out = told(FaultyCamera(1), Faults(freeze=0.4), 1000)
    assert [due[0][0] for due in out] == list(range(1000))
    again = [now[0][1] == before[0][1] for before, now in pairwise(out)]
    assert 300 < sum(again) < 500
    assert all(due[0][1] == tick for tick, due in enumerate(out[1:], 1) if not again[tick - 1])


def test_late_ones_keep_stamp_and_content_and_a_new_episode_forgets_them() -> None:
    camera, faults = FaultyCamera(0), Faults(delay_ns=2 * TICK + 1)
    assert told(camera, faults, 6) == [[], [], [], [(0, 0)], [(1, 1)], [(2, 2)]]
    camera.forget()
    assert told(camera, faults, 4) == [[], [], [], [(0, 0)]]
