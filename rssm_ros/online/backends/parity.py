"""Do two backends compute the same? Step by step from the same state, and on their own from the same start.

Two float32 backends differ in their last bits. A sample is the index at which a uniform falls into a
distribution function: where the uniform lies within rounding of an edge, it may fall on either side, and from
there on two free runs are two different streams. So steps are compared from the reference's state
(teacher-forced), samples only where the uniform is clear of every edge, and free runs by their statistics.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rssm_ros.bundle import Latent
from rssm_ros.online import noise
from rssm_ros.online.belief import Floats
from rssm_ros.online.golden import LOOSER, TOLERANCE
from rssm_ros.online.session import Session
from rssm_ros.online.steps import Array, State, Step, initial_state

EDGE = 1e-4  # closer than this to an edge of the distribution function, a sample may differ
TICKS, PARTICLES, EPISODE = 200, 8, 67  # of a comparison; every EPISODE ticks it starts from nowhere
SEEN = 0.7  # share of the ticks at which a modality is there
AGREE = 0.01  # relative, of the statistics of free runs


@dataclass(frozen=True)
class Forced:
    """A teacher-forced comparison.

    worst: the largest difference per quantity, relative to its largest value where that exceeds 1, or, for
    tokens, in proportion to golden.npz's wider allowance for sums of many terms.
    samples: how many were compared; near: how many of them were within EDGE of an edge; different: how many
    of the others were not equal.
    """

    ticks: int
    particles: int
    allowed: float
    worst: Mapping[str, float]
    samples: int
    near: int
    different: int

    @property
    def passed(self) -> bool:
        """Everything within tolerance and every clear sample the same (a NaN is not)."""
        return self.different == 0 and all(value <= self.allowed for value in self.worst.values())


@dataclass(frozen=True)
class Free:
    """Two runs on their own. first_difference: the first tick with another sample, None: there is none.

    apart: share of the particles whose last sample differs. statistics: name -> (reference, other).
    """

    ticks: int
    particles: int
    first_difference: int | None
    apart: float
    statistics: Mapping[str, tuple[float, float]]

    @property
    def worst(self) -> float:
        """The largest relative difference of a statistic."""
        return float(np.max([abs(b - a) / max(abs(a), 1e-9) for a, b in self.statistics.values()]))

    @property
    def passed(self) -> bool:
        """The statistics agree."""
        return self.worst <= AGREE


@dataclass(frozen=True)
class Input:
    """What one tick is given: action [A], tokens {m: [1, E_m]} of what is seen, noise [N, S]."""

    action: Floats
    tokens: Mapping[str, Floats]
    first: bool
    noise: Floats


def teacher_forced(
    reference: Session, other: Session, ticks: int = TICKS, particles: int = PARTICLES, seed: int = 0
) -> Forced:
    """Both step from the reference's state; encoders are compared on the way."""
    latent, worst = reference.latent, defaultdict[str, float](float)
    samples = near = different = 0
    state = initial_state(latent, particles)
    for given in made_up(reference, ticks, particles, seed, other, worst):
        left = _step(reference, state, given)
        right = _step(other, state, given)
        clear = clear_of_edges(latent, left, given.noise)
        equal = _equal(latent, left, right)
        samples, near = samples + clear.size, near + int((~clear).sum())
        different += int((clear & ~equal).sum())
        same = equal.all(-1)  # heads read the sample: compared for particles that drew the same
        for name, (a, b) in _quantities(left, right).items():
            rows = same if name.startswith("target") else np.ones(particles, np.bool_)
            worst[name] = _worse(worst[name], _difference(a[rows], b[rows]))
        state = left.state
    return Forced(ticks, particles, other.tolerance, dict(worst), samples, near, different)


def free_run(
    reference: Session, other: Session, ticks: int = TICKS, particles: int = PARTICLES, seed: int = 0
) -> Free:
    """Each goes on from its own state."""
    latent, first_difference, apart = reference.latent, None, 0.0
    states = [initial_state(latent, particles)] * 2
    told: tuple[dict[str, list[float]], ...] = (defaultdict(list), defaultdict(list))
    for tick, given in enumerate(made_up(reference, ticks, particles, seed)):
        steps = [
            _step(session, state, given) for session, state in zip((reference, other), states, strict=True)
        ]
        equal = _equal(latent, *steps).all(-1)
        if first_difference is None and not equal.all():
            first_difference = tick
        apart = float(1.0 - equal.mean())
        for kept, step in zip(told, steps, strict=True):
            for name, value in _statistics(step).items():
                kept[name].append(value)
        states = [step.state for step in steps]
    pairs = {name: (float(np.mean(told[0][name])), float(np.mean(told[1][name]))) for name in told[0]}
    return Free(ticks, particles, first_difference, apart, pairs)


