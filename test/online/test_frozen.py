"""A camera that hangs, and what looks like one but is not."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.contract import find_contract
from rssm_ros.online.frozen import AFTER, FAR, REST, ROUND, FrozenPictures, Watch
from rssm_ros.online.ring import Seen, digest_of

CONTRACT = find_contract("manipulator")
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def seen(**values: Any) -> dict[str, Seen]:
    return {name: Seen(1, digest_of(value), value) for name, value in values.items()}


class Drive:
    """Tick after tick; remembers when the camera was frozen, and when it repeated itself."""

    def __init__(self, after: int = AFTER, contract: str = "manipulator") -> None:
        self.rule, self.watch, self.tick = FrozenPictures(find_contract(contract), after), Watch(), 20
        self.frozen: list[int] = []
        self.repeated = 0

    def on(self, picture: Any, speed: Any) -> None:
        """One tick; None: nothing was seen of that kind."""
        given = {"camera": picture, "odom": None if speed is None else np.asarray(speed, np.float32)}
        heard = seen(
            joints=np.zeros(8), **{name: value for name, value in given.items() if value is not None}
        )
        self.watch = self.rule.look(self.watch, self.tick, heard)
        self.frozen += [self.tick - 20] * bool(self.watch.frozen)
        self.repeated += len(self.watch.repeated)
        self.tick += 1

    def over(self, pictures: Any, speeds: Any) -> "Drive":
        for picture, speed in zip(pictures, speeds, strict=True):
            self.on(picture, speed)
        return self


def still(count: int) -> list[Any]:
    """The same picture, each time another array."""
    return [PICTURE.copy() for _ in range(count)]


@given(st.floats(0.05, 0.4), st.booleans(), st.sampled_from([-1, 1]))
def test_it_is_noticed_when_the_robot_has_gone_further_than_a_picture_can_hide(
    speed: float, turning: bool, sign: int
) -> None:
    told = [0.0, sign * speed] if turning else [sign * speed, 0.0]
    drive = Drive().over(still(80), [told] * 80)
    far = (ROUND if turning else FAR) / (speed / 20)  # ticks
    assert max(AFTER, far) - 1e-4 <= drive.frozen[0] <= max(AFTER, far) + 1
    assert drive.frozen == list(range(drive.frozen[0], 80)) and drive.repeated == 79
    drive.on(None, told)
    assert drive.watch.frozen == {"camera"} and not drive.watch.repeated, "it is, also when it says nothing"
    # The first picture that differs, by one bit, ends it at once.
    other = PICTURE.copy()
    other[-1, -1, -1] ^= 1
    drive.on(other, told)
    assert not drive.watch.frozen and not drive.watch.repeated


@given(st.integers(0, 2**32 - 1), st.floats(-0.5 * REST, 0.5 * REST))
def test_a_robot_at_rest_in_a_world_without_noise_is_well(seed: int, drift: float) -> None:
    """Its pictures do repeat; its odometry has the shipped world's noise, and drifts, for a minute."""
    noise = np.random.default_rng(seed).normal(0.0, (0.004, 0.004), (1200, 2))
    drive = Drive().over(still(1200), noise + drift)
    assert drive.frozen == [] and drive.repeated == 1199


def test_pictures_that_change_are_well_however_fast_the_robot_goes() -> None:
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(100)]
    drive = Drive().over(pictures, [[0.4, 0.6]] * 100)
    assert not drive.frozen and not drive.repeated
    slow = [picture for picture in pictures for _ in range(AFTER)]  # each five times, as from a repeater
    assert not Drive().over(slow, [[0.4, 0.6]] * 500).frozen


def test_what_is_not_known_of_the_odometry_is_no_journey() -> None:
    drive = Drive()
    for _ in range(40):  # nobody knows what was between
        drive.over(still(15), [[0.4, 0.0]] + [None] * 14)
    assert not drive.frozen and drive.repeated == 599
    assert not Drive().over(still(40), [None] * 40).frozen


def test_gaps_of_odometry_that_are_short_are_bridged() -> None:
    drive = Drive().over(still(40), [[0.4, 0.0], None, None, None] * 10)
    assert drive.frozen == list(range(AFTER, 40))


@pytest.mark.parametrize("after", [0, 30])
def test_how_many_are_a_fault_is_the_user_s_choice(after: int) -> None:
    drive = Drive(after).over(still(50), [[0.4, 0.0]] * 50)
    assert drive.frozen == ([] if after == 0 else list(range(30, 50)))


def test_without_odometry_nothing_is_concluded() -> None:
    drive = Drive(contract="rc_car").over(still(50), [[0.4, 0.0]] * 50)
    assert not drive.frozen and drive.repeated == 49


@given(st.integers(0, 30))
def test_what_is_known_survives_being_written_down(ticks: int) -> None:
    drive = Drive().over(still(ticks), [[0.2, 0.0]] * ticks)
    restored = Watch.from_dict(json.loads(json.dumps(drive.watch.to_dict())))
    heard = seen(camera=PICTURE, odom=np.array([0.2, 0.0], np.float32))
    assert drive.rule.look(restored, drive.tick, heard) == drive.rule.look(drive.watch, drive.tick, heard)
