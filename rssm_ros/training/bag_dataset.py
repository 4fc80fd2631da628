"""A data set out of bags: one bag after the other, resumable by the bag, one dataset.json over all of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rssm_ros.contract import Contract
from rssm_ros.files import write_whole
from rssm_ros.recordings import RecordingError, open_bag
from rssm_ros.training.collect import Plan, Source, write_episode, write_summary
from rssm_ros.training.collect_bags import episodes_of
from rssm_ros.training.errors import TrainingError

FORMAT = 1  # of what a bag becomes: a new one converts anew
MOST = 10_000  # episodes of one bag: what its numbers have room for


@dataclass(frozen=True)
class Conversion:
    """How bags are read. Times in seconds; part: shares of each bag's time span."""

    namespace: str = ""
    stamps: str = "header"
    part: tuple[float, float] = (0.0, 1.0)
    shortest: float = 0.5
    longest: float = 60.0

    def ticks(self, contract: Contract) -> tuple[int, int]:
        """Shortest and longest episode in ticks. Raises TrainingError where they make no sense."""
        if not math.isfinite(self.shortest) or not math.isfinite(self.longest):
            raise TrainingError(f"episodes of {self.shortest:g} to {self.longest:g} s: expected finite times")
        shortest, longest = (round(float(s * contract.rate)) for s in (self.shortest, self.longest))
        if not 2 <= shortest <= longest:
            raise TrainingError(
                f"episodes of {shortest} to {longest} ticks: expected at least 2 and shortest <= longest"
            )
        return shortest, longest


@dataclass(frozen=True)
class BagProgress:
    """Where the conversion is."""

    bag: int
    bags: int
    share: float  # of this bag
    ticks: int  # so far, of all bags


@dataclass(frozen=True)
class Converted:
    """What was done, and to which bags it could not be done: name -> error."""

    bags: list[dict[str, Any]]
    failed: dict[str, str]
    skipped: int  # bags that were there already
    summary: dict[str, Any]


def convert(
    bags: Sequence[Path],
    contract_name: str,
    contract: Contract,
    directory: Path,
    how: Conversion,
    report: Callable[[BagProgress], None] | None = None,
) -> Converted:
    """Bags -> episode files in `directory`. A bag that was converted before, in the same way, is kept.

    A bag that cannot be read does not stop the others. Raises TrainingError where the folder holds another
    conversion, or where nothing at all came out of it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob(".*.part"):
        stale.unlink()
    _refuse_others(directory, len(bags))
    shortest, longest = how.ticks(contract)
    done: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    skipped = 0
    for index, bag in enumerate(bags):
        note = directory / f"bag-{index:04d}.json"
        key = _key(bag, contract, how)
        before = _noted(note)
        if before is not None and before["key"] != key:
            raise TrainingError(
                f"{directory}: bag {index} there is {before['name']}, converted otherwise than {bag.name} "
                "now; give the same bags and options in the same order, or another --out"
            )
        if before is not None:
            done.append(before)
            skipped += 1
            continue
        so_far = sum(entry["counts"].get("ticks", 0) for entry in done)

        def tell(share: float, ticks: int, index: int = index, so_far: int = so_far) -> None:
            if report is not None:
                report(BagProgress(index, len(bags), share, so_far + ticks))

        try:
            counts, left_out, notes = _convert_one(
                bag, index, contract, directory, how, (shortest, longest), tell
            )
        except RecordingError as error:
            _forget(directory, index)  # it may have failed at its end, with episodes written
            failed[str(bag)] = str(error)
            continue
        entry = {"name": bag.name, "key": key, "counts": counts, "left_out": left_out, "notes": notes}
        write_whole(note, json.dumps(entry, indent=1) + "\n")
        done.append(entry)
    if not sum(entry["counts"].get("ticks", 0) for entry in done):
        told = next(iter(failed.values()), None) or _nothing(done, shortest)
        raise TrainingError(told if failed else f"{directory}: no episode came out of this: {told}")
    return Converted(done, failed, skipped, _summarise(contract_name, contract, directory, how, done))


def _convert_one(
    bag: Path,
    index: int,
    contract: Contract,
    directory: Path,
    how: Conversion,
    ticks: tuple[int, int],
    tell: Callable[[float, int], None],
) -> tuple[dict[str, int], dict[str, int], dict[str, str]]:
    """Writes one bag's episodes; returns what became of messages and ticks, and what the reader left out."""
    _forget(directory, index)  # of a conversion that was stopped: it might have been of another bag
    recording = open_bag(bag, contract, how.namespace, how.stamps, how.part)
    span = max(1, recording.end_ns - recording.start_ns)
    counters: Counter[str] = Counter()
    number = written = 0
    for at, (logged_ns, arrays) in enumerate(episodes_of(recording, *ticks, counters)):
        if arrays is not None:
            if number == MOST:
                raise TrainingError(f"{bag}: more than {MOST} episodes; convert it in parts (--part)")
            write_episode(directory / f"episode-{index:04d}{number:04d}-bag.npz", arrays)
            number, written = number + 1, written + len(arrays["reward"])
        if arrays is not None or at % 200 == 0:
            tell((logged_ns - recording.start_ns) / span, written)
    return dict(sorted(counters.items())), dict(sorted(recording.counts.items())), recording.notes


def _refuse_others(directory: Path, bags: int) -> None:
    """Raises TrainingError where the folder holds other episodes: they would count as these bags'."""
    for path in sorted(directory.glob("episode-*.npz")):
        _, number, kind = path.stem.split("-", 2)
        if kind != "bag" or int(number) >= bags * MOST:
            raise TrainingError(
                f"{directory}: {path.name} there is not of these {bags} bags; give the same bags in the same "
                "order (more may follow), or another --out"
            )


def _forget(directory: Path, index: int) -> None:
    """Removes one bag's episodes."""
    for stale in directory.glob(f"episode-{index:04d}????-bag.npz"):
        stale.unlink()


def _key(bag: Path, contract: Contract, how: Conversion) -> str:
    """Names a conversion: the bag's files by name, size and time, the contract and the options."""
    files = sorted(bag.iterdir()) if bag.is_dir() else [bag]
    facts = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
    told = json.dumps([FORMAT, facts, contract.to_dict(), asdict(how)], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def _noted(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"name", "key", "counts"} <= found.keys() else None


def _nothing(done: list[dict[str, Any]], shortest: int) -> str:
    short = sum(entry["counts"].get("ticks_of_short_episodes", 0) for entry in done)
    refused = Counter[str]()
    for entry in done:
        refused.update(entry["left_out"])
        refused.update({key: n for key, n in entry["counts"].items() if "/" in key and "accepted" not in key})
    causes = (
        ", ".join(f"{count} {key}" for key, count in refused.most_common(4)) or "nothing else was counted"
    )
    return f"{short} ticks lie in stretches shorter than {shortest} ticks; {causes}"


def _summarise(
    name: str, contract: Contract, directory: Path, how: Conversion, done: list[dict[str, Any]]
) -> dict[str, Any]:
    facts = {
        "contract": contract.name,
        "conversion": {"format": FORMAT, **asdict(how)},
        "bags": [{k: entry[k] for k in ("name", "counts", "left_out")} for entry in done],
    }
    source = Source(name, _never, ("numpy", "rosbags"), facts)
    return write_summary(source, directory, [Plan(index, "bag") for index in range(len(done))])


def _never(plan: Any) -> Any:
    raise NotImplementedError("bags are read in order, not recorded by plan")
