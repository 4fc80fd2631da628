"""What `rssm evaluate` is given, and how it goes through the filter: on all cores, each recording by one."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rssm_ros.contract import Contract
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.collected import CollectedRecording
from rssm_ros.evaluation.playing.filtering import episode_rows, hash_of, read_episode
from rssm_ros.evaluation.playing.play import How, Played, play
from rssm_ros.online.session import Session
from rssm_ros.recordings import Recording, RecordingError, open_bag
from rssm_ros.workers import end_with_parent

Watch = Callable[[float], None]  # the share that is done, 0..1


@dataclass(frozen=True)
class Source:
    """One recording to evaluate: a bag, or rows of a collected file."""

    path: str
    id: str  # of its content
    rows: tuple[int, int] | None = None  # of a collected file
    namespace: str = ""
    stamps: str = "header"
    bag: str = ""  # what was given, by name

    @property
    def name(self) -> str:
        """For people."""
        path = Path(os.path.abspath(self.path))  # also of "."
        short = path.stem if self.rows is not None else path.name
        return f"{short}:{self.rows[0]}" if self.rows is not None and self.rows[0] else short

    def open(self, contract: Contract) -> Recording:
        """The recording. Raises RecordingError or EvaluationError."""
        if self.rows is not None:
            return CollectedRecording.read(Path(self.path), contract, *self.rows)
        return open_bag(self.path, contract, self.namespace, self.stamps)


def sources(bags: Sequence[Path], namespace: str = "", stamps: str = "header") -> list[Source]:
    """What the paths hold: bags, folders of collected episodes, or single such files.

    Raises EvaluationError for a path that is neither.
    """
    found: list[Source] = []
    for path, bag in zip(bags, _names(bags)):
        if not path.exists():
            raise EvaluationError(f"{path}: there is no such bag or folder")
        files = sorted(path.glob("episode-*.npz")) if path.is_dir() else [path] * (path.suffix == ".npz")
        if not files:
            found.append(Source(str(path), content_of(path), None, namespace, stamps, bag))
        for file in files:
            rows = _rows(file)
            found += [Source(str(file), content, at, bag=bag) for at, content in zip(rows, _ids(file, rows))]
    return found


def content_of(path: Path, rows: tuple[int, int] | None = None) -> str:
    """What identifies a recording, wherever it lies. rows: of a collected file; None: a bag."""
    return _content_id(path) if rows is None else _ids(path, [rows])[0]


def _ids(file: Path, rows: Sequence[tuple[int, int]]) -> list[str]:
    content = hash_of([file])[:16]
    return [f"{content}:{begin}" for begin, _ in rows]


def _rows(file: Path) -> list[tuple[int, int]]:
    try:
        return episode_rows(read_episode(file))
    except (EvaluationError, KeyError):  # said when it is opened: one bad file among many
        return [(0, 0)]


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each path, without folders, but for the last one where names are equal: those may tell of
    the machine, and a scorecard is passed on.
    """
    whole = [Path(os.path.abspath(path)) for path in paths]  # as given, also through a link
    names = [path.name for path in whole]
    return [
        name if names.count(name) == 1 else f"{path.parent.name}/{name}" for path, name in zip(whole, names)
    ]


def _content_id(path: Path) -> str:
    """SHA-256 over names, sizes and the first and last MiB of a bag's files: enough to tell bags apart."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read())
    return digest.hexdigest()[:16]


# -- in the worker processes ---------------------------------------------------------------------------

_worker: dict[str, Any] = {}


def _start(bundle: str, progress: Any) -> None:
    end_with_parent()
    _worker.update(session=Session(bundle, prove=False), progress=progress)


def _work(index: int, source: Source, how: How) -> "Outcome":
    def watch(share: float) -> None:
        _worker["progress"][index] = share

    return tried(_worker["session"], source, how, watch)


# ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unusable:
    """A recording that nothing came of, and why."""

    source: Source
    error: Exception

    def __str__(self) -> str:
        """One line, without folders: it is passed on with the scorecard."""
        text, path = str(self.error), self.source.path
        return text.replace(path, self.source.name) if "/" in path else text


Outcome = Played | RecordingError | EvaluationError


def tried(session: Session, source: Source, how: How, watch: Watch) -> Outcome:
    """What comes of one recording."""
    try:
        return play(session, source.open(session.bundle.contract), how, watch, source.name)
    except (RecordingError, EvaluationError) as error:
        return error


def play_all(
    session: Session,
    found: Sequence[Source],
    how: How,
    workers: int,
    watch: Watch | None = None,
    ray: str = "",
) -> tuple[list[tuple[Source, Played]], list[Unusable]]:
    """Every recording that can be used, in order, and those that cannot; the same whatever the number of
    workers and wherever they are. ray: the address of a cluster to work on (see `ray_tasks`).

    Raises the first one's RecordingError or EvaluationError where none can be used.
    """
    told = watch or (lambda share: None)
    if ray:
        from rssm_ros.evaluation.playing.ray_tasks import on_ray

        outcomes = on_ray(ray, session, found, how, workers, told)
    elif workers <= 1 or len(found) == 1:
        outcomes = []
        for index, source in enumerate(found):
            share = lambda part, index=index: told((index + part) / len(found))  # noqa: E731
            outcomes.append(tried(session, source, how, share))
        told(1.0)
    else:
        outcomes = _on_processes(str(session.bundle.folder), found, how, workers, told)
    pairs = list(zip(found, outcomes, strict=True))
    good = [(source, item) for source, item in pairs if isinstance(item, Played)]
    bad = [Unusable(source, item) for source, item in pairs if isinstance(item, Exception)]
    if not good:
        raise bad[0].error
    return good, bad


def _on_processes(folder: str, found: Sequence[Source], how: How, workers: int, told: Watch) -> list[Outcome]:
    context = get_context("spawn")
    progress = context.Array("d", len(found), lock=False)
    with ProcessPoolExecutor(min(workers, len(found)), context, _start, (folder, progress)) as pool:
        futures = [pool.submit(_work, index, source, how) for index, source in enumerate(found)]
        try:
            while not all(future.done() for future in futures):
                time.sleep(0.1)
                told(sum(1.0 if f.done() else p for f, p in zip(futures, progress)) / len(found))
            told(1.0)
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
