"""`rssm train-baseline`: the networks that a bundle is held against, trained on the same data."""

import argparse
from typing import Any

from rssm_ros.cli.train import OF_EVERY_RUN, add_run_options, chosen_options, going_on

KINDS = ("recurrent", "frames")
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
    add_run_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Trains; 0 when the budget was spent, 130 when Ctrl-C or SIGTERM stopped it before, with all saved."""
    from rssm_ros.contract import find_contract
    from rssm_ros.training import distributed
    from rssm_ros.training.baseline_trainer import BaselineTrainer

    try:
        trainer = BaselineTrainer(
            arguments.kind,
            chosen_options(arguments, OF_EVERY_RUN),
            find_contract(arguments.contract),
            arguments.data,
            arguments.out,
            resume=arguments.resume,
            again=going_on(arguments, "train-baseline", arguments.kind),
        )
        return 130 if trainer.run().interrupted else 0
    finally:
        distributed.leave()
