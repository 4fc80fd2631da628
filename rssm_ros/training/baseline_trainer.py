"""The training loop of baselines; data, slices, augmentation, optimizer and checkpoints are the bundles'."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from rssm_ros.contract import Contract
from rssm_ros.provenance import commit
from rssm_ros.training import checkpoint, replay, restore
from rssm_ros.training.augment import augment
from rssm_ros.training.baseline_networks import BaselineLearner
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.feed import Feed
from rssm_ros.training.machine import hardware, prepare
from rssm_ros.training.optimizer import Optimizer, learning_rate
from rssm_ros.training.options import Options
from rssm_ros.training.progress import Reporter, Sums
from rssm_ros.training.replay import Batch, Replay
from rssm_ros.training.stopping import Stop, stop_on_signals
from rssm_ros.training.trainer import Ended
from rssm_ros.world_model import Signals
from rssm_ros.world_model.heads import TargetHead

CARRIED = "stream/deter"  # what the streams remember, beside the optimizer's tensors


class BaselineTrainer:
    """One run in one directory and one process; deterministic in (kind, options, data).

    With a budget of `steps` on a CPU a run that was stopped and resumed equals the uninterrupted one bit for
    bit. It holds the directory until `run` ends. TrainingError where another one holds it.
    """

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
        self.kind, self.options, self.contract, self.out, self.again = kind, options, contract, out, again
        if resume and not out.is_dir():
            checkpoint.find(out)  # which says that there is none; the lock would make the directory
        with ExitStack() as held:
            held.enter_context(checkpoint.alone(out))
            self._prepare(held, data, resume, quiet)
            self.held = held.pop_all()

    def close(self) -> None:
        """End threads and files, let go of the directory; the numbers stay."""
        self.held.close()

    def _prepare(self, held: ExitStack, data: Sequence[Path], resume: bool, quiet: bool) -> None:
        options = self.options
        if checkpoint.steps(self.out) and not resume:
            raise TrainingError(
                f"{self.out} already holds a run; go on with --resume, or choose another --out"
            )
        saved = checkpoint.read(self.out) if checkpoint.steps(self.out) else None
        self.device = prepare(options.threads)
        self.signals = Signals.from_contract(self.contract)
        self.names = [path.resolve().name for path in data]
        self.contents = [replay.contents(path) for path in data]
        self.hashes = [replay.content_hash(path) for path in data]
        stores = [replay.open_storage(path, self.signals) for path in data]
        self.replay = Replay(stores, options.batch, options.length, options.chunks, options.seed)
        torch.manual_seed(options.seed)
        self.learner = BaselineLearner(self.kind, self.signals, options).to(self.device)
        self.learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, head in self.learner.network.target_heads.items():
            assert isinstance(head, TargetHead)
            offset, scale, _ = self.replay.target_statistics(name)
            head.offset.copy_(offset)
            head.scale.copy_(scale)
        named = list(self.learner.named_parameters())
        self.parameters, self.optimizer = [parameter for _, parameter in named], Optimizer(named)
        self.step, self.elapsed, self.processor, self.state = 0, 0.0, 0.0, None  # type: int, float, float, Tensor | None
        if saved is not None:
            self._load(saved)
        self.feed = Feed(self._make, self.device)
        held.callback(self.feed.close)
        self.reporter = Reporter(self.out, quiet, self.step)
        held.callback(self.reporter.close)

    def _load(self, saved: checkpoint.Saved) -> None:
        """All that a run is, bit for bit, where it was saved."""
        if saved.state.get(checkpoint.BASELINE) != self.kind:
            what = saved.state.get(checkpoint.BASELINE, "a world model")
            raise TrainingError(f"--resume: {self.out} holds {what}, not {self.kind}; choose another --out")
        restore.check_same(saved, self.options, self.contract, self.replay.total, self.contents, self.hashes)
        try:
            self.learner.load_state_dict(saved.model)
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise TrainingError(f"--resume: the checkpoint's tensors do not fit ({first})") from error
        self.optimizer.load(saved.optimizer)
        if CARRIED in saved.optimizer:
            self.state = saved.optimizer[CARRIED].to(self.device, copy=True)
        self.step, self.elapsed = int(saved.state["step"]), float(saved.state["elapsed_s"])
        self.processor = float(saved.state["processor_s"])

    # The loop ---------------------------------------------------------------------------------------------

    def run(self) -> Ended:
        """Train until the budget is spent, and close; Ctrl-C saves and returns.

        TrainingError for a loss that is not finite, and for a disk that is full at the end.
        """
        try:
            with stop_on_signals(self.reporter.say) as stop:
                asked = self._loop(stop)
                try:
                    place = self._save()
                except (OSError, SafetensorError) as error:
                    raise TrainingError(
                        f"the last checkpoint could not be written: {error}; make room at {self.out}"
                    ) from error
            ended = Ended(place, asked and self.progress < 1.0)
            self._farewell(ended)
            return ended
        finally:
            self.close()

    def _loop(self, stop: Stop) -> bool:
        """Updates until the budget is spent; whether somebody wanted to stop before."""
        opt = self.options
        before, worked = time.monotonic(), time.process_time()
        saved_at, sums, window = before, Sums(), before
        while self.progress < 1.0:
            sums.add(self._update())
            now, busy = time.monotonic(), time.process_time()
            self.elapsed, before = self.elapsed + now - before, now
            self.processor, worked = self.processor + busy - worked, busy
            if sums.updates >= opt.log_every:
                means = dict(zip(sums.sums, sums.means(self.device).tolist(), strict=True))
                frames = sums.updates * opt.batch * opt.length / max(now - window, 1e-9)
                self.reporter.step(self.step, self.progress, self._left, frames, means, {})
                sums, window = Sums(), now
            if stop.asked:
                return True
            every = opt.checkpoint_steps
            if now - saved_at > 60.0 * opt.checkpoint_minutes or (every and self.step % every == 0):
                self._save_or_say()
                saved_at = time.monotonic()
        return False

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0..1."""
        if self.options.steps is not None:
            return self.step / self.options.steps
        return self.elapsed / (60.0 * self.options.minutes)

    @property
    def _left(self) -> float:
        if self.options.steps is None:
            return 60.0 * self.options.minutes - self.elapsed
        return self.elapsed / max(1, self.step) * (self.options.steps - self.step)

    def _update(self) -> dict[str, Tensor]:
        opt = self.options
        update = self.learner(self.feed(self.step), self.state)
        if not bool(torch.isfinite(update.loss)):
            raise TrainingError(
                f"update {self.step}: the loss is not a finite number; look at the data, or go on from the "
                f"last checkpoint with --resume --rate LESS (now {opt.rate:g})"
            )
        gradients = torch.autograd.grad(update.loss, self.parameters, allow_unused=True)
        rate = learning_rate(opt.rate, self.step, opt.warmup, self.progress, opt.decay)
        norm = self.optimizer.step(gradients, rate)
        self.state = update.last
        self.step += 1
        terms: dict[str, Tensor] = update.terms | {"gradient_norm": norm, "learning_rate": torch.tensor(rate)}
        return terms

    def _make(self, step: int) -> Batch:
        """A pure function of the step."""
        opt = self.options
        return augment(self.replay.batch(step), self.signals, opt.augmentation, opt.seed, step)

    # Files, words -----------------------------------------------------------------------------------------

    def _save_or_say(self) -> None:
        """A disk that is full now may have room in time for the next checkpoint."""
        try:
            self._save()
        except (OSError, SafetensorError) as error:
            self.reporter.alarms(self.step, [f"checkpoint not written ({error}); make room at {self.out}"])

    def _save(self) -> Path:
        tensors = self.optimizer.state()
        if self.state is not None:
            tensors[CARRIED] = self.state
        network = self.learner.network
        facts: dict[str, Any] = {
            checkpoint.BASELINE: self.kind,
            "name": self.out.resolve().name,
            "parameters": sum(p.numel() for p in network.parameters()),
            "commit": commit(),
            "hardware": hardware(self.device),
            "step": self.step,
            "elapsed_s": self.elapsed,
            "processor_s": self.processor,
            "options": self.options.to_dict(),
            "sizes": network.sizes.to_dict(),
            "signals": self.signals.to_dict(),
            "contract": self.contract.to_dict(),
            "data": self.names,
            "contents": self.contents,
            "hashes": self.hashes,
            "ticks": self.replay.total,
            "versions": {"torch": str(torch.__version__)},
        }
        return checkpoint.save(self.out, self.step, self.learner.state_dict(), tensors, facts)

    def _farewell(self, ended: Ended) -> None:
        say = self.reporter.say
        did = "stopped" if ended.interrupted else "done"
        say(f"{did} after {self.step} updates; saved {ended.checkpoint}")
        if ended.interrupted:
            say(f"go on with:  {self.again}")
        say(f"score with: rssm evaluate BAG... --bundle B --baseline-model {self.kind}={self.out}")
