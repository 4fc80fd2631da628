"""The fault table: what each fault costs the filter, what it costs others, and who notices when.

Every episode is played once as it was and once per fault, with the same noise; a fault begins `ONSET_S` into
the episode and lasts. Errors are root mean squares over the ticks from then on, the same ticks for everybody.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.faults.parts import parts_of
from rssm_ros.evaluation.faults.runs import Episode, Played, RememberedTokens, Told, latest_frame_wins, play
from rssm_ros.evaluation.faults.scenarios import FOREVER, JUDGED, NOMINAL, Scenario, scenarios
from rssm_ros.evaluation.faults.streams import during
from rssm_ros.evaluation.faults.ticks import BOUNDS, Masks, Sums, onset_ns, onset_row
from rssm_ros.online.grid import SECOND
from rssm_ros.online.session import Session
from rssm_ros.online.surprise import Review

Array = npt.NDArray[Any]
Watch = Callable[[str], None]
METHODS = ("online", "final", "latest")
AGES = ((0, 0), (1, 1), (2, 2), (3, 4), (5, 6), (7, 10), (11, None))  # ticks; bins of the age of the picture
AGED = ("drop", "delay", "reorder")  # groups of faults that make pictures old
REFUSED = ("non_finite", "shape", "encoding")


@dataclass(frozen=True)
class Run:
    """One fault in one episode."""

    played: Played
    latest: Told
    lost: int  # messages of the stream that the fault took away
    spoiled: int  # messages that must be refused

    def told(self, method: str) -> Told:
        """What a method said."""
        return self.latest if method == "latest" else getattr(self.played, method)


class Table:
    """The runs, and what they add up to."""

    def __init__(self, session: Session, particles: int, seed: int = 0) -> None:
        self.session, self.particles, self.seed = session, particles, seed
        self.scenarios = scenarios(session.bundle.contract)
        self.episodes: list[Episode] = []
        self.runs: dict[str, list[Run]] = {scenario.name: [] for scenario in self.scenarios}

    def add(self, episode: Episode, watch: Watch = lambda name: None) -> None:
        """One episode under every fault."""
        steps, threshold = RememberedTokens(self.session), self.session.bundle.surprise_threshold
        seed = self.seed * 1_000_003 + len(self.episodes)
        for scenario in self.scenarios:
            watch(scenario.name)
            stream = during(onset_ns(episode), FOREVER, scenario.make(seed))(episode.stream)
            given = {(m.name, m.stamp_ns): m.value for m in episode.stream}
            spoiled = [m for m in stream if m.value.shape != given.get((m.name, m.stamp_ns), m.value).shape]
            spoiled += [m for m in stream if m.value.dtype.kind == "f" and np.isnan(m.value).all()]
            run = Run(
                play(steps, episode, stream, self.particles, seed, threshold),
                latest_frame_wins(steps, episode, stream, self.particles, seed, threshold),
                max(0, len(episode.stream) - len(stream)),
                len(spoiled),
            )
            self.runs[scenario.name].append(run)
        self.episodes.append(episode)

    # What it adds up to -----------------------------------------------------------------------------------

    def sums(self, name: str, method: str, target: str, group: str) -> Sums:
        """Squared errors of a method under a fault."""
        squares, ticks = [], []
        for episode, run in zip(self.episodes, self.runs[name], strict=True):
            mask = Masks.of(episode, target).groups()[group]
            square = np.square(run.told(method).points[target] - episode.truth[target]).sum(-1)[mask]
            squares.append(float(np.nansum(square)))
            ticks.append(int(np.isfinite(square).sum()))
        return Sums(np.array(squares), np.array(ticks))

    def row(self, scenario: Scenario) -> dict[str, Any]:
        """One line of the table, as plain data."""
        runs = self.runs[scenario.name]
        targets = [target.name for target in self.session.bundle.contract.targets]
        errors: dict[str, Any] = {}
        for target in targets:
            sums = {m: {g: self.sums(scenario.name, m, target, g) for g in BOUNDS} for m in METHODS}
            errors[target] = {m: {g: found.error() for g, found in by.items()} for m, by in sums.items()}
            errors[target]["online_to_no_fault"] = {
                g: sums["online"][g].ratio(self.sums(NOMINAL, "online", target, g)) for g in BOUNDS
            }
        counters: Counter[str] = Counter()
        for run in runs:
            counters.update(run.played.counters)
        return {
            "name": scenario.name,
            "group": scenario.group,
            "level": None if np.isnan(scenario.level) else scenario.level,
            "error": errors,
            "surprise": self.surprise(runs),
            "noticed": self.noticed(runs),
            "counters": dict(sorted(counters.items())),
            "not_delivered": sum(run.lost for run in runs),
            "spoiled": sum(run.spoiled for run in runs),
            "ticks_without_belief": self._without(runs),
            "ticks_lost": sum(int(run.played.online.lost.sum()) for run in runs),
            "final_ticks_that_differ": self.different(scenario) if scenario.same else None,
        }

    def _without(self, runs: Sequence[Run]) -> int:
        """Ticks after the onset of which nothing was published."""
        pairs = zip(self.episodes, runs, strict=True)
        return sum(int((run.played.online.when[onset_row(e) :] == 0).sum()) for e, run in pairs)

    def different(self, scenario: Scenario) -> int:
        """Ticks whose final belief is not bitwise the one without a fault."""
        count = 0
        for run, other in zip(self.runs[scenario.name], self.runs[NOMINAL], strict=True):
            rows = run.played.bits.keys() | other.played.bits.keys()
            count += sum(run.played.bits.get(row) != other.played.bits.get(row) for row in rows)
        return count

    def surprise(self, runs: Sequence[Run]) -> dict[str, Any]:
        """Medians in nats after the onset, and the share of ticks above the calibrated threshold."""
        report: dict[str, Any] = {}
        for method in METHODS:
            parts = [(run.told(method), onset_row(e)) for e, run in zip(self.episodes, runs, strict=True)]
            nats = np.concatenate([told.surprise[row:] for told, row in parts])
            limits = np.concatenate([told.threshold[row:] for told, row in parts])
            judged = np.isfinite(nats) & np.isfinite(limits)
            report[method] = {
                "median": float(np.nanmedian(nats)) if np.isfinite(nats).any() else None,
                "above": float((nats > limits)[judged].mean()) if judged.any() else None,
                "ticks_without": int(np.isnan(nats).sum()),
            }
        return report

    def noticed(self, runs: Sequence[Run]) -> dict[str, Any]:
        """By what, in how many episodes, and the median delay in s after the onset until then.

        `absent`: a published belief said that something was not seen; `review`: the online surprise was above
        its threshold for 10 ticks in a row; anything else is a counter.
        """
        delays: dict[str, list[float]] = {}
        for episode, run in zip(self.episodes, runs, strict=True):
            found = dict(run.played.counted)
            if run.played.missed is not None:
                found["absent"] = run.played.missed
            review = first_review(run.played.online, onset_row(episode))
            if review is not None:
                found["review"] = review
            for cause, ns in found.items():
                delays.setdefault(cause, []).append((ns - onset_ns(episode)) / SECOND)
        return {
            cause: {"episodes": len(values), "after_s": round(float(np.median(values)), 3)}
            for cause, values in sorted(delays.items())
        }

    def by_age(self) -> list[dict[str, Any]]:
        """Errors against the age of the newest picture in the belief when it was published, first target."""
        target = self.session.bundle.contract.targets[0].name
        names = [s.name for s in self.scenarios if s.group in AGED or s.name == NOMINAL]
        dt_ms = 1000.0 * self.session.bundle.contract.dt
        rows: list[dict[str, Any]] = []
        for low, high in AGES:
            row: dict[str, Any] = {"ms": [low * dt_ms, None if high is None else high * dt_ms]}
            for method in ("online", "latest"):
                sums = {g: self._aged(names, method, target, g, low, high) for g in BOUNDS}
                row[method] = {g: s.error() | {"ticks": int(s.ticks.sum())} for g, s in sums.items()}
            rows.append(row)
        return rows

    def _aged(
        self, names: Sequence[str], method: str, target: str, group: str, low: int, high: int | None
    ) -> Sums:
        squares, ticks = np.zeros(len(self.episodes)), np.zeros(len(self.episodes), np.int64)
        for index, episode in enumerate(self.episodes):
            mask = Masks.of(episode, target).groups()[group]
            for name in names:
                told = self.runs[name][index].told(method)
                chosen = mask & (told.age >= low) & (told.age <= (np.inf if high is None else high))
                square = np.square(told.points[target] - episode.truth[target]).sum(-1)[chosen]
                squares[index] += float(np.nansum(square))
                ticks[index] += int(np.isfinite(square).sum())
        return Sums(squares, ticks)

    def report(self) -> dict[str, Any]:
        """Everything, as plain data for JSON."""
        rows = [self.row(scenario) for scenario in self.scenarios]
        checks = self.checks(rows)
        return {
            "rows": rows,
            "by_age": self.by_age(),
            "delayed_parts": self.parts(),
            "ticks": self.ticks(),
            "checks": checks,
            "status": "pass" if all(check["pass"] for check in checks) else "fail",
        }

    def ticks(self) -> dict[str, Any]:
        """How many ticks the errors of each target are made of."""
        found: dict[str, Any] = {}
        for target in self.session.bundle.contract.targets:
            masks = [Masks.of(episode, target.name) for episode in self.episodes]
            found[target.name] = {g: sum(int(m.groups()[g].sum()) for m in masks) for g in BOUNDS}
        return found

    def parts(self) -> dict[str, Any]:
        """Target -> what is behind its error under the judged delay, see `parts_of`."""
        told = {name: [run.played.online for run in self.runs[name]] for name in (NOMINAL, JUDGED)}
        return {
            target.name: parts_of(self.episodes, told[NOMINAL], told[JUDGED], target.name)
            for target in self.session.bundle.contract.targets
        }

    def checks(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What issue and design ask for; a figure that could not be had does not pass."""
        differ = sum(row["final_ticks_that_differ"] or 0 for row in rows)
        checks = [_check("final_ticks_that_differ", differ, "== 0", differ == 0)]
        judged = next(row for row in rows if row["name"] == JUDGED)
        for target, errors in judged["error"].items():
            for group, bound in BOUNDS.items():
                found = errors["online_to_no_fault"][group]
                good = found["value"] is not None and found["value"] <= bound
                check = _check(f"{target} {group}, {JUDGED}", found["value"], f"<= {bound}", good)
                checks.append(check | {"ci95": found["ci95"]})
        for row in rows:
            if row["group"] == "broken":
                counted = sum(row["counters"].get(cause, 0) for cause in REFUSED)
                wanted = row["spoiled"]
                checks.append(
                    _check(f"refused, {row['name']}", counted, f"== {wanted}", counted == wanted > 0)
                )
        without = sum(row["ticks_without_belief"] for row in rows)
        checks.append(_check("ticks_without_belief", without, "== 0", without == 0))
        return checks


def first_review(told: Told, row: int) -> int | None:
    """When a review was raised first, from a row on, in ns."""
    watch = Review()
    for at in range(row, len(told.surprise)):
        if told.when[at] and watch.tell(float(told.surprise[at]), float(told.threshold[at])):
            return int(told.when[at])
    return None


def _check(name: str, value: Any, bound: str, passed: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "bound": bound, "pass": bool(passed)}
