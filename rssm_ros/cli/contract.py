"""`rssm contract`: reads a contract as the nodes will, and tells what it means for the robot."""

import argparse
import json
from collections.abc import Iterator

from rssm_ros.contract import Contract, find_contract


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers the command."""
    parser = subparsers.add_parser(
        "contract",
        help="check a contract, and say what it asks of a robot",
        description="Reads a contract as every node does. Exit code 2: it cannot be used, and why.",
    )
    parser.add_argument("contract", help="a shipped contract's name, or the path of a YAML file")
    parser.add_argument("--json", action="store_true", help="print it as it was understood, as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """0; a contract that cannot be used is an error of its own."""
    contract = find_contract(arguments.contract)
    if arguments.json:
        print(json.dumps(contract.to_dict(), indent=1, default=str))
    else:
        print("\n".join(described(contract)))
    return 0


def described(contract: Contract) -> Iterator[str]:
    """The contract in lines, for the eye."""
    yield f"{contract.name}: {float(contract.rate):g} ticks per second in frame {contract.frame}"
    yield f"  late data are used for {contract.history:g} s; without any, lost after {contract.max_gap:g} s"
    yield f"  commands act after {contract.actuation_delay} ticks"
    yield "\nsubscribes to"
    for spec in contract.observations:
        shape = " x ".join(map(str, spec.shape))
        waits = f"; each tick waits {spec.wait:g} s for it" if spec.trigger else ""
        yield f"  {spec.topic}  ({spec.type}): {spec.name} [{shape}], stale after {spec.stale:g} s{waits}"
    yield "\npublishes"
    for action in contract.actions:
        safe = (
            action.safe if isinstance(action.safe, str) else ", ".join(f"{value:g}" for value in action.safe)
        )
        yield (
            f"  {action.topic}  ({action.type}): safe is {safe}; the robot itself must obey a timeout of "
            f"{action.timeout:g} s"
        )
        rows = zip(action.channels, action.low, action.high, action.slew, strict=True)
        for channel, low, high, slew in rows:
            yield f"    {channel}: {low:g} to {high:g}, at most {slew:g} per second"
    if contract.targets:
        yield "\nbelieves where they are"
    for target in contract.targets:
        fields = ", ".join(target.fields)
        yield f"  {target.name} [{target.dim}, {target.unit}]: labels from {target.topic} ({fields})"
