"""Recorded episodes through the online filter: what it would have believed, tick by tick.

The same code as on the robot, in lockstep: t_k = 1 s + k dt, every observation at its tick's own stamp, what
was applied over [k - 1, k) stamped t_{k-1}.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.bundle import pattern
from rssm_ros.contract import Contract
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.online.belief import Belief
from rssm_ros.online.filter import Filter
from rssm_ros.online.grid import SECOND, stamp_of, tick_of
from rssm_ros.online.session import Session

Array = npt.NDArray[Any]
SPELL = (4, 9)  # ticks for which `thinned` leaves the same modalities out


@dataclass(frozen=True)
class Track:
    """What the filter believed about one target, T ticks of one or more episodes in a row."""

    mean: Array  # [T, N, d]
    std: Array  # [T, N, d]
    truth: Array  # [T, d]; NaN: no label
    visibility: Array  # [T]; NaN: not known

    @staticmethod
    def joined(parts: Sequence["Track"]) -> "Track":
        """One after the other."""
        columns = zip(*((part.mean, part.std, part.truth, part.visibility) for part in parts))
        return Track(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class Filtered:
    """T ticks of one or more episodes after the filter. M modalities in the contract's order."""

    episode: Array  # [T] index of the file
    surprise: Array  # [T] nats; NaN where nothing was seen
    first: Array  # [T] the filter (re)started here
    ages: Array  # [T, M] ticks since each was seen, -1 before
    patterns: Array  # [T] names of presence patterns; "" where nothing was seen
    tracks: dict[str, Track]

    @staticmethod
    def joined(parts: Sequence["Filtered"]) -> "Filtered":
        """One after the other."""

        def whole(pick: Callable[[Filtered], Array]) -> Array:
            return np.concatenate([pick(part) for part in parts])

        tracks = {name: Track.joined([part.tracks[name] for part in parts]) for name in parts[0].tracks}
        return Filtered(
            episode=whole(lambda part: part.episode),
            surprise=whole(lambda part: part.surprise),
            first=whole(lambda part: part.first),
            ages=whole(lambda part: part.ages),
            patterns=whole(lambda part: part.patterns),
            tracks=tracks,
        )


def episode_files(folders: Sequence[Path]) -> list[Path]:
    """The episodes in these data folders, in order. Raises EvaluationError where there are none."""
    files: list[Path] = []
    for folder in folders:
        found = sorted(folder.glob("episode-*.npz"))
        if not found:
            raise EvaluationError(f"{folder} holds no episode-*.npz; make some with `rssm collect`")
        files += found
    return files


def hash_of(files: Sequence[Path]) -> str:
    """One SHA-256 over names and contents, as `rssm collect` computes it for a folder."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_episode(path: Path) -> dict[str, Array]:
    """The arrays [T, ...] of one episode. Raises EvaluationError naming the file."""
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise EvaluationError(f"{path} cannot be read ({error}); collect it again") from error


def episode_rows(arrays: Mapping[str, Array]) -> list[tuple[int, int]]:
    """(begin, end) of every episode in a file's arrays; a file of `rssm collect dot` holds several, and
    `is_first` says where each begins.
    """
    count, first = len(arrays["action"]), arrays.get("is_first")
    begins: list[int] = [] if first is None else (np.flatnonzero(first[1:]) + 1).tolist()
    edges = [0, *begins, count]
    return list(pairwise(edges))


def thinned(present: Mapping[str, Array], seed: int) -> dict[str, Array]:
    """Presence {modality: [T]} with spells in which a random part of the modalities is left out.

    Half of the ticks stay as they were; the others share all other patterns evenly, so that rare ones are
    seen often enough to know what is normal for them. The first tick stays whole.
    """
    rng, names = np.random.default_rng([seed, 37]), list(present)
    left = {name: np.array(values, bool) for name, values in present.items()}
    ticks, tick, whole = len(left[names[0]]), 1, True
    while tick < ticks:
        spell = int(rng.integers(*SPELL))
        if not whole:
            code = int(rng.integers(2 ** len(names) - 1))  # bit set: kept; never all of them
            for bit, name in enumerate(names):
                left[name][tick : tick + spell] &= bool(code >> bit & 1)
        tick, whole = tick + spell, not whole
    return left


def drive(
    filter_: Filter, actions: npt.ArrayLike, seen: Callable[[int], Mapping[str, npt.ArrayLike]]
) -> list[Belief]:
    """What a fresh filter believes in lockstep, each tick once and in order, from the first one that saw
    something.

    actions: normalised [T, A], row k applied over [k - 1, k). seen: row -> {modality: what was seen then}.
    `now` only goes forward, whatever a trigger's `wait`: a tick that waits longer than a tick lasts comes out
    while later ones are told, and one that does not wait at all is computed when its observations are in.
    """
    contract, limits = filter_.contract, filter_.limits
    rate, now = contract.rate, SECOND
    begin = tick_of(SECOND, rate)
    beliefs: list[Belief] = []
    for row, action in enumerate(np.asarray(actions)):
        now = stamp_of(begin + row, rate)
        beliefs += filter_.advance(now - 1)  # what has waited for long enough; this tick is not due yet
        filter_.applied(stamp_of(begin + row - 1, rate), limits.scale(action))
        for name, value in seen(row).items():
            filter_.observe(name, now, value)
        beliefs += filter_.advance(now)
    return beliefs + filter_.advance(now + contract.patience_ns)


def filter_episode(
    session: Session,
    arrays: Mapping[str, Array],
    particles: int,
    seed: int,
    present: Mapping[str, Array] | None = None,
    index: int = 0,
) -> Filtered:
    """One recorded episode (as `rssm collect` writes it) through a filter of `particles` particles.

    present: {modality: [T]} in place of the recorded presence. Raises EvaluationError where the episode is of
    another contract.
    """
    contract = session.bundle.contract
    names = [spec.name for spec in contract.observations]
    missing = {"action", *names} - set(arrays)
    if missing:
        raise EvaluationError(f"an episode lacks {sorted(missing)}; was it collected under another contract?")
    here = present or {name: arrays[f"present_{name}"] for name in names}

    def seen(row: int) -> dict[str, Array]:
        return {name: arrays[name][row] for name in names if here[name][row]}

    beliefs = drive(Filter(session, contract, particles, seed), arrays["action"], seen)
    return _told(beliefs, arrays, contract, tick_of(SECOND, contract.rate), index)


def _told(
    beliefs: Sequence[Belief], arrays: Mapping[str, Array], contract: Contract, begin: int, index: int
) -> Filtered:
    rows = np.array([belief.tick - begin for belief in beliefs])
    names = [spec.name for spec in contract.observations]
    nothing = np.full(len(arrays["action"]), np.nan, np.float32)
    tracks = {}
    for target in contract.targets:
        truth = arrays.get(f"target_{target.name}", np.tile(nothing[:, None], target.dim))
        tracks[target.name] = Track(
            np.stack([belief.targets[target.name].mean for belief in beliefs]),
            np.stack([belief.targets[target.name].std for belief in beliefs]),
            np.asarray(truth, np.float64)[rows],
            np.asarray(arrays.get(f"visibility_{target.name}", nothing))[rows],
        )
    return Filtered(
        episode=np.full(len(rows), index),
        surprise=np.array([belief.surprise for belief in beliefs]),
        first=np.array([belief.first for belief in beliefs]),
        ages=np.array([[belief.age[name] for name in names] for belief in beliefs]),
        patterns=np.array([pattern(n for n in names if belief.presence[n]) for belief in beliefs]),
        tracks=tracks,
    )
