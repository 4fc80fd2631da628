"""A saved filter goes on as if nothing had happened."""

import pytest

from rssm_ros.online.errors import FilterError
from test.online.streams import TICK, bits, drive, image, new_filter


@pytest.mark.parametrize("particles", [1, 4])
def test_a_saved_state_continues_bitwise(particles):
    filter_ = new_filter(particles)
    drive(filter_, 12)
    data = filter_.save_state()
    other = new_filter(particles, seed=99)
    other.load_state(data)
    assert other.counters == filter_.counters
    late = (28 * TICK, image(200))
    assert filter_.observe("camera", *late) == other.observe("camera", *late) == "conflict"
    left, right = drive(filter_, 10, start=32), drive(other, 10, start=32)
    assert [bits(belief) for belief in left] == [bits(belief) for belief in right]


def test_a_saved_state_of_another_filter_is_refused_by_name():
    filter_ = new_filter(2)
    with pytest.raises(FilterError, match="nothing to save"):
        filter_.save_state()
    drive(filter_, 2)
    with pytest.raises(FilterError, match="particles is 2, this filter has 3"):
        new_filter(3).load_state(filter_.save_state())
    with pytest.raises(FilterError, match="cannot be read"):
        new_filter(3).load_state(b"nonsense")
