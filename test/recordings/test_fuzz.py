"""Damaged bytes, by the thousand: an error of ours or a counted skip, never anything else.

A few of each in every run. RSSM_FUZZ=N runs N of each; what such a run found stays below as plain tests.
"""

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rssm_ros import messages
from rssm_ros.messages import MessageError
from rssm_ros.recordings import RecordingError, open_bag
from rssm_ros.recordings.files import Topic
from rssm_ros.recordings.topics import TopicTable
from test import bags
from test.recordings.test_bag import SECOND, STAMPED, contract, drive

MANY = int(os.environ.get("RSSM_FUZZ", "0"))
FORMATS = ("mcap", "mcap+zstd", "db3", "ros1", "metadata")
quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


def examples(count: int) -> settings:
    """A few, or with RSSM_FUZZ as many as it says, other ones each time."""
    return settings(max_examples=MANY or count, derandomize=not MANY, suppress_health_check=quiet)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes changed, a stretch cut out, doubled, zeroed or made large, or the end cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        length = draw(st.sampled_from([1, 2, 4, 8, 64, 1000]))
        way = draw(st.sampled_from(["set", "flip", "cut", "double", "zero", "large", "end"]))
        piece = bytes(data[at : at + length])
        if way == "set":
            data[at] = draw(st.integers(0, 255))
        elif way == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif way == "cut":
            del data[at : at + length]
        elif way == "double":
            data[at:at] = piece
        elif way in ("zero", "large"):
            data[at : at + len(piece)] = (b"\0" if way == "zero" else b"\xff") * len(piece)
        else:
            del data[at:]
    return bytes(data)


def attempt(work: Callable[[], Any], causes: tuple[str, ...]) -> Any:
    """What work gives; None where it was refused for one of these causes. Nothing else may come out."""
    refused = None
    try:
        return work()
    except MessageError as error:
        refused = error
    assert refused.cause in causes and "\n" not in str(refused)
    return None


