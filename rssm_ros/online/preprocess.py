"""From a decoded message to the array the model was trained on: checked, resized, never invented."""

from typing import Any

import cv2
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


def _vector(spec: ObservationSpec, array: Array) -> Array:
    if array.shape != spec.shape:
        raise FilterError(
            f"observation {spec.name!r} has shape {array.shape}, the contract says {spec.shape}", "shape"
        )
    vector = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(vector).all():
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
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    h, w = image.shape[:2]
    scale = (max if way == "crop" else min)(height / h, width / w)
    inner_h, inner_w = (max(1, round(h * scale)), max(1, round(w * scale)))
    inner = np.asarray(cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_AREA))
    inner = inner.reshape(inner_h, inner_w, image.shape[2])
    if way == "crop":
        top, left = (inner_h - height) // 2, (inner_w - width) // 2
        return inner[top : top + height, left : left + width]
    framed = np.zeros((height, width, image.shape[2]), np.uint8)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    framed[top : top + inner_h, left : left + inner_w] = inner
    return framed
