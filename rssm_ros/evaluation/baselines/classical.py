"""Trackers that need no learning, on the same ticks as the belief and told more than a detector could tell.

All know the robot's odometry where the contract has it: they work in a frame at rest (`EgoMotion`). Where
anything of the target is seen (visible fraction > HIDDEN) they are given its true position. Before anything
was seen they give the best constant guess.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rssm_ros.contract import Contract, TargetSpec
from rssm_ros.online.baselines import Bools, Floats, Integers, forward_fill

ODOMETRY = "nav_msgs/msg/Odometry"
FORWARD, TURN = "twist.twist.linear.x", "twist.twist.angular.z"
WINDOW = 5  # ticks over which constant velocity is measured
FADES = (0.5, 1.0, 2.0, 4.0, 8.0, math.inf)  # s
TUNE_TICKS = 20_000  # the most that the Kalman filter is tuned on
EXACT, DETECTED = (1e-3, 0.1, 10.0), (0.1, 1.0, 10.0)  # noise of measurements, in squared steps of the target
AS_GOOD = 1.02  # x the least hidden error
THRESHOLDS = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)  # nats a pixel from which on a detection counts


def odometry_of(contract: Contract, target: TargetSpec) -> tuple[str, tuple[int, int]] | None:
    """(observation, indices of forward and turning speed) that move this target in the robot's frame.

    None where the contract has no odometry, or the target is not a place on the ground (two numbers in m).
    """
    if target.dim != 2 or target.unit != "m":
        return None
    for spec in contract.observations:
        if spec.type == ODOMETRY and {FORWARD, TURN} <= set(spec.fields):
            return spec.name, (spec.fields.index(FORWARD), spec.fields.index(TURN))
    return None


@dataclass(frozen=True)
class Told:
    """What the trackers are told about one target; T ticks."""

    place: Floats  # [T, d] true position in a frame at rest; NaN: none
    seen: Bools  # [T] it may be looked at
    episode: Integers  # [T]
    dt: float

    def known(self) -> Bools:
        """[T] seen, and there."""
        return self.seen & np.isfinite(self.place).all(-1)

    def only(self, part: Bools) -> "Told":
        """Some of the ticks."""
        return Told(self.place[part], self.seen[part], self.episode[part], self.dt)


def hold_last(told: Told) -> Floats:
    """The last seen place, [T, d]."""
    return forward_fill(told.place, told.known(), told.episode)


def constant_velocity(told: Told) -> Floats:
    """On with the velocity over the last `WINDOW` ticks in a row in which it was seen, [T, d].

    Seen anew, it stands still until it was seen twice; where it jumps, it is another object and begins anew.
    """
    known, place = told.known(), told.place
    ticks = np.arange(len(place))
    follows = np.r_[False, known[1:] & known[:-1] & (told.episode[1:] == told.episode[:-1])]
    step = np.zeros_like(place)
    step[1:] = np.where(follows[1:, None], place[1:] - place[:-1], 0.0)
    far = np.linalg.norm(step, axis=-1)
    usual = far[follows]
    jump = follows & (far > (5.0 * np.quantile(usual, 0.995) if len(usual) else np.inf))
    follows &= ~jump
    begin = np.maximum.accumulate(np.where(known & ~follows, ticks, 0))
    span = np.minimum(ticks - begin, WINDOW)
    velocity = np.where(
        (known & (span > 0))[:, None], (place - place[ticks - span]) / np.maximum(span, 1)[:, None], 0.0
    )
    last = forward_fill(np.c_[place, velocity, ticks], known, told.episode)
    d = place.shape[1]
    return np.asarray(last[:, :d] + last[:, d : 2 * d] * (ticks - last[:, -1])[:, None])


def carried(told: Told, velocity: Floats) -> Floats:
    """The last seen place, carried on by the true velocity [T, d] of what it lies on (in the frame at rest).

    The privileged one: velocity row t is that over [t - 1, t).
    """
    moved = np.cumsum(np.where(np.isfinite(velocity), velocity, 0.0) * told.dt, axis=0)
    return forward_fill(told.place - moved, told.known(), told.episode) + moved


# -- the Kalman filter ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class KalmanSettings:
    """K candidates at once, [K] each. Velocity decays with `memory`: infinite is constant velocity."""

    shock: Floats  # m2/s3, spectral density of the acceleration's white noise
    noise: Floats  # m2, variance of a measurement
    memory: Floats  # s
    speed: float  # m/s, deviation of the velocity of something new
    gate: float = 5.0  # deviations of the innovation from which on it is another object
    fade: float = math.inf  # s unseen after which a third of the way from the constant guess is left

    def only(self, index: int) -> "KalmanSettings":
        """One candidate."""
        one = slice(index, index + 1)
        return replace(self, shock=self.shock[one], noise=self.noise[one], memory=self.memory[one])

    def told(self, unit: str) -> str:
        """One candidate in words, figures to two digits. unit: the target's."""
        memory, fade = float(self.memory[0]), self.fade
        parts = [
            f"measurements off by {math.sqrt(self.noise[0]):.2g} {unit}",
            f"acceleration noise {self.shock[0]:.2g} {unit}²/s³",
            f"velocity forgotten within {memory:.2g} s"
            if math.isfinite(memory)
            else "velocity kept for good",
            f"fading within {fade:.2g} s" if math.isfinite(fade) else "never fading",
            f"something new {self.gate:.2g} deviations off, at {self.speed:.2g} {unit}/s",
        ]
        return ", ".join(parts)