@cache
def whole_bag(how: str) -> tuple[str, bytes, bytes]:
    """File name, its bytes, and the metadata beside it."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        kind = "db3" if how == "metadata" else how
        store = bags.STORE1 if how == "ros1" else bags.STORE
        path = bags.write(Path(folder) / "bag", drive(4, store=store), kind)
        file = path if path.is_file() else next(f for f in path.iterdir() if f.suffix != ".yaml")
        beside = b"" if path.is_file() else (path / "metadata.yaml").read_bytes()
        return file.name, file.read_bytes(), beside


@pytest.mark.parametrize("how", FORMATS)
@examples(12)
@given(data=st.data())
def test_a_damaged_file_is_an_error_of_ours_or_read_as_far_as_it_goes(
    tmp_path: Path, how: str, data: st.DataObject
) -> None:
    name, file, beside = whole_bag(how)
    if how == "metadata":
        beside = data.draw(damaged(beside))
    else:
        file = data.draw(damaged(file))
    (tmp_path / name).write_bytes(file)
    (tmp_path / "metadata.yaml").write_bytes(beside)
    refused, seen = None, []
    try:
        recording = open_bag(tmp_path / name if how == "ros1" else tmp_path, contract())
        seen = list(recording.observations())
        _ = recording.truth, recording.reward, recording.events
    except RecordingError as error:
        refused = str(error)
    assert refused is None or ("\n" not in refused and str(tmp_path) in refused)
    for item in seen:
        assert item.stamp_ns > 0
        assert item.name in ("camera", "odom", "applied")
        if item.name == "camera":
            assert item.value.ndim == 3 and item.value.dtype == np.uint8


@cache
def whole_messages() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    return {
        "camera": bags.packed(bags.image(pixels, SECOND), bags.IMAGE),
        "photo": bags.packed(bags.compressed(jpeg, SECOND), bags.COMPRESSED),
        "odom": bags.packed(bags.fields(STAMPED, {"twist.linear.x": 1.0}, SECOND), STAMPED),
        "applied": bags.packed(bags.joints(["base/linear.x", "b"], [0.5, 0.1], SECOND), bags.JOINTS),
    }


@cache
def readers() -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """Name -> type and the reader that the bag reader uses for it."""
    topics = [Topic("/camera/image_raw", bags.IMAGE, 1), Topic("/odom", STAMPED, 1)]
    topics += [Topic("/gate_node/applied", bags.JOINTS, 1)]
    table = TopicTable(Path("bag"), topics, contract(), "")
    found = {feed.name: (feed.type, feed.read) for feed in [*table.observations(), *table.commands()]}
    return {**found, "photo": (bags.COMPRESSED, found["camera"][1])}


@pytest.mark.parametrize("name", ["camera", "photo", "odom", "applied"])
@examples(40)
@given(data=st.data())
def test_a_damaged_message_is_refused_or_decoded(name: str, data: st.DataObject) -> None:
    kind, read = readers()[name]
    try:
        message = bags.STORE.deserialize_cdr(data.draw(damaged(whole_messages()[name])), kind)
    except Exception:
        return  # the reader counts it as corrupt
    value = attempt(lambda: read(message), ("encoding", "shape", "field", "joint"))
    if value is not None and value.ndim == 3:
        assert value.dtype == np.uint8 and value.shape[2] == 3
    elif value is not None:
        assert value.shape == ((1,) if name == "applied" else (2,))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("channels", [1, 3])
@examples(40)
@given(data=st.data())
def test_a_damaged_picture_is_refused_or_decoded(suffix: str, channels: int, data: st.DataObject) -> None:
    pixels = np.random.default_rng(1).integers(
        0, 256, (9, 7, data.draw(st.sampled_from([1, 3, 4]))), np.uint8
    )
    whole = cv2.imencode(suffix, pixels)[1].tobytes()
    message = SimpleNamespace(format="x", data=np.frombuffer(data.draw(damaged(whole)), np.uint8))
    value = attempt(lambda: messages.read_image(message, channels), ("encoding", "shape"))
    if value is not None:
        assert value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == channels


@examples(60)
@given(
    height=st.integers(0, 2**32 - 1) | st.integers(0, 6),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 6),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 30),
    encoding=st.sampled_from(["rgb8", "bgr8", "mono8", "rgba8", "bgra8", "", "mono16", "RGB8", "rgb8 "]),
    length=st.integers(0, 200),
    channels=st.sampled_from([1, 3]),
)
def test_an_image_that_lies_about_itself(
    height: int, width: int, step: int, encoding: str, length: int, channels: int
) -> None:
    message = SimpleNamespace(height=height, width=width, step=step, encoding=encoding, data=bytes(length))
    value = attempt(lambda: messages.read_image(message, channels), ("encoding", "shape"))
    if value is not None:
        assert value.shape == (height, width, channels)


@examples(40)
@given(
    names=st.lists(st.sampled_from(["base/linear.x", "a", "", "é"]), max_size=4),
    values=st.lists(st.floats(width=64), max_size=4),
)
def test_a_joint_state_that_lies_about_itself(names: list[str], values: list[float]) -> None:
    message = bags.stamped(bags.JOINTS, SECOND)
    message.name, message.position = names, np.array(values)
    value = attempt(lambda: readers()["applied"][1](message), ("joint",))
    if value is not None:
        assert value.shape == (1,) and len(set(names)) == len(values)


def test_numbers_too_large_for_float32_raise_no_warning() -> None:
    message = bags.fields(STAMPED, {"twist.linear.x": 1e300, "twist.angular.z": -1e300}, SECOND)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(readers()["odom"][1](message), [np.inf, -np.inf])


# Finds ----------------------------------------------------------------------------------------------------


def test_a_joint_named_twice_is_refused() -> None:
    message = bags.stamped(bags.JOINTS, SECOND)
    message.name, message.position = ["a", "base/linear.x", "base/linear.x"], np.array([0.1, 0.2])
    with pytest.raises(MessageError, match="named twice"):
        messages.read_joints(message, ["base/linear.x"], ["position"])


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize(("height", "width"), [(65500, 65500), (30000, 30000)])
def test_a_few_bytes_that_declare_gigabytes_are_refused_at_once(suffix: str, height: int, width: int) -> None:
    """A decoder that believes them fills 2.7 GB with grey, or raises an error of its own."""
    whole = bytearray(cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    if suffix == ".jpg":
        at = whole.index(b"\xff\xc0") + 5
        whole[at : at + 4] = struct.pack(">HH", height, width)
    else:
        whole[16:24] = struct.pack(">II", width, height)
        whole[29:33] = struct.pack(">I", zlib.crc32(bytes(whole[12:29])))
    message = SimpleNamespace(format="x", data=np.frombuffer(bytes(whole), np.uint8))
    with pytest.raises(MessageError, match=f"{width}x{height}") as caught:
        messages.read_image(message, 3)
    assert caught.value.cause == "shape"
