"""Recording data sets: parallel processes, resumable, atomic files, one dataset.json over all of it.

What is recorded is a `Source`: a contract and a function that makes the arrays of one file, the columns that
`replay.columns` lists. `collect_manipulator` and `collect_dot` are such sources.
"""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.files import write_whole
from rssm_ros.training.meaning import KEY, meaning
from rssm_ros.workers import end_with_parent

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Plan:
    """One file to record. Sources add what else they need to know; all of it goes to the worker processes."""

    seed: int
    kind: str

    @property
    def filename(self) -> str:
        """Where it is stored inside the data set."""
        return f"episode-{self.seed:08d}-{self.kind}.npz"


@dataclass(frozen=True)
class Source:
    """Where data come from. `record` is a function of a module: worker processes import it by name."""

    contract: str
    record: Callable[[Any], Arrays]  # one of the source's plans -> the arrays of its file, [T, ...] each
    packages: tuple[str, ...]  # whose versions decide what is recorded
    facts: Mapping[str, Any] = field(default_factory=dict)  # goes into dataset.json


@dataclass
class Progress:
    """What has been recorded so far."""

    files: int = 0
    ticks: int = 0
    skipped: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)


def write_episode(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Store a file so that it is either whole or absent."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def _start_worker() -> None:
    end_with_parent()
    os.environ["LP_NUM_THREADS"] = "0"  # Mesa's software driver: one thread per process
    os.environ["OMP_NUM_THREADS"] = "1"


def _run(source: Source, plan: Plan, directory: Path) -> int:
    arrays = source.record(plan)
    write_episode(directory / plan.filename, arrays)
    return len(arrays["reward"])


def collect(
    source: Source,
    plans: Iterable[Plan],
    directory: Path,
    workers: int = 2,
    report: Callable[[Progress], None] | None = None,
) -> Progress:
    """Record the plans that are not there yet, then write dataset.json. Returns what was done now."""
    directory.mkdir(parents=True, exist_ok=True)
    plans = list(plans)
    for stale in directory.glob(".*.part"):
        stale.unlink()
    todo = [plan for plan in plans if not (directory / plan.filename).exists()]
    progress = Progress(skipped=len(plans) - len(todo))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        running: dict[Future[int], Plan] = {pool.submit(_run, source, plan, directory): plan for plan in todo}
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    plan = running.pop(future)
                    progress.ticks += future.result()
                    progress.files += 1
                    progress.by_kind[plan.kind] = progress.by_kind.get(plan.kind, 0) + 1
                    if report is not None:
                        report(progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    write_summary(source, directory, plans)
    return progress


def write_summary(source: Source, directory: Path, plans: Iterable[Plan]) -> dict[str, Any]:
    """dataset.json: contract, seeds, counts, versions and one hash over every file in the folder."""
    from rssm_ros.contract import find_contract
    from rssm_ros.provenance import versions

    files = sorted(directory.glob("episode-*.npz"))
    digest, ticks, episodes = hashlib.sha256(), 0, 0
    kinds: dict[str, int] = {}
    for path in files:
        content = path.read_bytes()
        digest.update(path.name.encode() + hashlib.sha256(content).digest())
        kind = path.stem.split("-", 2)[2]
        with np.load(path) as arrays:
            begun = int(arrays["is_first"].sum())
            ticks += len(arrays["reward"])
        kinds[kind] = kinds.get(kind, 0) + begun
        episodes += begun
    found = find_contract(source.contract)
    contract = json.dumps(found.to_dict(), sort_keys=True, default=str)
    summary = {
        "contract": source.contract,
        "contract_sha256": hashlib.sha256(contract.encode()).hexdigest(),
        KEY: meaning(found),
        **source.facts,
        "episodes": episodes,
        "ticks": ticks,
        "kinds": kinds,
        "seeds": [int(path.stem.split("-", 2)[1]) for path in files],  # the first one of each file
        "sha256": digest.hexdigest(),
        "versions": versions(*source.packages),
        "last_request": [asdict(plan) for plan in list(plans)[:1]],
    }
    write_whole(directory / "dataset.json", json.dumps(summary, indent=1) + "\n")
    return summary
