"""Training a baseline: data, slices, augmentation, optimizer and checkpoints are the world model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rssm_ros.contract import Contract
from rssm_ros.training import checkpoint
from rssm_ros.training.baseline_networks import BaselineLearner, BaselineUpdate
from rssm_ros.training.options import Options
from rssm_ros.training.replay import Batch
from rssm_ros.training.run import Pass, Run


class BaselineTrainer(Run):
    """A network of `baseline_networks.KINDS`, as `Run` says; deterministic in the kind too."""

    learner: BaselineLearner

    def __init__(
        self,
        kind: str,
        options: Options,
        contract: Contract,
        data: Sequence[Path],
        out: Path,
        resume: bool = False,
        quiet: bool = False,
        again: str = "the same with resume=True",
    ) -> None:
        """again: what a person who stopped the run is told to go on with."""
        self.kind = kind
        super().__init__(options, contract, data, out, resume, quiet, again)

    def _read(self) -> checkpoint.Saved:
        return checkpoint.read_baseline(self.out, self.kind)

    def _build(self) -> tuple[nn.Module, nn.ModuleDict]:
        learner = BaselineLearner(self.kind, self.signals, self.options)
        learner.world = self.world
        return learner, learner.network.target_heads

    def _pass(self, batch: Batch) -> Pass:
        update: BaselineUpdate = self.learner(batch, self.carried.get("deter"))
        return Pass(batch, update.loss, update.terms, {"deter": update.last})

    def _facts(self) -> dict[str, Any]:
        parameters = sum(p.numel() for p in self.learner.network.parameters())
        names = [Path(path).resolve().name for path in self.data]  # a scorecard shows them to anybody
        return {checkpoint.BASELINE: self.kind, "parameters": parameters, "data": names}

    @property
    def _next(self) -> str:
        return f"score with: rssm evaluate BAG... --bundle B --baseline-model {self.kind}={self.out}"
