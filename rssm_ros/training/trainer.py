"""The training loop: batches in, checkpoints, figures and a usable state out, whatever happens on the way."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rssm_ros.contract import Contract
from rssm_ros.provenance import commit
from rssm_ros.training import checkpoint
from rssm_ros.training.augment import augment
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.learner import Learner, Terms, Update, normalised_slew
from rssm_ros.training.machine import hardware, prepare
from rssm_ros.training.optimizer import Optimizer, learning_rate
from rssm_ros.training.options import Options
from rssm_ros.training.progress import Reporter
from rssm_ros.training.replay import Batch, Replay, open_storage
from rssm_ros.training.validation import pick_rows, validate
from rssm_ros.world_model import Signals, State, preset
from rssm_ros.world_model.heads import TargetHead

PARTICLES = 32


class Trainer:
    """One run in one directory. Deterministic in (options, data): noise and batches are keyed by (seed,
    step)."""

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
    ) -> None:
        self.options, self.contract, self.out = options, contract, out
        self.device = prepare(options.threads)
        self.signals = Signals.from_contract(contract)
        self.data = [str(path) for path in data]
        stores = [open_storage(path, self.signals) for path in data]
        self.replay = Replay(stores, options.batch, options.length, options.chunks, options.seed)
        self.rows = pick_rows(open_storage(validation, self.signals), 8, 400) if validation else None
        torch.manual_seed(options.seed)
        sizes = preset(options.preset, conv=options.conv)
        self.learner = Learner(self.signals, sizes, options, normalised_slew(contract)).to(self.device)
        self.learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.constant: dict[str, Tensor] = {}
        for name, head in self.learner.world_model.target_heads.items():
            assert isinstance(head, TargetHead)
            offset, scale, self.constant[name] = self.replay.target_statistics(name)
            head.offset.copy_(offset)
            head.scale.copy_(scale)
        named = self.learner.trained()
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = Optimizer(named)
        self.step, self.elapsed, self.state = 0, 0.0, None  # type: int, float, State | None
        self.figures: dict[str, float] = {}
        self.chain: list[dict[str, Any]] = []  # the runs that the weights come from, before this one
        if resume:
            self._load()
        elif (out / checkpoint.FOLDER).exists():
            raise TrainingError(f"{out} already holds a run; go on with --resume, or choose another --out")
        elif start_from is not None:
            self._start_from(start_from)
        self.reporter = Reporter(out, quiet)

    # The loop ---------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train until the budget is spent; the last checkpoint's directory.

        Ctrl-C saves and returns; NaN or Inf is a TrainingError that names the first tensor that has one.
        """
        interrupted = False
        with stop_on_signals():
            try:
                self._loop()
            except KeyboardInterrupt:
                interrupted = True
        if not interrupted:
            self._validate()
        place = self._save()
        self._farewell(place, interrupted)
        return place

    def _loop(self) -> None:
        saved_at = checked_at = before = time.monotonic()
        sums: dict[str, float] = {}
        counted, window = 0, before
        while self.progress < 1.0:
            terms = self._update()
            now = time.monotonic()
            self.elapsed, before = self.elapsed + now - before, now
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            counted += 1
            if counted >= self.options.log_every:
                frames = counted * self.options.batch * self.options.length / (now - window)
                averages = {name: value / counted for name, value in sums.items()}
                self.reporter.step(self.step, self.progress, self.left, frames, averages)
                sums, counted, window = {}, 0, now
            if now - checked_at > 60.0 * self.options.validate_minutes:
                self._validate()
                checked_at = time.monotonic()
            if now - saved_at > 60.0 * self.options.checkpoint_minutes:
                self._save()
                saved_at = time.monotonic()

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0..1."""
        if self.options.steps is not None:
            return self.step / max(1, self.options.steps)
        return self.elapsed / (60.0 * self.options.minutes)

    @property
    def left(self) -> float:
        """Seconds that the run will still take, at the pace so far."""
        if self.options.steps is None:
            return 60.0 * self.options.minutes - self.elapsed
        return self.elapsed / max(1, self.step) * (self.options.steps - self.step)

    def _update(self) -> Terms:
        opt = self.options
        batch = augment(self.replay.batch(self.step), self.signals, opt.augmentation, opt.seed, self.step)
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        noise = torch.Generator(self.device).manual_seed((opt.seed << 32) + self.step)
        imagine = self.progress >= 1.0 - opt.imagination_fraction
        update: Update = self.learner(batch, self.state, noise, imagine)
        loss, terms, last = update
        # Until imagination begins the critic has none, and its optimizer state waits with it.
        gradients = list(torch.autograd.grad(loss, self.parameters, allow_unused=True))
        rate = learning_rate(opt.rate, self.step, opt.warmup, self.progress, opt.decay)
        norm = self.optimizer.step(gradients, rate)
        terms |= {"gradient_norm": norm, "learning_rate": torch.tensor(rate)}
        if not bool(torch.isfinite(norm + terms["loss"])):
            self._stop_on_non_finite(batch, terms, gradients)
        if imagine:
            self.learner.critic.update_slow()
        self.state = last
        self.step += 1
        return terms

    def _stop_on_non_finite(self, batch: Batch, terms: Terms, gradients: Sequence[Tensor | None]) -> None:
        # Labels are NaN where there is none, and so is what an absent observation holds.
        labels = [f"{kind}_{name}" for kind in ("target", "visibility") for name, _ in self.signals.targets]
        labels += ["expert_action", "expert_before"]
        checked = {name: value for name, value in batch.items() if name not in labels}
        for name in self.signals.modalities:
            here = batch[f"recorded_{name}"].reshape(*batch["is_first"].shape, *[1] * (batch[name].dim() - 2))
            checked[name] = torch.where(here, batch[name], torch.zeros((), dtype=batch[name].dtype))
        groups = {"batch": checked, "loss term": {k: v for k, v in terms.items() if k != "loss"}}
        named = zip(self.optimizer.names, gradients, strict=True)
        groups["gradient"] = {name: gradient for name, gradient in named if gradient is not None}
        culprit = checkpoint.first_non_finite(groups) or "loss"
        place = self._save_batch(batch)
        raise TrainingError(
            f"update {self.step}: not a finite number, first in {culprit}; the batch is in {place}. "
            f"Check it, or go on from the last checkpoint: --resume --rate LESS (now {self.options.rate:g})"
        )

    def _save_batch(self, batch: Batch) -> Path:
        from safetensors.torch import save_file

        place = self.out / f"bad-batch-{self.step:08d}.safetensors"
        place.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.cpu().contiguous() for name, value in batch.items()}, place)
        return place

    # Figures, files, words --------------------------------------------------------------------------------

    def _validate(self) -> None:
        if self.rows is None:
            return
        self.figures = validate(self.learner, self.rows, PARTICLES, self.constant, self.contract.dt)
        self.reporter.validation(self.step, self.figures)

    def _save(self) -> Path:
        model = self.learner.state_dict()
        tensors = self.optimizer.state()
        if self.state is not None:
            tensors |= {"stream/deter": self.state.deter, "stream/stoch": self.state.stoch}
        facts: dict[str, Any] = {
            "name": self.out.resolve().name,
            "chain": self.chain,
            "commit": commit(),
            "hardware": hardware(self.device),
            "step": self.step,
            "elapsed_s": self.elapsed,
            "options": self.options.to_dict(),
            "sizes": self.learner.world_model.sizes.to_dict(),
            "signals": self.signals.to_dict(),
            "contract": self.contract.to_dict(),
            "data": self.data,
            "ticks": self.replay.total,
            "climatology": {name: value.tolist() for name, value in self.constant.items()},
            "validation": self.figures,
            "versions": {"torch": str(torch.__version__)},
        }
        return checkpoint.save(self.out, self.step, model, tensors, facts)

    def _load(self) -> None:
        saved = checkpoint.read(self.out)
        now, then = asdict(self.options), saved.state["options"]
        fixed = ("preset", "conv", "batch", "length", "chunks", "seed")
        changed = [name for name in fixed if now[name] != then[name]]
        if changed or saved.state["ticks"] != self.replay.total:
            what = ", ".join(changed) or "the data"
            raise TrainingError(
                f"--resume: {what} differs from the run in {self.out}; use the same, or a new --out"
            )
        self.learner.load_state_dict(saved.model)
        self.optimizer.load(saved.optimizer)
        if "stream/deter" in saved.optimizer:
            carried = (saved.optimizer[f"stream/{name}"].to(self.device) for name in ("deter", "stoch"))
            self.state = State(*carried)
        self.step, self.elapsed = int(saved.state["step"]), float(saved.state["elapsed_s"])
        self.figures = dict(saved.state["validation"])
        self.chain = list(saved.state.get("chain", []))

    def _start_from(self, run: Path) -> None:
        """Weights only: optimizer, step and budget begin anew (a further round on more data).

        The contract may have gained targets since: their heads start untrained.
        """
        saved = checkpoint.read(run)
        refusal = f"--start-from {run}: its weights do not fit this preset and contract"
        try:
            found = self.learner.load_state_dict(saved.model, strict=False)
        except RuntimeError as error:
            raise TrainingError(refusal) from error
        known = {name for name, _ in Signals.from_dict(saved.state["signals"]).targets}
        added = [name for name, _ in self.signals.targets if name not in known]
        fresh = tuple(
            f"{part}.{name}." for name in added for part in ("world_model.target_heads", "perception")
        )
        lacking = [name for name in found.missing_keys if not name.startswith(fresh)]
        if lacking or found.unexpected_keys:
            raise TrainingError(f"{refusal} (first: {(lacking + found.unexpected_keys)[0]})")
        earlier = {"name": run.resolve().name, **saved.state}  # runs of old versions do not know their name
        self.chain = [*saved.state.get("chain", []), checkpoint.stage(earlier)]

    def _farewell(self, place: Path, interrupted: bool) -> None:
        say = self.reporter.say
        say(f"{'stopped' if interrupted else 'done'} after {self.step} updates; saved {place}")
        if interrupted:
            say(f"go on with:  rssm train --data {' '.join(self.data)} --out {self.out} --resume")
        say(f"export with: rssm export {self.out} --out models/NAME")
        self.reporter.close()


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM and SIGINT end the loop with a checkpoint, even started by a shell that ignores SIGINT."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
