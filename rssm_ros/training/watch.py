"""What goes wrong in a training run without an error, told in words: pure functions of the figures.

A window is the average of the loss terms over `log_every` updates, as `Learner` names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rssm_ros.training.options import Scales

Window = Mapping[str, float]
PATIENCE = 5  # windows that must agree before anything is said
COLLAPSED_NATS = 0.1  # KL below which the posterior says nothing that the prior does not
DRIFT = 1.5  # how far above its best the KL must have risen
DROWNED = 0.95  # share of the weighted losses from which the image's is called too loud
DEFAULT = Scales()
IMPROVED = 0.02  # what the reward's loss must have come down by to be learning at all
# The weight of every term but imagination's, which are of another size: by the first word of its name.
WEIGHTS = {
    name: name
    for name in ("image", "vector", "reward", "dyn", "rep", "target", "perception", "imitation", "ensemble")
}
WEIGHTS |= {"continue": "continue_", "barlow": "representation", "infonce": "representation"}
OF_TARGETS = {"prior": "target_prior", "ahead": "overshoot"}  # and by the last word of theirs


def posterior_collapse(windows: Sequence[Window], scales: Scales = DEFAULT) -> str | None:
    """The posterior has become the prior: observations no longer change the belief.

    Untrained it is just that, so the first windows say nothing.
    """
    last = windows[-PATIENCE:]
    if len(windows) < 2 * PATIENCE or any(w["kl"] >= COLLAPSED_NATS for w in last):
        return None
    return (
        f"posterior collapse: the KL is {last[-1]['kl']:.3f} nats, so observations hardly change the belief. "
        f"Weigh it less ({_less('dyn', scales.dyn)} {_less('rep', scales.rep)}) or raise --free-nats, and "
        "see whether the decoder ignores stoch"
    )


def prior_drift(windows: Sequence[Window], free_nats: float = 1.0, scales: Scales = DEFAULT) -> str | None:
    """The prior falls behind the posterior: corrections grow, and nothing else is gained by it.

    A KL that rises while reconstruction improves is a posterior that learns to look, as all do early on.
    """
    if len(windows) < 3 * PATIENCE:
        return None
    spans = [windows[at : at + PATIENCE] for at in range(len(windows) - PATIENCE + 1)]
    means = [_mean(span, "kl") for span in spans]
    best = min(range(len(means) - PATIENCE), key=means.__getitem__)
    if means[-1] <= DRIFT * max(means[best], free_nats) or means[-1] <= means[-1 - PATIENCE]:
        return None
    if _observed(spans[-1]) <= (1.0 - IMPROVED) * _observed(spans[best]):
        return None
    return (
        f"prior drift: the KL rose from {means[best]:.2f} to {means[-1]:.2f} nats and reconstruction gains "
        "nothing by it, so the prior predicts worse than it did. "
        f"Lower --rate, or weigh rep less ({_less('rep', scales.rep)}); if imagination has just begun, "
        f"policy ({_less('policy', scales.policy)})"
    )


def _observed(windows: Sequence[Window]) -> float:
    """Mean loss on what was observed."""
    kinds = ("image", "vector")
    return sum(v for w in windows for n, v in w.items() if n.split("_")[0] in kinds) / len(windows)


def image_drowns(windows: Sequence[Window], scales: Scales) -> str | None:
    """The image's reconstruction is nearly all of the loss and the reward's does not come down."""
    if len(windows) < 2 * PATIENCE or not scales.reward:  # a reward of weight 0 is not learned at all
        return None
    if any(name.startswith(("barlow", "infonce")) for name in windows[-1]):  # the decoder only looks on
        return None
    shares = [image_share(window, scales) for window in windows[-PATIENCE:]]
    early, late = _mean(windows[:PATIENCE], "reward"), _mean(windows[-PATIENCE:], "reward")
    if min(shares) < DROWNED or late <= (1.0 - IMPROVED) * early:
        return None
    return (
        f"image loss drowns the rest: it is {100 * shares[-1]:.0f} % of the weighted losses, and the "
        f"reward's loss stays at {late:.3g}. Weigh it less than now, {scales.image:g}: "
        f"{_less('image', scales.image, 0.1)}"
    )


def _less(name: str, scale: float, part: float = 0.5) -> str:
    """The option of `rssm train` that weighs a term less, as it is written."""
    return f"--scale {name}={scale * part:g}"


def image_share(window: Window, scales: Scales) -> float:
    """Share of the image's weighted losses in those of all terms, 0..1."""
    parts = dict.fromkeys(WEIGHTS, 0.0)
    for name, value in window.items():
        kind = name.split("_")[0]
        if kind in parts:
            parts[kind] += _scale(name, kind, scales) * abs(value)
    whole = sum(parts.values())
    return parts["image"] / whole if whole > 0.0 else 0.0


def _scale(name: str, kind: str, scales: Scales) -> float:
    weight = WEIGHTS[kind]
    if kind == "target":
        weight = OF_TARGETS.get(name.rsplit("_", 1)[-1], weight)
    scale: float = getattr(scales, weight)
    return scale


def _mean(windows: Sequence[Window], name: str) -> float:
    return sum(window[name] for window in windows) / len(windows)


class Watch:
    """Keeps the windows of a run; each alarm is raised when it begins, and again only after it was over."""

    def __init__(self, scales: Scales, free_nats: float, keep: int = 200) -> None:
        self.scales, self.free_nats, self.keep = scales, free_nats, keep
        self.windows: list[Window] = []
        self.standing: set[str] = set()

    def look(self, window: Window) -> list[str]:
        """Take in a window; the alarms that begin with it, in words."""
        self.windows = [*self.windows, dict(window)][-self.keep :]
        found = {
            "collapse": posterior_collapse(self.windows, self.scales),
            "drift": prior_drift(self.windows, self.free_nats, self.scales),
            "image": image_drowns(self.windows, self.scales),
        }
        begun = [words for name, words in found.items() if words and name not in self.standing]
        self.standing = {name for name, words in found.items() if words}
        return begun
