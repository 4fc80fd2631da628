"""Training a world model with its actor and critic: what a `Run` of it learns, shows and keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rssm_ros.contract import Contract
from rssm_ros.training import checkpoint, restore, strips
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.figures import belief_figures
from rssm_ros.training.latents import ReplayLatents
from rssm_ros.training.learner import Learner, Update, normalised_slew
from rssm_ros.training.machine import compile_parts
from rssm_ros.training.options import Options
from rssm_ros.training.replay import Batch
from rssm_ros.training.run import Pass, Run
from rssm_ros.training.validation import pick_rows, validate
from rssm_ros.training.watch import Watch
from rssm_ros.world_model import Beliefs, State

PARTICLES = 32  # of the filter that is validated


class Trainer(Run):
    """A world model, an actor and a critic, the latter two in imagination as well, late in the run."""

    learner: Learner

    def __init__(
        self,
        options: Options,
        contract: Contract,
        data: Sequence[Path],
        out: Path,
        validation: Path | None = None,
        resume: bool = False,
        start_from: Path | None = None,
        quiet: bool = False,
        again: str = "the same with resume=True",
        encoders_only: bool = False,
    ) -> None:
        """again: what a person who stopped the run is told to go on with; encoders_only: of `start_from`."""
        self.validation, self.start_from, self.encoders_only = validation, start_from, encoders_only
        super().__init__(options, contract, data, out, resume, quiet, again)

    def _read(self) -> checkpoint.Saved:
        saved = checkpoint.read_world_model(self.out)
        if checkpoint.TRACKER in saved.state:
            raise TrainingError(
                f"{self.out} has a tracker, which `rssm train-tracker --resume` goes on with; "
                "choose another --out, and --start-from this run"
            )
        return saved

    def _build(self) -> tuple[nn.Module, nn.ModuleDict]:
        self.rows = pick_rows(self._open([self.validation])[0], 16, 400) if self.validation else None
        self.watch = Watch(self.options.scales, self.options.free_nats)
        self.figures: dict[str, float] = {}  # of the last validation
        self.validated: int | None = None  # its step
        self.chain: list[dict[str, Any]] = []  # the runs that the weights come from, before this one
        self.imagines_from: int | None = None  # the first step of this process that also imagined
        slew = normalised_slew(self.contract)
        learner = Learner(self.signals, self.options.sizes(), self.options, slew)
        learner.world = self.world
        return learner, learner.world_model.target_heads

    def _begin(self, held: ExitStack, saved: checkpoint.Saved | None) -> None:
        super()._begin(held, saved)
        if saved is not None:
            self.figures = dict(saved.state["validation"])
            self.chain = list(saved.state.get("chain", []))
        elif self.start_from is not None:
            self.chain = restore.start_from(self.start_from, self.learner, self.signals, self.encoders_only)
        elif self.options.freeze_encoders:
            raise TrainingError(
                "--freeze-encoders: these have learnt nothing yet; add --start-from RUN, or leave it out"
            )
        self.latents = self._replay_latents(saved is not None) if self.options.replay_latents else None
        if self.latents is not None:
            held.callback(self.latents.close)
        if self.options.compile:
            compile_parts(self.learner)

    def _replay_latents(self, resumed: bool) -> ReplayLatents:
        if self.world.size > 1:
            raise TrainingError(
                "--replay-latents: only with one process, since a row's next one may be another's"
            )
        sizes, latent = self.options.sizes(), self.learner.world_model.rssm.latent
        step = self.step if resumed else None
        return ReplayLatents(self.out, self.replay.ticks, sizes.deter, latent.groups, latent.width, step)

    # An update --------------------------------------------------------------------------------------------

    def _pass(self, batch: Batch) -> Pass:
        # Remembered: where a GPU is asked late, the same update once more must imagine as it did then.
        if self.imagines_from is None and self.progress >= 1.0 - self.options.imagination_fraction:
            self.imagines_from = self.step
        imagine = self.imagines_from is not None and self.step >= self.imagines_from
        state = State(**self.carried) if self.carried else None
        if self.latents is not None:
            batch, state = self._from_replay(self.latents, batch, state)
        noise = torch.Generator(self.device).manual_seed((self.options.seed << 32) + self.step)
        motion = None
        if self.learner.world_model.sizes.grounded:
            rows = self.world.rows(self.options.motion_rows)
            labels = self.replay.motion(self.step, rows, self.options.motion_length)
            motion = {name: value.to(self.device) for name, value in labels.items()}
        update: Update = self.learner(batch, state, noise, imagine, motion)
        self.beliefs: Beliefs = update.beliefs
        self.first: Tensor = batch["is_first"]
        return Pass(batch, update.loss, update.terms, update.last._asdict())

    def _from_replay(self, latents: ReplayLatents, batch: Batch, state: State | None) -> tuple[Batch, State]:
        """Rows that jumped to where the model has been go on from what it computed there."""
        places = self.replay.places(self.step)
        state, known = latents.before(places, state or self.learner.world_model.initial_state(len(places)))
        first = batch["is_first"].clone()
        for row, ((store, start, _), here) in enumerate(zip(places, known, strict=True)):
            if here:
                first[row, 0] = bool(self.replay.stores[store]["is_first"][start])
        return {**batch, "is_first": first}, state

    def _update(self) -> dict[str, Tensor]:
        places = self.replay.places(self.step) if self.latents is not None else []
        terms = super()._update()
        if self.imagines_from is not None:
            self.learner.critic.update_slow()
        if self.latents is not None:
            self._ask_health()  # what is no number is not kept
            self.latents.write(places, self.beliefs.deter, self.beliefs.stoch)
        return terms

    # Figures and files ------------------------------------------------------------------------------------

    def _look(self, means: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        latent = self.learner.world_model.rssm.latent
        return belief_figures(latent, self.beliefs, self.first), self.watch.look(means)

    def _validate(self) -> None:
        """Figures and film strips of held-out rows: by the first process, while the others wait."""
        if self.rows is None or self.validated == self.step:
            return
        self.validated = self.step
        if self.world.first:
            self.figures = validate(self.learner, self.rows, PARTICLES, self.constant, self.contract.dt)
            self.reporter.validation(self.step, self.figures)
            pictures = strips.strips(self.learner, self.rows)
            try:
                strips.write(pictures, self.out, self.step)
            except OSError as error:
                self.reporter.alarms(self.step, [f"the film strips could not be written ({error})"])
            self.reporter.pictures(self.step, pictures)
        self.world.wait()

    def _facts(self) -> dict[str, Any]:
        climatology = {name: value.tolist() for name, value in self.constant.items()}
        return {"chain": self.chain, "climatology": climatology, "validation": self.figures}

    def _save(self) -> Path:
        place = super()._save()
        if self.latents is not None:
            self.latents.saved(checkpoint.steps(self.out))
        return place

    @property
    def _next(self) -> str:
        return f"export with: rssm export {self.out} --out models/NAME"
