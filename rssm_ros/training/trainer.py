"""The training loop: batches in, checkpoints, figures and a usable state out, whatever happens on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from rssm_ros.contract import Contract
from rssm_ros.provenance import commit
from rssm_ros.training import checkpoint, health, replay, restore, strips
from rssm_ros.training.augment import augment
from rssm_ros.training.distributed import join
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.feed import Feed
from rssm_ros.training.figures import belief_figures
from rssm_ros.training.health import Health
from rssm_ros.training.latents import ReplayLatents
from rssm_ros.training.learner import Learner, Terms, Update, normalised_slew
from rssm_ros.training.machine import compile_parts, hardware, prepare
from rssm_ros.training.optimizer import Optimizer, learning_rate
from rssm_ros.training.options import Options
from rssm_ros.training.progress import Reporter, Sums
from rssm_ros.training.replay import Batch, Replay
from rssm_ros.training.stopping import Stop, stop_on_signals
from rssm_ros.training.validation import pick_rows, validate
from rssm_ros.training.watch import Watch
from rssm_ros.world_model import Signals, State
from rssm_ros.world_model.heads import TargetHead

PARTICLES = 32


class Ended(NamedTuple):
    """How a run ended: its last checkpoint, and whether somebody stopped it with budget left."""

    checkpoint: Path
    interrupted: bool


class Trainer:
    """One run in one directory, in one process or in several that torchrun started.

    It holds the directory from the first moment until `close`, which `run` does at its end: what it opens to
    go on with it also changes. TrainingError where another one holds it.

    Deterministic in (options, data): noise and batches are keyed by (seed, step, global row). With a budget
    of `steps` on a CPU a run that was killed and resumed equals the uninterrupted one bit for bit.
    """

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
        self.options, self.contract, self.out, self.again = options, contract, out, again
        self.world = join()
        if resume and not out.is_dir():
            checkpoint.find(out)  # which says that there is none; the lock would make the directory
        with ExitStack() as held:
            if self.world.first:
                held.enter_context(checkpoint.alone(out))
            self._prepare(held, data, validation, resume, start_from, encoders_only, quiet)
            self.held = held.pop_all()

    def close(self) -> None:
        """End threads and files, flush figures, let go of the directory; the numbers stay."""
        self.held.close()

    def _prepare(
        self,
        held: ExitStack,
        data: Sequence[Path],
        validation: Path | None,
        resume: bool,
        start_from: Path | None,
        encoders_only: bool,
        quiet: bool,
    ) -> None:
        """All that a run needs; what has to be closed goes into `held`, in that order."""
        options, contract, out = self.options, self.contract, self.out
        self.device = prepare(options.threads)
        self.signals = Signals.from_contract(contract)
        saved = self._earlier(resume)
        self.data, self.contents = [str(path) for path in data], [replay.contents(path) for path in data]
        self.hashes = [replay.content_hash(path) for path in data]
        own = self.world.rows(options.batch)
        stores = self._open(data)
        self.replay = Replay(stores, options.batch, options.length, options.chunks, options.seed, own)
        self.rows = pick_rows(self._open([validation])[0], 16, 400) if validation else None
        torch.manual_seed(options.seed)
        sizes = options.sizes()
        self.learner = Learner(self.signals, sizes, options, normalised_slew(contract)).to(self.device)
        self.learner.world = self.world
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
        if saved is not None:
            self._load(saved)
        elif start_from is not None:
            self.chain = restore.start_from(start_from, self.learner, self.signals, encoders_only)
        elif options.freeze_encoders:
            raise TrainingError(
                "--freeze-encoders: these have learnt nothing yet; add --start-from RUN, or leave it out"
            )
        self.health = Health(self.device, self.step)
        self.latents = self._replay_latents(saved is not None) if options.replay_latents else None
        if self.latents is not None:
            held.callback(self.latents.close)
        if options.compile:
            compile_parts(self.learner)
        self.feed = Feed(self._make, self.device)
        held.callback(self.feed.close)
        self.watch = Watch(options.scales, options.free_nats)
        facts = options.to_dict() if options.wandb else None
        first = self.world.first
        self.reporter = Reporter(out, quiet or not first, self.step, facts, keeps=first)
        held.callback(self.reporter.close)

    def _earlier(self, resume: bool) -> checkpoint.Saved | None:
        """The checkpoint to go on from; TrainingError where there is one and nobody asked for it."""
        if not checkpoint.steps(self.out):
            return None  # perhaps killed before its first checkpoint: it begins anew
        if not resume:
            raise TrainingError(
                f"{self.out} already holds a run; go on with --resume, or choose another --out"
            )
        return checkpoint.read_world_model(self.out)

    def _open(self, data: Sequence[Path]) -> list[Any]:
        """Storages; the first process builds what is not there yet."""
        if not self.world.first:
            self.world.wait()
        stores = [replay.open_storage(path, self.signals) for path in data]
        if self.world.first:
            self.world.wait()
        return stores

    def _replay_latents(self, resumed: bool) -> ReplayLatents:
        if self.world.size > 1:
            raise TrainingError(
                "--replay-latents: only with one process, since a row's next one may be another's"
            )
        sizes = self.learner.world_model.sizes
        latent = self.learner.world_model.rssm.latent
        step = self.step if resumed else None
        return ReplayLatents(self.out, self.replay.ticks, sizes.deter, latent.groups, latent.width, step)

    # The loop ---------------------------------------------------------------------------------------------

    def run(self) -> Ended:
        """Train until the budget is spent, and close.

        Ctrl-C saves and returns. TrainingError for NaN or Inf, which names the first tensor that has one, and
        for a disk that is full at the end.
        """
        try:
            ended = self._run()
        finally:
            self.close()
        self.world.wait()  # where one leaves with an exit code torchrun ends the others, even while they save
        return ended

    def _run(self) -> Ended:
        with stop_on_signals(self.reporter.say) as stop:
            asked = self._loop(stop)
            if not asked:
                self._validate()
            self._ask_health()
            try:
                place = self._save()
            except (OSError, SafetensorError) as error:
                raise TrainingError(
                    f"the last checkpoint could not be written: {self._unsaved(error)}"
                ) from error
        ended = Ended(place, asked and self.progress < 1.0)
        self._farewell(ended)
        return ended

    def _loop(self, stop: Stop) -> bool:
        """Updates until the budget is spent; whether somebody wanted to stop before."""
        opt = self.options
        saved_at = checked_at = before = time.monotonic()
        sums, window = Sums(), before
        while self.progress < 1.0:
            terms = self._update()
            now = time.monotonic()
            self.elapsed, before = self.elapsed + now - before, now
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
        imagine = self.progress >= 1.0 - opt.imagination_fraction
        batch, update, gradients = self._descend(imagine)
        self.world.average([*gradients, update.terms["loss"]])
        rate = learning_rate(opt.rate, self.step, opt.warmup, self.progress, opt.decay)
        self.health.check(update.terms["loss"])
        norm = self.optimizer.step(gradients, rate, self.health.fine)
        if self.latents is not None or self.device.type == "cpu":  # a GPU is asked when figures are read
            self._ask_health()
        if imagine:
            self.learner.critic.update_slow()
        state = self.health.hold(update.last, self.state)
        if self.latents is not None:
            beliefs = update.beliefs
            self.latents.write(self.replay.places(self.step), beliefs.deter, beliefs.stoch)
        self.state, self.update, self.first = state, update, batch["is_first"]
        self.health.count()
        self.step += 1
        return update.terms | {"gradient_norm": norm, "learning_rate": torch.tensor(rate)}

    def _descend(self, imagine: bool) -> tuple[Batch, Update, list[Tensor | None]]:
        """Batch, losses and this process's gradients at the present step; the same each time."""
        batch = self.feed(self.step)
        state = self.state
        if self.latents is not None:
            batch, state = self._from_replay(batch)
        noise = torch.Generator(self.device).manual_seed((self.options.seed << 32) + self.step)
        update: Update = self.learner(batch, state, noise, imagine)
        # Until imagination begins the critic has none, and its optimizer state waits with it.
        return batch, update, list(torch.autograd.grad(update.loss, self.parameters, allow_unused=True))

    def _make(self, step: int) -> Batch:
        """A pure function of the step: what this process's rows see there."""
        opt = self.options
        return augment(
            self.replay.batch(step), self.signals, opt.augmentation, opt.seed, step, self.replay.own.start
        )

    def _from_replay(self, batch: Batch) -> tuple[Batch, State]:
        """Rows that jumped to where the model has been go on from what it computed there."""
        assert self.latents is not None
        places = self.replay.places(self.step)
        blank = self.learner.world_model.initial_state(len(places))
        state, known = self.latents.before(places, self.state or blank)
        first = batch["is_first"].clone()
        for row, ((store, start, _), here) in enumerate(zip(places, known, strict=True)):
            if here:
                first[row, 0] = bool(self.replay.stores[store]["is_first"][start])
        return {**batch, "is_first": first}, state

    def _ask_health(self) -> None:
        """TrainingError that names the first tensor of the first bad update, if there was one."""
        bad = self.health.ask(self.step)
        if bad is None:
            return
        # Nothing moved since: the same update once more, to see where it begins.
        self.step = bad
        batch, update, gradients = self._descend(self.progress >= 1.0 - self.options.imagination_fraction)
        named = dict(zip(self.optimizer.names, gradients, strict=True))
        found = health.culprit(batch, self.signals, update.terms, named) or "another process's part"
        place = health.save_batch(batch, self.out, bad, self.world.rank)
        raise TrainingError(
            f"update {bad}: not a finite number, first in {found}; the batch is in {place}. "
            f"Check it, or go on from the last checkpoint: --resume --rate LESS (now {self.options.rate:g})"
        )

    # Figures, files, words --------------------------------------------------------------------------------

    def _log(self, sums: Sums, seconds: float) -> None:
        """The one place where the loop waits for the device."""
        opt = self.options
        means = self.world.mean(sums.means(self.device))
        averages = dict(zip(sums.sums, means.tolist(), strict=True))
        beliefs = belief_figures(self.learner.world_model.rssm.latent, self.update.beliefs, self.first)
        frames = sums.updates * opt.batch * opt.length / max(seconds, 1e-9)
        self.reporter.step(self.step, self.progress, self.left, frames, averages, beliefs)
        self.reporter.alarms(self.step, self.watch.look(averages))

    def _validate(self) -> None:
        """Figures and film strips of held-out rows: by the first process, while the others wait."""
        if self.rows is None:
            return
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
        if self.state is not None:
            tensors |= {
                f"stream/{name}": self.world.gather(value) for name, value in self.state._asdict().items()
            }
        if not self.world.first:
            return self.out
        facts: dict[str, Any] = {
            "name": self.out.resolve().name,
            "chain": self.chain,
            "commit": commit(),
            "hardware": hardware(self.device),
            "processes": self.world.size,
            "step": self.step,
            "elapsed_s": self.elapsed,
            "options": self.options.to_dict(),
            "sizes": self.learner.world_model.sizes.to_dict(),
            "signals": self.signals.to_dict(),
            "contract": self.contract.to_dict(),
            "data": self.data,
            "contents": self.contents,
            "hashes": self.hashes,
            "ticks": self.replay.total,
            "climatology": {name: value.tolist() for name, value in self.constant.items()},
            "validation": self.figures,
            "versions": {"torch": str(torch.__version__)},
        }
        place = checkpoint.save(self.out, self.step, self.learner.state_dict(), tensors, facts)
        if self.latents is not None:
            self.latents.saved(checkpoint.steps(self.out))
        return place

    def _load(self, saved: checkpoint.Saved) -> None:
        """All that a run is, bit for bit, where it was saved."""
        restore.check_same(saved, self.options, self.contract, self.replay.total, self.contents, self.hashes)
        restore.load(saved, self.learner)
        self.optimizer.load(saved.optimizer)
        if "stream/deter" in saved.optimizer:
            own = self.replay.own
            # Clones: the loaded ones lie in the file's memory as they come, and sums can depend on that.
            carried = (saved.optimizer[f"stream/{name}"][own.start : own.stop] for name in State._fields)
            self.state = State(*(value.to(self.device, copy=True) for value in carried))
        self.step, self.elapsed = int(saved.state["step"]), float(saved.state["elapsed_s"])
        self.figures = dict(saved.state["validation"])
        self.chain = list(saved.state.get("chain", []))

    def _farewell(self, ended: Ended) -> None:
        say = self.reporter.say
        did = "stopped" if ended.interrupted else "done"
        say(f"{did} after {self.step} updates; saved {ended.checkpoint}")
        if ended.interrupted:
            say(f"go on with:  {self.again}")
        say(f"export with: rssm export {self.out} --out models/NAME")


def _every(steps: int | None, step: int) -> bool:
    return steps is not None and step % steps == 0
