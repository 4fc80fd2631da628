"""A camera that hangs, and what looks like one but is not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.contract import find_contract
from rssm_ros.online.frozen import AFTER, FAR, ROUND, FrozenPictures
from rssm_ros.online.grid import SECOND

CONTRACT = find_contract("manipulator")
TICK = SECOND // 20
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def drive(watch: FrozenPictures, pictures: Any, speeds: Any, begin: int = 20) -> list[int]:
    """Ticks (from 0) at which a picture was called frozen; odometry comes before the picture."""
    found = []
    for tick, (picture, speed) in enumerate(zip(pictures, speeds)):
        stamp = (begin + tick) * TICK
        assert not watch.observe("odom", stamp, np.asarray(speed, np.float64))
        assert not watch.observe("joints", stamp, np.zeros(8))
        if watch.observe("camera", stamp, picture):
            found.append(tick)
    return found


def still(count: int) -> list[Any]:
    """The same picture, each time another array."""
    return [PICTURE.copy() for _ in range(count)]


@given(st.floats(0.05, 0.4), st.booleans(), st.sampled_from([-1, 1]))
def test_it_is_noticed_when_the_robot_has_gone_further_than_a_picture_can_hide(
    speed: float, turning: bool, sign: int
) -> None:
    told = [0.0, sign * speed] if turning else [sign * speed, 0.0]
    watch = FrozenPictures(CONTRACT)
    found = drive(watch, still(80), [told] * 80)
    far = (ROUND if turning else FAR) / (speed / 20)  # ticks
    assert max(AFTER, far) - 1e-6 <= found[0] <= max(AFTER, far) + 1
    assert found == list(range(found[0], 80)) and watch.frozen() == ["camera"]
    assert watch.counters == {"camera/repeated": 79, "camera/frozen": len(found), "frozen": len(found)}
    # The first picture that differs, by one bit, ends it at once.
    other = PICTURE.copy()
    other[-1, -1, -1] ^= 1
    assert drive(watch, [other], [told], begin=100) == [] and watch.frozen() == []


@given(st.integers(0, 2**32 - 1))
def test_a_robot_at_rest_in_a_world_without_noise_is_well(seed: int) -> None:
    """Its pictures do repeat; its odometry has the shipped world's noise, for a minute."""
    noise = np.random.default_rng(seed).normal(0.0, (0.004, 0.008), (1200, 2))
    watch = FrozenPictures(CONTRACT)
    assert drive(watch, still(1200), noise) == []
    assert watch.counters == {"camera/repeated": 1199}


def test_pictures_that_change_are_well_however_fast_the_robot_goes() -> None:
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(100)]
    watch = FrozenPictures(CONTRACT)
    assert drive(watch, pictures, [[0.4, 0.6]] * 100) == [] and not watch.counters
    slow = [
        picture for picture in pictures for _ in range(AFTER)
    ]  # each comes five times, as from a repeater
    assert drive(FrozenPictures(CONTRACT), slow, [[0.4, 0.6]] * 500) == []


def test_copies_and_late_pictures_say_nothing() -> None:
    watch = FrozenPictures(CONTRACT)
    for tick in range(20, 60):
        assert not watch.observe("odom", tick * TICK, np.array([0.4, 0.0]))
        assert not watch.observe("camera", 20 * TICK, PICTURE)  # the same message again
        assert not watch.observe("camera", 19 * TICK, PICTURE)  # overtaken by it
    assert not watch.counters


def test_another_sensor_s_clock_does_not_blind_the_watch() -> None:
    """Joints that are not stamped, or by a clock that is far behind: the filter refuses each of them."""
    for wrong in (0, 7):
        watch, found = FrozenPictures(CONTRACT), 0
        for tick in range(200, 260):
            watch.observe("joints", wrong, np.zeros(8))
            watch.observe("odom", tick * TICK, np.array([0.4, 0.0]))
            watch.observe("odom", 0, np.array([0.4, 0.0]))
            found += watch.observe("camera", tick * TICK, PICTURE)
        assert found > 40


def test_what_is_not_known_of_the_odometry_is_no_journey() -> None:
    watch = FrozenPictures(CONTRACT)
    assert drive(watch, still(40), [[np.nan, np.inf]] * 40) == []
    for tick in (100, 200, 300, 400, 500, 600, 700):  # nobody knows what was between
        watch.observe("odom", tick * TICK, np.array([0.4, 0.0]))
        assert not watch.observe("camera", tick * TICK, PICTURE)


def test_a_clock_that_begins_anew_and_a_reset_forget() -> None:
    watch = FrozenPictures(CONTRACT)
    assert drive(watch, still(30), [[0.4, 0.0]] * 30, begin=2000)
    assert drive(watch, still(4), [[0.4, 0.0]] * 4) == [] and watch.frozen() == []
    assert drive(watch, still(40), [[0.4, 0.0]] * 40, begin=24)
    watch.forget()
    assert watch.frozen() == [] and drive(watch, still(4), [[0.4, 0.0]] * 4, begin=64) == []


@pytest.mark.parametrize("after", [0, 30])
def test_how_many_are_a_fault_is_the_user_s_choice(after: int) -> None:
    found = drive(FrozenPictures(CONTRACT, after), still(50), [[0.4, 0.0]] * 50)
    assert found == ([] if after == 0 else list(range(30, 50)))


def test_without_odometry_repetitions_are_counted_and_nothing_is_concluded() -> None:
    watch = FrozenPictures(find_contract("rc_car"))
    assert not any(watch.observe("camera", (20 + tick) * TICK, PICTURE) for tick in range(50))
    assert watch.counters == {"camera/repeated": 49}
