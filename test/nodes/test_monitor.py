"""What the monitor keeps, when, and what it says of it; without ROS."""

import errno
import json
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcap")

from rssm_ros.contract import find_contract
from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.monitor import Monitor, MonitorSettings
from rssm_ros.nodes.review_files import Review, find_reviews
from rssm_ros.nodes.review_folder import ReviewFolder
from rssm_ros.online.grid import SECOND
from rssm_ros.online.reviews import OVERHEAD, Surprise
from test.disks import largest_file
from test.nodes.snapshots import channels, number, values

CONTRACT = find_contract("manipulator")
TICK = SECOND // 20
SETTINGS = MonitorSettings(before=2.0, after=1.0, pause=5.0, review_after=10)
CALM, EXCITED = 1.0, 50.0
LIMIT = 16.0


class World:
    """A clock, and a monitor that hears a number and a belief at each tick of it."""

    def __init__(self, folder: Path | None, settings: MonitorSettings = SETTINGS) -> None:
        self.folder = ReviewFolder(folder, 20) if folder else None
        self.monitor = Monitor(CONTRACT, settings, self.folder, channels, ("/models/m", "ab" * 32))
        self.tick, self.steady, self.patient = 200, 1000.0, True

    def run(self, ticks: int, nats: float = CALM, heard: bool = True) -> None:
        for _ in range(ticks):
            self.tick += 1
            self.steady += 0.05
            now = self.tick * TICK
            if heard:
                self.monitor.hear("/value", now, number(self.tick))
            self.monitor.believe(Surprise(now, nats, LIMIT), now, self.steady)
            self.monitor.work(now, self.steady)
            if self.patient:  # this clock is faster than any disk
                wait(self)

    def by_hand(self) -> tuple[bool, str]:
        return self.monitor.by_hand(self.tick * TICK, self.steady)

    def reviews(self) -> list[Review]:
        self.monitor.end()
        assert self.folder is not None
        found = find_reviews(self.folder.folder)
        assert not [item.problem for item in found if item.problem]
        return [item.review for item in found if item.review is not None]


