"""The verdict in words: how well hidden things are tracked, and how honest the confidence is.

A word is only said where its interval says so too: "well" needs the whole interval of the ratio below the
goal, "too high" the whole interval of the coverage below the band. Otherwise the words say what is open.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rssm_ros.evaluation.page.plots import spoken
from rssm_ros.evaluation.scoring.scorecard import Scorecard, TargetScore
from rssm_ros.evaluation.statistics import Estimate
from rssm_ros.evaluation.units import PERCENT, RATIO, Scale, checked

GOOD_RATIO = 0.5  # hidden error by that of the best classical baseline: the goal (DESIGN 11)
BAND = (0.88, 0.92)  # of 90 % regions (DESIGN 11)
SURE = 0.05  # how far from 90 % an interval may reach and its value still be called honest
PSNR = Scale(1.0, "dB", 1)
FOLLOWS = -0.3  # correlation above which nothing is said to follow what can be seen
FEW = 20  # hidden ticks below which nothing is said
UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Verdict:
    """One target in words."""

    target: str
    headline: str
    tracking: str
    confidence: str
    good: bool | None  # None: nothing can be said


def verdict(name: str, score: TargetScore) -> Verdict:
    """The words for one target."""
    if score.ticks.get("hidden", 0) < FEW:
        many = score.ticks.get("hidden", 0)
        text = f"It was fully hidden in {many} ticks: too few to say how well it is tracked out of sight."
        return Verdict(
            name, f"{_capital(name)} was hardly ever hidden here", text, _confidence(score)[1], None
        )
    tracked, tracking, good = _tracking(name, score)
    honest, confidence, fair = _confidence(score)
    joined = "but" if good and not fair else "and"
    headline = f"{_capital(name)} is tracked {tracked} while hidden, {joined} its confidence is {honest}"
    known = None if good is None or fair is None else good and fair
    return Verdict(name, headline, tracking, confidence, known)


def _capital(name: str) -> str:
    return spoken(name)[:1].upper() + spoken(name)[1:]


def _tracking(name: str, score: TargetScore) -> tuple[str, str, bool | None]:
    scale, hidden = Scale.of(score.unit), score.errors.by_group.get("hidden", UNKNOWN)
    text = f"Fully hidden, it is off by {scale.told(hidden)} RMS over {score.ticks['hidden']:,} ticks"
    visible = score.errors.by_group.get("visible")
    text += f"; visible, by {scale.told(visible)}. " if visible else ". "
    ratio = score.ratio_to_best_classical
    if ratio is None or not math.isfinite(ratio.value) or score.best_classical is None:
        return (
            f"to {scale.with_unit(hidden.value)}",
            text + "No classical baseline could be run beside it.",
            None,
        )
    low, high = _ends(ratio)
    beside = (
        f"{RATIO.told(ratio)} times the error of the best classical baseline, {spoken(score.best_classical)}"
    )
    if high <= GOOD_RATIO:
        return "well", f"{text}That is {beside}.", True
    if high < 1:
        goal = f"Better than it, though not surely below the goal of {GOOD_RATIO:g}."
        return (
            "better than by any classical baseline",
            f"{text}That is {beside}. {goal}",
            ratio.value <= GOOD_RATIO,
        )
    if low > 1:
        return f"worse than by {spoken(score.best_classical)}", f"{text}That is {beside}.", False
    told = "The interval holds 1: these data cannot tell which is better."
    return "about as well as by the best classical baseline", f"{text}That is {beside}. {told}", False


def _confidence(score: TargetScore) -> tuple[str, str, bool | None]:
    groups = score.coverage.get("90", {})
    known = {group: groups[group] for group in ("visible", "hidden") if group in groups}
    known = {group: found for group, found in known.items() if math.isfinite(found.value)}
    if score.ticks.get("hidden", 0) < FEW:
        known.pop("hidden", None)
    if not known:
        return "unknown", "No regions could be checked against the truth.", None
    told = " and ".join(
        f"{PERCENT.telling(found.value, *BAND).told(found)} of the time while {group}"
        for group, found in known.items()
    )
    honest, aside, good = _honesty(known)
    text = f"Its 90 % regions hold the truth {told}. {aside}{_correlation(score)}"
    return honest, text.rstrip(), good


def _honesty(known: Mapping[str, Estimate]) -> tuple[str, str, bool]:
    """What coverages of 90 % regions amount to, a sentence beside it, and whether that is good."""
    ends = {group: _ends(found) for group, found in known.items()}
    if all(BAND[0] <= found.value <= BAND[1] for found in known.values()):
        if all(max(abs(end - 0.9) for end in pair) <= SURE for pair in ends.values()):
            return "honest", "", True
        return "honest as far as can be told", "The intervals are wide: more episodes would tell. ", True
    off = {group: found for group, found in known.items() if not BAND[0] <= found.value <= BAND[1]}
    sure = [group for group in off if ends[group][1] < BAND[0] or ends[group][0] > BAND[1]]
    group = max(sure or off, key=lambda name: abs(off[name].value - 0.9))
    where = f" while {group}" if len(off) < len(known) else ""
    if sure:
        return f"too {'high' if off[group].value < BAND[0] else 'low'}{where}", "", False
    return f"not shown to be honest{where}", "The interval is too wide to tell. ", False


def _correlation(score: TargetScore) -> str:
    found = score.log_std_visibility_corr
    if not math.isfinite(found.value):
        return ""
    groups = score.log_std_visibility_corr_by_group
    claimed, honest = (groups.get(name, UNKNOWN).value for name in ("claimed", "honest"))
    start = "The less it sees, the wider its claim"
    if found.value >= FOLLOWS:
        also = ", nor do its errors" if honest >= FOLLOWS else ""
        start = f"Its claims hardly follow what it sees{also}"
    text = f"{start}: log deviation and visible fraction correlate by {found.value:.2f}"
    if math.isfinite(claimed) and math.isfinite(honest):
        text += f"; averaged by group of ticks by {claimed:.2f}, where its own errors ask for {honest:.2f}"
    return f"{text}."


def _ends(found: Estimate) -> tuple[float, float]:
    """The interval; the value itself where there is none."""
    low = found.low if math.isfinite(found.low) else found.value
    high = found.high if math.isfinite(found.high) else found.value
    return low, high


def headline(card: Scorecard) -> str:
    """What the whole run amounts to, in one sentence."""
    verdicts = [verdict(name, score) for name, score in card.targets.items()]
    if not verdicts:
        return f"{card.contract} has no target: its pictures and its surprise are what is scored."
    chosen = next((item for item in verdicts if item.good is not None), verdicts[0])
    failed = sum(not item["pass"] for item in card.checks)
    if not failed:
        return f"{chosen.headline}."
    joined = ", but" if chosen.good else ";"
    return f"{chosen.headline}{joined} {standing(card)}."


def standing(card: Scorecard) -> str:
    """How many of the checks hold, in three words; empty where none were asked for."""
    failed, asked = sum(not item["pass"] for item in card.checks), len(card.checks)
    if not asked:
        return ""
    if failed:
        return f"{failed} of {asked} checks {'fails' if failed == 1 else 'fail'}"
    return f"all {asked} checks pass" if asked > 1 else "the one check passes"


def shortfall(card: Scorecard) -> str:
    """What was asked for and not reached, with figures; empty where everything was."""
    told = []
    for item in card.checks:
        if not item["pass"]:
            value = (
                "nothing to tell it by" if item["value"] is None else checked(item["value"], item["bound"])
            )
            told.append(f"{item['name'].replace('_', ' ')} {value} (asked for {item['bound']})")
    return f"Not reached: {'; '.join(told)}." if told else ""


def pictures(card: Scorecard) -> str:
    """How well pictures are foreseen, in words; empty where none are."""
    told = []
    for camera, found in card.image_prediction.items():
        others = [f"{spoken(name)} {PSNR.told(item['psnr_db'])}" for name, item in found.baselines.items()]
        beside = f", beside {', '.join(others)}" if others else ""
        told.append(f"{_capital(camera)}, {found.when}: foreseen with {PSNR.told(found.psnr_db)}{beside}.")
    events = card.surprise.review_events
    return " ".join([*told, f"The filter asked for {events} review{'' if events == 1 else 's'}."])