def made_up(
    session: Session,
    ticks: int,
    particles: int,
    seed: int,
    other: Session | None = None,
    worst: dict[str, float] | None = None,
) -> Iterator[Input]:
    """Random observations, each there or not, and random actions; tokens are the session's.

    other, worst: another session's tokens are compared, under `tokens_<modality>`.
    """
    random, latent = np.random.default_rng(seed), session.latent
    for tick in range(ticks):
        tokens = {}
        for spec in session.bundle.contract.observations:
            if random.random() > SEEN:
                continue
            value: Array = (
                random.integers(0, 256, spec.shape, np.uint8)
                if spec.kind == "image"
                else random.standard_normal(spec.shape, np.float32)
            )
            tokens[spec.name] = session.encode(spec.name, value)
            if other is not None and worst is not None:
                name = f"tokens_{spec.name}"
                found = _difference(tokens[spec.name], other.encode(spec.name, value))
                found *= TOLERANCE / LOOSER["tokens"]
                worst[name] = _worse(worst.get(name, 0.0), found)
        action = random.uniform(-1, 1, latent.action).astype(np.float32)
        yield Input(action, tokens, tick % EPISODE == 0, noise.draw(latent, seed, tick, particles))


def clear_of_edges(latent: Latent, step: Step, drawn: Floats) -> Array:
    """[N, S] bool: whether a rounding cannot change the sample. A Gaussian's has no edges."""
    if latent.kind == "gaussian":
        return np.ones(drawn.shape, np.bool_)
    distribution = step.prior if step.posterior is None else step.posterior
    edges = np.cumsum(distribution, -1)[..., :-1]
    clear: Array = (np.abs(drawn[..., None] - edges) > EDGE).all(-1)
    return clear


def _step(session: Session, state: State, given: Input) -> Step:
    if not given.tokens:
        return session.predict(state, given.action, given.first, given.noise)
    return session.step(state, given.action, given.tokens, given.first, given.noise)


def _equal(latent: Latent, left: Step, right: Step) -> Array:
    """[N, S] bool. A Gaussian's numbers are equal when close."""
    if latent.kind == "gaussian":
        close: Array = np.abs(left.state.stoch - right.state.stoch) <= EDGE
        return close
    same: Array = left.state.stoch == right.state.stoch
    return same


def _quantities(left: Step, right: Step) -> dict[str, tuple[Array, Array]]:
    found: dict[str, tuple[Array, Array]] = {
        "deter": (left.state.deter, right.state.deter),
        "prior": (left.prior, right.prior),
    }
    if left.posterior is not None and right.posterior is not None:
        found["posterior"] = left.posterior, right.posterior
    for name, target in left.targets.items():
        found[f"target_{name}_mean"] = target.mean, right.targets[name].mean
        found[f"target_{name}_std"] = target.std, right.targets[name].std
    return found


def _statistics(step: Step) -> dict[str, float]:
    """Of one tick, means over the particles."""
    found = {"prior_entropy": float(step.prior_entropy.mean())}
    if step.surprise is not None and step.posterior_entropy is not None:
        found["surprise"] = float(step.surprise.mean())
        found["posterior_entropy"] = float(step.posterior_entropy.mean())
    for name, target in step.targets.items():
        found[f"target_{name}_distance"] = float(np.linalg.norm(target.mean, axis=-1).mean())
        found[f"target_{name}_std"] = float(target.std.mean())
    return found


def _difference(left: Array, right: Array) -> float:
    """The largest, relative to the largest value where that exceeds 1; a NaN stays one."""
    scale = max(1.0, float(np.abs(left).max(initial=0.0)))
    return float(np.abs(left - right).max(initial=0.0)) / scale


def _worse(one: float, other: float) -> float:
    """The larger; a NaN stays one, which `max` would forget."""
    return float(np.maximum(one, other))