def kalman(told: Told, settings: KalmanSettings) -> Floats:
    """[K, T, d]: position of a Kalman filter with a (decaying) constant-velocity model, the same on all axes.

    Its measurements are the true places where seen. Episodes run side by side.
    """
    begins = np.flatnonzero(np.r_[True, told.episode[1:] != told.episode[:-1]])
    lengths = np.diff(np.r_[begins, len(told.episode)])
    known, dim = told.known(), told.place.shape[1]
    rows = begins[:, None] + np.minimum(np.arange(lengths.max(initial=0)), lengths[:, None] - 1)  # [E, L]
    path = np.full((len(settings.shock), len(begins), rows.shape[1], dim), np.nan)
    state = _KalmanState(settings, len(begins), dim, told.dt)
    for at in range(rows.shape[1]):
        row = rows[:, at]
        state.predict()
        state.correct(told.place[row], known[row] & (at < lengths))
        path[:, :, at] = state.position
    whole = np.full((len(settings.shock), len(told.place), dim), np.nan)
    inside = np.arange(rows.shape[1]) < lengths[:, None]
    whole[:, rows[inside]] = path[:, inside]
    return whole


class _KalmanState:
    """Position and velocity [K, E, d] with one covariance for all axes: pp, pv, vv [K, E]."""

    def __init__(self, settings: KalmanSettings, episodes: int, dim: int, dt: float) -> None:
        shape = (len(settings.shock), episodes)
        self._noise, self._speed, self._gate = settings.noise[:, None], settings.speed, settings.gate
        with np.errstate(divide="ignore", invalid="ignore"):
            self._keep = np.exp(-dt / settings.memory)[:, None]
            way = settings.memory * (1.0 - np.exp(-dt / settings.memory))
        self._way = np.where(np.isinf(settings.memory), dt, way)[:, None]
        q = settings.shock[:, None]
        self._q = (q * dt**3 / 3, q * dt**2 / 2, q * dt)
        self.position = np.full((*shape, dim), np.nan)
        self._velocity = np.zeros((*shape, dim))
        self._pp, self._pv, self._vv = np.ones(shape), np.zeros(shape), np.ones(shape)

    def predict(self) -> None:
        """A tick passes."""
        keep, way, (qp, qc, qv) = self._keep, self._way, self._q
        self.position = self.position + way[..., None] * self._velocity
        self._velocity = keep[..., None] * self._velocity
        self._pp = self._pp + 2 * way * self._pv + way**2 * self._vv + qp
        self._pv = keep * (self._pv + way * self._vv) + qc
        self._vv = keep**2 * self._vv + qv

    def correct(self, place: Floats, seen: Bools) -> None:
        """place [E, d] where seen [E]. Far from what was expected, it is something new."""
        if not seen.any():
            return
        innovation = place - self.position
        total = self._pp + self._noise
        square = np.square(innovation).sum(-1)
        new = seen & ~(square <= self._gate**2 * place.shape[-1] * total)  # NaN: nothing was expected yet
        gain, gain_v = self._pp / total, self._pv / total
        use = (seen & ~new)[..., None]
        self.position = np.where(use, self.position + gain[..., None] * innovation, self.position)
        self._velocity = np.where(use, self._velocity + gain_v[..., None] * innovation, self._velocity)
        use = use[..., 0]
        pp, pv, vv = self._pp, self._pv, self._vv
        self._pp = np.where(new, self._noise, np.where(use, pp * (1 - gain), pp))
        self._pv = np.where(new, 0.0, np.where(use, pv * (1 - gain), pv))
        self._vv = np.where(new, self._speed**2, np.where(use, vv - gain_v * pv, vv))
        self.position = np.where(new[..., None], place, self.position)
        self._velocity = np.where(new[..., None], 0.0, self._velocity)


