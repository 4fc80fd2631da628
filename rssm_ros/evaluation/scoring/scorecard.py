"""The scorecard: what `rssm evaluate` finds out, as it is written to `scorecard.json`.

Keys as in DESIGN 9; every error is an `Estimate` ({"value", "ci95"}, null where nothing can be said), and is
in the target's own unit, which is part of its key (`rmse_m`, `rmse_px`). Beside it lies `trace.npz`, the same
run tick by tick: see `TRACE`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.statistics import Estimate
from rssm_ros.files import write_whole

SCHEMA = 1
FILE, TRACE_FILE = "scorecard.json", "trace.npz"
Grouped = Mapping[str, Estimate]  # by what could be seen, by length, by horizon: {group: figure}

# Arrays of trace.npz, all episodes one after the other. T ticks, d numbers per target; NaN: unknown.
TRACE = {
    "episode": "[T] index into the scorecard's episodes",
    "t_ns": "[T] int64, the tick's stamp",
    "surprise": "[T] nats; NaN where nothing was seen",
    "threshold": "[T] nats, of the tick's presence pattern",
    "review": "[T] bool, a review event begins here",
    "imposed": "[T] bool, the picture of this tick was covered on purpose",
    "<target>/truth": "[T, d]",
    "<target>/mean": "[T, d] of the mixture",
    "<target>/covariance": "[T, d, d] of the mixture, as decoded",
    "<target>/visibility": "[T] 0..1, of what the filter was given",
    "<target>/hidden_for": "[T] int, ticks hidden in a row so far, 0 where not hidden",
    "<target>/identity": "[T] int, another number is another object; -1: none",
    "<target>/baseline/<name>": "[T, d]",
}


@dataclass(frozen=True)
class Errors:
    """How far off somebody was: root mean squares over ticks, intervals over episodes."""

    by_group: Grouped  # visible, partly, hidden
    by_hidden_ticks: Grouped  # 1, 2-4, 5-8, 9-16, 17+: ticks hidden in a row so far
    by_visible_fraction: Grouped
    by_history: Grouped = field(
        default_factory=dict
    )  # hidden ticks: seen_before, never_seen (as this object)

    def to_dict(self, unit: str) -> dict[str, Any]:
        """Plain data; the unit becomes part of the key."""
        return {
            f"rmse_{unit}": _plain(self.by_group),
            "rmse_by_hidden_ticks": _plain(self.by_hidden_ticks),
            "rmse_by_visible_fraction": _plain(self.by_visible_fraction),
            "rmse_hidden_by_history": _plain(self.by_history),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any], unit: str) -> "Errors":
        """The inverse of `to_dict`."""
        names = (f"rmse_{unit}", "rmse_by_hidden_ticks", "rmse_by_visible_fraction", "rmse_hidden_by_history")
        return Errors(*(_grouped(data.get(name)) for name in names))


@dataclass(frozen=True)
class Baseline:
    """Somebody else on the same ticks. nll and coverage: empty of one that claims no deviation."""

    errors: Errors
    kind: str  # "classical", "learned", "privileged" or "exact"
    about: str  # what it is told, and where its parameters come from, in a sentence
    nll: Grouped = field(default_factory=dict)  # nats: visible, partly, hidden
    coverage: Mapping[str, Grouped] = field(default_factory=dict)  # of the regions that it claims itself

    def to_dict(self, unit: str) -> dict[str, Any]:
        """Plain data."""
        privileged = self.kind in ("privileged", "exact")
        plain = {"kind": self.kind, "privileged": privileged, "about": self.about}
        if self.nll:
            coverage = {level: _plain(groups) for level, groups in self.coverage.items()}
            plain |= {"nll": _plain(self.nll), "coverage": coverage}
        return {**self.errors.to_dict(unit), **plain}

    @staticmethod
    def from_dict(data: Mapping[str, Any], unit: str) -> "Baseline":
        """The inverse of `to_dict`."""
        coverage = {level: _grouped(groups) for level, groups in data.get("coverage", {}).items()}
        errors = Errors.from_dict(data, unit)
        return Baseline(errors, data["kind"], data["about"], _grouped(data.get("nll")), coverage)


@dataclass(frozen=True)
class FirstAppearances:
    """Hidden runs at whose end an object appears that was never seen before: nothing could be remembered."""

    count: int
    rmse: Estimate  # at the first tick at which it is not hidden any more
    rmse_after: Grouped  # by ticks since it is visible
    ticks_to_acquire: Estimate  # since it is visible, until that curve is within 1.2 x visible
    ticks_to_acquire_median: Estimate  # the same, run by run
    never_acquired: int  # runs after which it was not found for a second in view

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        figures = {name: _figure(getattr(self, name)) for name in _FIRST}
        whole = {"count": self.count, "never_acquired": self.never_acquired}
        return {**whole, **figures, "rmse_after": _plain(self.rmse_after)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "FirstAppearances":
        """The inverse of `to_dict`."""
        figures = {name: Estimate.from_dict(data[name]) for name in _FIRST}
        return FirstAppearances(
            count=data["count"],
            never_acquired=data["never_acquired"],
            rmse_after=_grouped(data["rmse_after"]),
            **figures,
        )


_FIRST = ("rmse", "ticks_to_acquire", "ticks_to_acquire_median")


@dataclass(frozen=True)
class TargetScore:
    """How well one target is tracked, and how honest its uncertainty is."""

    unit: str
    reference: str  # what counts as true: "recorded", or "unoccluded run"
    ticks: Mapping[str, int]  # labelled ones: visible, partly, hidden
    hidden_runs: int
    # Re-appearances: of the very object that had been seen before it was hidden. Where it had never been seen
    # it appears for the first time, and that is `first_appearances`.
    reappearances: int
    errors: Errors
    rmse_at_reappearance: Estimate  # the first tick at which it is not hidden any more
    rmse_after_reappearance: Grouped  # by ticks since it is visible again
    ticks_to_reacquire: Estimate  # since it is visible again, until that curve is within 1.2 x visible
    ticks_to_reacquire_median: Estimate  # the same, run by run
    nll: Grouped  # nats, of the decoded mixture: visible, partly, hidden
    coverage: Mapping[str, Grouped]  # "50", "90", "95" -> visible, partly, hidden
    std_visibility_corr: Estimate
    log_std_visibility_corr: Estimate
    tracks_lost: int  # re-appearances after which it was not found again for a second in view
    identity_swaps: int  # another object came, the belief stayed with the one before
    open_loop: Grouped  # RMSE by ticks predicted without looking
    baselines: Mapping[str, Baseline]
    best_classical: str | None  # the one with the least hidden error
    ratio_to_best_classical: Estimate | None  # hidden errors, same ticks
    ratio_to_privileged: Estimate | None = None
    ratio_to_bayes: Estimate | None = None
    exact_log_std_visibility_corr: Estimate | None = None  # the exact Bayes filter's, same ticks
    first_appearances: FirstAppearances | None = None  # None: written before they were told apart
    # The same correlation of a deviation pooled by group of ticks (`measures.doubts`): "claimed" the belief's
    # own, "honest" the group's root mean square error, which is what the scene asks for. Empty: not measured.
    log_std_visibility_corr_by_group: Grouped = field(default_factory=dict)
    log_std_log_error_corr: Estimate | None = None  # tick by tick: is it less sure where it errs more?

    def to_dict(self) -> dict[str, Any]:
        """Plain data, keys as in DESIGN 9."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        plain |= {name: dict(getattr(self, name)) for name in ("ticks",)}
        plain |= {name: _figure(getattr(self, name)) for name in _FIGURES}
        plain |= {name: _plain(getattr(self, name)) for name in _GROUPED}
        plain["coverage"] = {level: _plain(groups) for level, groups in self.coverage.items()}
        plain[f"open_loop_rmse_{self.unit}"] = _plain(self.open_loop)
        plain["baselines"] = {name: item.to_dict(self.unit) for name, item in self.baselines.items()}
        first = self.first_appearances
        plain["first_appearances"] = None if first is None else first.to_dict()
        return plain | self.errors.to_dict(self.unit)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "TargetScore":
        """The inverse of `to_dict`."""
        unit = data["unit"]
        plain: dict[str, Any] = {name: data[name] for name in (*_PLAIN, "ticks")}
        plain |= {name: _estimate(data.get(name)) for name in _FIGURES}
        plain |= {name: _grouped(data.get(name)) for name in _GROUPED}
        plain["coverage"] = {level: _grouped(groups) for level, groups in data["coverage"].items()}
        plain["open_loop"] = _grouped(data.get(f"open_loop_rmse_{unit}"))
        items = data["baselines"].items()
        plain["baselines"] = {name: Baseline.from_dict(item, unit) for name, item in items}
        first = data.get("first_appearances")
        plain["first_appearances"] = None if first is None else FirstAppearances.from_dict(first)
        return TargetScore(errors=Errors.from_dict(data, unit), **plain)


