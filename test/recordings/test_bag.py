"""Bags of every format, read by the contract; and every bad bag: one clear line, or a counted skip."""

import re
import tracemalloc
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from rssm_ros.contract import Contract
from rssm_ros.recordings import RecordingError, open_bag
from test import bags

SECOND = 1_000_000_000
TWIST, STAMPED = "geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped"
POSE, FLOAT = "geometry_msgs/msg/PoseStamped", "std_msgs/msg/Float64"
CAMERA, ODOM = "/camera/image_raw", "/odom"


def contract(**changes) -> Contract:
    data = {
        "name": "small",
        "rate": 10,
        "frame": "base",
        "history": 1.0,
        "max_gap": 1.0,
        "actuation_delay": 1,
        "observations": {
            "camera": {
                "type": bags.IMAGE,
                "topic": "camera/image_raw",
                "size": [8, 8],
                "channels": 3,
                "trigger": True,
            },
            "odom": {"type": STAMPED, "topic": "odom", "fields": ["twist.linear.x", "twist.angular.z"]},
        },
        "actions": {
            "base": {
                "type": TWIST,
                "topic": "cmd_vel",
                "fields": ["linear.x"],
                "low": [-1.0],
                "high": [1.0],
                "slew": [1.0],
                "safe": "zero",
                "timeout": 0.3,
            },
        },
        "targets": {
            "package": {
                "type": POSE,
                "topic": "truth/package",
                "fields": ["pose.position.x"],
                "unit": "m",
                "visibility": "truth/visible",
            },
        },
    }
    data.update(changes)
    return Contract.from_dict(data)


def pixels(index: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (size, size, 3), np.uint8)


def drive(count: int = 10, lag: int = 0, store=bags.STORE, size: int = 8) -> list[bags.Entry]:
    """`count` ticks of camera, odometry, command and truth; the log is `lag` ns behind the stamps."""
    entries = []
    for index in range(count):
        stamp = (10 + index) * SECOND // 10
        logged = stamp + lag
        odom = bags.fields(STAMPED, {"twist.linear.x": 0.1 * index, "twist.angular.z": -1.0}, stamp, store)
        command = bags.fields(TWIST, {"linear.x": 0.05 * index}, store=store)
        truth = bags.fields(POSE, {"pose.position.x": float(index)}, stamp, store)
        seen = bags.fields(FLOAT, {"data": index / 10}, store=store)
        picture = bags.image(pixels(index, size), stamp, store=store)
        entries += [
            bags.Entry(CAMERA, bags.IMAGE, logged, picture),
            bags.Entry(ODOM, STAMPED, logged, odom),
            bags.Entry("/cmd_vel", TWIST, logged + 1000, command),
            bags.Entry("/truth/package", POSE, logged + 2000, truth),
            bags.Entry("/truth/visible", FLOAT, logged + 3000, seen),
        ]
    return entries


def only(entries: list[bags.Entry], *topics: str) -> list[bags.Entry]:
    return [entry for entry in entries if entry.topic in topics]


def names(recording) -> Counter:
    return Counter(observation.name for observation in recording.observations())


