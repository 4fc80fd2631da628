"""From ticks as they come out of the filter to the arrays that are scored: many ticks in one go."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rssm_ros.bundle import pattern
from rssm_ros.contract import TargetSpec
from rssm_ros.evaluation.baselines.detecting import Detector
from rssm_ros.evaluation.ticks import Row, Taken, TargetTicks, Ticks, TruthByTick
from rssm_ros.online import noise
from rssm_ros.online.belief import Belief
from rssm_ros.online.regions import depth, log_density, spread
from rssm_ros.online.session import Session
from rssm_ros.online.steps import initial_state

Array = npt.NDArray[Any]
MEMORYLESS_EVERY = 4  # ticks
TOGETHER = 32  # rows of one call of the model: more are no faster a row
LEAST_STD = 1e-6  # below which a claim is taken to be this sure: no density is infinite


@dataclass(frozen=True)
class Known:
    """What the recording says beside observations, by target; empty where it does not."""

    truth: Mapping[str, TruthByTick]
    velocity: Mapping[str, TruthByTick]  # of what carries it, in the robot's frame
    privileged: Mapping[str, TruthByTick]  # where a tracker has it that knows more than any observation tells
    exact: Mapping[str, TruthByTick]  # where the exact Bayes filter has it, and its deviation
    unlabelled: Collection[str]  # nobody says how much of it can be seen: with every picture, all of it
    unoccluded: Collection[str]  # its truth is the same filter's run on uncovered pictures

    def visibility(self, target: str, row: Row) -> float:
        """How much of it could be seen in what the filter was given; NaN: not known."""
        if row.blind and target in self.unoccluded:  # the other run saw nothing either: to agree says nothing
            return math.nan
        truth, label = self.truth[target].at(row.belief.tick)
        if target in self.unlabelled and np.isfinite(truth).all():
            label = 1.0
        return row.clear * label


class Model(Protocol):
    """A baseline model on its way through a recording, see `baselines.networks.Follower`."""

    def follow(self, rows: Sequence[Row]) -> Mapping[str, Array]:
        """The next T rows -> mean and std of every target, [T, 2, d]."""


@dataclass(frozen=True)
class Arrays:
    """Turns rows into Ticks.

    odometry: (observation, indices of forward and turning speed), if there is any. memoryless: whether to ask
    what every `MEMORYLESS_EVERY`th tick alone says. detectors: by target. models: told every row once, in
    order.
    """

    session: Session
    known: Known
    seed: int
    odometry: tuple[str, tuple[int, int]] | None
    memoryless: bool
    detectors: Mapping[str, Detector]
    models: Sequence[Model] = ()

    def of(self, rows: Sequence[Row]) -> Ticks:
        """T rows -> Ticks, open loops left out."""
        beliefs = [row.belief for row in rows]
        contract = self.session.bundle.contract
        names = [spec.name for spec in contract.observations]
        patterns = {here: pattern(here) for here in {_here(belief) for belief in beliefs}}
        alone = self._memoryless(rows) if self.memoryless else {}
        claims = [model.follow(rows) for model in self.models]
        return Ticks(
            episode=np.array([row.episode for row in rows], np.int64),
            t_ns=np.array([belief.stamp_ns for belief in beliefs], np.int64),
            tick=np.array([belief.tick for belief in beliefs], np.int64),
            surprise=np.array([belief.surprise for belief in beliefs], np.float64),
            pattern=np.array([patterns[_here(belief)] for belief in beliefs], str),
            ages=_table([[belief.age[name] for name in names] for belief in beliefs], len(names), np.int64),
            imposed=np.array([row.imposed for row in rows], bool),
            twist=_table([self._twist(row.taken) for row in rows], 2, np.float64),
            seconds=np.array([row.taken.seconds for row in rows], np.float64),
            targets={
                spec.name: self._target(
                    spec, rows, alone.get(spec.name), [item[spec.name] for item in claims]
                )
                for spec in contract.targets
            },
        )

    def _twist(self, taken: Taken) -> tuple[float, float]:
        if self.odometry is None or self.odometry[0] not in taken.values:
            return math.nan, math.nan
        name, (forward, turn) = self.odometry
        return float(taken.values[name][forward]), float(taken.values[name][turn])

    def _target(
        self, spec: TargetSpec, rows: Sequence[Row], alone: Array | None, models: Sequence[Array]
    ) -> TargetTicks:
        ticks = [row.belief.tick for row in rows]
        truth, _ = self.known.truth[spec.name].of(ticks)
        claims = [row.belief.targets[spec.name] for row in rows]
        nothing = np.full((len(rows), spec.dim), np.nan)

        def told(table: Mapping[str, TruthByTick], more: int = 0) -> Array:
            if spec.name in table:
                return table[spec.name].of(ticks)[0]
            return np.full((len(rows), spec.dim + more), np.nan)

        mean, std = np.zeros((0, 1, spec.dim)), np.ones((0, 1, spec.dim))  # [T, N, d]
        if rows:
            mean = np.stack([claim.mean for claim in claims]).astype(np.float64)
            std = np.maximum(np.stack([claim.std for claim in claims]).astype(np.float64), LEAST_STD)
        middle = mean.mean(1)
        offset = mean - middle[:, None]
        between = np.einsum("tni,tnj->tij", offset, offset) / mean.shape[1]
        return TargetTicks(
            truth=truth,
            visibility=np.array([self.known.visibility(spec.name, row) for row in rows], np.float64),
            mean=middle,
            covariance=between + np.square(std).mean(1)[:, :, None] * np.eye(spec.dim),
            nll=-log_density(mean, std, truth),
            depth=depth(mean, std, truth),
            log_std=np.log(spread(mean, std)),
            memoryless=nothing if alone is None else alone,
            velocity=told(self.known.velocity),
            privileged=told(self.known.privileged),
            exact=told(self.known.exact, 1),
            detected=self._detected(spec, rows),
            open_loop=np.full((len(rows), 0, spec.dim), np.nan, np.float32),
            models=np.stack(models, 1) if models else np.zeros((len(rows), 0, 2, spec.dim)),
        )

    def _detected(self, spec: TargetSpec, rows: Sequence[Row]) -> Array:
        """[T, d + 1] where the detector has it in the picture that came, and how far it stands out."""
        detected, detector = np.full((len(rows), spec.dim + 1), np.nan), self.detectors.get(spec.name)
        for at, row in enumerate(rows if detector is not None else ()):
            picture = row.taken.values.get(detector.camera) if detector is not None else None
            if detector is not None and picture is not None:
                detected[at, :-1], detected[at, -1] = detector.find(picture)
        return detected

    def _memoryless(self, rows: Sequence[Row]) -> dict[str, Array]:
        """Target -> [T, d], what a tick's observations alone say of it; NaN at ticks that are not asked."""
        targets = self.session.bundle.contract.targets
        found = {spec.name: np.full((len(rows), spec.dim), np.nan) for spec in targets}
        asked = [at for at, row in enumerate(rows) if row.belief.tick % MEMORYLESS_EVERY == 0]
        particles = len(rows[0].belief.deter) if rows else 1
        for some in _parts(asked, max(1, TOGETHER // particles)):
            means = self._alone([rows[at] for at in some], particles)
            for name, values in means.items():
                found[name][some] = values
        return found

    def _alone(self, rows: Sequence[Row], particles: int) -> dict[str, Array]:
        """Target -> [T, d]: all rows from nowhere in one call, `particles` of the filter's own draws each."""
        latent = self.session.latent

        def repeated(values: Sequence[Array]) -> Array:  # [T x N, ...]
            return np.repeat(np.stack(values), particles, axis=0)

        tokens, presence = {}, {}
        for name, size in latent.tokens.items():
            absent = np.zeros(size, np.float32)
            told = [row.taken.tokens.get(name) for row in rows]
            tokens[name] = repeated([absent if value is None else value[0] for value in told])
            presence[name] = repeated([np.array(value is not None) for value in told])
        drawn = [noise.draw(latent, self.seed, row.belief.tick, particles) for row in rows]
        step = self.session.step_apart(
            initial_state(latent, len(rows) * particles),
            repeated([row.taken.action for row in rows]),
            tokens,
            presence,
            True,
            np.concatenate(drawn),
        )
        shape = (len(rows), particles, -1)
        return {
            name: claim.mean.reshape(shape).mean(1, dtype=np.float64) for name, claim in step.targets.items()
        }


def _here(belief: Belief) -> tuple[str, ...]:
    return tuple(name for name, present in belief.presence.items() if present)


def _table(rows: Sequence[Sequence[float]], columns: int, kind: Any) -> Array:
    return np.array(rows, kind).reshape(len(rows), columns)


def _parts(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[at : at + size] for at in range(0, len(items), size))
