"""From a checkpoint back to a run: the same one (`--resume`), or a further round of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rssm_ros.contract import Contract, ContractError
from rssm_ros.training import checkpoint
from rssm_ros.training.checkpoint import Saved
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.learner import Learner
from rssm_ros.training.options import Options
from rssm_ros.world_model import Signals, Sizes

# What decides the batches, the noise or the network. The rest may change: a budget, a rate.
FIXED: tuple[str, ...] = (
    "preset",
    "conv",
    "latent",
    "posterior",
    "representation",
    "batch",
    "length",
    "chunks",
    "motion_rows",
    "motion_length",
    "seed",
    "freeze_encoders",
    "replay_latents",
)
# What a run has learnt to see: its encoders, and the heads that taught them to read targets off what comes.
SEEING = ("world_model.encoders.", "perception.")


def check_same(
    saved: Saved,
    options: Options,
    contract: Contract,
    ticks: int,
    contents: Sequence[str],
    hashes: Sequence[str | None],
) -> None:
    """TrainingError if a checkpoint's run and this one are not the same: options, contract or data.

    contents, hashes: `replay.contents` and `replay.content_hash` of every data directory; checkpoints of old
    versions do not have them, and a hash that is not known on both sides decides nothing.
    """
    state = saved.state
    now, then = asdict(options), {**asdict(Options()), **state["options"]}
    what = [name for name in FIXED if now[name] != then[name]]
    if bool(now["scales"]["ensemble"]) != bool(then["scales"].get("ensemble", 0.0)):
        what.append("the ensemble")  # one has some, the other none
    parts = _contract_differs(state, contract)
    if parts:
        what.append(f"the contract ({', '.join(parts)})")
    same_files = state["ticks"] == ticks and list(state.get("contents", contents)) == list(contents)
    known = zip(state.get("hashes", hashes), hashes, strict=False)
    if not same_files or any(old and new and old != new for old, new in known):
        what.append("the data")
    if what:
        raise TrainingError(
            f"--resume: {', '.join(what)} differ from the checkpoint's (step {state['step']}); "
            "use the same, or a new --out with --start-from"
        )


def _contract_differs(state: Mapping[str, Any], contract: Contract) -> list[str]:
    """Which parts of a checkpoint's contract are not as they are now.

    Not only what the network sees: a rate or a limit changes what the same numbers mean. An old version may
    not have kept the contract, or in a form that cannot be read any more; its signals have to do then.
    """
    try:
        then = Contract.from_dict(state["contract"]).to_dict()
    except (KeyError, ContractError):
        return [] if Signals.from_dict(state["signals"]) == Signals.from_contract(contract) else ["signals"]
    now = contract.to_dict()
    return [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]


def start_from(
    run: Path, learner: Learner, signals: Signals, encoders_only: bool = False, beside: bool = False
) -> list[dict[str, Any]]:
    """Weights only: optimizer, step and budget begin anew (a further round on more data).

    The contract may have gained targets since: their heads start untrained. With `encoders_only` nothing but
    what the run learnt to see is taken, and all else may differ: posterior, latent, core. A tracker is taken
    only where the learner has one as well, `beside`; another round of the world model leaves it behind, as it
    knows the one before. Returns the chain of runs that the weights come from. TrainingError if they do not
    fit.
    """
    saved = checkpoint.read_world_model(run)
    then, now = Sizes.from_dict(saved.state["sizes"]).conv, learner.world_model.sizes.conv
    if then != now:  # the same tensors, with another meaning
        raise TrainingError(f"--start-from {run}: its convolutions are {then!r}; add --conv {then}")
    parts = SEEING if encoders_only else ("",)
    tracker = f"{checkpoint.TRACKER}."
    taken = {name: value for name, value in saved.model.items() if name.startswith(parts)}
    if not beside:
        taken = {name: value for name, value in taken.items() if not name.startswith(tracker)}
    refusal = f"--start-from {run}: its weights do not fit this preset and contract"
    try:
        found = learner.load_state_dict(taken, strict=False)
    except RuntimeError as error:
        raise TrainingError(refusal) from error
    known = {name for name, _ in Signals.from_dict(saved.state["signals"]).targets}
    added = [name for name, _ in signals.targets if name not in known]
    if beside and added:
        raise TrainingError(
            f"--start-from {run}: its model knows nothing of {', '.join(added)}; teach it with `rssm train`"
        )
    fresh = tuple(f"{part}.{name}." for name in added for part in ("world_model.target_heads", "perception"))
    fresh += (tracker,) if beside and checkpoint.TRACKER not in saved.state else ()
    missing = [name for name in found.missing_keys if name.startswith(parts) and not name.startswith(fresh)]
    if missing or found.unexpected_keys:
        raise TrainingError(f"{refusal} (first: {(missing + found.unexpected_keys)[0]})")
    earlier = {"name": run.resolve().name, **saved.state}  # runs of old versions do not know their name
    stage = checkpoint.stage(earlier)
    if checkpoint.TRACKER in saved.state and not beside:
        return list(saved.state["chain"][: saved.state["models"]])  # the others taught it nothing
    return [*saved.state.get("chain", []), {**stage, "taken": "encoders only"} if encoders_only else stage]
