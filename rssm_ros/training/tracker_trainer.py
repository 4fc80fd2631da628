"""Training a tracker beside a trained world model, as a `Run`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rssm_ros.contract import Contract
from rssm_ros.training import checkpoint, restore
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.options import Options
from rssm_ros.training.replay import Batch
from rssm_ros.training.run import Pass, Run
from rssm_ros.training.tracking import TrackerLearner, TrackerUpdate

KEPT = ("chain", "models", "climatology", "validation")  # of a state, what does not change


class TrackerTrainer(Run):
    """The tracker of `start_from`'s world model: a new one, or a further round of the one it has.

    Its checkpoints hold that model, too: export them.
    """

    learner: TrackerLearner

    def __init__(
        self,
        options: Options,
        contract: Contract,
        data: Sequence[Path],
        out: Path,
        start_from: Path | None = None,
        resume: bool = False,
        quiet: bool = False,
        again: str = "the same with resume=True",
    ) -> None:
        """again: what a person who stopped the run is told to go on with."""
        self.start_from = start_from
        super().__init__(options, contract, data, out, resume, quiet, again)

    def _read(self) -> checkpoint.Saved:
        return checkpoint.read_tracker(self.out)

    def _build(self) -> tuple[nn.Module, nn.ModuleDict]:
        self.before: dict[str, Any] = {}  # what the world model's own checkpoint said
        learner = TrackerLearner(self.signals, self.options.sizes(), self.options)
        learner.world = self.world
        return learner, learner.world_model.target_heads

    def _begin(self, held: ExitStack, saved: checkpoint.Saved | None) -> None:
        super()._begin(held, saved)
        if saved is not None:
            self.before = {name: saved.state[name] for name in KEPT}
            return
        if self.start_from is None:
            raise TrainingError("a tracker stands beside a trained world model: give one, --start-from RUN")
        state = checkpoint.read_state(self.start_from)
        if self.options.freeze_encoders and checkpoint.TRACKER not in state:
            raise TrainingError(
                f"--freeze-encoders: {self.start_from} has no tracker that has learnt to see; leave it out"
            )
        chain = restore.start_from(self.start_from, self.learner, self.signals, beside=True)
        self.learner.tracker.scaled(dict(self.learner.world_model.target_heads.items()))
        # How many of the chain's runs taught the model: those before the first one of a tracker.
        models = state["models"] if checkpoint.TRACKER in state else len(chain)
        validation = {k: v for k, v in (state.get("validation") or {}).items() if k.startswith("surprise")}
        self.before = {
            "chain": chain,
            "models": models,
            "climatology": state.get("climatology") or {},
            "validation": validation,  # errors of targets are those of heads that nobody asks any more
        }

    def _pass(self, batch: Batch) -> Pass:
        noise = torch.Generator(self.device).manual_seed((self.options.seed << 32) + self.step)
        update: TrackerUpdate = self.learner.track(batch, self.carried or None, noise)
        return Pass(batch, update.loss, update.terms, update.carried)

    def _facts(self) -> dict[str, Any]:
        return {checkpoint.TRACKER: True, **self.before}

    @property
    def _next(self) -> str:
        return f"export with: rssm export {self.out} --out models/NAME"
