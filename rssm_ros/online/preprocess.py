"""From a decoded message to the array the model was trained on: checked, resized, never invented."""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import ObservationSpec
from rssm_ros.online.errors import FilterError

Array = npt.NDArray[Any]


def prepare(spec: ObservationSpec, value: npt.ArrayLike) -> Array:
    """One observation in the contract's own form: uint8 [H, W, C], or float32 [dim].

    Images come as uint8 [h, w] or [h, w, c] in the contract's channel order and any size. Raises FilterError
    with cause `encoding`, `shape` or `non_finite`.
    """
    array = np.asarray(value)
    return _image(spec, array) if spec.kind == "image" else _vector(spec, array)


def all_finite(numbers: Array) -> bool:
    """Whether every number is finite. Counted: of few numbers `all` takes thrice as long."""
    return bool(np.count_nonzero(np.isfinite(numbers)) == numbers.size)


def _vector(spec: ObservationSpec, array: Array) -> Array:
    if array.shape != spec.shape:
        raise FilterError(
            f"observation {spec.name!r} has shape {array.shape}, the contract says {spec.shape}", "shape"
        )
    vector = np.ascontiguousarray(array, np.float32)
    if not all_finite(vector):
        raise FilterError(f"observation {spec.name!r} holds a value that is not finite", "non_finite")
    return vector


def _image(spec: ObservationSpec, array: Array) -> Array:
    height, width, channels = spec.shape
    if array.dtype != np.uint8:
        raise FilterError(
            f"image {spec.name!r} is {array.dtype}; 8 bits per channel are expected", "encoding"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] != channels or 0 in array.shape:
        raise FilterError(
            f"image {spec.name!r} has shape {array.shape}, expected [h, w, {channels}]", "shape"
        )
    if array.shape[:2] != (height, width):
        array = _fit(array, height, width, spec.resize).reshape(height, width, channels)
    return np.ascontiguousarray(array)


def _fit(image: Array, height: int, width: int, way: str) -> Array:
    """Area-resizes to [height, width, c]: `stretch`, `crop` (fill, cut the middle) or `pad` (fit, black
    bars)."""
    if way == "stretch":
        return _resize(image, height, width)
    h, w = image.shape[:2]
    scale = (max if way == "crop" else min)(height / h, width / w)
    inner_h, inner_w = (max(1, round(h * scale)), max(1, round(w * scale)))
    inner = _resize(image, inner_h, inner_w)
    if way == "crop":
        top, left = (inner_h - height) // 2, (inner_w - width) // 2
        return inner[top : top + height, left : left + width]
    framed = np.zeros((height, width, image.shape[2]), np.uint8)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    framed[top : top + inner_h, left : left + inner_w] = inner
    return framed


def _resize(image: Array, height: int, width: int) -> Array:
    """[h, w, c] -> [height, width, c]: each pixel is the mean over the area that it covers.

    Two matrix products instead of a library: a robot needs numpy and the runtime only. How the pixels of an
    axis share repeats gcd(inputs, outputs) times, so one group's shares, which are dense, do for all.
    """
    h, w, channels = image.shape
    groups, shares = _shares(height, h)
    rows = np.matmul(shares, image.reshape(groups, h // groups, w * channels).astype(np.float32))
    groups, shares = _shares(width, w)
    columns = np.matmul(shares, rows.reshape(height * groups, w // groups, channels))
    return np.asarray(np.rint(columns).clip(0, 255), np.uint8).reshape(height, width, channels)


@lru_cache(maxsize=16)
def _shares(outputs: int, inputs: int) -> tuple[int, npt.NDArray[np.float32]]:
    """How often the pattern repeats along an axis, and one group's shares."""
    groups = math.gcd(outputs, inputs)
    return groups, _overlap(outputs // groups, inputs // groups)


def _overlap(outputs: int, inputs: int) -> npt.NDArray[np.float32]:
    """[outputs, inputs]: the share of each input pixel in each output pixel along one axis; rows sum to 1."""
    edges = np.arange(outputs + 1) * (inputs / outputs)
    starts = np.arange(inputs)
    covered = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    shares = covered.clip(0.0, None)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)
