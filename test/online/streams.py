"""A small contract, a filter for it and a nominal stream of messages: what the tests of the filter share."""

from dataclasses import replace
from fractions import Fraction

import numpy as np

from rssm_ros.contract import ActionSpec, Contract, ObservationSpec
from rssm_ros.online.belief import Belief
from rssm_ros.online.filter import Filter
from test.online.model import TinyModel

MS = 1_000_000
TICK = 50 * MS
ODOMETRY = ("twist.twist.linear.x", "twist.twist.angular.z")


def small_contract(**changes) -> Contract:
    """Camera (the trigger), odometry and one action of two channels; 8 ticks of history."""
    contract = Contract(
        name="small",
        rate=Fraction(20),
        frame="base_link",
        history=0.4,
        max_gap=0.25,
        actuation_delay=1,
        observations=(
            ObservationSpec(
                "camera", "sensor_msgs/msg/Image", "image", (4, 4), 1, "stretch", trigger=True, wait=0.025
            ),
            ObservationSpec("odom", "nav_msgs/msg/Odometry", "odom", fields=ODOMETRY),
        ),
        actions=(
            ActionSpec(
                "base",
                "geometry_msgs/msg/Twist",
                "cmd_vel",
                low=(-1.0, -2.0),
                high=(1.0, 2.0),
                slew=(9.0, 9.0),
                safe="zero",
                timeout=0.3,
                fields=("v", "w"),
            ),
        ),
    )
    return replace(contract, **changes)


CONTRACT = small_contract()
MODEL = TinyModel(CONTRACT)


def new_filter(particles=1, seed=3, contract=CONTRACT, **options) -> Filter:
    return Filter(TinyModel(contract), contract, particles, seed, **options)


def image(value: int):
    return np.full((4, 4, 1), value, np.uint8)


def bits(belief: Belief):
    """Everything in a belief, as bytes where it is an array."""
    target = belief.targets["package"]
    arrays = (belief.deter, belief.stoch, belief.reward, belief.continue_, target.mean, target.std)
    numbers = np.array([belief.surprise, belief.prior_entropy, belief.posterior_entropy]).tobytes()
    about = (belief.tick, belief.stamp_ns, belief.lost, belief.first, belief.presence, belief.age)
    return (*about, numbers, *(array.tobytes() for array in arrays))


def drive(filter_: Filter, ticks, start=20, skip=(), latency=0):
    """A nominal stream: camera and odometry at every tick, a command after it. Returns the online beliefs."""
    beliefs = []
    for tick in range(start, start + ticks):
        stamp = tick * TICK
        filter_.advance(stamp + latency)
        if tick not in skip:
            filter_.observe("odom", stamp, [0.1 * tick, 1.0])
            filter_.observe("camera", stamp, image(tick))
        beliefs += filter_.advance(stamp + latency + 26 * MS)
        filter_.applied(stamp + 30 * MS, [0.01 * tick, -0.02 * tick])
    return beliefs
