"""`rssm train-baseline`: the networks that a bundle is held against, trained on the same data."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from rssm_ros.cli.train import chosen_options

KINDS = ("recurrent", "frames")
GIVEN = (
    *("minutes", "steps", "rate", "batch", "length", "seed", "threads", "target_beta"),
    *("checkpoint_minutes", "checkpoint_steps"),
)
EXAMPLES = """examples:
  rssm train-baseline recurrent --data data/expert data/dagger-1 --out runs/recurrent --minutes 30
  rssm train-baseline frames --data data/expert data/dagger-1 --out runs/frames --minutes 15
  rssm evaluate data/held-out --bundle models/manipulator --baseline-model gru=runs/recurrent"""


def add_parser(subparsers: Any) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "train-baseline",
        help="train what a bundle is held against: a recurrent network, or one of single frames",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "kind",
        choices=KINDS,
        help="recurrent: a GRU without a latent; frames: this tick's observations, no memory",
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, metavar="DIR", help="from `rssm collect`"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="checkpoints go here")
    parser.add_argument(
        "--contract", default="manipulator", help="name or file of the contract (manipulator)"
    )
    parser.add_argument(
        "--preset", help="sizes and schedule, as of the bundle (manipulator; with --resume the run's own)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in RUN")
    parser.add_argument(
        "--minutes", type=float, help="budget of wall time (60); the learning rate decays over it"
    )
    parser.add_argument("--steps", type=int, help="budget in updates instead of minutes")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--batch", type=int, help="sequences per update")
    parser.add_argument("--length", type=int, help="ticks per sequence")
    parser.add_argument("--seed", type=int, help="of weights, batches and augmentation (0)")
    parser.add_argument("--threads", type=int, help="CPU threads (2)")
    parser.add_argument(
        "--target-beta",
        type=float,
        help="0: targets by plain likelihood; 1: by squared error, as far as the mean goes (0.5)",
    )
    parser.add_argument("--checkpoint-minutes", type=float, help="wall time between two checkpoints (5)")
    parser.add_argument("--checkpoint-steps", type=int, help="save after every so many updates as well")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Trains; 0 when the budget was spent, 130 when Ctrl-C or SIGTERM stopped it before, with all saved."""
    from rssm_ros.contract import find_contract
    from rssm_ros.training.baseline_trainer import BaselineTrainer

    trainer = BaselineTrainer(
        arguments.kind,
        chosen_options(arguments, GIVEN),
        find_contract(arguments.contract),
        arguments.data,
        arguments.out,
        resume=arguments.resume,
        again=_again(arguments),
    )
    return 130 if trainer.run().interrupted else 0


def _again(arguments: argparse.Namespace) -> str:
    """The command that goes on with a run: its options are in the checkpoint, its data are not."""
    words = ["rssm", "train-baseline", arguments.kind, "--contract", arguments.contract]
    words += ["--data", *map(str, arguments.data), "--out", str(arguments.out), "--resume"]
    return shlex.join(words)
