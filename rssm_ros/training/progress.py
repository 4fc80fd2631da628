"""What a person sees: a progress bar on a terminal, plain lines elsewhere, TensorBoard always."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch.utils.tensorboard import SummaryWriter

SHOWN = ("loss", "kl", "image", "target", "imitation")
LINE_SECONDS = 30.0


class Reporter:
    """Step, frames per second, losses, time left."""

    def __init__(self, out: Path, quiet: bool = False) -> None:
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True, quiet=quiet)
        self.writer = SummaryWriter(str(out / "tensorboard"))
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
        self, step: int, progress: float, left_s: float, frames_s: float, terms: Mapping[str, float]
    ) -> None:
        """Show averages of the last few updates."""
        for name, value in terms.items():
            self.writer.add_scalar(f"train/{name}", value, step)
        self.writer.add_scalar("speed/frames_per_second", frames_s, step)
        picked = [f"{name} {value:.3g}" for name, value in terms.items() if name.split("_")[0] in SHOWN]
        text = f"step {step} · {frames_s:.0f} frames/s · " + " · ".join(picked)
        if self.bar is not None:
            self.bar.update(self.task, completed=progress, description=text, left=f"{clock(left_s)} left")
        elif time.monotonic() - self.last_line > LINE_SECONDS:
            self.last_line = time.monotonic()
            self.console.print(f"{text} · {100 * progress:.0f} % · {clock(left_s)} left")

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Log validation figures and print them in one line."""
        for name, value in figures.items():
            self.writer.add_scalar(f"validation/{name}", value, step)
        self.say(f"validation at {step}: " + " · ".join(f"{k} {v:.3g}" for k, v in figures.items()))

    def say(self, text: str) -> None:
        """One line for the person."""
        self.console.print(text)

    def close(self) -> None:
        """Flush everything."""
        if self.bar is not None:
            self.bar.stop()
        self.writer.close()


def clock(seconds: float) -> str:
    """1:02:03."""
    whole = max(0, int(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
