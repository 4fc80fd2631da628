"""One target's ticks with everything that its measures need: groups, hidden runs, identities, places."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract, TargetSpec
from rssm_ros.evaluation.baselines import classical
from rssm_ros.evaluation.baselines.classical import Told
from rssm_ros.evaluation.scoring import measures
from rssm_ros.evaluation.ticks import TargetTicks, Ticks
from rssm_ros.online.baselines import EgoMotion

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """One target with everything that its measures need; T ticks."""

    spec: TargetSpec
    data: TargetTicks
    episode: Array  # [T]
    blocks: Array  # [T]
    masks: Mapping[str, Array]  # visible, partly, hidden: labelled ticks
    hidden_for: Array  # [T]
    identity: Array  # [T]
    before: Array  # [T] this very object had been seen by then
    rest: EgoMotion
    place: Floats  # [T, d] truth in the frame at rest
    dt: float

    @property
    def square(self) -> Floats:
        """[T] squared error of the belief."""
        return np.asarray(np.square(self.data.mean - self.data.truth).sum(-1))

    @property
    def seen(self) -> Array:
        """[T] anything of it can be seen."""
        return np.asarray(self.masks["visible"] | self.masks["partly"])

    @property
    def told(self) -> Told:
        """What the trackers are told."""
        return Told(self.place, self.seen, self.episode, self.dt)

    def detected(self, threshold: float) -> Told:
        """What a detector tells them, of all that stands out by so many nats a pixel."""
        place, nats = self.data.detected[:, :-1], self.data.detected[:, -1]
        place = self.rest.to_rest(place) if place.shape[1] == 2 else place
        return Told(place, np.asarray(nats >= threshold), self.episode, self.dt)


def judged(contract: Contract, spec: TargetSpec, ticks: Ticks) -> Judged:
    """Groups, runs and identities of one target."""
    data = ticks.targets[spec.name]
    rest = EgoMotion.at_rest(len(ticks))
    moves = classical.odometry_of(contract, spec) is not None
    if moves:
        rest = EgoMotion.of(ticks.twist, ticks.episode, contract.dt)
    place = rest.to_rest(data.truth) if moves else data.truth
    known = np.isfinite(data.truth).all(-1)
    masks = {name: mask & known for name, mask in measures.groups_of(data.visibility).items()}
    identity = measures.identities(place, ticks.episode)
    return Judged(
        spec=spec,
        data=data,
        episode=ticks.episode,
        blocks=measures.blocks_of(ticks.episode, contract.dt),
        masks=masks,
        hidden_for=measures.ticks_in_row(masks["hidden"], ticks.episode),
        identity=identity,
        before=measures.seen_before(identity, masks["visible"] | masks["partly"]),
        rest=rest,
        place=place,
        dt=contract.dt,
    )
