"""The belief as a sensor_msgs/PointCloud2: one point per particle, every number a named float32 field.

x, y, z come first, so that RViz and Foxglove draw the particles of the first target; the rest is the latent
state and the scalars of the tick. On the other side it is a numpy structured array of [N] records, no copy.
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.messages.errors import MessageError

Records = npt.NDArray[np.void]  # [N]
FLOAT32 = 7  # sensor_msgs/msg/PointField.FLOAT32
SCALARS = (
    "surprise",  # nats; NaN where nothing was seen
    "surprise_threshold",  # calibrated for what was seen at this tick; NaN where it is not
    "prior_entropy",
    "posterior_entropy",
    "reward",
    "continue",
    "lost",  # 1: nothing was seen for the contract's max_gap
    "first",  # 1: the filter (re)started at this tick
)
STATE = ("deter", "stoch", "age", "modalities")


def belief_dtype(
    deter: int, stoch: int, targets: Mapping[str, int], modalities: Sequence[str]
) -> np.dtype[np.void]:
    """The record of one particle.

    deter: D numbers; stoch: S class indices (exact in float32); per target d `mean_NAME` and `std_NAME`; per
    modality, in the contract's order, `age` (ticks since it was seen, -1 before) and `modalities` (1 where
    seen at this tick); the scalars are the tick's, the same in every particle, except reward and continue.
    """
    fields: list[Any] = [(axis, "<f4") for axis in "xyz"]
    fields += [("deter", "<f4", (deter,)), ("stoch", "<f4", (stoch,))]
    fields += [(name, "<f4") for name in SCALARS]
    fields += [(name, "<f4", (len(modalities),)) for name in ("age", "modalities")]
    for name, size in targets.items():
        fields += [(f"mean_{name}", "<f4", (size,)), (f"std_{name}", "<f4", (size,))]
    return np.dtype(fields)


def fill_belief(cloud: Any, field_type: Any, records: Records) -> None:
    """Writes records [N] into a PointCloud2 in place. field_type makes an empty PointField."""
    dtype = records.dtype
    fields = []
    for name in dtype.names or ():
        field = field_type()
        field.name, field.offset, field.datatype = name, int(dtype.fields[name][1]), FLOAT32  # type: ignore[index]
        field.count = int(np.prod(dtype[name].shape, dtype=int))
        fields.append(field)
    data = array("B")
    data.frombytes(np.ascontiguousarray(records).tobytes())
    cloud.height, cloud.width = 1, len(records)
    cloud.fields, cloud.is_bigendian, cloud.is_dense = fields, False, True
    cloud.point_step, cloud.row_step, cloud.data = dtype.itemsize, dtype.itemsize * len(records), data


def read_belief(cloud: Any) -> Records:
    """The records [N] of a belief, N >= 1, a view of the message's bytes. Raises MessageError `shape` or
    `field`, also for a cloud of points that is none: anybody may publish one.
    """
    names, formats, offsets = [], [], []
    order = ">" if cloud.is_bigendian else "<"
    for field in cloud.fields:
        if int(field.datatype) != FLOAT32:
            told = f"belief field {field.name!r} has datatype {field.datatype}, expected float32 (7)"
            raise MessageError(told, "field")
        names.append(str(field.name))
        offsets.append(int(field.offset))
        scalar = field.name in SCALARS or field.name in tuple("xyz")
        formats.append(f"{order}f4" if scalar else (f"{order}f4", (int(field.count),)))
    step, count = int(cloud.point_step), int(cloud.width) * int(cloud.height)
    lacking = [name for name in SCALARS + STATE if name not in names]
    if lacking:
        raise MessageError(f"a point cloud without the field {lacking[0]!r} is no belief", "field")
    if not count:
        raise MessageError("a belief without a particle says nothing", "shape")
    try:
        dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": step})
        return np.frombuffer(cloud.data, dtype, count)
    except ValueError as error:
        told = f"belief of {count} points of {step} bytes does not fit its fields: {error}"
        raise MessageError(told, "shape") from None
