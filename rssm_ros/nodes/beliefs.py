"""online.Belief <-> the records of its message."""

import math

import numpy as np

from rssm_ros.contract import Contract
from rssm_ros.messages.beliefs import Records, belief_dtype
from rssm_ros.messages.errors import MessageError
from rssm_ros.online.belief import Belief, TargetBelief
from rssm_ros.online.grid import tick_of

_TICK = ("surprise", "prior_entropy", "posterior_entropy", "lost", "first")


def records_of(belief: Belief, contract: Contract, threshold: float = math.nan) -> Records:
    """One record per particle, [N]. threshold: of the surprise, for what was seen at this tick."""
    particles, deter = belief.deter.shape
    targets = {target.name: target.dim for target in contract.targets}
    names = [spec.name for spec in contract.observations]
    records = np.zeros(particles, belief_dtype(deter, belief.stoch.shape[1], targets, names))
    records["deter"], records["stoch"] = belief.deter, belief.stoch
    for name in _TICK:
        records[name] = getattr(belief, name)
    records["surprise_threshold"] = threshold
    records["reward"], records["continue"] = belief.reward, belief.continue_
    records["age"] = [belief.age[name] for name in names]
    records["modalities"] = [belief.presence[name] for name in names]
    for target in contract.targets:
        decoded = belief.targets[target.name]
        records[f"mean_{target.name}"], records[f"std_{target.name}"] = decoded.mean, decoded.std
    if contract.targets:
        first = belief.targets[contract.targets[0].name].mean
        for axis, column in zip("xyz", np.asarray(first).T):
            records[axis] = column
    return records


def belief_of(records: Records, stamp_ns: int, contract: Contract, kind: str = "categorical") -> Belief:
    """The inverse of records_of, for a latent of this kind. Raises MessageError `shape` where they are of
    another contract."""
    names = [spec.name for spec in contract.observations]
    known = set(records.dtype.names or ())
    needed = {f"mean_{target.name}" for target in contract.targets}
    if not needed <= known or records.dtype["age"].shape != (len(names),):
        raise MessageError(
            f"the belief is not one of contract {contract.name!r}; restart filter and planner", "shape"
        )
    head = records[0]
    return Belief(
        tick=tick_of(stamp_ns, contract.rate),
        stamp_ns=stamp_ns,
        deter=np.ascontiguousarray(records["deter"]),
        stoch=np.ascontiguousarray(records["stoch"])
        if kind == "gaussian"
        else records["stoch"].astype(np.int64),
        surprise=float(head["surprise"]),
        prior_entropy=float(head["prior_entropy"]),
        posterior_entropy=float(head["posterior_entropy"]),
        targets={
            target.name: TargetBelief(
                np.ascontiguousarray(records[f"mean_{target.name}"]),
                np.ascontiguousarray(records[f"std_{target.name}"]),
            )
            for target in contract.targets
        },
        reward=np.ascontiguousarray(records["reward"]),
        continue_=np.ascontiguousarray(records["continue"]),
        presence={name: bool(value) for name, value in zip(names, head["modalities"])},
        age={name: int(value) for name, value in zip(names, head["age"])},
        lost=bool(head["lost"]),
        first=bool(head["first"]),
    )