def test_a_review_keeps_what_was_before_and_after_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.monitor.filter_says("abababababab", {"late": "3"})
    world.run(100)
    world.run(9, EXCITED)
    world.run(1)  # one calm tick: no review
    world.run(10, EXCITED)
    asked = world.tick
    world.run(40)
    (review,) = world.reviews()
    assert review.cause == "surprise" and review.tick == asked and review.stamp_ns == asked * TICK
    assert abs(datetime.fromisoformat(review.asked_at).timestamp() - time.time()) < 60
    assert "for 10 ticks in a row" in review.told and review.streak == review.review_after == 10
    assert (review.surprise_nats, review.threshold_nats) == (EXCITED, LIMIT)
    assert (review.from_ns, review.to_ns) == ((asked - 40) * TICK, (asked + 20) * TICK) and not review.short
    (bag,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert values(bag) == list(range(asked - 40, asked + 21))
    assert review.messages == {"/value": 61} and review.ticks["stamp_ns"] == [
        tick * TICK for tick in range(asked - 40, asked + 21)
    ]
    assert review.ticks["surprise_nats"].count(EXCITED) == 19 and set(review.ticks["threshold_nats"]) == {
        LIMIT
    }
    assert review.counters["filter_node"] == {"late": "3"} and review.filter_bundle == "abababababab"
    assert review.counters["monitor_node"]["reviews"] == 1
    assert world.monitor.counters["snapshots"] == 1 and "the last is 0001-surprise" in world.monitor.note


def test_reviews_that_come_too_soon_are_counted(tmp_path: Path) -> None:
    world = World(tmp_path)
    for _ in range(4):  # every 2 s; at most one in 5 s
        world.run(30)
        world.run(10, EXCITED)
    world.run(60)
    assert [item.tick for item in world.reviews()] == [200 + 40, 200 + 160]
    assert world.monitor.counters["reviews"] == 4 and world.monitor.counters["not_taken/too_soon"] == 2


def test_by_hand_once_at_a_time_and_not_too_soon(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(100)
    taken, told = world.by_hand()
    assert taken and f"in 1 s there will be one in {tmp_path}" in told
    assert world.by_hand() == (False, "one is being taken")
    world.run(30)
    taken, told = world.by_hand()
    assert not taken and "again in 4 s" in told  # 5 s from the one that was heard
    world.run(100)
    assert world.by_hand()[0]
    assert [item.cause for item in world.reviews()] == ["hand", "hand"]
    assert World(None).by_hand()[1].startswith("no folder was given")


def test_without_a_folder_reviews_are_counted(tmp_path: Path) -> None:
    world = World(None)
    world.run(12, EXCITED)
    assert world.monitor.counters["reviews"] == 1 and world.monitor.counters["not_taken/no_folder"] == 1
    assert "no folder" in world.monitor.note
    world.monitor.end()


@pytest.mark.parametrize(
    ("settings", "happens", "told"),
    [
        (SETTINGS, lambda world: world.run(40), []),
        (SETTINGS, lambda world: None, ["ended early: the monitor ended"]),
        (SETTINGS, lambda world: anew(world), ["ended early: the clock began anew"]),
        (SETTINGS, lambda world: stand(world), ["ended early: the clock stood still or began anew"]),
        (
            MonitorSettings(before=2.0, after=1.0, most_bytes=30 * (OVERHEAD + 12)),
            lambda world: world.run(40),
            ["no room in memory (0.00636 MB, parameter `megabytes`)"],
        ),
        (MonitorSettings(before=20.0, after=1.0), lambda world: world.run(40), ["nothing was heard before"]),
    ],
    ids=["whole", "ended", "anew", "still", "room", "young"],
)
def test_a_snapshot_says_why_it_is_short(
    tmp_path: Path, settings: MonitorSettings, happens: Callable[[World], None], told: list[str]
) -> None:
    world = World(tmp_path, settings)
    world.run(100)
    assert world.by_hand()[0]
    asked = world.tick
    happens(world)
    (review,) = world.reviews()
    assert list(review.short) == told and review.tick == asked
    assert review.to_ns <= (asked + 20) * TICK  # nothing of another run of the clock
    assert len(number(0.0)) == 12


def anew(world: World) -> None:
    """The simulation starts from the beginning."""
    world.tick = 20
    world.run(40)


def stand(world: World) -> None:
    """The clock's source has died; messages still come."""
    for _ in range(200):
        world.steady += 0.05
        world.monitor.hear("/value", world.tick * TICK, number(0.0))
        world.monitor.work(world.tick * TICK, world.steady)


def test_a_clock_that_begins_anew_begins_a_new_count(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(9, EXCITED)
    world.tick = 20
    world.run(9, EXCITED)
    assert world.monitor.streak == 9 and "reviews" not in world.monitor.counters
    world.tick -= 5  # beliefs that are told again, or late
    world.run(3, EXCITED)
    assert world.monitor.counters["old_belief"] == 3 and world.monitor.streak == 9


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/full"), "ENOSPC"),
        (OSError(errno.EROFS, "Read-only file system"), "EROFS"),
        (NodeError("holds 20 snapshots"), "no_room"),
        (ZeroDivisionError("a fault of ours"), "ZeroDivisionError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_disk_that_fails_is_counted_and_the_watch_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    def fail(*_: object) -> Any:
        raise error

    world = World(tmp_path)
    world.run(100)
    with monkeypatch.context() as broken:
        broken.setattr(ReviewFolder, "write", fail)
        assert world.by_hand()[0]
        world.run(25)
    counters = world.monitor.counters
    assert counters["failed"] == counters[f"failed/{cause}"] == 1 and "snapshots" not in counters
    assert str(error).split("]")[-1].strip().split(":")[0] in world.monitor.note
    world.run(100)
    assert world.by_hand()[0]  # the disk is well again
    world.run(25)
    assert world.monitor.counters["snapshots"] == 1 and not world.monitor.trouble
    world.monitor.end()


@pytest.mark.parametrize("size", [0, 400, 2000])
def test_a_disk_that_is_full_costs_a_snapshot_and_a_line(tmp_path: Path, size: int) -> None:
    """It fills up while the snapshot is written: at its beginning, and after a part of it."""
    world = World(tmp_path)
    world.run(100)
    with largest_file(size):
        assert world.by_hand()[0]
        world.run(25)
    assert world.monitor.counters["failed/EFBIG"] == 1
    assert world.monitor.note == "no snapshot: cannot be written (File too large)"
    assert list(tmp_path.iterdir()) == [], "nothing of it is left"
    world.run(100)
    assert world.by_hand()[0]
    (review,) = world.reviews()
    assert review.counters["monitor_node"]["failed"] == 1 and not world.monitor.trouble


def wait(world: World) -> None:
    """Until the writer's thread is done."""
    writing = world.monitor._writing
    if writing is not None:
        writing.exception(timeout=20)
    world.monitor.work(world.tick * TICK, world.steady)


def test_the_loop_goes_on_while_a_slow_disk_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, write = threading.Event(), ReviewFolder.write

    def slowly(*arguments: Any) -> Any:
        assert slow.wait(20)
        return write(*arguments)

    monkeypatch.setattr(ReviewFolder, "write", slowly)
    world = World(tmp_path, MonitorSettings(before=2.0, after=0.0, pause=1.0))
    world.run(100)
    assert world.by_hand()[0]
    world.patient = False
    world.run(100)
    assert world.monitor.note == "a snapshot is being written"
    assert world.by_hand() == (False, "one is being taken")
    slow.set()
    wait(world)
    assert world.by_hand()[0]
    assert [item.tick for item in world.reviews()] == [300, 400]


def test_nothing_heard_is_nothing_to_keep(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(30, heard=False)
    assert world.by_hand()[0]
    world.run(30, heard=False)
    assert world.monitor.counters["failed/empty"] == 1 and world.reviews() == []


def test_what_is_not_known_is_null_in_the_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(30, float("nan"))
    assert world.by_hand()[0]
    (review,) = world.reviews()
    assert review.surprise_nats is None and set(review.ticks["surprise_nats"]) == {None}
    (path,) = tmp_path.glob("*/review.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_pause_of_the_node_forgets_what_was_before(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run(9, EXCITED)
    world.monitor.end()
    world.monitor.begin()
    assert world.monitor.streak == 0 and world.monitor.counters["memory/messages"] == 0
    world.run(20)
    assert world.by_hand()[0]
    assert [item.from_ns for item in world.reviews()] == [(200 + 10) * TICK]
