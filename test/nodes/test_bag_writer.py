"""A bag that is whole on disk at every checkpoint, for every reader."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from rssm_ros.nodes.bag_writer import BagWriter, Channel
from rssm_ros.nodes.definitions import definition_of
from rssm_ros.nodes.errors import NodeError
from test.disks import largest_file, small_disk

KIND = "std_msgs/msg/Float64"
STORE = get_typestore(Stores.ROS2_JAZZY)
ENDLESS = """
import sys, time
from pathlib import Path
from test.nodes.test_bag_writer import number, opened
writer = opened(Path(sys.argv[1]))
for count in range(10**9):
    writer.write("/value", 1 + count, number(count))
    if count % 50 == 49:
        writer.checkpoint()
        print(count + 1, flush=True)
        time.sleep(0.002)
"""


def number(value: float) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[KIND](float(value)), KIND))


def opened(folder: Path, split_bytes: int = 0) -> BagWriter:
    writer = BagWriter(folder, split_bytes, {"contract": "none"})
    quality = {"history": "keep_last", "depth": 10, "reliability": "reliable", "durability": "volatile"}
    forever = {"sec": 9223372036, "nsec": 854775807}
    times = dict.fromkeys(("deadline", "lifespan", "liveliness_lease_duration"), forever)
    rest = {"liveliness": "automatic", "avoid_ros_namespace_conventions": False}
    writer.add(Channel("/value", KIND, definition_of(KIND), ({**quality, **times, **rest},)))
    writer.add(Channel("/silent", "sensor_msgs/msg/Image", definition_of("sensor_msgs/msg/Image")))
    return writer


def endless(writer: BagWriter, told: list[int]) -> None:
    """Writes for as long as it is let; told: how many are on the disk."""
    for count in range(10**6):
        writer.write("/value", count, number(count))
        if count % 50 == 49:
            writer.checkpoint()
            told.append(count + 1)


def values(path: Path) -> list[float]:
    with AnyReader([path]) as reader:
        return [reader.deserialize(data, c.msgtype).data for c, _, data in reader.messages()]


def test_it_is_whole_after_every_checkpoint_and_splits(tmp_path: Path) -> None:
    writer = opened(tmp_path / "bag", split_bytes=4000)
    for count in range(200):
        writer.write("/value", 1_000 + count, number(count))
        if count % 20 == 19:
            writer.checkpoint()
            writer.checkpoint()  # nothing new: nothing to do
            assert values(tmp_path / "bag") == list(range(count + 1))
    writer.close()
    writer.close()
    names = [f"bag_{index}.mcap" for index in range(len(list((tmp_path / "bag").glob("*.mcap"))))]
    assert len(names) >= 3 and values(tmp_path / "bag") == list(range(200))
    told = yaml.safe_load((tmp_path / "bag/metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert told["relative_file_paths"] == names and told["message_count"] == 200
    assert sum(file["message_count"] for file in told["files"]) == 200
    assert told["starting_time"] == {"nanoseconds_since_epoch": 1_000} and told["duration"] == {
        "nanoseconds": 199
    }
    counts = {t["topic_metadata"]["name"]: t["message_count"] for t in told["topics_with_message_count"]}
    assert counts == {"/value": 200, "/silent": 0} == writer.counts()
    assert told["custom_data"] == {"contract": "none"}


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3000), st.booleans(), st.integers(1, 10**6)), max_size=40
    ),
    st.sampled_from([0, 1, 5000]),
)
def test_whatever_is_written_is_read_again(messages: list[tuple[int, int, bool, int]], split: int) -> None:
    """Topics, sizes, log times out of order, checkpoints anywhere, files that end after every one of them."""
    kind = "std_msgs/msg/String"
    text, expected = STORE.types[kind], []
    with tempfile.TemporaryDirectory() as parent:
        writer = BagWriter(Path(parent) / "bag", split)
        for topic in range(3):
            writer.add(Channel(f"/{topic}", kind, definition_of(kind)))
        for number, (topic, size, checkpoint, log_ns) in enumerate(messages):
            value = f"{number}:".ljust(size, "x")
            writer.write(f"/{topic}", log_ns, bytes(STORE.serialize_cdr(text(value), kind)))
            expected.append((f"/{topic}", log_ns, value))
            if checkpoint:
                writer.checkpoint()
        writer.close()
        with AnyReader([Path(parent) / "bag"]) as reader:
            found = [(c.topic, at, reader.deserialize(d, kind).data) for c, at, d in reader.messages()]
    assert sorted(found) == sorted(expected)


def test_the_format_s_own_library_reads_it_too(tmp_path: Path) -> None:
    """With checksums of every chunk and of the summary, offsets from the index and by scanning."""
    from mcap.reader import make_reader
    from mcap.stream_reader import StreamReader

    writer = opened(tmp_path / "bag")
    for count in range(100):
        writer.write("/value", count, number(count))
        if count % 30 == 29:
            writer.checkpoint()
    writer.close()
    with (tmp_path / "bag/bag_0.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        summary = reader.get_summary()
        assert summary and summary.statistics and summary.statistics.message_count == 100
        assert len(summary.chunk_indexes) == 4
        assert [message.log_time for _, _, message in reader.iter_messages()] == list(range(100))
        file.seek(0)
        kinds = [type(record).__name__ for record in StreamReader(file, validate_crcs=True).records]
    assert kinds.count("DataEnd") == kinds.count("Footer") == 1 and kinds.count("Message") == 100


def test_sigkill_takes_the_last_moment_only(tmp_path: Path, checkout: Path) -> None:
    """Killed at any moment: what was told to be on disk is there, and can be read as it is."""
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(folder)],
            stdout=subprocess.PIPE,
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        time.sleep(0.017 * attempt)
        process.send_signal(signal.SIGKILL)
        told = [int(line) for line in process.stdout.read().split()]
        process.wait()
        found = values(folder)
        assert found == list(range(len(found))) and len(found) >= max(told, default=250)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = opened(tmp_path / "bag")
    for count in range(10):
        writer.write("/value", count, number(count))
    writer.checkpoint()
    before = (tmp_path / "bag/bag_0.mcap").read_bytes()
    for count in range(10, 20):
        writer.write("/value", count, number(count))
    write, room = os.pwrite, [60]

    def nearly_full(file: int, data: bytes, offset: int) -> int:
        """Takes 60 bytes, refuses the rest, and then lets the old ending be put back."""
        if not room[0]:
            room[0] = -1
            raise OSError(errno.ENOSPC, "No space left on device")
        if room[0] > 0:
            written = write(file, data[: room[0]], offset)
            room[0] -= written
            return written
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", nearly_full)
    with pytest.raises(OSError, match="No space left"):
        writer.checkpoint()
    assert (tmp_path / "bag/bag_0.mcap").read_bytes() == before
    assert values(tmp_path / "bag") == list(range(10))


@pytest.mark.parametrize("size", [0, 100, 300])  # nothing fits, a part, only the .mcap
def test_where_the_disk_is_full_from_the_start_there_is_no_bag(tmp_path: Path, size: int) -> None:
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    opened(tmp_path / "before").close()  # what is imported when it is first needed
    before = files()
    with largest_file(size), pytest.raises(NodeError, match=r"bag: cannot record here \(File too large\)"):
        BagWriter(tmp_path / "bag")
    assert not (tmp_path / "bag").exists() and files() == before
    BagWriter(tmp_path / "bag").close()
    assert values(tmp_path / "bag") == []


@pytest.mark.parametrize("close", ["while it is full", "when there is room again"])
def test_a_bag_on_a_disk_that_fills_up_is_whole_up_to_there(tmp_path: Path, close: str) -> None:
    writer, told, room = opened(tmp_path / "bag"), [0], ExitStack()
    room.enter_context(largest_file(20_000))
    with pytest.raises(OSError, match="File too large"):
        endless(writer, told)
    assert 200 < told[-1] < 1000
    assert sorted(path.name for path in (tmp_path / "bag").iterdir()) == ["bag_0.mcap", "metadata.yaml"]
    assert values(tmp_path / "bag") == list(range(told[-1]))
    if close == "while it is full":
        with pytest.raises(OSError, match="File too large"):
            writer.close()
        room.close()
        assert values(tmp_path / "bag") == list(range(told[-1]))
        return
    room.close()
    writer.close()  # as if nothing had been
    smooth = opened(tmp_path / "smooth")
    for count in range(told[-1] + 50):
        smooth.write("/value", count, number(count))
        if count % 50 == 49:
            smooth.checkpoint()
    smooth.close()
    assert values(tmp_path / "bag") == list(range(told[-1] + 50))
    assert (tmp_path / "bag/bag_0.mcap").read_bytes() == (tmp_path / "smooth/smooth_0.mcap").read_bytes()


def test_where_the_next_file_cannot_begin_the_bag_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, write = opened(tmp_path / "bag", split_bytes=4000), os.pwrite

    def full(file: int, data: bytes, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{file}").endswith("bag_1.mcap"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    for count in range(200):
        writer.write("/value", count, number(count))
    with pytest.raises(OSError, match="No space left"):
        writer.checkpoint()
    writer.close()
    assert sorted(path.name for path in (tmp_path / "bag").iterdir()) == ["bag_0.mcap", "metadata.yaml"]
    assert values(tmp_path / "bag") == list(range(200))


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    try:
        disk = ExitStack()
        disk.enter_context(small_disk(tmp_path, 64))
    except (PermissionError, FileNotFoundError):
        pytest.skip("only root can make a small disk")
    with disk:
        writer, told = opened(tmp_path / "bag"), [0]
        with pytest.raises(OSError, match="No space left") as raised:
            endless(writer, told)
        assert raised.value.errno == errno.ENOSPC and told[-1] > 200
        (tmp_path / "rest").write_bytes(bytes(shutil.disk_usage(tmp_path).free))
        with pytest.raises(NodeError, match="No space left"):
            BagWriter(tmp_path / "other")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "rest"]
        with suppress(OSError):  # what had no room may have it now
            writer.close()
        found = values(tmp_path / "bag")
        assert found == list(range(len(found))) and len(found) >= told[-1]


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    with pytest.raises(NodeError, match=r"exists already.*another folder"):
        opened(tmp_path / "bag")


def test_foreign_messages_are_described_from_where_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "share/odd_msgs/msg"
    folder.mkdir(parents=True)
    (folder / "Outer.msg").write_text("std_msgs/Header header\nInner[] parts\nfloat32 speed\n")
    (folder / "Inner.msg").write_text("string name\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path}")
    found = definition_of("odd_msgs/msg/Outer")
    assert "MSG: odd_msgs/Inner" in found.text and "float32 speed" in found.text
    assert found.digest.startswith("RIHS01_")
    with pytest.raises(NodeError, match="install the ROS package 'none_msgs'"):
        definition_of("none_msgs/msg/Odd")
