"""`rssm train`: data directories -> a checkpoint of world model, actor and critic."""

import argparse
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rssm_ros.training.options import Options, Scales

KINDS = ("reconstruction", "barlow", "infonce")
OF_EVERY_RUN = (  # options that the command line can say, `add_run_options`
    *("minutes", "steps", "rate", "batch", "length", "seed", "threads", "target_beta"),
    *("checkpoint_minutes", "checkpoint_steps"),
)
GIVEN = (
    *OF_EVERY_RUN,
    *("imagination_fraction", "free_nats", "posterior", "latent", "representation"),
    *("conv", "particles", "overshoot_horizon"),
    *("freeze_encoders", "replay_latents", "compile", "wandb"),
    *("validate_minutes", "validate_steps"),
)


def add_parser(subparsers: Any) -> None:
    """Adds the command's options."""
    parser = subparsers.add_parser("train", help="train world model and actor, resumably")
    add_run_options(parser)
    parser.add_argument("--val", type=Path, metavar="DIR", help="held-out data for the validation figures")
    parser.add_argument(
        "--start-from", type=Path, metavar="RUN", help="begin with the weights of another run"
    )
    parser.add_argument(
        "--encoders-only",
        action="store_true",
        help="of --start-from only what it learnt to see; posterior, latent and core may be others",
    )
    parser.add_argument(
        "--imagination-fraction", type=float, help="last share that also learns in imagination"
    )
    parser.add_argument(
        "--scale",
        action="append",
        metavar="NAME=VALUE",
        help="weight of a loss term, such as rep=0.05; may be given several times",
    )
    parser.add_argument("--free-nats", type=float, help="KL below which nothing is gained")
    parser.add_argument(
        "--posterior", choices=("concat", "product"), help="how observations enter the belief"
    )
    parser.add_argument("--latent", choices=("categorical", "gaussian"), help="the stochastic latent")
    parser.add_argument(
        "--conv",
        choices=("strided", "exact", "map"),
        help="convolutions: `exact` is DreamerV3's own, slower; `map` halves a picture only once",
    )
    parser.add_argument("--representation", choices=KINDS, help="what teaches the encoder of images")
    parser.add_argument(
        "--particles", type=int, help="samples of the latent that a target's likelihood is the mean of (2)"
    )
    parser.add_argument(
        "--overshoot-horizon", type=int, help="ticks of prediction that --scale overshoot=W goes on for (12)"
    )
    parser.add_argument(
        "--freeze-encoders",
        action="store_true",
        default=None,
        help="with --start-from: what was learnt to be seen stays, and updates cost less",
    )
    _add_schedule(parser)
    parser.set_defaults(run=run)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What every training command can be told: data, folder, budget, batches, checkpoints."""
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, metavar="DIR", help="from `rssm collect`"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="checkpoints and TensorBoard go here"
    )
    parser.add_argument(
        "--contract", default="manipulator", help="name or file of the contract (manipulator)"
    )
    parser.add_argument("--preset", help="sizes and schedule (manipulator; with --resume the run's own)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in RUN")
    parser.add_argument(
        "--minutes", type=float, help="budget of wall time (60); the learning rate decays over it"
    )
    parser.add_argument("--steps", type=int, help="budget in updates instead of minutes")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--batch", type=int, help="sequences per update")
    parser.add_argument("--length", type=int, help="ticks per sequence")
    parser.add_argument("--seed", type=int, help="of weights, batches, noise and augmentation (0)")
    parser.add_argument("--threads", type=int, help="CPU threads (2)")
    parser.add_argument(
        "--target-beta",
        type=float,
        help="0: targets by plain likelihood; 1: by squared error, as far as the mean goes (0.5)",
    )
    parser.add_argument("--checkpoint-minutes", type=float, help="wall time between two checkpoints (5)")
    parser.add_argument("--checkpoint-steps", type=int, help="save after every so many updates as well")


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    """When to validate, and what else to do beside."""
    parser.add_argument("--validate-minutes", type=float, help="wall time between two validations (5)")
    parser.add_argument("--validate-steps", type=int, help="validate after every so many updates as well")
    parser.add_argument(
        "--replay-latents",
        action="store_true",
        default=None,
        help="streams that jump go on from the state last computed there",
    )
    parser.add_argument(
        "--compile", action="store_true", default=None, help="torch.compile encoders, decoders and heads"
    )
    parser.add_argument("--wandb", action="store_true", default=None, help="log to Weights & Biases as well")


def run(arguments: argparse.Namespace) -> int:
    """Trains; 0 when the budget was spent, 130 when Ctrl-C or SIGTERM stopped it before, with all saved."""
    from rssm_ros.contract import find_contract
    from rssm_ros.training import distributed
    from rssm_ros.training.errors import TrainingError
    from rssm_ros.training.trainer import Trainer

    if arguments.encoders_only and arguments.start_from is None:
        raise TrainingError("--encoders-only: of which run? Add --start-from RUN")
    chosen = chosen_options(arguments, GIVEN)
    chosen = replace(chosen, scales=_scales(chosen.scales, arguments.scale or ()))
    try:
        trainer = Trainer(
            chosen,
            find_contract(arguments.contract),
            arguments.data,
            arguments.out,
            validation=arguments.val,
            resume=arguments.resume,
            start_from=arguments.start_from,
            encoders_only=arguments.encoders_only,
            again=going_on(arguments),
        )
        return 130 if trainer.run().interrupted else 0
    finally:
        distributed.leave()


def going_on(arguments: argparse.Namespace, *command: str) -> str:
    """The command that goes on with a run: its options are in the checkpoint, its data are not."""
    words = ["rssm", *(command or ("train",)), "--contract", arguments.contract]
    words += ["--data", *map(str, arguments.data)]
    if getattr(arguments, "val", None) is not None:
        words += ["--val", str(arguments.val)]
    return shlex.join([*words, "--out", str(arguments.out), "--resume"])


def chosen_options(arguments: argparse.Namespace, given: Sequence[str]) -> "Options":
    """The preset's options, or those of the run that is resumed, and what the command line says otherwise:
    `given` are the options that it can say.
    """
    from rssm_ros.training import checkpoint
    from rssm_ros.training.errors import TrainingError
    from rssm_ros.training.options import Options, options

    if arguments.resume and checkpoint.steps(arguments.out):
        chosen = Options.from_dict(checkpoint.read_options(arguments.out))
        if arguments.preset not in (None, chosen.preset):
            raise TrainingError(
                f"--resume: --preset {arguments.preset} differs from the checkpoint's, {chosen.preset}; "
                "leave it out, or choose a new --out"
            )
    else:
        chosen = options(arguments.preset or "manipulator")
    said = {name: getattr(arguments, name) for name in given if getattr(arguments, name) is not None}
    if "minutes" in said and "steps" not in said:
        said["steps"] = None  # who goes on with a budget of minutes means these
    return replace(chosen, **said)


def _scales(scales: "Scales", said: Sequence[str]) -> "Scales":
    """`scales` with every NAME=VALUE in `said`."""
    from rssm_ros.training.errors import TrainingError

    fields = {name.rstrip("_"): name for name in asdict(scales)}  # a term may be a word of Python
    for text in said:
        name, _, number = text.partition("=")
        if name not in fields:
            raise TrainingError(f"--scale {text}: no loss term {name!r}, there are {', '.join(fields)}")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not 0.0 <= value < math.inf:
            raise TrainingError(f"--scale {text}: expected NAME=VALUE with a number of at least 0")
        scales = replace(scales, **{fields[name]: value})
    return scales
