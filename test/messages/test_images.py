import sys
from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.messages import MessageError, fill_image, read_image
from rssm_ros.messages.images import ENCODINGS


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def padded(message: SimpleNamespace, padding: int, keep_last: bool) -> SimpleNamespace:
    """The same picture with `padding` bytes after each row (after the last one only if keep_last)."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    wide = np.pad(rows, ((0, 0), (0, padding)), constant_values=77).ravel()
    data = wide if keep_last or not padding else wide[:-padding]
    return SimpleNamespace(
        **{**vars(message), "step": message.step + padding, "data": array("B", data.tobytes())}
    )


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    encoding=st.sampled_from(sorted(ENCODINGS)),
    padding=st.integers(0, 5),
    keep_last=st.booleans(),
)
def test_every_encoding_and_row_step_round_trips(
    height: int, width: int, encoding: str, padding: int, keep_last: bool
) -> None:
    pixels = picture(height, width)
    message = SimpleNamespace()
    fill_image(message, pixels if encoding != "mono8" else pixels[:, :, :1], encoding)
    got = read_image(padded(message, padding, keep_last), 3)
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    expected = pixels if encoding != "mono8" else np.repeat(pixels[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(got, expected)


def test_colour_becomes_grey_by_luma() -> None:
    message = SimpleNamespace()
    fill_image(message, np.full((2, 2, 3), (255, 0, 0), np.uint8), "bgr8")
    np.testing.assert_array_equal(read_image(message, 1), np.full((2, 2, 1), 76, np.uint8))


def test_an_unknown_encoding_is_refused_by_name() -> None:
    message = SimpleNamespace(encoding="bayer_rggb8", height=2, width=2, step=2, data=array("B", bytes(4)))
    with pytest.raises(MessageError, match=r"bayer_rggb8.*rgb8, bgr8") as caught:
        read_image(message, 3)
    assert caught.value.cause == "encoding"


def test_a_short_message_is_refused() -> None:
    message = SimpleNamespace(encoding="rgb8", height=4, width=4, step=12, data=array("B", bytes(40)))
    with pytest.raises(MessageError, match="4x4 rgb8") as caught:
        read_image(message, 3)
    assert caught.value.cause == "shape"


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3), (6, 5, 4)], ids=["grey", "rgb", "rgba"])
def test_compressed_images_decode(shape: tuple[int, ...]) -> None:
    stored = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    message = SimpleNamespace(format="png", data=array("B", cv2.imencode(".png", stored)[1].tobytes()))
    expected = np.repeat(stored[:, :, None], 3, 2) if len(shape) == 2 else stored[:, :, 2::-1]
    np.testing.assert_array_equal(read_image(message, 3), expected)


@pytest.mark.parametrize("data", [b"", b"not a picture"])
def test_a_broken_compressed_image_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError, match="'jpeg'") as caught:
        read_image(SimpleNamespace(format="jpeg", data=array("B", data)), 3)
    assert caught.value.cause == "encoding"


def test_without_a_decoder_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    message = SimpleNamespace(format="png", data=array("B", b"png"))
    with pytest.raises(MessageError, match="python3-opencv"):  # not a crash of the node
        read_image(message, 3)
