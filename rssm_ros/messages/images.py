"""sensor_msgs/Image and CompressedImage <-> uint8 arrays [H, W, C]."""

import struct
from array import array
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.messages.errors import MessageError

Pixels = npt.NDArray[np.uint8]
# encoding -> (bytes per pixel, where red, green and blue lie in them)
ENCODINGS: dict[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
}
# A few damaged bytes can declare gigabytes of pixels, which a decoder would allocate and fill for minutes.
MOST_PIXELS = 100_000_000
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def read_image(message: Any, channels: int) -> Pixels:
    """The picture as RGB (channels 3) or grey (channels 1), uint8 [H, W, channels]; any row step.

    Raises MessageError: `encoding` for one that is not known, `shape` for a message shorter than it says.
    """
    pixels = _decompress(message) if hasattr(message, "format") else _raw(message)
    if channels == pixels.shape[2]:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    grey: Pixels = np.round(pixels @ _LUMA).astype(np.uint8)[:, :, None]
    return grey


def fill_image(message: Any, pixels: Pixels, encoding: str) -> None:
    """Writes uint8 [H, W, C] (RGB order, or grey) into an Image in place, tightly packed.

    An `array('B')` goes through rclpy as it is; of a list or an ndarray every element is looked at.
    """
    size, order = _encoding(encoding)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3, (pixels.dtype, pixels.shape)
    height, width = pixels.shape[:2]
    packed = np.full((height, width, size), 255, np.uint8)
    if size == 1:
        packed[:] = pixels[:, :, :1]
    else:
        packed[:, :, list(order)] = pixels  # broadcasts grey over three channels
    data = array("B")
    data.frombytes(packed.tobytes())
    message.height, message.width, message.step = height, width, width * size
    message.encoding, message.is_bigendian, message.data = encoding, 0, data


def _encoding(name: str) -> tuple[int, tuple[int, int, int]]:
    if name not in ENCODINGS:
        known = ", ".join(ENCODINGS)
        told = f"image encoding {name!r} is not supported; let the camera driver publish one of: {known}"
        raise MessageError(told, "encoding")
    return ENCODINGS[name]


def _raw(message: Any) -> Pixels:
    size, order = _encoding(str(message.encoding))
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(message.data, np.uint8)
    if height < 1 or width < 1 or step < width * size or data.size < step * (height - 1) + width * size:
        raise MessageError(
            f"image of {width}x{height} {message.encoding} with row step {step} needs more than the "
            f"{data.size} bytes it carries",
            "shape",
        )
    # The last row may lack its padding, so rows are viewed, not reshaped.
    pixels: Pixels = np.ndarray((height, width, size), np.uint8, data, strides=(step, size, 1))
    if size == 1:
        return np.ascontiguousarray(pixels)
    # A slice, not the list of channels: so rgb8 is copied row by row, not number by number.
    return pixels[:, :, slice(3) if order == (0, 1, 2) else slice(2, None, -1)].copy()


def _decompress(message: Any) -> Pixels:
    try:
        import cv2  # only here: a robot whose camera is raw needs no decoder
    except ImportError as error:
        told = "compressed images need OpenCV to be decoded; install python3-opencv (pip: opencv-python)"
        raise MessageError(told, "encoding") from error

    data = np.frombuffer(message.data, np.uint8)
    size = _declared_size(data.tobytes())
    if size is not None and size[0] * size[1] > MOST_PIXELS:
        raise MessageError(
            f"compressed image says that it has {size[0]}x{size[1]} pixels; its bytes are damaged", "shape"
        )
    try:
        decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:  # such as dimensions that it takes for an attack
        decoded = None
    if decoded is None or decoded.dtype != np.uint8:
        raise MessageError(
            f"compressed image of format {message.format!r} cannot be decoded to 8 bits per channel; "
            "expected JPEG or PNG",
            "encoding",
        )
    if decoded.ndim == 2:
        return np.ascontiguousarray(decoded[:, :, None])
    return np.ascontiguousarray(decoded[:, :, 2::-1])  # the decoder's order is BGR(A)


def _declared_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that a PNG or JPEG says it has; None where it does not say, or is something else."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    at = 2 if data[:2] == b"\xff\xd8" else len(data)
    while at + 9 <= len(data):  # JPEG: one marker segment after the other, up to the frame header
        if data[at] != 0xFF:
            at += 1
        elif 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        elif data[at + 1] in (0xFF, 0x00, 0x01) or 0xD0 <= data[at + 1] <= 0xD8:
            at += 1 if data[at + 1] == 0xFF else 2  # filling, and markers without a length
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None