@pytest.mark.parametrize("how", ["mcap", "mcap+zstd", "db3", "db3+file", "db3+message", "mcap+file", "ros1"])
def test_every_format_gives_the_same_recording(tmp_path: Path, how: str) -> None:
    store = bags.STORE1 if how == "ros1" else bags.STORE
    recording = open_bag(bags.write(tmp_path / "bag", drive(store=store), how), contract())
    seen = list(recording.observations())
    assert [o.name for o in seen[:3]] == ["camera", "odom", "applied"] and len(seen) == 30
    assert [o.received_ns for o in seen] == sorted(o.received_ns for o in seen)
    for index, (camera, odom, applied) in enumerate(zip(seen[::3], seen[1::3], seen[2::3], strict=True)):
        stamp = (10 + index) * SECOND // 10
        assert camera.stamp_ns == odom.stamp_ns == camera.received_ns == stamp and camera.stamped
        np.testing.assert_array_equal(camera.value, pixels(index))
        assert odom.value.dtype == np.float32
        np.testing.assert_array_equal(odom.value, np.float32([0.1 * index, -1.0]))
        assert not applied.stamped and applied.stamp_ns == applied.received_ns == stamp + 1000
        np.testing.assert_array_equal(applied.value, [0.05 * index])
    truth = recording.truth["package"]
    np.testing.assert_array_equal(truth.value[:, 0], np.arange(10))
    np.testing.assert_allclose(truth.visibility, np.arange(10) / 10)
    assert (recording.start_ns, recording.end_ns) == (SECOND, SECOND + 9 * SECOND // 10 + 3000)
    assert not recording.counts and list(recording.events) == []


@pytest.mark.parametrize("how", ["mcap", "db3", "db3+file", "db3+message"])
def test_splits_are_one_recording_and_a_missing_one_is_counted(tmp_path: Path, how: str) -> None:
    entries = drive(30)
    path = bags.write_split(tmp_path / "bag", [entries[:50], entries[50:100], entries[100:]], how)
    recording = open_bag(path, contract())
    assert names(recording) == {"camera": 30, "odom": 30, "applied": 30} and not recording.counts
    gone = sorted(file for file in path.iterdir() if file.suffix != ".yaml")[1]
    gone.unlink()
    recording = open_bag(path, contract())
    assert names(recording) == {"camera": 20, "odom": 20, "applied": 20}
    assert recording.counts == {f"skipped/{gone.name}/missing": 1}


def test_a_split_that_cannot_be_opened_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    entries = drive(20)
    path = bags.write_split(tmp_path / "bag", [entries[:50], entries[50:]])
    (path / "bag_1.mcap").write_bytes((path / "bag_1.mcap").read_bytes()[:-100])
    recording = open_bag(path, contract())
    assert names(recording)["camera"] == 10
    assert recording.counts == {"skipped/bag_1.mcap/unreadable": 1}


def test_bare_files_and_a_folder_without_metadata(tmp_path: Path) -> None:
    for how in ("mcap", "db3"):
        path = bags.write(tmp_path / how, drive(), how)
        assert names(open_bag(path / f"{how}.{how}", contract()))["camera"] == 10
        (path / "metadata.yaml").unlink()
        assert names(open_bag(path, contract()))["camera"] == 10


def test_parts_cover_a_bag_without_overlap(tmp_path: Path) -> None:
    path = bags.write(tmp_path / "bag", drive(40))
    halves = [open_bag(path, contract(), part=part) for part in ((0.0, 0.5), (0.5, 1.0))]
    stamps = [[o.received_ns for o in half.observations()] for half in halves]
    assert sorted(stamps[0] + stamps[1]) == sorted(
        o.received_ns for o in open_bag(path, contract()).observations()
    )
    assert 40 < len(stamps[0]) < 80
    assert max(stamps[0]) < min(stamps[1])
    assert len(halves[0].truth["package"].stamp_ns) + len(halves[1].truth["package"].stamp_ns) == 40


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = bags.write(tmp_path / f"bag{count}", only(drive(count, size=96), CAMERA))
        recording = open_bag(path, contract())
        tracemalloc.start()
        for _ in recording.observations():
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    short, long = peak(100), peak(400)  # 2.8 and 11 MB of pixels
    assert long < short + 1_000_000


# What was applied -----------------------------------------------------------------------------------------


def test_the_gates_own_account_goes_before_the_command_topics(tmp_path: Path) -> None:
    told = bags.joints(["other", "base/linear.x"], [9.0, 0.75], 1_200_000_000)
    entry = bags.Entry("/gate_node/applied", bags.JOINTS, 1_250_000_000, told)
    recording = open_bag(bags.write(tmp_path / "bag", [*drive(), entry]), contract())
    (applied,) = (o for o in recording.observations() if o.name == "applied")
    assert applied.stamped and applied.stamp_ns == 1_200_000_000
    np.testing.assert_array_equal(applied.value, [0.75])


def test_channels_of_which_a_command_says_nothing_are_nan(tmp_path: Path) -> None:
    arm = {"type": STAMPED, "topic": "arm", "fields": ["twist.linear.y", "twist.linear.z"]}
    limits = {"low": [-1.0, -1.0], "high": [1.0, 1.0], "slew": [1.0, 1.0], "safe": "zero", "timeout": 0.3}
    both = contract(actions={**contract().to_dict()["actions"], "arm": {**arm, **limits}})
    told = bags.fields(STAMPED, {"twist.linear.y": 0.5, "twist.linear.z": -0.5}, 2 * SECOND)
    path = bags.write(tmp_path / "bag", [*drive(), bags.Entry("/arm", STAMPED, 2 * SECOND + 5, told)])
    applied = [o for o in open_bag(path, both).observations() if o.name == "applied"]
    np.testing.assert_array_equal(applied[0].value, [0.0, np.nan, np.nan])
    np.testing.assert_array_equal(applied[-1].value, [np.nan, 0.5, -0.5])
    assert applied[-1].stamped and not applied[0].stamped


# Pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 24)])
def test_compressed_pictures_stand_in_for_raw_ones(tmp_path: Path, suffix: str, tolerance: int) -> None:
    smooth = cv2.resize(pixels(3, 3), (32, 24), interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(suffix, smooth[:, :, ::-1])[1].tobytes()
    picture = bags.compressed(data, SECOND, suffix.lstrip("."))
    entries = [bags.Entry(f"{CAMERA}/compressed", bags.COMPRESSED, SECOND, picture)]
    (seen,) = open_bag(bags.write(tmp_path / "bag", entries), contract()).observations()
    assert seen.value.shape == (24, 32, 3)
    assert np.abs(seen.value.astype(int) - smooth).max() <= tolerance


def test_types_without_msg_in_their_name_are_read(tmp_path: Path) -> None:
    path = bags.write(tmp_path / "bag", drive(), "db3")
    import sqlite3

    with sqlite3.connect(path / "bag.db3") as base:
        base.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
        base.execute("UPDATE message_definitions SET topic_type = replace(topic_type, '/msg/', '/')")
    recording = open_bag(path, contract())
    assert names(recording) == {"camera": 10, "odom": 10, "applied": 10} and not recording.counts


# Bad bags: an error in one line ---------------------------------------------------------------------------


def refusal(*arguments, **options) -> str:
    with pytest.raises(RecordingError) as caught:
        list(open_bag(*arguments, **options).observations())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("how", "name"), [("mcap", "bag/bag.mcap"), ("db3", "bag/bag.db3"), ("ros1", "bag.bag")]
)
def test_a_truncated_file_says_so_and_how_to_save_it(tmp_path: Path, how: str, name: str) -> None:
    store = bags.STORE1 if how == "ros1" else bags.STORE
    path = bags.write(tmp_path / "bag", drive(200, store=store), how)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    told = refusal(path, contract())
    assert Path(name).name in told and ("recover" in told or "reindex" in told), told
    (tmp_path / name).write_bytes(b"")
    assert "cannot be opened" in refusal(path, contract())


def test_a_file_that_breaks_off_inside_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = bags.write(tmp_path / "bag", drive(200, size=64), "mcap+zstd")  # three chunks
    file = path / "bag.mcap"
    damaged = bytearray(file.read_bytes())
    second = damaged.index(b"\x28\xb5\x2f\xfd", damaged.index(b"\x28\xb5\x2f\xfd") + 1)
    damaged[second : second + 400] = bytes(400)
    file.write_bytes(bytes(damaged))
    recording = open_bag(path, contract())
    found = names(recording)["camera"]
    assert recording.counts == {"skipped/bag.mcap/truncated": 1}
    assert 50 < found < 150


def test_not_a_bag(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing", contract())
    (tmp_path / "film.mp4").write_bytes(b"film")
    assert "is no rosbag by its name" in refusal(tmp_path / "film.mp4", contract())
    (tmp_path / "empty").mkdir()
    assert "metadata.yaml" in refusal(tmp_path / "empty", contract())
    (tmp_path / "empty" / "metadata.yaml").write_text("rosbag2_bagfile_information: 3")
    assert "reindex" in refusal(tmp_path / "empty", contract())
    (tmp_path / "empty" / "metadata.yaml").write_text(":\n\t-")
    assert "reindex" in refusal(tmp_path / "empty", contract())
    assert "stamps" in refusal(tmp_path, contract(), stamps="mine")
    assert "part" in refusal(tmp_path, contract(), part=(0.5, 0.5))


def test_no_messages(tmp_path: Path) -> None:
    assert "holds no messages" in refusal(bags.write(tmp_path / "bag", []), contract())
    assert "holds no messages" in refusal(bags.write(tmp_path / "other", [], "db3"), contract())


def test_all_files_missing(tmp_path: Path) -> None:
    path = bags.write(tmp_path / "bag", drive())
    (path / "bag.mcap").unlink()
    assert "bag.mcap is not there" in refusal(path, contract())


def test_a_missing_trigger_names_what_there_is(tmp_path: Path) -> None:
    told = refusal(bags.write(tmp_path / "bag", only(drive(), ODOM)), contract())
    assert "/camera/image_raw is not in this bag: it has /odom" in told and "observations.camera" in told
    moved = [entry._replace(topic=f"/robot1{entry.topic}") for entry in drive()]
    path = bags.write(tmp_path / "moved", moved)
    assert "give the namespace 'robot1'" in refusal(path, contract())
    assert names(open_bag(path, contract(), namespace="/robot1/"))["camera"] == 10


def test_a_wrong_type_names_both(tmp_path: Path) -> None:
    wrong = [bags.Entry(ODOM, TWIST, SECOND, bags.blank(TWIST))]
    told = refusal(bags.write(tmp_path / "bag", [*only(drive(), CAMERA), *wrong]), contract())
    assert re.search(r"/odom holds geometry_msgs/msg/Twist, expected .*TwistStamped", told)
    assert "observations.odom" in told


def test_an_unknown_encoding_throughout_is_an_error(tmp_path: Path) -> None:
    entries = drive()
    for entry in only(entries, CAMERA):
        entry.message.encoding = "yuv422"
    told = refusal(bags.write(tmp_path / "bag", entries), contract())
    assert "no message on /camera/image_raw can be used" in told and "'yuv422'" in told and "rgb8" in told


def test_stamps_all_zero_are_an_error_that_log_time_mends(tmp_path: Path) -> None:
    entries = drive()
    for entry in only(entries, CAMERA):
        entry.message.header.stamp.sec = entry.message.header.stamp.nanosec = 0
    path = bags.write(tmp_path / "bag", entries)
    assert "stamp is zero" in refusal(path, contract()) and "--stamps log" in refusal(path, contract())
    seen = [o for o in open_bag(path, contract(), stamps="log").observations() if o.name == "camera"]
    assert len(seen) == 10 and all(o.stamp_ns == o.received_ns and not o.stamped for o in seen)


# ... or a counted skip ------------------------------------------------------------------------------------


def test_what_can_be_missing_is_counted(tmp_path: Path) -> None:
    recording = open_bag(bags.write(tmp_path / "bag", only(drive(), CAMERA)), contract())
    assert names(recording) == {"camera": 10}
    assert recording.counts == {
        f"skipped/{topic}/missing": 1 for topic in ("odom", "cmd_vel", "truth/package", "truth/visible")
    }
    assert len(recording.truth["package"].stamp_ns) == 0 and len(recording.reward.stamp_ns) == 0


def test_single_bad_messages_are_counted_by_cause(tmp_path: Path) -> None:
    entries = drive(10)
    cameras, odoms = only(entries, CAMERA), only(entries, ODOM)
    cameras[1].message.encoding = "16UC1"
    cameras[2].message.height = 9
    cameras[3].message.header.stamp.sec = cameras[3].message.header.stamp.nanosec = 0
    whole = bags.packed(odoms[4].message, STAMPED)
    odoms[4] = odoms[4]._replace(message=whole[:20])
    odoms[5].message.twist.linear.x = 1e300
    odoms[6].message.header.stamp.sec = -5
    recording = open_bag(bags.write(tmp_path / "bag", [*cameras, *odoms]), contract())
    seen = list(recording.observations())
    skipped = {key: n for key, n in recording.counts.items() if not key.endswith("/missing")}
    assert skipped == {
        "skipped/camera/image_raw/encoding": 1,
        "skipped/camera/image_raw/shape": 1,
        "skipped/camera/image_raw/unset": 1,
        "skipped/odom/corrupt": 1,
        "skipped/odom/unset": 1,
    }
    assert len(seen) == 15 and np.isinf([o.value[0] for o in seen if o.name == "odom"]).sum() == 1
    assert set(recording.notes) == set(skipped)
    assert len(list(recording.observations())) == 15 and recording.counts["skipped/odom/corrupt"] == 1


def test_a_message_that_rclpy_padded_is_read(tmp_path: Path) -> None:
    """Its `serialize_message` aligns for the float64s of an empty effort, which never come."""
    told = bags.packed(bags.joints(["base/linear.x"], [0.5], SECOND), bags.JOINTS)
    entries = only(drive(2), CAMERA)
    for extra in (b"", bytes(4), bytes(3) + b"x"):
        entries.append(bags.Entry("/gate_node/applied", bags.JOINTS, 2 * SECOND, told + extra))
    recording = open_bag(bags.write(tmp_path / "bag", entries), contract())
    assert names(recording) == {"camera": 2, "applied": 2}
    assert recording.counts["skipped/gate_node/applied/corrupt"] == 1


def test_labels_sort_by_stamp_and_the_last_logged_of_a_stamp_counts(tmp_path: Path) -> None:
    entries = only(drive(4), CAMERA)
    for logged, stamp, value in ((10, 3, 30.0), (11, 1, 10.0), (12, 3, 33.0), (13, 2, 20.0)):
        truth = bags.fields(POSE, {"pose.position.x": value}, stamp * SECOND)
        entries.append(bags.Entry("/truth/package", POSE, logged * SECOND, truth))
    truth = open_bag(bags.write(tmp_path / "bag", entries), contract()).truth["package"]
    np.testing.assert_array_equal(truth.stamp_ns, np.array([1, 2, 3]) * SECOND)
    np.testing.assert_array_equal(truth.value[:, 0], [10.0, 20.0, 33.0])
    assert np.isnan(truth.visibility).all()


def test_a_visibility_goes_with_the_pose_logged_beside_it(tmp_path: Path) -> None:
    """By log time, as a Float64 has no stamp, also where the log's clock is another one; one is missing."""
    entries = [
        e for e in drive(8, lag=500 * SECOND) if not (e.topic == "/truth/visible" and e.message.data == 0.3)
    ]
    truth = open_bag(bags.write(tmp_path / "bag", entries), contract()).truth["package"]
    expected = np.arange(8) / 10
    expected[3] = np.nan
    np.testing.assert_allclose(truth.visibility, expected)
