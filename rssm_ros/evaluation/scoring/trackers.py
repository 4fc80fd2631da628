"""Everybody else who says where a target is, on the same ticks as the belief."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.baselines import classical
from rssm_ros.evaluation.baselines.classical import ABOUT, Detections, KalmanSettings, Told
from rssm_ros.evaluation.playing.rows import MEMORYLESS_EVERY
from rssm_ros.evaluation.scoring.judged import Judged
from rssm_ros.online.baselines import climatology

Floats = npt.NDArray[np.float64]
PRIVILEGED = ("belt_informed", "carried")  # the first that there is
EXACT_BAYES = "exact_bayes"
NAMES = ("belief", "memoryless", *ABOUT)  # that no baseline model can have
HINDSIGHT = "tuned in hindsight on these very ticks, which favours it"


@dataclass(frozen=True)
class Priors:
    """What classical trackers know beforehand about one target, from validation data."""

    mean: Floats  # [d] its mean position
    kalman: KalmanSettings
    detections: Detections | None = None  # where there is a detector


@dataclass(frozen=True)
class Tracked:
    """Somebody else's positions; T ticks."""

    mean: Floats  # [T, d]; NaN: not asked
    kind: str  # as `Baseline.kind`
    about: str
    std: Floats | None = None  # [T, d] that it claims of its normal distribution


def _from_rest(item: Judged, path: Floats) -> Floats:
    return item.rest.from_rest(path) if path.shape[1] == 2 else path


def priors_of(item: Judged) -> Priors:
    """What the trackers could have learnt from these ticks."""
    guess = climatology(item.data.truth)
    at_rest = _resting_guess(item, guess)
    hidden, detections = item.masks["hidden"], None
    if np.isfinite(item.data.detected).any():
        detections = classical.tuned_detections(item.detected, item.place, hidden, item.seen, at_rest)
    return Priors(guess, classical.tuned(item.told, hidden, at_rest), detections)


def _resting_guess(item: Judged, guess: Floats) -> Floats:
    """The constant guess [d] at every tick, [T, d] in the frame at rest."""
    whole = np.tile(guess, (len(item.episode), 1))
    return item.rest.to_rest(whole) if whole.shape[1] == 2 else whole


def trackers(item: Judged, priors: Priors | None, models: Mapping[str, str]) -> dict[str, Tracked]:
    """By name. Without `priors`, what can be tuned is tuned in hindsight. models: name -> about."""
    own = priors_of(item) if priors is None else priors
    source = HINDSIGHT if priors is None else "tuned on validation data"
    told = item.told
    guess = own.mean
    found = {
        "hold_last": _from_rest(item, classical.hold_last(told)),
        "constant_velocity": _from_rest(item, classical.constant_velocity(told)),
        "kalman": _from_rest(item, _kalman(item, told, own.kalman, guess)),
        "training_mean": np.tile(guess, (len(item.episode), 1)),
    }
    notes = {"kalman": f"{ABOUT['kalman']}; {source}: {own.kalman.told(item.spec.unit)}"}
    if own.detections is not None:
        seen, settings = item.detected(own.detections.threshold), own.detections.kalman
        found["kalman_detections"] = _from_rest(item, _kalman(item, seen, settings, guess))
        notes["kalman_detections"] = f"{ABOUT['kalman_detections']}; {source}: " + own.detections.told(
            item.spec.unit
        )
    notes["training_mean"] = f"{ABOUT['training_mean']} " + (
        "of these very ticks, in hindsight" if priors is None else "of the validation data"
    )
    table = {
        name: Tracked(classical.filled(path, guess), "classical", notes.get(name, ABOUT[name]))
        for name, path in found.items()
    }
    if np.isfinite(item.data.memoryless).any():
        about = f"the same bundle with what came in this tick alone; every {MEMORYLESS_EVERY}th tick"
        table["memoryless"] = Tracked(item.data.memoryless, "learned", about)
    for at, (name, about) in enumerate(models.items()):
        mean, std = item.data.models[:, at, 0], item.data.models[:, at, 1]
        table[name] = Tracked(mean, "learned", about, std)
    if np.isfinite(item.data.velocity).any():
        velocity = item.rest.vector_to_rest(item.data.velocity)
        path = _from_rest(item, classical.carried(told, velocity))
        table["carried"] = Tracked(classical.filled(path, guess), "privileged", ABOUT["carried"])
    if np.isfinite(item.data.privileged).any():
        path = classical.filled(item.data.privileged, guess)
        table["belt_informed"] = Tracked(path, "privileged", ABOUT["belt_informed"])
    exact = item.data.exact[:, :-1]
    if np.isfinite(exact).any():
        table[EXACT_BAYES] = Tracked(classical.filled(exact, guess), "exact", ABOUT[EXACT_BAYES])
    return table


def _kalman(item: Judged, told: Told, settings: KalmanSettings, guess: Floats) -> Floats:
    path = classical.kalman(told, settings)[0]
    return classical.faded(path, told, _resting_guess(item, guess), settings.fade)
