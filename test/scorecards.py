"""Made-up evaluations whose figures belong together: a thing that drifts, is hidden now and then, and is
tracked as well as one asks for. The scorecard's figures are computed from the trace, none is typed in.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rssm_ros.contract import Contract, find_contract
from rssm_ros.evaluation.film.overlay import Shown
from rssm_ros.evaluation.film.projection import projection_of
from rssm_ros.evaluation.scoring.scorecard import (
    TRACE_FILE,
    Baseline,
    Episode,
    Errors,
    ImagePrediction,
    Scorecard,
    Surprise,
    TargetScore,
)
from rssm_ros.evaluation.statistics import Estimate, estimate, ratio, root_ratio
from rssm_ros.recordings.recording import Observation, Truth

GROUPS = ("visible", "partly", "hidden")
LENGTHS = {"1": (1, 1), "2-4": (2, 4), "5-8": (5, 8), "9-16": (9, 16), "17+": (17, 10**9)}
QUANTILE = {"50": 1.386, "90": 4.605, "95": 5.991}  # chi squared, two degrees of freedom
START = 1_000_000_000
MIDDLE = np.array([-0.1, 0.6])  # m, before the robot's camera


@dataclass(frozen=True)
class Made:
    """One made-up evaluation."""

    scorecard: Scorecard
    trace: Mapping[str, np.ndarray]

    def write(self, folder: Path) -> Path:
        """Both files, as `rssm evaluate` leaves them."""
        self.scorecard.write(folder)
        np.savez(folder / TRACE_FILE, **self.trace)
        return folder


def made(
    seed: int = 0, episodes: int = 6, ticks: int = 240, error: float = 0.02, claim: float = 1.0, data: int = 0
) -> Made:
    """An evaluation of `episodes` episodes of data number `data`.

    error: m, of the belief while it sees; it grows while it does not. claim: claimed by true deviation.
    """
    trace = _trace(seed, data, episodes, ticks, error, claim)
    return Made(_scorecard(trace, seed, data), trace)


def recording_of(trace: Mapping[str, np.ndarray], size: tuple[int, int] = (64, 64)) -> "Pictures":
    """Pictures for a trace: a bright square where the truth is, nothing where it is covered."""
    return Pictures(find_contract("manipulator"), dict(trace), size)


def shown_of(run: Made, contract: str, ticks: int = 20, **changes: np.ndarray) -> Shown:
    """What a film shows of its first ticks. changes: of the trace."""
    trace = {name: values[:ticks] for name, values in (dict(run.trace) | changes).items()}
    return Shown(find_contract(contract), trace, "package", "m", "hold_last")


@dataclass(frozen=True)
class Pictures:
    """A Recording of a camera alone."""

    contract: Contract
    trace: Mapping[str, np.ndarray]
    size: tuple[int, int]
    truth: Mapping[str, Truth] = ()  # type: ignore[assignment]
    counts: Counter[str] = ()  # type: ignore[assignment]

    @property
    def start_ns(self) -> int:
        return int(self.trace["t_ns"][0])

    @property
    def end_ns(self) -> int:
        return int(self.trace["t_ns"][-1])

    def observations(self) -> Iterator[Observation]:
        width, height = self.size
        rows = np.linspace(60, 120, height)[:, None, None] * np.array([0.8, 0.9, 1.0])
        project = projection_of(find_contract("manipulator"), "package", width, height)
        assert project is not None
        places = project(self.trace["package/truth"]).round().astype(int)
        empty = np.broadcast_to(rows, (height, width, 3)).astype(np.uint8)
        for tick, stamp in enumerate(self.trace["t_ns"]):
            picture = empty.copy()
            column, row = places[tick]
            if self.trace["package/visibility"][tick] > 0.05:
                picture[max(0, row - 3) : row + 3, max(0, column - 3) : column + 3] = (220, 160, 60)
            yield Observation("camera", int(stamp), int(stamp), picture)


def _trace(
    seed: int, data: int, episodes: int, ticks: int, error: float, claim: float
) -> dict[str, np.ndarray]:
    world, own = np.random.default_rng([data, 1]), np.random.default_rng([seed, 2])
    parts: list[dict[str, np.ndarray]] = []
    for episode in range(episodes):
        visibility, phase = np.ones(ticks), world.uniform(0, 6, 2)
        begin = 20
        while begin < ticks - 40:
            length = int(world.choice([1, 3, 6, 12, 30]))
            visibility[begin - 2 : begin], visibility[begin : begin + length] = (0.7, 0.2), 0.0
            visibility[begin + length : begin + length + 2] = (0.3, 0.8)
            begin += length + int(world.integers(12, 40))
        along = np.sin(np.arange(ticks)[:, None] * np.array([0.05, 0.034]) + phase)
        truth = MIDDLE + along * np.array([0.45, 0.06])
        hidden_for = _hidden_for(visibility)
        deviation = error * np.sqrt(1 + 0.4 * hidden_for) * (1 + 0.5 * (1 - visibility))
        mean = truth + own.normal(0, 1, (ticks, 2)) * deviation[:, None]
        seen = np.maximum.accumulate(np.where(visibility > 0.05, np.arange(ticks), 0))
        surprise = np.abs(own.normal(4, 2, ticks)) + 25 * ((hidden_for == 0) & (np.roll(hidden_for, 1) > 11))
        surprise[::50] = np.nan
        parts.append(
            {
                "episode": np.full(ticks, episode),
                "t_ns": START + (episode * (ticks + 100) + np.arange(ticks)) * 50_000_000,
                "surprise": surprise,
                "threshold": np.full(ticks, 16.0),
                "review": np.nan_to_num(surprise) > 16.0,
                "imposed": visibility <= 0.05,
                "package/truth": truth,
                "package/mean": mean,
                "package/covariance": (claim * deviation)[:, None, None] ** 2 * np.eye(2),
                "package/visibility": visibility,
                "package/hidden_for": hidden_for,
                "package/identity": np.zeros(ticks, int),
                "package/baseline/hold_last": truth[seen],
                "package/baseline/constant_velocity": truth + 0.6 * (truth[seen] - truth),
                "package/baseline/training_mean": np.full((ticks, 2), MIDDLE),
                "package/baseline/privileged_kalman": truth + 0.5 * (mean - truth),
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _hidden_for(visibility: np.ndarray) -> np.ndarray:
    length = np.zeros(len(visibility), int)
    for tick, share in enumerate(visibility):
        length[tick] = length[tick - 1] + 1 if tick and share <= 0.05 else int(share <= 0.05)
    return length


def _masks(trace: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    visibility = trace["package/visibility"]
    visible, hidden = visibility >= 0.5, visibility <= 0.05
    return {"visible": visible, "partly": ~visible & ~hidden, "hidden": hidden}


def _summed(trace: Mapping[str, np.ndarray], values: np.ndarray) -> np.ndarray:
    return np.bincount(trace["episode"], np.asarray(values, float))


def _errors(trace: Mapping[str, np.ndarray], mean: np.ndarray) -> Errors:
    square = np.square(mean - trace["package/truth"]).sum(1)
    hidden_for, visibility = trace["package/hidden_for"], trace["package/visibility"]

    def rmse(mask: np.ndarray) -> Estimate:
        return estimate(root_ratio, _summed(trace, square * mask), _summed(trace, mask))

    fractions = {
        f"{low:g}-{low + 0.25:g}": (visibility > low) & (visibility <= low + 0.25)
        for low in (0, 0.25, 0.5, 0.75)
    }
    history = {"seen_before": hidden_for > 2, "never_seen": (hidden_for > 0) & (hidden_for <= 2)}
    return Errors(
        {name: rmse(mask) for name, mask in _masks(trace).items()},
        {name: rmse((hidden_for >= low) & (hidden_for <= high)) for name, (low, high) in LENGTHS.items()},
        {name: rmse(mask) for name, mask in fractions.items()},
        {name: rmse(mask) for name, mask in history.items()},
    )


def _baselines(trace: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = "package/baseline/"
    return {name.removeprefix(prefix): mean for name, mean in trace.items() if name.startswith(prefix)}


def _target(trace: Mapping[str, np.ndarray]) -> TargetScore:
    masks, errors = _masks(trace), _errors(trace, trace["package/mean"])
    square = np.square(trace["package/mean"] - trace["package/truth"]).sum(1)
    variance = trace["package/covariance"][:, 0, 0]
    std, visibility = np.sqrt(variance), trace["package/visibility"]
    nll = np.log(2 * np.pi * variance) + square / variance / 2

    def mean(values: np.ndarray, mask: np.ndarray) -> Estimate:
        return estimate(ratio, _summed(trace, values * mask), _summed(trace, mask))

    kinds = {"privileged_kalman": "privileged"}
    held = trace["package/baseline/constant_velocity"]
    best = np.square(held - trace["package/truth"]).sum(1) * masks["hidden"]
    correlation, logarithmic = (float(np.corrcoef(values, visibility)[0, 1]) for values in (std, np.log(std)))
    return TargetScore(
        unit="m",
        reference="recorded",
        ticks={name: int(mask.sum()) for name, mask in masks.items()},
        hidden_runs=int((trace["package/hidden_for"] == 1).sum()),
        reappearances=int((trace["package/hidden_for"] == 1).sum()) - 1,
        errors=errors,
        rmse_at_reappearance=errors.by_hidden_ticks["1"],
        rmse_after_reappearance={
            str(n): _scaled(errors.by_group["visible"], 1 + 0.8 * np.exp(-n)) for n in (0, 1, 2, 3, 5, 10)
        },
        ticks_to_reacquire=Estimate(1.0, 1.0, 2.0),
        ticks_to_reacquire_median=Estimate(1.0, 1.0, 1.0),
        nll={name: mean(nll, mask) for name, mask in masks.items()},
        coverage={
            level: {name: mean(square / variance < bound, mask) for name, mask in masks.items()}
            for level, bound in QUANTILE.items()
        },
        std_visibility_corr=Estimate(correlation, correlation - 0.02, correlation + 0.02),
        log_std_visibility_corr=Estimate(logarithmic, logarithmic - 0.02, logarithmic + 0.02),
        tracks_lost=2,
        identity_swaps=1,
        open_loop={str(n): _scaled(errors.by_group["visible"], n**0.5) for n in (1, 2, 4, 8, 16, 32)},
        baselines={
            name: Baseline(_errors(trace, found), kinds.get(name, "classical"), f"{name}: made up")
            for name, found in _baselines(trace).items()
        },
        best_classical="constant_velocity",
        ratio_to_best_classical=estimate(
            root_ratio, _summed(trace, square * masks["hidden"]), _summed(trace, best)
        ),
    )


def _scaled(figure: Estimate, factor: float) -> Estimate:
    return Estimate(figure.value * factor, figure.low * factor, figure.high * factor)


def _episodes(trace: Mapping[str, np.ndarray], data: int) -> Iterator[Episode]:
    square = np.square(trace["package/mean"] - trace["package/truth"]).sum(1)
    variance = trace["package/covariance"][:, 0, 0]
    masks = _masks(trace)
    for episode in range(int(trace["episode"].max()) + 1):
        here = trace["episode"] == episode

        def summed(values: np.ndarray, here: np.ndarray = here) -> dict[str, float]:
            return {name: float((values * mask)[here].sum()) for name, mask in masks.items()}

        sums: dict[str, Any] = {
            "ticks": {name: int(mask[here].sum()) for name, mask in masks.items()},
            "squared_error_sum": summed(square),
            "inside": {level: summed(square / variance < bound) for level, bound in QUANTILE.items()},
            "nll_sum": summed(np.log(2 * np.pi * variance) + square / variance / 2),
        }
        yield Episode(
            f"data{data}-{episode:04d}",
            f"drive_{episode}.mcap",
            int(trace["t_ns"][here][0]),
            int(here.sum()),
            {"package": sums},
        )


def _scorecard(trace: Mapping[str, np.ndarray], seed: int, data: int) -> Scorecard:
    target = _target(trace)
    share, ratio_ = target.coverage["90"]["hidden"].value, target.ratio_to_best_classical
    assert ratio_ is not None
    checks = (
        _check("ratio_to_best_classical package", ratio_.value, "<= 0.5", ratio_.value <= 0.5),
        _check("coverage_90 hidden package", share, "0.88 to 0.92", 0.88 <= share <= 0.92),
    )
    picture = ImagePrediction(
        Estimate(24.1, 23.0, 25.2), Estimate(0.86, 0.84, 0.88), 31, "first re-appearance"
    )
    held = {"last frame": {"psnr_db": Estimate(19.0, 18.2, 19.9), "ssim": Estimate(0.71, 0.69, 0.73)}}
    review = np.flatnonzero(trace["review"])
    events = tuple(
        {
            "episode": int(trace["episode"][tick]),
            "t_ns": int(trace["t_ns"][tick]),
            "value": float(trace["surprise"][tick]),
            "threshold": 16.0,
            "ticks": 1,
        }
        for tick in review
    )
    surprise = np.nanpercentile(trace["surprise"], [50, 99])
    return Scorecard(
        status="pass" if all(check["pass"] for check in checks) else "fail",
        checks=checks,
        bundle="manipulator",
        bundle_sha256=f"{seed:064x}",
        contract="manipulator",
        rate=20.0,
        bags=tuple(f"drive_{episode}.mcap" for episode in range(int(trace["episode"].max()) + 1)),
        episodes=tuple(_episodes(trace, data)),
        truth="topics",
        impose=None,
        seeds={"filter": seed, "bootstrap": 0},
        particles=8,
        targets={"package": target},
        image_prediction={"camera": replace(picture, baselines=held)},
        surprise=Surprise(*surprise, 16.0, {"camera+odom": 16.0, "odom": 29.7}, len(events), events),
        messages={
            "accepted": 5760,
            "late": 12,
            "dropped": 0,
            "by_topic": {
                "camera/image_raw": {"accepted": 1440, "late": 9, "duplicate": 1},
                "odom": {"accepted": 4320, "late": 3, "out_of_order": 4},
            },
        },
        latency_ms={"p50": 0.61, "p99": 1.4},
        wall_s=1.2,
        recorded_s=72.0,
        realtime_factor=60.0,
        versions={"rssm_ros": "0.1.0", "numpy": np.__version__, "onnxruntime": "1.31.1"},
        machine={"cpu": "made up", "cores": 2},
        created="2026-11-21T14:00:00Z",
        notes=("destination: no visibility in these data, hidden is not told from visible",),
    )


def _check(name: str, value: float, bound: str, passed: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "bound": bound, "pass": bool(passed)}
