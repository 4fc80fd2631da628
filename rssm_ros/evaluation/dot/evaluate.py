"""How well the moving dot is tracked where nobody can see it, beside the best that is possible.

The figure is the root mean square error, in pixels, of a filter's mean over ticks with less than 5 % of the
dot visible, from the ninth tick of an episode on, the same ticks for everybody. The best possible is the
exact Bayes filter (`bayes`); classical trackers (`trackers`) say what it takes to be better than nothing.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.bundle import WEIGHTS
from rssm_ros.contract import VISIBLE
from rssm_ros.envs.dot import DotSetting, Episodes, find_setting, simulate
from rssm_ros.evaluation.dot.bayes import ParticleFilter, Track
from rssm_ros.evaluation.dot.trackers import TRACKERS
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.filtering import drive
from rssm_ros.evaluation.statistics import ENOUGH_RUNS, estimate, root_ratio
from rssm_ros.online.filter import Filter
from rssm_ros.online.session import Session

Floats = npt.NDArray[np.float64]
Watch = Callable[[str, int], None]  # what is being done, episodes of it done
FIRST_TICK = 8  # whoever tracks has seen a little by then
# The metric's own words are "visible fraction < 5 %": strictly less, where `contract.HIDDEN` is "at most".
COUNTED_BELOW = 0.05
LIMIT = 1.15  # hidden error as a share of the exact filter's that a shipped bundle may have
EPISODES = 300  # with seeds 0, 1, ...: `rssm collect dot` leaves those below 1000 alone
EXACT_PARTICLES = 4000
BY_LENGTH = ((1, 1), (2, 4), (5, 8), (9, 16), (17, None))  # ticks hidden so far in a run


def hidden_ticks(visibility: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """The ticks that count, [B, T], of visible shares [B, T]."""
    hidden = np.asarray(visibility) < COUNTED_BELOW
    hidden[:, :FIRST_TICK] = False
    return hidden


def hidden_for(hidden: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """How many ticks in a row have been hidden, this one included; 0 elsewhere: [B, T]."""
    length = np.zeros(hidden.shape, np.int64)
    for tick in range(hidden.shape[1]):
        before = length[:, tick - 1] if tick else 0
        length[:, tick] = np.where(hidden[:, tick], before + 1, 0)
    return length


def believe(
    session: Session, episodes: Episodes, particles: int, seed: int = 0, watch: Watch | None = None
) -> list[Track]:
    """What the online filter of a bundle believes, episode by episode, driven as on a robot.

    Raises EvaluationError for a bundle that does not track a dot in pictures of this size.
    """
    contract = session.bundle.contract
    size = episodes.images.shape[2]
    cameras = {spec.name: spec.shape for spec in contract.observations}
    if cameras != {"camera": (size, size, 1)} or "dot" not in {spec.name for spec in contract.targets}:
        raise EvaluationError(
            f"the bundle's contract is {contract.name!r}; expected one like `dot`: one grey camera of "
            f"{size} x {size} and the target `dot`"
        )
    tracks = []
    for row, number in enumerate(episodes.seeds):
        belief_filter = Filter(session, contract, particles, seed * 1_000_003 + number)
        pictures = [{"camera": image} for image in episodes.images[row]]
        beliefs = drive(belief_filter, episodes.actions[row], pictures.__getitem__)
        targets = [belief.targets["dot"] for belief in beliefs]
        means, covariances = [t.point() for t in targets], [t.covariance() for t in targets]
        tracks.append(Track(np.stack(means), np.stack(covariances)))
        if watch is not None:
            watch("bundle", row + 1)
    return tracks


def exact(
    setting: DotSetting,
    episodes: Episodes,
    particles: int | None = None,
    kept: Path | None = None,
    watch: Watch | None = None,
) -> list[Track]:
    """The exact Bayes filter's tracks. kept: an .npz that already holds them, or that is to.

    Raises EvaluationError where `kept` holds those of other episodes.
    """
    number = EXACT_PARTICLES if particles is None else particles
    identity = np.array([repr(setting), str(number), repr(episodes.seeds)])
    if kept is not None and kept.exists():
        return _kept(kept, identity)
    bayes = ParticleFilter(setting, number)
    tracks = []
    for row, (images, covered) in enumerate(zip(episodes.images, episodes.covered)):
        tracks.append(bayes.run(images, covered, episodes.actions[row]))
        if watch is not None:
            watch("exact Bayes filter", row + 1)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        mean, covariance = (np.stack([getattr(t, name) for t in tracks]) for name in ("mean", "covariance"))
        np.savez(kept, identity=identity, mean=mean, covariance=covariance)
    return tracks


def _kept(file: Path, identity: npt.NDArray[np.str_]) -> list[Track]:
    """The tracks in a file that `exact` wrote for the same episodes, or EvaluationError."""
    try:
        with np.load(file) as stored:
            found = {name: stored[name] for name in ("identity", "mean", "covariance")}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise EvaluationError(f"{file} holds no exact tracks ({error}); delete it") from error
    if not np.array_equal(found["identity"], identity):
        raise EvaluationError(f"{file} holds the exact tracks of other episodes; delete it")
    return [Track(mean, covariance) for mean, covariance in zip(found["mean"], found["covariance"])]


def score(episodes: Episodes, means: Mapping[str, Floats]) -> dict[str, Any]:
    """Errors of everybody's means [B, T, 2] on the same ticks, px, with intervals over episodes.

    {"ticks", "runs", "rmse_px": {name: {"hidden", "visible", "by_ticks_hidden"}}}
    """
    truth = episodes.states[..., :2]
    hidden = hidden_ticks(episodes.visibility)
    visible = episodes.visibility >= VISIBLE
    visible[:, :FIRST_TICK] = False
    length = hidden_for(hidden)
    groups = {_length_name(low, high): _between(length, low, high) for low, high in BY_LENGTH}
    report: dict[str, Any] = {
        "ticks": {"hidden": int(hidden.sum()), "visible": int(visible.sum())},
        "runs": int((length == 1).sum()),
        "rmse_px": {},
    }
    for name, mean in means.items():
        square = np.square(mean - truth).sum(-1)  # [B, T]
        report["rmse_px"][name] = {
            "hidden": _rmse(square, hidden),
            "visible": _rmse(square, visible),
            "by_ticks_hidden": {group: _rmse(square, mask) for group, mask in groups.items()},
        }
    return report


def ratio(episodes: Episodes, one: Floats, other: Floats) -> dict[str, Any]:
    """Hidden error of one by that of another, means [B, T, 2], episodes resampled together."""
    truth, hidden = episodes.states[..., :2], hidden_ticks(episodes.visibility)
    sums = [(np.square(mean - truth).sum(-1) * hidden).sum(1) for mean in (one, other)]
    return estimate(root_ratio, *sums).to_dict()


def visibility_correlation(episodes: Episodes, tracks: Sequence[Track]) -> dict[str, float]:
    """Correlation of the claimed deviation, and of its logarithm, with visibility, from the ninth tick on."""
    std = np.stack([track.std for track in tracks])[:, FIRST_TICK:].ravel()
    visible = episodes.visibility[:, FIRST_TICK:].ravel()
    std = np.maximum(std, 1e-9)
    return {
        "std": float(np.corrcoef(std, visible)[0, 1]),
        "log_std": float(np.corrcoef(np.log(std), visible)[0, 1]),
    }


def evaluate(
    bundle: Path | Session,
    setting: DotSetting | str = "hard",
    count: int = EPISODES,
    particles: int = 32,
    kept: Path | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """The report of `rssm evaluate-dot`. A setting without noise has no exact filter to be checked by."""
    chosen = find_setting(setting)
    session = bundle if isinstance(bundle, Session) else Session(bundle)
    episodes = simulate(chosen, range(count))
    best = {}
    if chosen.pixel_noise > 0 and chosen.walk > 0:  # first: a wrong `kept` is told before the work
        best["exact"] = exact(chosen, episodes, kept=kept, watch=watch)
    tracks = {"bundle": believe(session, episodes, particles, watch=watch), **best}
    means = {name: np.stack([track.mean for track in found]) for name, found in tracks.items()}
    means |= {name: tracker(chosen, episodes) for name, tracker in TRACKERS.items()}
    report: dict[str, Any] = {
        "bundle_sha256": session.bundle.sha256,
        "weights_sha256": session.bundle.files[WEIGHTS],  # stays when it is exported with these scores
        "setting": setting if isinstance(setting, str) else repr(setting),
        "episodes": count,
        "particles": particles,
        **score(episodes, means),
        "ratio": {name: ratio(episodes, means["bundle"], means[name]) for name in means if name != "bundle"},
        "visibility_correlation": {
            name: visibility_correlation(episodes, found) for name, found in tracks.items()
        },
    }
    report["checks"] = _checks(report, counted=chosen == find_setting("hard"))
    report["status"] = "pass" if all(check["pass"] for check in report["checks"]) else "fail"
    return report


def _checks(report: Mapping[str, Any], counted: bool) -> list[dict[str, Any]]:
    """What issue and design ask of a shipped bundle; counted: of how many hidden runs, too.

    They are asked of the hard setting alone: the published one hides the dot in 0.8 % of ticks, and would
    need tens of thousands of episodes.
    """
    bounds = [("constant_velocity", 1.0)] + [("exact", LIMIT)] * ("exact" in report["ratio"])
    enough = _check("hidden_runs", report["runs"], f">= {ENOUGH_RUNS}", report["runs"] >= ENOUGH_RUNS)
    checks = [enough] * counted
    for name, bound in bounds:
        value = report["ratio"][name]["value"]
        checks.append(_check(f"ratio_to_{name}", value, f"<= {bound}", value is not None and value <= bound))
    if "exact" in report["visibility_correlation"]:
        found = {name: row["log_std"] for name, row in report["visibility_correlation"].items()}
        bound = found["exact"] + 0.05
        checks.append(
            _check("log_std_visibility_corr", found["bundle"], f"<= {bound:.3f}", found["bundle"] <= bound)
        )
    return checks


def _check(name: str, value: Any, bound: str, passed: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "bound": bound, "pass": bool(passed)}


def _rmse(square: Floats, mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    return estimate(root_ratio, (square * mask).sum(1), mask.sum(1)).to_dict()


def _between(length: npt.NDArray[np.int64], low: int, high: int | None) -> npt.NDArray[np.bool_]:
    return (length >= low) & (length <= (high or np.inf))


def _length_name(low: int, high: int | None) -> str:
    if high is None:
        return f"{low}+"
    return str(low) if low == high else f"{low}-{high}"
