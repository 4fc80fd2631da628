"""`rssm train-tracker`: where targets are, by a filter of their own, beside a world model that stays as it
is."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rssm_ros.cli.train import OF_EVERY_RUN, add_run_options, chosen_options, going_on

EXAMPLES = """examples:
  rssm train-tracker --start-from runs/fifth --data data/expert data/dagger-1 --out runs/tracked --minutes 45
  rssm export runs/tracked --out models/mine"""
GIVEN = (*OF_EVERY_RUN, "freeze_encoders")  # options that the command line can say
# What differs from the options of the model it stands beside, unless the command line says otherwise.
OWN = {"batch": 32, "length": 40, "chunks": 10, "rate": 4e-3, "warmup": 100, "decay": True}
# ... and what means nothing to a tracker.
NONE = {"imagination_fraction": 0.0, "compile": False, "replay_latents": False, "wandb": False}


def add_parser(subparsers: Any) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser(
        "train-tracker",
        help="train a filter of places beside a trained world model: sharper, more honest targets",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(parser)
    parser.add_argument(
        "--start-from", type=Path, metavar="RUN", help="the world model's run; it stays as it is"
    )
    parser.add_argument(
        "--freeze-encoders",
        action="store_true",
        default=None,
        help="what the tracker has learnt to see stays: with data that it was not learnt from, to learn how "
        "far to trust it",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Trains; 0 when the budget was spent, 130 when Ctrl-C or SIGTERM stopped it before, with all saved."""
    from rssm_ros.contract import find_contract
    from rssm_ros.training import checkpoint, distributed
    from rssm_ros.training.errors import TrainingError
    from rssm_ros.training.options import Options
    from rssm_ros.training.tracker_trainer import TrackerTrainer

    options = chosen_options(arguments, GIVEN)
    begins = not (arguments.resume and checkpoint.steps(arguments.out))
    if begins and arguments.start_from is not None:
        before = Options.from_dict(checkpoint.read_options(arguments.start_from))
        if arguments.preset not in (None, before.preset):
            raise TrainingError(
                f"--preset {arguments.preset}: the model of {arguments.start_from} is {before.preset!r}, "
                "and so is what stands beside it; leave it out"
            )
        own = {name: value for name, value in OWN.items() if getattr(arguments, name, None) is None}
        said = {name: getattr(options, name) for name in GIVEN}
        scales = replace(before.scales, overshoot=0.0)
        options = replace(before, **{**said, **own, **NONE, "scales": scales})
    try:
        trainer = TrackerTrainer(
            options,
            find_contract(arguments.contract),
            arguments.data,
            arguments.out,
            start_from=arguments.start_from,
            resume=arguments.resume,
            again=going_on(arguments, "train-tracker"),
        )
        return 130 if trainer.run().interrupted else 0
    finally:
        distributed.leave()