WEAKEST, WEAKER = -0.7, 0.05  # correlation asked for; how far the exact filter's may be missed


def weakest_correlation(score: TargetScore) -> float | None:
    """How weakly log deviation and visible fraction may correlate. Where the exact Bayes filter tells what is
    possible, by its own; None where its deviation was not recorded.
    """
    if score.ratio_to_bayes is None:
        return WEAKEST
    exact = score.exact_log_std_visibility_corr
    return None if exact is None else round(exact.value + WEAKER, 3)


_PLAIN = (
    "unit", "reference", "hidden_runs", "reappearances", "tracks_lost", "identity_swaps", "best_classical",
)  # fmt: skip
_FIGURES = (
    "rmse_at_reappearance", "ticks_to_reacquire", "ticks_to_reacquire_median", "std_visibility_corr",
    "log_std_visibility_corr", "ratio_to_best_classical", "ratio_to_privileged", "ratio_to_bayes",
    "exact_log_std_visibility_corr", "log_std_log_error_corr",
)  # fmt: skip
_GROUPED = ("rmse_after_reappearance", "nll", "log_std_visibility_corr_by_group")


@dataclass(frozen=True)
class Episode:
    """One stretch of a recording between two restarts, with the sums from which runs are paired."""

    id: str  # of what was seen: equal data, equal imposed occlusion
    name: str
    t0_ns: int
    ticks: int
    # NAME -> ticks, squared_error_sum, inside, nll_sum, baselines; "blocks": the first four by stretch
    targets: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Surprise:
    """How often the model and the robot did not agree. Percentiles over ticks at which anything was seen."""

    p50: float | None
    p99: float | None
    threshold: float | None  # nats, of the commonest presence pattern
    thresholds: Mapping[str, float]  # presence pattern -> nats
    review_events: int  # runs of surprised ticks
    events: tuple[Mapping[str, Any], ...] = ()  # {episode, t_ns, value, threshold, ticks}


