"""Recordings as Ray tasks: each goes through the filter on some machine of a cluster, as it would here.

The bundle travels; recordings do not: they lie where every machine finds them under the same path, and every
task proves that what it finds there is what was meant, by a machine with the same versions. `ray` is imported
only when it is asked for.
"""

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rssm_ros import provenance
from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.evaluation.playing.play import How
from rssm_ros.evaluation.playing.sources import Outcome, Source, Watch, content_of, tried
from rssm_ros.online.session import Session

LOCAL, RUNNING = "local", "auto"
REACH_S = 5.0  # Ray itself tries for minutes
TOLD_S = 1.0  # from one word about its progress to a task's next one
INSTALL = "pip install 'rssm_ros[ray]'"
Files = Mapping[str, bytes]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bundled:
    """A bundle on its way to other machines."""

    sha256: str
    files: Files
    versions: Mapping[str, str]  # with which its results are ours

    @staticmethod
    def of(session: Session) -> "Bundled":
        """All of the bundle's files, as they are."""
        bundle = session.bundle
        files = {path.name: path.read_bytes() for path in bundle.folder.iterdir() if path.is_file()}
        return Bundled(bundle.sha256, files, _versions())


@dataclass(frozen=True)
class Refused:
    """A machine that cannot do what was asked; the evaluation ends there."""

    why: str


@dataclass(frozen=True)
class Done:
    """What came of one recording, and which processor it came from."""

    outcome: Outcome
    cpu: str


def on_ray(
    address: str, session: Session, found: Sequence[Source], how: How, workers: int, told: Watch
) -> list[Outcome]:
    """Every recording's outcome, in order. address: `local` (a cluster of this machine's `workers`
    processes, gone afterwards), `auto`, HOST:PORT or ray://HOST:PORT.

    Raises EvaluationError where Ray is not installed, not there, or one of its machines cannot take part.
    """
    with connected(address, workers) as ray:
        try:
            done = _all_done(ray, session, found, how, told)
        except ray.exceptions.RayTaskError:
            raise  # what went wrong in our own code
        except ray.exceptions.RayError as error:
            raise EvaluationError(f"--ray {address}: {_first_line(error)}; see Ray's own logs") from error
    here, others = provenance.machine()["cpu"], {item.cpu for item in done}
    if others - {here}:
        log.warning(
            "computed on %s, not on this %s: beliefs may differ from this machine's by rounding",
            ", ".join(sorted(others)),
            here,
        )
    return [item.outcome for item in done]


def _all_done(ray: Any, session: Session, found: Sequence[Source], how: How, told: Watch) -> list[Done]:
    bundled = ray.put(Bundled.of(session))
    shares = ray.remote(num_cpus=0)(Shares).remote(len(found))
    task = ray.remote(num_cpus=1)(work)
    models = {name: str(Path(folder).absolute()) for name, folder in how.models.items()}
    how = replace(how, models=models)
    paths = [str(Path(item.path).absolute()) for item in found]
    index_of = {task.remote(bundled, at, found[at], path, how, shares): at for at, path in enumerate(paths)}
    done: dict[int, Done] = {}
    pending = list(index_of)
    while pending:
        ready, pending = ray.wait(pending, num_returns=1, timeout=0.5)
        for reference in ready:
            item = ray.get(reference)
            if isinstance(item, Refused):
                raise EvaluationError(item.why)
            done[index_of[reference]] = item
        parts = ray.get(shares.all.remote())
        told(sum(1.0 if at in done else part for at, part in enumerate(parts)) / len(found))
    return [done[at] for at in range(len(found))]


