from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.messages import MessageError, belief_dtype, fill_belief, read_belief


def records(particles: int, deter: int, stoch: int, seed: int, modalities: tuple[str, ...]) -> np.ndarray:
    made = np.zeros(particles, belief_dtype(deter, stoch, {"package": 2}, modalities))
    generator = np.random.default_rng(seed)
    for name in made.dtype.names:
        made[name] = generator.normal(size=made[name].shape)
    made["stoch"] = generator.integers(0, 64, made["stoch"].shape)
    made["surprise"] = np.nan
    return made


@given(
    particles=st.integers(1, 5),
    deter=st.integers(1, 7),
    stoch=st.integers(1, 4),
    seed=st.integers(0, 99),
    modalities=st.sampled_from([("camera",), ("camera", "odom", "joints")]),
)
def test_a_belief_round_trips_bit_for_bit(
    particles: int, deter: int, stoch: int, seed: int, modalities: tuple[str, ...]
) -> None:
    sent = records(particles, deter, stoch, seed, modalities)
    cloud = SimpleNamespace()
    fill_belief(cloud, SimpleNamespace, sent)
    got = read_belief(cloud)
    assert got.dtype == sent.dtype
    assert got.tobytes() == sent.tobytes()
    assert [field.name for field in cloud.fields[:3]] == ["x", "y", "z"]
    assert cloud.point_step * cloud.width == len(cloud.data) == cloud.row_step


def test_a_short_cloud_and_a_foreign_type_are_refused() -> None:
    cloud = SimpleNamespace()
    fill_belief(cloud, SimpleNamespace, records(2, 3, 2, 0, ("camera",)))
    whole, cloud.data = cloud.data, array("B", bytes(8))
    with pytest.raises(MessageError) as caught:
        read_belief(cloud)
    assert caught.value.cause == "shape"
    cloud.data, cloud.fields[4].datatype = whole, 8
    with pytest.raises(MessageError, match="'stoch' has datatype 8"):
        read_belief(cloud)


def test_a_cloud_of_points_that_is_no_belief_is_refused_by_name() -> None:
    """A laser scanner's, say, on the wrong topic: whoever reads it must not end for it."""
    scan = SimpleNamespace()
    fill_belief(scan, SimpleNamespace, np.zeros(3, [(axis, "<f4") for axis in "xyz"]))
    with pytest.raises(MessageError, match="'surprise' is no belief"):
        read_belief(scan)
    nobody = SimpleNamespace()
    fill_belief(nobody, SimpleNamespace, records(2, 3, 2, 0, ("camera",))[:0])
    with pytest.raises(MessageError, match="without a particle"):
        read_belief(nobody)
