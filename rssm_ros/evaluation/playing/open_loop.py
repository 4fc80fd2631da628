"""Predictions without looking, from every so many ticks: many at once through `rollout.onnx`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.online import noise
from rssm_ros.online.belief import Belief, Floats, Indices
from rssm_ros.online.session import Session
from rssm_ros.online.steps import State

Array = npt.NDArray[Any]
TOGETHER = 32  # starts in one call


@dataclass(frozen=True)
class _Start:
    row: int
    tick: int
    deter: Floats
    stoch: Indices | Floats


class OpenLoop:
    """From a belief on with the actions that were really applied and the filter's own noise, H ticks.

    Where the filter restarts on the way, or the recording ends, there is no prediction.
    """

    def __init__(self, session: Session, particles: int, seed: int, every: int) -> None:
        self._session, self._particles, self._seed, self._every = session, particles, seed, every
        self._horizon = session.latent.horizon
        self._row = 0
        self._starts: list[_Start] = []
        self._actions: dict[int, Floats] = {}  # row -> over the tick before it
        self._ticks: dict[int, int] = {}  # row -> tick, of rows that continue the one before
        self._found: dict[int, dict[str, Array]] = {}

    def tell(self, belief: Belief, action: Floats) -> None:
        """The next row: a belief and the action before it."""
        self._actions[self._row] = action
        if not belief.first:
            self._ticks[self._row] = belief.tick
        if self._row % self._every == 0:
            self._starts.append(_Start(self._row, belief.tick, belief.deter, belief.stoch))
        self._row += 1
        if len(self._starts) == TOGETHER + -(-self._horizon // self._every):
            self._predict(TOGETHER)

    def _predict(self, count: int) -> None:
        """From the first `count` starts; those that cannot go on for H rows are let go."""
        taken, self._starts = self._starts[:count], self._starts[count:]
        ahead = range(1, self._horizon + 1)
        whole = [s for s in taken if all(self._ticks.get(s.row + j) == s.tick + j for j in ahead)]
        if whole:
            many = self._particles
            deter, stoch = (np.concatenate([getattr(s, n) for s in whole]) for n in ("deter", "stoch"))
            actions = np.stack([[self._actions[s.row + j] for j in ahead] for s in whole])
            latent = self._session.latent
            drawn = np.concatenate(
                [
                    np.stack([noise.draw(latent, self._seed, s.tick + j, many) for j in ahead], 1)
                    for s in whole
                ]
            )  # [starts x N, H, S]
            repeated = np.repeat(actions.astype(np.float32), many, axis=0)
            paths = self._session.rollout(State(deter, stoch), repeated, drawn).paths
            for at, start in enumerate(whole):
                rows = slice(at * many, (at + 1) * many)
                self._found[start.row] = {name: path[rows].mean(0) for name, path in paths.items()}
        oldest = self._starts[0].row if self._starts else self._row
        for table in (self._actions, self._ticks):
            for row in [row for row in table if row < oldest]:
                del table[row]

    def finish(self, rows: int) -> dict[str, Array]:
        """Target -> [rows, H, d], NaN where nothing was predicted from."""
        while self._starts:
            self._predict(TOGETHER)
        whole = {}
        for name, dim in self._session.latent.targets.items():
            paths = np.full((rows, self._horizon, dim), np.nan, np.float32)
            for row, found in self._found.items():
                paths[row] = found[name]
            whole[name] = paths
        return whole
