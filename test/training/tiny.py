"""A trainer of the smallest size on synthetic data, for tests of whole runs."""

from dataclasses import replace

from rssm_ros.contract import find_contract
from rssm_ros.training.options import Options, options
from rssm_ros.training.trainer import Trainer

CONTRACT = find_contract("manipulator")
ONE_TARGET = replace(CONTRACT, targets=CONTRACT.targets[:1])
TINY = replace(options("debug"), steps=6, log_every=2, threads=1, autocast=False, imagination_fraction=0.5)


def trainer(chosen: Options, data, out, **kwargs) -> Trainer:
    """Of the whole contract on one data directory, without a word."""
    return Trainer(chosen, CONTRACT, [data], out, quiet=True, **kwargs)
