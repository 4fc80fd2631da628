"""A bag played to a live filter over real DDS believes what the same bag does offline, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rosbags.highlevel import AnyReader

from rssm_ros.evaluation.playing.replaying import final_beliefs
from rssm_ros.evaluation.runs.trace import read_trace
from rssm_ros.nodes.filter_trace import FINAL
from rssm_ros.nodes.playback import moments
from rssm_ros.online.grid import SECOND
from rssm_ros.online.session import Session
from rssm_ros.recordings import Event, open_bag
from test.bundles import tiny_bundle
from test.recorded import CONTRACT, make_bag

pytestmark = pytest.mark.filterwarnings("ignore:module .sre_:DeprecationWarning")
WALL = 1_700_000_000 * SECOND


def replaying(*words: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "rssm_ros.cli.main", "replay", *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ)


def hold_up_the_filter(out: Path, process: "subprocess.Popen[str]") -> None:
    """As a busy machine does: it stands still for 0.3 s, several times from its first belief on."""
    log = out / "trace" / "filter.trace"
    while process.poll() is None and not (log.is_file() and log.read_bytes().partition(b"\n")[2]):
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (node,) = (int(pid) for pid in children if b"filter_node" in Path(f"/proc/{pid}/cmdline").read_bytes())
    for _ in range(4):
        os.kill(node, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(node, signal.SIGCONT)
        time.sleep(0.1)


@pytest.mark.ros
@pytest.mark.parametrize("offset", [0, WALL], ids=["one clock, held up", "the log has another clock"])
def test_live_replay_and_offline_evaluation_agree_tick_by_tick(tmp_path: Path, offset: int) -> None:
    taken = make_bag(tmp_path / "bag", log_offset_ns=offset)
    out, bundle = tmp_path / "out", tiny_bundle()
    words = ("--bundle", bundle, "--out", out, "--speed", 3, "--particles", 4, "--seed", 5, "--json")
    process = replaying(tmp_path / "bag", *words)
    if not offset:
        hold_up_the_filter(out, process)
    told, errors = process.communicate(timeout=110)
    found = json.loads(told)
    assert process.returncode == 0 and found["status"] == "pass" and not found["killed"], errors
    # All of it arrived; else the comparison would mean nothing.
    counted = found["counters"]["filter_node"]
    assert (counted["accepted"], counted["duplicate"]) == (taken, 1), counted
    assert found["counters"]["player_node"]["unanswered"] == 0

    live = {int(r["stamp_ns"]): r for r in read_trace(out / "trace" / FINAL)}
    session = Session(bundle, prove=False)
    offline = list(final_beliefs(session, open_bag(tmp_path / "bag", CONTRACT), 4, 5))
    assert [belief.tick for belief in offline] == list(range(20, 70))
    assert [live[b.stamp_ns]["digest"].tobytes() == b.digest() for b in offline] == [True] * 50
    assert [bool(live[b.stamp_ns]["first"]) for b in offline] == [b.tick in (20, 45) for b in offline]
    frozen = [b.tick for b in offline if b.tick > 60 and b.tick % 7 != 3 and not b.presence["camera"]]
    assert len(frozen) >= 3 and frozen[-1] == 69 and counted["frozen"] >= 3, "of a camera that hangs"

    with AnyReader([out / "bag"]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
    assert counts["/filter_node/belief"] >= 50 and counts["/filter_node/package"] >= 50


def test_every_message_is_played_once_at_its_time(tmp_path: Path) -> None:
    """Also where the log is another clock's: `now` is then the headers' running maximum."""
    taken = make_bag(tmp_path / "one")
    make_bag(tmp_path / "other", log_offset_ns=WALL)
    same, other = (list(moments(open_bag(tmp_path / name, CONTRACT), CONTRACT)) for name in ("one", "other"))
    assert sum(len(moment.items) for moment in same) == taken + 1
    for moment in same:
        assert moment.now_ns == moment.logged_ns and moment.now_ns >= SECOND - 20_000_000
        assert all(moment.now_ns - 10_000_000 < item.received_ns <= moment.now_ns for item in moment.items)
    assert [bool(m.items) for m in same] == [bool(m.items) for m in other]
    known = [moment.now_ns for moment in other if moment.now_ns]
    assert known == sorted(known) and known[0] < 2 * SECOND
    for here, there in zip(same[50:], other[50:], strict=True):
        assert abs(here.now_ns - there.now_ns) <= 350_000_000  # the last one is late: no news
    events = [item.stamp_ns for moment in same for item in moment.items if isinstance(item, Event)]
    assert events == [SECOND, 45 * SECOND // 20]
    # Time goes on until the last tick has left the filter's window.
    assert same[-1].now_ns >= 69 * SECOND // 20 + int(CONTRACT.history * SECOND) + 100_000_000


@pytest.mark.parametrize("channels", [1, 3])
def test_compressed_pictures_are_played_without_loss(channels: int) -> None:
    from types import SimpleNamespace as Space

    from rssm_ros import messages
    from rssm_ros.nodes.player_node import _fill_compressed

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    message = Space(format="", data=b"")
    _fill_compressed(message, pixels)
    np.testing.assert_array_equal(messages.read_image(message, channels), pixels)


def test_a_bag_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    process = replaying(tmp_path / "nowhere", "--out", tmp_path / "out")
    _, errors = process.communicate(timeout=110)
    assert process.returncode == 2 and errors.count("\n") == 1, errors
    assert errors.startswith("rssm replay: ") and "nowhere" in errors


@pytest.mark.parametrize("played", ["the bag in the way", "another"])
def test_no_recording_is_deleted_to_make_room(
    tmp_path: Path, played: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`rssm up --record --out RUN` leaves RUN/bag: replaying into RUN must not take it away."""
    from rssm_ros.cli.main import main

    bag = tmp_path / "run" / "bag"
    make_bag(bag, ticks=4)
    make_bag(tmp_path / "other", ticks=4)
    before = {file.name: file.read_bytes() for file in bag.iterdir()}
    given = bag if played == "the bag in the way" else tmp_path / "other"
    words = ["replay", str(given), "--out", str(tmp_path / "run"), "--bundle", str(tmp_path / "none")]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "choose another --out" in told and str(bag) in told
    assert {file.name: file.read_bytes() for file in bag.iterdir()} == before


def test_what_a_replay_has_written_makes_room_for_the_next(tmp_path: Path) -> None:
    from rssm_ros.cli.replay import _empty
    from rssm_ros.nodes.errors import NodeError

    out, bag = tmp_path / "out", tmp_path / "elsewhere"
    for name in ("bag", "trace", "log"):
        (out / name).mkdir(parents=True)
    (out / "log/player_node.log").touch()
    (out / "bag/old.mcap").touch()
    with pytest.raises(NodeError, match="choose another --out"):
        _empty(out, out / "bag")  # the beliefs of the last replay, played in turn
    assert (out / "bag/old.mcap").exists()
    _empty(out, bag)
    assert [path.name for path in out.iterdir()] == ["log"] and not list((out / "log").iterdir())
