"""The filter over a Gaussian latent: the same semantics, with normals for noise."""

import numpy as np
import pytest

from rssm_ros.online.filter import Filter
from rssm_ros.online.session import Session
from test.bundles import tiny_bundle

TICK = 50_000_000  # ns


@pytest.mark.parametrize("variant", ["gaussian", "gaussian-product"])
def test_arrival_order_changes_no_bit(variant: str) -> None:
    session = Session(tiny_bundle(variant))
    draw = np.random.default_rng(0)
    odom = [(TICK * k, draw.normal(size=2).astype(np.float32)) for k in range(20, 40)]
    beliefs = []
    for order in (odom, odom[::-1]):
        filter_ = Filter(session, session.bundle.contract, particles=3, seed=1)
        filter_.advance(TICK * 20)
        filter_.advance(TICK * 40)
        for stamp, value in order:
            filter_.observe("odom", stamp, value)
        filter_.advance(TICK * 41)
        beliefs.append(filter_.revised()[-1])
    one, two = beliefs
    assert one.stoch.dtype == np.float32 and np.unique(one.stoch).size > 3
    np.testing.assert_array_equal(one.stoch, two.stoch)
    np.testing.assert_array_equal(one.deter, two.deter)