@contextmanager
def connected(address: str, workers: int = 1) -> Iterator[Any]:
    """Ray, connected to a cluster. Raises EvaluationError, in seconds, where that cannot be done."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else every task warns of it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody else has to know
    try:
        import grpc
        import ray
    except ImportError as error:
        raise EvaluationError(f"--ray needs {error.name}, which is not installed; {INSTALL}") from error
    if address not in (LOCAL, RUNNING):
        _reach(grpc, address)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    local = {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(LOCAL, **local, **quiet) if address == LOCAL else ray.init(address, **quiet)
    except Exception as error:  # builtin errors of many kinds, and its own
        raise EvaluationError(
            f"--ray {address}: no cluster to work on: {_first_line(error)} (one with a token needs "
            "RAY_AUTH_MODE=token and that token here)"
        ) from error
    try:
        if ray.cluster_resources().get("CPU", 0) < 1:
            raise EvaluationError(f"--ray {address}: the cluster has no processor to offer (num_cpus)")
        yield ray
    finally:
        ray.shutdown()


def _reach(grpc: Any, address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise EvaluationError(f"--ray {address}: expected {LOCAL}, {RUNNING}, HOST:PORT or ray://HOST:PORT")
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # would need its certificates
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=REACH_S)
        except grpc.FutureTimeoutError:
            raise EvaluationError(
                f"--ray {address}: nothing there answered as Ray does, for {REACH_S:g} s; `ray start "
                "--head` begins a cluster (HOST:6379 on its machines, ray://HOST:10001 from elsewhere), "
                f"--ray {LOCAL} needs none"
            ) from None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _versions() -> dict[str, str]:
    return provenance.versions("numpy", "onnxruntime", "rosbags")


# -- on the machines of the cluster --------------------------------------------------------------------


class Shares:
    """An actor that knows how far every recording is."""

    def __init__(self, count: int) -> None:
        self._shares = [0.0] * count

    def tell(self, index: int, share: float) -> None:
        """One of them went on."""
        self._shares[index] = share

    def all(self) -> list[float]:
        """Of each the share that is done."""
        return list(self._shares)


def work(bundled: Bundled, index: int, source: Source, path: str, how: How, shares: Any) -> Done | Refused:
    """One recording, in a process of the cluster. path: of the recording, from the root."""
    missing = _unfit(bundled, source, path, how)
    if missing:
        return Refused(f"machine {os.uname().nodename}: {missing}")
    last = time.monotonic()

    def watch(share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= TOLD_S:
            last = time.monotonic()
            shares.tell.remote(index, share)

    outcome = tried(_session(bundled), replace(source, path=path), how, watch)
    if isinstance(outcome, Exception):  # says the path that was given
        outcome = type(outcome)(str(outcome).replace(path, source.path))
    return Done(outcome, provenance.machine()["cpu"])


def _unfit(bundled: Bundled, source: Source, path: str, how: How) -> str:
    """Why this machine's figures would not be those of the one that asked, or nothing."""
    here = _versions()
    other = [
        f"{name} {here[name] or 'is missing'}"
        for name, want in bundled.versions.items()
        if here[name] != want
    ]
    if other:
        wanted = ", ".join(f"{name} {version}" for name, version in bundled.versions.items())
        return f"{', '.join(other)}; where the evaluation was started: {wanted}; install the same"
    if not Path(path).exists():
        return f"{path} is not there; put recordings where every machine finds them under the same path"
    if content_of(Path(path), source.rows) != source.id:
        return f"{path} is another recording than where the evaluation was started; share one folder"
    gone = [folder for folder in how.models.values() if not Path(folder).exists()]
    if gone:
        return f"--baseline-model {gone[0]} is not there; put it where every machine finds it under this path"
    return ""


_sessions: dict[str, tuple[Session, Any]] = {}


def _session(bundled: Bundled) -> Session:
    """Loaded and proven once per process, on this machine."""
    if bundled.sha256 not in _sessions:
        folder = tempfile.TemporaryDirectory(prefix="rssm-bundle-")
        for name, content in bundled.files.items():
            (Path(folder.name) / name).write_bytes(content)
        _sessions[bundled.sha256] = (Session(folder.name), folder)
    return _sessions[bundled.sha256][0]
