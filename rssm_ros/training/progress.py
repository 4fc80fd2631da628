"""What a person sees: a progress bar on a terminal, plain lines elsewhere, TensorBoard, W&B if asked."""

from __future__ import annotations

import importlib
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from rssm_ros.training.errors import TrainingError

SHOWN = ("loss", "kl", "image", "target", "imitation")
LINE_SECONDS = 30.0
WANDB_ID = "wandb-id"  # in the run's folder


class Sums:
    """Loss terms added up where they are, [] each, so that nobody waits for a device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.updates = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Those of one update; not every update has all of them."""
        for name, value in terms.items():
            self.sums[name] = value + self.sums.get(name, 0.0)
            self.counts[name] = self.counts.get(name, 0) + 1
        self.updates += 1

    def means(self, device: torch.device) -> Tensor:
        """[terms] float32 on `device`: each over the updates that had it (imagination begins late)."""
        counts = torch.tensor(list(self.counts.values()), dtype=torch.float32, device=device)
        return torch.stack([value.to(device).float() for value in self.sums.values()]) / counts


class Reporter:
    """Step, frames per second, losses, time left.

    `wandb` holds the facts of the run for Weights & Biases, None without it; with `keeps` false nothing is
    logged (the processes beside the first one).
    `first_step`: what an earlier process logged from there on never happened, and TensorBoard hides it.
    """

    def __init__(
        self,
        out: Path,
        quiet: bool = False,
        first_step: int = 0,
        wandb: Mapping[str, Any] | None = None,
        keeps: bool = True,
    ) -> None:
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True, quiet=quiet)
        self.sinks: list[Sink] = []
        if keeps and wandb is not None:  # first: it can refuse
            self.sinks.append(WeightsAndBiases(out, wandb, first_step))
        if keeps:
            self.sinks.append(TensorBoard(out, first_step))
        self.last_line = 0.0
        self.bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            self.bar = Progress(
                *columns, TimeElapsedColumn(), TextColumn("{task.fields[left]}"), console=self.console
            )
            self.task = self.bar.add_task("training", total=1.0, left="")
            self.bar.start()

    def step(
        self,
        step: int,
        progress: float,
        left_s: float,
        frames_s: float,
        terms: Mapping[str, float],
        beliefs: Mapping[str, float],
    ) -> None:
        """Show averages of the last few updates (`terms`) and `belief_figures` of the last one."""
        self._scalars(step, {f"train/{name}": value for name, value in terms.items()})
        self._scalars(step, {**beliefs, "speed/frames_per_second": frames_s})
        picked = [f"{name} {value:.3g}" for name, value in terms.items() if name.split("_")[0] in SHOWN]
        text = f"step {step} · {frames_s:.0f} frames/s · " + " · ".join(picked)
        if self.bar is not None:
            self.bar.update(self.task, completed=progress, description=text, left=f"{clock(left_s)} left")
        elif time.monotonic() - self.last_line > LINE_SECONDS:
            self.last_line = time.monotonic()
            self.console.print(f"{text} · {100 * progress:.0f} % · {clock(left_s)} left")

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Log validation figures and print them in one line."""
        self._scalars(step, {f"validation/{name}": value for name, value in figures.items()})
        self.say(f"validation at {step}: " + " · ".join(f"{k} {v:.3g}" for k, v in figures.items()))

    def pictures(self, step: int, pictures: Mapping[str, npt.NDArray[np.uint8]]) -> None:
        """Log RGB pictures [H, W, 3]."""

        def log(sink: Sink) -> None:
            for name, picture in pictures.items():
                sink.picture(f"strips/{name}", picture, step)

        self._keep(log)

    def alarms(self, step: int, texts: Sequence[str]) -> None:
        """What goes wrong without being an error, in words and in the log."""
        for text in texts:
            self._warn(f"step {step}: {text}")

        def log(sink: Sink) -> None:
            for text in texts:
                sink.text("alarms", text, step)

        self._keep(log)

    def say(self, text: str) -> None:
        """One line for the person, as it is: a path may hold what looks like a colour."""
        self.console.print(text, markup=False)

    def _warn(self, text: str) -> None:
        self.console.print(f"[bold red]![/] {escape(text)}")

    def close(self) -> None:
        """Flush everything, once; a full disk is told, so that it hides no error that ended the run."""
        if self.bar is not None:
            self.bar.stop()
        while self.sinks:
            try:
                self.sinks.pop().close()
            except OSError as error:
                self._warn(f"the last figures could not be kept ({error})")

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._keep(lambda sink: sink.scalars(values, step))

    def _keep(self, write: Callable[[Sink], None]) -> None:
        """For every sink; one whose disk is full is told of once and left, and training goes on."""
        for sink in list(self.sinks):
            try:
                write(sink)
            except OSError as error:
                self.sinks.remove(sink)
                self._warn(f"{type(sink).__name__} keeps no more figures ({error}); make room and --resume")
                with suppress(OSError):
                    sink.close()


class Sink(Protocol):
    """Where figures are kept."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """By name, a slash between folder and figure."""

    def picture(self, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
        """RGB [H, W, 3]."""

    def text(self, name: str, text: str, step: int) -> None:
        """Words."""

    def close(self) -> None:
        """Flush."""


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, out: Path, first_step: int) -> None:
        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=first_step or None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As they are."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
        """As an image."""
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def text(self, name: str, text: str, step: int) -> None:
        """As text."""
        self.writer.add_text(name, text, step)

    def close(self) -> None:
        """Flush."""
        self.writer.close()


class WeightsAndBiases:
    """The same to Weights & Biases; imported only here. TrainingError if it is not installed.

    A resumed run goes on under the id that its folder keeps: without one, "allow" begins another run.
    """

    def __init__(self, out: Path, facts: Mapping[str, Any], first_step: int = 0) -> None:
        try:
            self.wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise TrainingError(
                "--wandb: the package wandb is not installed; `pip install wandb`, or leave the option out "
                "(TensorBoard has the same figures)"
            ) from error
        place = out / WANDB_ID
        if not (first_step and place.is_file()):
            out.mkdir(parents=True, exist_ok=True)
            place.write_text(uuid.uuid4().hex)
        self.run = self.wandb.init(
            project="rssm_ros",
            name=out.resolve().name,
            id=place.read_text().strip(),
            dir=str(out),
            config=dict(facts),
            resume="allow",
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As they are."""
        self.run.log(dict(values), step=step)

    def picture(self, name: str, picture: npt.NDArray[np.uint8], step: int) -> None:
        """As an image."""
        self.run.log({name: self.wandb.Image(picture)}, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """As an alert."""
        self.run.alert(title=name, text=f"step {step}: {text}")

    def close(self) -> None:
        """Flush."""
        self.run.finish()


def clock(seconds: float) -> str:
    """1:02:03."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
