"""One training run: a folder, a budget, updates, checkpoints and words. What is learnt is the subclass's."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from tensordict import TensorDict
from torch import Tensor, nn

from rssm_ros.contract import Contract
from rssm_ros.provenance import commit
from rssm_ros.training import checkpoint, health, meaning, replay, restore
from rssm_ros.training.augment import augment
from rssm_ros.training.distributed import join
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.feed import Feed
from rssm_ros.training.health import Health
from rssm_ros.training.machine import hardware, prepare
from rssm_ros.training.optimizer import Optimizer, learning_rate
from rssm_ros.training.options import Options
from rssm_ros.training.progress import Reporter, Sums
from rssm_ros.training.replay import Batch, Replay
from rssm_ros.training.stopping import Stop, stop_on_signals
from rssm_ros.world_model import Signals
from rssm_ros.world_model.heads import TargetHead

STREAM = "stream/"  # what the streams carry lies beside the optimizer's tensors, under such names


class Ended(NamedTuple):
    """How a run ended: its last checkpoint, and whether somebody stopped it with budget left."""

    checkpoint: Path
    interrupted: bool


class Pass(NamedTuple):
    """One forward pass: the batch as it was learnt from, the loss to descend [], every term unweighted [].

    carried: what every stream takes along to its next batch, {name: [B, ...]}, no gradient.
    """

    batch: Batch
    loss: Tensor
    terms: dict[str, Tensor]
    carried: dict[str, Tensor]


class Run(ABC):
    """One run in one folder, in one process or in several that torchrun started.

    It holds the folder from the first moment until `close`, which `run` does at its end: what it opens to go
    on with it also changes. TrainingError where another one holds it.

    Deterministic in (options, data): noise and batches are keyed by (seed, step, global row). With a budget
    of `steps` on a CPU a run that was killed and resumed equals the uninterrupted one bit for bit.
    """

    def __init__(
        self,
        options: Options,
        contract: Contract,
        data: Sequence[Path],
        out: Path,
        resume: bool,
        quiet: bool,
        again: str,
    ) -> None:
        """again: what a person who stopped the run is told to go on with."""
        self.options, self.contract, self.out, self.again = options, contract, out, again
        self.signals = Signals.from_contract(contract)
        self.world = join()
        if resume and not out.is_dir():
            checkpoint.find(out)  # which says that there is none; the lock would make the directory
        with ExitStack() as held:
            if self.world.first:
                held.enter_context(checkpoint.alone(out))
            self._prepare(held, data, resume, quiet)
            self.held = held.pop_all()

    def close(self) -> None:
        """End threads and files, flush figures, let go of the folder; the numbers stay."""
        self.held.close()

    # What a subclass says ---------------------------------------------------------------------------------

    @abstractmethod
    def _read(self) -> checkpoint.Saved:
        """The newest checkpoint in the folder; TrainingError where it is of something else."""

    @abstractmethod
    def _build(self) -> tuple[nn.Module, nn.ModuleDict]:
        """What is trained, just initialised, and its target heads by name."""

    @abstractmethod
    def _pass(self, batch: Batch) -> Pass:
        """Losses of the batch of the present step; the same each time."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """What `state.json` says beside what every run's says."""

    @property
    @abstractmethod
    def _next(self) -> str:
        """What to do with a finished run."""

    def _begin(self, held: ExitStack, saved: checkpoint.Saved | None) -> None:
        """From a checkpoint or anew; what has to be closed again goes into `held`."""
        if saved is not None:
            self._load(saved)

    def _validate(self) -> None:  # noqa: B027  not every run has some
        """Look at held-out data, if there are any."""

    def _look(self, means: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """Further figures beside the terms' means of a window, and alarms in words."""
        return {}, []

    # Preparation ------------------------------------------------------------------------------------------

    def _prepare(self, held: ExitStack, data: Sequence[Path], resume: bool, quiet: bool) -> None:
        """All that a run needs; what has to be closed goes into `held`, in that order."""
        opt, first = self.options, self.world.first
        saved = self._earlier(resume)
        self.device = prepare(opt.threads)
        self.data, self.contents = [str(path) for path in data], [replay.contents(path) for path in data]
        self.hashes = [replay.content_hash(path) for path in data]
        own = self.world.rows(opt.batch)
        self.replay = Replay(self._open(data), opt.batch, opt.length, opt.chunks, opt.seed, own)
        torch.manual_seed(opt.seed)
        self.learner, heads = self._build()
        self.learner.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.constant: dict[str, Tensor] = {}  # the guess that costs nothing, of every target [d]
        for name, head in heads.items():
            assert isinstance(head, TargetHead)
            offset, scale, self.constant[name] = self.replay.target_statistics(name)
            head.offset.copy_(offset)
            head.scale.copy_(scale)
        self.optimizer = Optimizer([(n, p) for n, p in self.learner.named_parameters() if p.requires_grad])
        self.step, self.elapsed, self.processor = 0, 0.0, 0.0  # updates, s of wall and of processor time
        self.carried: dict[str, Tensor] = {}
        self._begin(held, saved)
        self.health = Health(self.device, self.step)
        self.feed = Feed(self._batch, self.device)
        held.callback(self.feed.close)
        facts = opt.to_dict() if opt.wandb else None
        self.reporter = Reporter(self.out, quiet or not first, self.step, facts, keeps=first)
        held.callback(self.reporter.close)

    def _earlier(self, resume: bool) -> checkpoint.Saved | None:
        """The checkpoint to go on from; TrainingError where there is one and nobody asked for it."""
        if not checkpoint.steps(self.out):
            return None  # perhaps killed before its first checkpoint: it begins anew
        if not resume:
            raise TrainingError(
                f"{self.out} already holds a run; go on with --resume, or choose another --out"
            )
        return self._read()

    def _open(self, data: Sequence[Path]) -> list[TensorDict]:
        """Storages; the first process builds what is not there yet."""
        for path in data:
            meaning.check(path, self.contract)
        if not self.world.first:
            self.world.wait()
        stores = [replay.open_storage(path, self.signals) for path in data]
        if self.world.first:
            self.world.wait()
        return stores

    def _load(self, saved: checkpoint.Saved) -> None:
        """All that a run is, bit for bit, where it was saved."""
        restore.check_same(saved, self.options, self.contract, self.replay.total, self.contents, self.hashes)
        checkpoint.fill(self.learner, saved.model, "--resume")
        self.optimizer.load(saved.optimizer)
        own = slice(self.replay.own.start, self.replay.own.stop)
        # Clones: the loaded ones lie in the file's memory as they come, and sums can depend on that.
        self.carried = {
            name.removeprefix(STREAM): value[own].to(self.device, copy=True)
            for name, value in saved.optimizer.items()
            if name.startswith(STREAM)
        }
        self.step, self.elapsed = int(saved.state["step"]), float(saved.state["elapsed_s"])
        self.processor = float(saved.state.get("processor_s", math.nan))  # old versions did not count it

    # The loop ---------------------------------------------------------------------------------------------

    def run(self) -> Ended:
        """Train until the budget is spent, and close.

        Ctrl-C saves and returns. TrainingError for NaN or Inf, which names the first tensor that has one, and
        for a disk that is full at the end.
        """
        try:
            with stop_on_signals(self.reporter.say) as stop:
                ended = self._finish(self._loop(stop))
        finally:
            self.close()
        self.world.wait()  # where one leaves with an exit code torchrun ends the others, even while they save
        return ended

    def _finish(self, asked: bool) -> Ended:
        """The last figures, checkpoint and words; asked: somebody wanted to stop."""
        if not asked:
            self._validate()
        self._ask_health()
        try:
            ended = Ended(self._save(), asked and self.progress < 1.0)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"the last checkpoint could not be written: {self._unsaved(error)}"
            ) from error
        say, did = self.reporter.say, "stopped" if ended.interrupted else "done"
        say(f"{did} after {self.step} updates; saved {ended.checkpoint}")
        if ended.interrupted:
            say(f"go on with:  {self.again}")
        say(self._next)
        return ended

    def _loop(self, stop: Stop) -> bool:
        """Updates until the budget is spent; whether somebody wanted to stop before."""
        opt = self.options
        saved_at = checked_at = before = time.monotonic()
        worked = time.process_time()
        sums, window = Sums(), before
        while self.progress < 1.0:
            terms = self._update()
            now, busy = time.monotonic(), time.process_time()
            self.elapsed, before = self.elapsed + now - before, now
            self.processor, worked = self.processor + busy - worked, busy
            late = (
                now - checked_at > 60.0 * opt.validate_minutes,
                now - saved_at > 60.0 * opt.checkpoint_minutes,
            )
            # Wall time is the first process's; a wish to stop may come to any of them.
            mine = [self.elapsed, float(late[0]), float(late[1])] if self.world.first else [0.0, 0.0, 0.0]
            self.elapsed, check, save, over = self.world.largest([*mine, float(stop.asked)])
            sums.add(terms)
            if sums.updates >= opt.log_every:
                self._ask_health()
                self._log(sums, time.monotonic() - window)
                sums, window = Sums(), time.monotonic()
            if over:
                return True
            resting = time.monotonic()
            if check or _every(opt.validate_steps, self.step):
                self._validate()
                checked_at = time.monotonic()
            if save or _every(opt.checkpoint_steps, self.step):
                self._save_or_say()
                saved_at = time.monotonic()
            window += time.monotonic() - resting
        return False

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0..1."""
        if self.options.steps is not None:
            return self.step / self.options.steps
        return self.elapsed / (60.0 * self.options.minutes)

    @property
    def left(self) -> float:
        """Seconds that the run will still take, at the pace so far."""
        if self.options.steps is None:
            return 60.0 * self.options.minutes - self.elapsed
        return self.elapsed / max(1, self.step) * (self.options.steps - self.step)

    def _log(self, sums: Sums, seconds: float) -> None:
        """The one place where the loop waits for the device."""
        means = self.world.mean(sums.means(self.device))
        averages = dict(zip(sums.sums, means.tolist(), strict=True))
        frames = sums.updates * self.options.batch * self.options.length / max(seconds, 1e-9)
        figures, alarms = self._look(averages)
        self.reporter.step(self.step, self.progress, self.left, frames, averages, figures)
        self.reporter.alarms(self.step, alarms)

    # An update --------------------------------------------------------------------------------------------

    def _update(self) -> dict[str, Tensor]:
        """One update at the present step: its terms [], unweighted, the gradient's norm and the rate."""
        opt = self.options
        found, gradients = self._descend()
        self.world.average([*gradients, found.terms["loss"]])
        rate = learning_rate(opt.rate, self.step, opt.warmup, self.progress, opt.decay)
        self.health.check(found.terms["loss"])
        norm = self.optimizer.step(gradients, rate, self.health.fine)
        if self.device.type == "cpu":  # a GPU is asked when figures are read
            self._ask_health()
        self.carried = self.health.hold(found.carried, self.carried)
        self.health.count()
        self.step += 1
        return found.terms | {"gradient_norm": norm, "learning_rate": torch.tensor(rate)}

    def _descend(self) -> tuple[Pass, list[Tensor | None]]:
        """Losses and this process's gradients at the present step; the same each time."""
        found = self._pass(self.feed(self.step))
        # A part whose loss begins late has no gradient before, and its optimizer state waits with it.
        parameters = self.optimizer.parameters
        return found, list(torch.autograd.grad(found.loss, parameters, allow_unused=True))

    def _batch(self, step: int) -> Batch:
        """A pure function of the step: what this process's rows see there."""
        opt = self.options
        return augment(
            self.replay.batch(step), self.signals, opt.augmentation, opt.seed, step, self.replay.own.start
        )

    def _ask_health(self) -> None:
        """TrainingError that names the first tensor of the first bad update, if there was one."""
        bad = self.health.ask(self.step)
        if bad is None:
            return
        # Nothing moved since: the same update once more, to see where it begins.
        self.step = bad
        found, gradients = self._descend()
        named = dict(zip(self.optimizer.names, gradients, strict=True))
        first = health.culprit(found.batch, self.signals, found.terms, named) or "another process's part"
        try:
            kept = f"is in {health.save_batch(found.batch, self.out, bad, self.world.rank)}"
        except (OSError, SafetensorError) as error:
            kept = f"could not be kept ({error})"
        raise TrainingError(
            f"update {bad}: not a finite number, first in {first}; the batch {kept}. "
            f"Check it, or go on from the last checkpoint: --resume --rate LESS (now {self.options.rate:g})"
        )

    # Checkpoints ------------------------------------------------------------------------------------------

    def _save_or_say(self) -> None:
        """A disk that is full now may have room in time for the next checkpoint."""
        try:
            self._save()
        except (OSError, SafetensorError) as error:
            self.reporter.alarms(self.step, [f"checkpoint not written: {self._unsaved(error)}"])

    def _unsaved(self, error: Exception) -> str:
        kept = checkpoint.steps(self.out)
        held = f"the last good one is of step {kept[-1]}" if kept else "there is none yet"
        return f"{error}; {held}. Make room at {self.out}"

    def _save(self) -> Path:
        """A checkpoint of the present step; OSError or SafetensorError if it cannot be written."""
        self._ask_health()
        tensors = self.optimizer.state()
        tensors |= {f"{STREAM}{name}": self.world.gather(value) for name, value in self.carried.items()}
        if not self.world.first:
            return self.out
        facts: dict[str, Any] = {
            "name": self.out.resolve().name,
            "commit": commit(),
            "hardware": hardware(self.device),
            "processes": self.world.size,
            "step": self.step,
            "elapsed_s": self.elapsed,
            "processor_s": self.processor,
            "options": self.options.to_dict(),
            "sizes": self.options.sizes().to_dict(),
            "signals": self.signals.to_dict(),
            "contract": self.contract.to_dict(),
            "data": self.data,
            "contents": self.contents,
            "hashes": self.hashes,
            "ticks": self.replay.total,
            "versions": {"torch": str(torch.__version__)},
            **self._facts(),
        }
        return checkpoint.save(self.out, self.step, self.learner.state_dict(), tensors, facts)


def _every(steps: int | None, step: int) -> bool:
    return steps is not None and step % steps == 0
