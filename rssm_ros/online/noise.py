"""The filter's noise: raw words of a counter-based generator, keyed by (seed, tick, particle).

Philox4x64-10 with key (seed, tick); particle i reads the words from counter i * ceil(count / 4) on,
so it sees the same noise for every number of particles, in every replay and on every machine.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.bundle import Latent

Words = npt.NDArray[np.uint64]
Uniforms = npt.NDArray[np.float32]
_LANES = 4  # words per counter value
_MASK = (1 << 64) - 1
_UPPER, _UNIT = np.uint64(40), np.float32(2.0**-24)
_RESAMPLING = 1 << 63  # turns a seed's topmost bit


class _Generator(threading.local):
    """One generator per thread, set anew for every draw: making one takes four times as long as drawing."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(key=0)
        # As it was made: nothing drawn, the buffer empty. In lists, whose elements are read in no time.
        self._key, nothing = [0, 0], [0] * _LANES
        inner = {"counter": nothing, "key": self._key}
        self._state: Any = {**self._philox.state, "state": inner, "buffer": nothing}

    def raw(self, seed: int, tick: int, count: int) -> Words:
        """The first `count` words of the key (seed, tick)."""
        self._key[:] = seed & _MASK, tick & _MASK
        self._philox.state = self._state
        drawn: Words = self._philox.random_raw(count)
        return drawn


_GENERATOR = _Generator()


def words(seed: int, tick: int, particles: int, count: int) -> Words:
    """Raw 64-bit words, [particles, count]. A negative seed or tick counts modulo 2**64."""
    stride = -(-count // _LANES) * _LANES
    raw = _GENERATOR.raw(seed, tick, particles * stride)
    return raw.reshape(particles, stride)[:, :count]


def draw(latent: Latent, seed: int, tick: int, particles: int) -> Uniforms:
    """Noise for one tick, [particles, S]: uniforms, or standard normals for a Gaussian latent."""
    made = normals if latent.kind == "gaussian" else uniforms
    return made(seed, tick, particles, latent.stoch)


def offset(seed: int, tick: int) -> float:
    """One uniform in [0, 1) for a tick's resampling, from a key of its own: not what any particle reads."""
    return float(words(seed ^ _RESAMPLING, tick, 1, 1)[0, 0] >> np.uint64(11)) * 2.0**-53


def uniforms(seed: int, tick: int, particles: int, groups: int) -> Uniforms:
    """One uniform in [0, 1) per particle and group, [particles, groups]: the upper 24 bits of each word."""
    return (words(seed, tick, particles, groups) >> _UPPER).astype(np.float32) * _UNIT


def normals(seed: int, tick: int, particles: int, groups: int) -> Uniforms:
    """One standard normal per particle and group, [particles, groups] (Box-Muller on two words each).

    The first uniform is in (0, 1], so that its logarithm is finite.
    """
    raw = (words(seed, tick, particles, 2 * groups) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log1p(-raw[:, :groups]))
    return (radius * np.cos(2.0 * np.pi * raw[:, groups:])).astype(np.float32)