def candidates(told: Told, noises: Sequence[float] = EXACT) -> KalmanSettings:
    """Settings around what the target does when seen, 36 per noise of a measurement (in squared steps)."""
    known = told.known()
    follows = np.r_[False, known[1:] & known[:-1] & (told.episode[1:] == told.episode[:-1])]
    step = np.zeros(len(known))
    step[1:] = np.linalg.norm(np.diff(told.place, axis=0), axis=-1)
    moved = step[follows]
    usual = moved[moved <= np.quantile(moved, 0.99)] if len(moved) else np.ones(1)
    speed = max(float(np.sqrt(np.square(usual).mean())) / told.dt, 1e-9)
    shocks = speed**2 / told.dt * np.array([1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
    variances = (speed * told.dt) ** 2 * np.array(noises)
    memories = np.array([0.1, 0.25, 0.5, 1.0, 2.0, np.inf])
    grid = np.array(list(itertools.product(shocks, variances, memories)))
    return KalmanSettings(grid[:, 0], grid[:, 1], grid[:, 2], speed)


def faded(path: Floats, told: Told, guess: Floats, fade: float) -> Floats:
    """Positions [..., T, d] that go over to the constant guess [T, d] the longer nothing was seen."""
    return np.asarray(guess + np.exp(-_unseen(told) * told.dt / fade) * (path - guess))


def _unseen(told: Told) -> Floats:
    """[T, 1] ticks since it was last seen; 0 before."""
    ticks = np.arange(len(told.place), dtype=float)[:, None]
    found = ticks - forward_fill(ticks, told.known(), told.episode)
    return np.where(np.isfinite(found), found, 0.0)


def tuned(told: Told, hidden: Bools, guess: Floats | None = None) -> KalmanSettings:
    """The candidate with the least squared error over the hidden ticks (all ticks, where none is hidden).

    guess: [T, d] what it may fade into.
    """
    part = _part(told)
    few, judged = told.only(part), hidden[part] if hidden[part].any() else np.ones(int(part.sum()), bool)
    settings = candidates(few)
    paths = kalman(few, settings)
    rest = few.place if guess is None else guess[part]
    judged = judged & np.isfinite(paths).all((0, 2)) & np.isfinite(few.place + rest).all(1)
    if not judged.any():
        return settings.only(0)
    unseen, rest = _unseen(few)[judged] * few.dt, rest[judged]
    off, away = rest - few.place[judged], paths[:, judged] - rest
    best = (math.inf, settings.only(0))
    for fade in FADES if guess is not None else FADES[-1:]:
        error = np.square(off + np.exp(-unseen / fade) * away).sum(-1).mean(1)
        at = int(error.argmin())
        if error[at] < best[0]:
            best = (float(error[at]), replace(settings.only(at), fade=fade))
    return best[1]


@dataclass(frozen=True)
class Detections:
    """How a Kalman filter takes what a detector says."""

    threshold: float  # nats a pixel from which on a detection counts
    kalman: KalmanSettings

    def told(self, unit: str) -> str:
        """In words. unit: the target's."""
        return f"detections from {self.threshold:g} nats a pixel on, {self.kalman.told(unit)}"


def tuned_detections(
    detected: Callable[[float], Told], place: Floats, hidden: Bools, seen: Bools, guess: Floats
) -> Detections:
    """The threshold and candidate with the least squared error over the hidden ticks.

    Of those that are as good (`AS_GOOD`) the one with the least over the seen ticks: what is hidden alone
    would have it ignore most of what it sees. detected: threshold -> what the filter is told. place: [T, d]
    the truth. hidden, seen: [T].
    """
    found = []
    for threshold in THRESHOLDS:
        part = _part(detected(threshold))
        few, mean, true = detected(threshold).only(part), guess[part], place[part]
        settings = candidates(few, DETECTED)
        paths = kalman(few, settings)
        for fade in FADES:
            path = filled(faded(paths, few, mean, fade), mean)  # before the first detection, too
            square = np.square(path - true).sum(-1)  # [K, T]
            good = np.isfinite(true).all(-1)
            errors = [_mean(square[:, mask[part] & good]) for mask in (hidden, seen)]
            for at, pair in enumerate(zip(*errors, strict=True)):
                found.append((pair, Detections(threshold, replace(settings.only(at), fade=fade))))
    least = min(errors[0] for errors, _ in found)
    as_good = [item for item in found if item[0][0] <= AS_GOOD**2 * least]
    return min(as_good, key=lambda item: item[0][::-1])[1]


def _mean(square: Floats) -> Floats:
    """[K, n] -> [K]; zeros of nothing."""
    return np.asarray(square.mean(1)) if square.shape[1] else np.zeros(len(square))


def _part(told: Told) -> Bools:
    """[T] which ticks to tune on: the first episodes that hold `TUNE_TICKS`, or so many of one long one."""
    last = int(told.episode[min(TUNE_TICKS, len(told.episode)) - 1]) if len(told.episode) else 0
    part = told.episode <= last
    if part.sum() > 2 * TUNE_TICKS:  # one long episode
        part = np.arange(len(part)) < TUNE_TICKS
    return np.asarray(part)


def filled(path: Floats, guess: Floats) -> Floats:
    """A path [T, d] with a constant guess [d] where it has nothing."""
    return np.where(np.isfinite(path).all(-1, keepdims=True), path, guess)


ABOUT: Mapping[str, str] = {
    "hold_last": "the last seen true place, kept by odometry",
    "constant_velocity": f"the true velocity over the last {WINDOW} seen ticks, kept up",
    "kalman": "Kalman filter, constant velocity with decay, true places as its detections, fading into the "
    "mean place while nothing is seen",
    "kalman_detections": "Kalman filter, constant velocity with decay, on what a detector finds in the "
    "picture by colour against the background, the camera's geometry known; no truth, fading into the mean "
    "place",
    "training_mean": "the mean of all true places",
    "carried": "the last seen place moved on by the true velocity of the belt",
    "exact_bayes": "the exact Bayes filter: it knows dynamics, noises and masks; nobody can do better",
    "belt_informed": "the simulator's own tracker: the belt's true motion and the paddle's pushes",
}
