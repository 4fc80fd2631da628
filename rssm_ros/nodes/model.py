"""The bundle of a node's parameters, loaded and proven, with the contract it was trained for."""

from pathlib import Path
from typing import Any

from rssm_ros import paths
from rssm_ros.bundle import BundleError
from rssm_ros.contract import Contract, find_contract
from rssm_ros.online.session import Session


def load_model(node: Any) -> tuple[Session, Contract]:
    """Session and contract. The parameter `contract` must be the one in the bundle, topics aside.

    Raises BundleError or ContractError, saying what differs.
    """
    wanted = find_contract(node.value("contract"))
    folder = node.value("bundle") or str(paths.share_path("models", wanted.name))
    threads = int(node.get_parameter_or("threads").value or 1) if node.has_parameter("threads") else 1
    session = Session(Path(folder), threads=threads)
    check_same(session.bundle.contract, wanted, folder)
    return session, wanted


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
