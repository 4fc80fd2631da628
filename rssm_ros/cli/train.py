"""`rssm train`: data directories -> a checkpoint of world model, actor and critic."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser("train", help="train world model and actor, resumably")
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, metavar="DIR", help="from `rssm collect`"
    )
    parser.add_argument("--val", type=Path, metavar="DIR", help="held-out data for the validation figures")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="checkpoints and TensorBoard go here"
    )
    parser.add_argument(
        "--contract", default="manipulator", help="name or file of the contract (manipulator)"
    )
    parser.add_argument("--preset", default="manipulator", help="sizes and schedule (manipulator)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in RUN")
    parser.add_argument(
        "--start-from", type=Path, metavar="RUN", help="begin with the weights of another run"
    )
    parser.add_argument(
        "--minutes", type=float, help="budget of wall time (60); the learning rate decays over it"
    )
    parser.add_argument("--steps", type=int, help="budget in updates instead of minutes")
    parser.add_argument(
        "--imagination-fraction", type=float, help="last share that also learns in imagination"
    )
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--batch", type=int, help="sequences per update")
    parser.add_argument("--length", type=int, help="ticks per sequence")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--threads", type=int, help="CPU threads (2)")
    parser.add_argument("--checkpoint-minutes", type=float)
    parser.add_argument("--validate-minutes", type=float)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Trains; 0 when the budget was spent or Ctrl-C saved."""
    from rssm_ros.contract import find_contract
    from rssm_ros.training import checkpoint
    from rssm_ros.training.errors import TrainingError
    from rssm_ros.training.options import Options, options
    from rssm_ros.training.trainer import Trainer

    if arguments.resume:
        chosen = Options.from_dict(checkpoint.read(arguments.out).state["options"])
    else:
        chosen = options(arguments.preset)
    names: tuple[str, ...] = (
        "minutes",
        "steps",
        "imagination_fraction",
        "rate",
        "batch",
        "length",
        "seed",
        "threads",
    )
    names += ("checkpoint_minutes", "validate_minutes")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    for name, value in given.items():
        if value < 0 or (value == 0 and name not in ("seed", "imagination_fraction")):
            raise TrainingError(f"--{name.replace('_', '-')} {value} is out of range, expected more than 0")
    trainer = Trainer(
        replace(chosen, **given),
        find_contract(arguments.contract),
        arguments.data,
        arguments.out,
        validation=arguments.val,
        resume=arguments.resume,
        start_from=arguments.start_from,
    )
    trainer.run()
    return 0