@dataclass(frozen=True)
class ImagePrediction:
    """A camera's picture as the prior expects it, beside the one that came. dB and 0..1, mean over frames."""

    psnr_db: Estimate
    ssim: Estimate
    frames: int
    when: str  # "first re-appearance" or "covered"
    baselines: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)  # NAME -> {psnr_db, ssim}

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = {"psnr_db": self.psnr_db.to_dict(), "ssim": self.ssim.to_dict(), "frames": self.frames}
        return {**plain, "when": self.when, "baselines": {k: _plain(v) for k, v in self.baselines.items()}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "ImagePrediction":
        """The inverse of `to_dict`."""
        baselines = {name: _grouped(item) for name, item in data["baselines"].items()}
        figures = (Estimate.from_dict(data["psnr_db"]), Estimate.from_dict(data["ssim"]))
        return ImagePrediction(*figures, data["frames"], data["when"], baselines)


@dataclass(frozen=True)
class Scorecard:
    """One evaluation of one bundle."""

    status: str  # "pass" or "fail": all of `checks`
    checks: tuple[Mapping[str, Any], ...]  # {name, value, bound, pass}
    bundle: str
    bundle_sha256: str
    contract: str
    rate: float
    bags: tuple[str, ...]  # names of what was given, without folders
    episodes: tuple[Episode, ...]
    truth: str  # "topics" or "imposed": where the reference comes from
    impose: str | None
    seeds: Mapping[str, int]
    particles: int
    targets: Mapping[str, TargetScore]
    image_prediction: Mapping[str, ImagePrediction]  # by camera
    surprise: Surprise
    messages: Mapping[str, Any]  # totals by cause; by_topic: {topic: {cause: n}}
    latency_ms: Mapping[str, float | None]  # p50, p99 of a replayed tick: encode and step
    wall_s: float
    recorded_s: float
    realtime_factor: float
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    created: str  # UTC
    notes: tuple[str, ...] = ()  # what could not be measured, and why

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in scorecard.json."""
        whole = {name: getattr(self, name) for name in _WHOLE}
        whole["targets"] = {name: item.to_dict() for name, item in self.targets.items()}
        whole["image_prediction"] = {name: item.to_dict() for name, item in self.image_prediction.items()}
        whole |= {"episodes": [vars(item) for item in self.episodes], "surprise": vars(self.surprise)}
        return {"schema": SCHEMA, **json.loads(json.dumps(whole))}

    @staticmethod
    def from_dict(data: Any, source: str = "scorecard") -> "Scorecard":
        """The inverse of `to_dict`. Raises EvaluationError naming `source` and what is wrong with it."""
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, Mapping) else None
            raise EvaluationError(
                f"{source}: schema is {found!r}, this version reads {SCHEMA}; run `rssm evaluate` again"
            )
        try:
            whole = {name: data[name] for name in _WHOLE}
            whole |= {name: tuple(data[name]) for name in ("checks", "bags", "notes")}
            targets = {name: TargetScore.from_dict(item) for name, item in data["targets"].items()}
            images = {k: ImagePrediction.from_dict(v) for k, v in data["image_prediction"].items()}
            events = {**data["surprise"], "events": tuple(data["surprise"]["events"])}
            episodes = tuple(Episode(**item) for item in data["episodes"])
            surprise = Surprise(**events)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvaluationError(
                f"{source}: misses or misspells {error}; run `rssm evaluate` again"
            ) from error
        whole |= {"targets": targets, "image_prediction": images, "surprise": surprise}
        return Scorecard(episodes=episodes, **whole)

    def write(self, folder: Path) -> Path:
        """scorecard.json in `folder`, whole or not at all."""
        return write_whole(folder / FILE, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")


_WHOLE = (
    "status", "checks", "bundle", "bundle_sha256", "contract", "rate", "bags", "truth", "impose", "seeds",
    "particles", "messages", "latency_ms", "wall_s", "recorded_s", "realtime_factor", "versions", "machine",
    "created", "notes",
)  # fmt: skip


def read_scorecard(path: Path) -> Scorecard:
    """One scorecard.json, or the one in a folder. Raises EvaluationError naming the file."""
    file = path / FILE if path.is_dir() else path
    try:
        data = json.loads(file.read_text())
    except OSError as error:
        raise EvaluationError(
            f"{file}: cannot be read ({error.strerror}); give a scorecard.json or its folder"
        ) from error
    except ValueError as error:
        raise EvaluationError(f"{file}: is not valid JSON ({error}); run `rssm evaluate` again") from error
    return Scorecard.from_dict(data, str(file))


def _figure(value: Estimate | None) -> dict[str, Any] | None:
    return None if value is None else value.to_dict()


def _estimate(data: Mapping[str, Any] | None) -> Estimate | None:
    return None if data is None else Estimate.from_dict(data)


def _plain(groups: Grouped) -> dict[str, Any]:
    return {name: item.to_dict() for name, item in groups.items()}


def _grouped(data: Mapping[str, Any] | None) -> dict[str, Estimate]:
    return {name: Estimate.from_dict(item) for name, item in (data or {}).items()}
