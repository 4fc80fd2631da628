"""The bundle of a node's parameters, loaded and proven, with the contract it was trained for."""

from pathlib import Path
from typing import Any

from rssm_ros import paths
from rssm_ros.bundle import BundleError
from rssm_ros.contract import Contract, find_contract
from rssm_ros.nodes.parameters import Parameter
from rssm_ros.online.backends.backend import DEFAULT
from rssm_ros.online.session import Session

BACKEND = Parameter(
    "backend",
    DEFAULT,
    "what computes the model: onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt, torchscript or "
    "torchscript-cuda; where a GPU vanishes, the CPU goes on",
)


def load_model(node: Any) -> tuple[Session, Contract]:
    """Session and contract. The parameter `contract` must be the one in the bundle, topics aside.

    Raises BundleError or ContractError, saying what differs, and FilterError for a backend that is not here.
    """
    wanted = find_contract(node.value("contract"))
    folder = node.value("bundle") or str(paths.share_path("models", wanted.name))
    threads, backend = int(_given(node, "threads", 1)), str(_given(node, "backend", DEFAULT))
    session = Session(Path(folder), threads=threads, backend=backend)
    check_same(session.bundle.contract, wanted, folder)
    return session, wanted


def _given(node: Any, name: str, default: Any) -> Any:
    """A parameter's value; the default where the node has no such parameter."""
    return node.value(name) if node.has_parameter(name) else default


def check_same(trained: Contract, wanted: Contract, folder: str) -> None:
    """What the model learnt must be what the robot offers: rate, observations, actions and targets.

    Topics, waits and stale limits are the robot's to choose. Raises BundleError naming the first difference.
    """
    for what, left, right in (
        ("rate", trained.rate, wanted.rate),
        ("actuation_delay", trained.actuation_delay, wanted.actuation_delay),
        ("observations", *(_shapes(contract) for contract in (trained, wanted))),
        ("action channels", trained.channels, wanted.channels),
        ("action limits", *((c.low.tolist(), c.high.tolist()) for c in (trained, wanted))),
        ("targets", *(tuple((t.name, t.fields) for t in c.targets) for c in (trained, wanted))),
    ):
        if left != right:
            raise BundleError(
                f"{folder}: was trained for other {what} ({left}) than the contract {wanted.name!r} "
                f"says ({right}); use the contract it was trained with, or train again"
            )


def _shapes(contract: Contract) -> tuple[tuple[str, tuple[int, ...], tuple[str, ...]], ...]:
    return tuple((spec.name, spec.shape, spec.fields + spec.names) for spec in contract.observations)
