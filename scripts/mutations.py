"""Breaks the package on purpose, one definition at a time, and shows that a test notices.

    python scripts/mutations.py            # all, about 5 s each; exit code 1 if one survives
    python scripts/mutations.py --write    # and the table into docs/reference/parity.md
    python scripts/mutations.py --only reset

Every mutation is applied to a temporary copy of the package and its tests, never to the working tree.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "parity.md"
HEADING = "## Mutations"
COPIED = ("rssm_ros", "test", "config", "pyproject.toml")
TESTS = (
    "test/world_model/test_parity.py",
    "test/world_model/test_port.py",
    "test/world_model/test_peer_vectors.py",
    "test/world_model/test_losses.py",
    "test/world_model/test_initialisation.py",
    "test/behavior",
    "test/training/test_optimizer.py",
)
WORLD, BEHAVIOR = "rssm_ros/world_model", "rssm_ros/behavior"


@dataclass(frozen=True)
class Mutation:
    """`old`, which occurs once in `file`, becomes `new`."""

    what: str
    group: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "no unimix", "unimix", f"{WORLD}/categorical.py",
        "return probs * (1.0 - unimix) + unimix / logits.shape[-1]", "return probs",
    ),
    Mutation(
        "unimix not divided by the classes", "unimix", f"{WORLD}/categorical.py",
        "unimix / logits.shape[-1]", "unimix",
    ),
    Mutation(
        "unimix 2 % instead of 1 %", "unimix", f"{WORLD}/sizes.py",
        "unimix: float = 0.01", "unimix: float = 0.02",
    ),
    Mutation(
        "straight-through without gradient", "unimix", f"{WORLD}/categorical.py",
        "one_hot.detach() + (probs - probs.detach())", "one_hot.detach() + 0.0 * probs",
    ),
    Mutation(
        "reset keeps deter", "reset", f"{WORLD}/rssm.py",
        "torch.where(first, zero, deter),", "deter,",
    ),
    Mutation(
        "reset keeps stoch", "reset", f"{WORLD}/rssm.py",
        "torch.where(first.unsqueeze(-1), zero, stoch),", "stoch,",
    ),
    Mutation(
        "reset keeps the action (one tick)", "reset", f"{WORLD}/rssm.py",
        "torch.where(first, zero, action),", "action,",
    ),
    Mutation(
        "reset keeps the action (sequences)", "reset", f"{WORLD}/model.py",
        "torch.where(first.unsqueeze(-1), action.new_zeros(()), action)", "action",
    ),
    Mutation(
        "sequences never reset", "reset", f"{WORLD}/model.py",
        "if resets[t]:", "if False:",
    ),
    Mutation(
        "gates split across blocks", "block layout", f"{WORLD}/rssm.py",
        "reset, candidate, update = x.chunk(3, -1)",
        "reset, candidate, update = (y.reshape(rows, g, -1).transpose(0, 1)"
        " for y in x.transpose(0, 1).reshape(rows, -1).chunk(3, -1))",
    ),
    Mutation(
        "deter interleaved over blocks", "block layout", f"{WORLD}/rssm.py",
        "deter.reshape(rows, g, -1).transpose(0, 1)", "deter.reshape(rows, -1, g).permute(2, 0, 1)",
    ),
    Mutation(
        "a block's own part last", "block layout", f"{WORLD}/rssm.py",
        "of_own, of_shared = torch.split(self.dynamics.weight, [own.shape[-1], shared.shape[-1]], 1)",
        "of_shared, of_own = torch.split(self.dynamics.weight, [shared.shape[-1], own.shape[-1]], 1)",
    ),
    Mutation(
        "norm per block instead of over all of deter", "block layout", f"{WORLD}/rssm.py",
        "x = self.dynamics_norm(x)",
        "x = self.dynamics_norm(nn.functional.rms_norm(x.unflatten(-1, (g, -1)), own.shape[-1:]).flatten(1))",
    ),
    Mutation(
        "gates ordered update, candidate, reset", "block layout", f"{WORLD}/rssm.py",
        "reset, candidate, update = x.chunk", "update, candidate, reset = x.chunk",
    ),
    Mutation(
        "decoder start as (h w c g)", "block layout", f"{WORLD}/decoder.py",
        "x.permute(0, 2, 3, 1, 4).reshape", "x.permute(0, 2, 3, 4, 1).reshape",
    ),
    Mutation(
        "free nats after the mean over the batch", "free nats", f"{WORLD}/losses.py",
        "return dyn.clamp(min=free_nats), rep.clamp(min=free_nats)",
        "dyn, rep = (x + x.mean().clamp(min=free_nats) - x.mean() for x in (dyn, rep))\n    return dyn, rep",
    ),
    Mutation(
        "free nats before the sum over groups", "free nats", f"{WORLD}/categorical.py",
        "(left * (torch.log(left) - torch.log(right))).sum((-2, -1))",
        "(left * (torch.log(left) - torch.log(right))).sum(-1).clamp(min=1.0).sum(-1)",
    ),
    Mutation(
        "no free nats", "free nats", f"{WORLD}/losses.py",
        "return dyn.clamp(min=free_nats), rep.clamp(min=free_nats)", "return dyn, rep",
    ),
    Mutation(
        "dyn and rep exchanged", "KL", f"{WORLD}/losses.py",
        "return dyn.clamp(min=free_nats), rep.clamp(min=free_nats)",
        "return rep.clamp(min=free_nats), dyn.clamp(min=free_nats)",
    ),
    Mutation(
        "actions beyond 1 as they are", "core", f"{WORLD}/rssm.py",
        "bounded = action / torch.clamp(action.abs(), min=1.0).detach()", "bounded = action",
    ),
    Mutation(
        "update gate without its bias", "core", f"{WORLD}/rssm.py",
        "torch.sigmoid(update - 1.0)", "torch.sigmoid(update)",
    ),
    Mutation(
        "RMSNorm with epsilon 1e-5", "layers", f"{WORLD}/layers.py",
        "NORM_EPSILON = 1e-4", "NORM_EPSILON = 1e-5",
    ),
    Mutation(
        "block linear counts one block as its fan-in", "layers", f"{WORLD}/layers.py",
        "initialise(self.weight, inputs)  # counts", "initialise(self.weight, inputs // blocks)  # counts",
    ),
    Mutation(
        "weights not corrected for truncation", "layers", f"{WORLD}/layers.py",
        "TRUNCATION = 1.1368", "TRUNCATION = 1.0",
    ),
    Mutation(
        "vectors without symlog", "encoder", f"{WORLD}/encoder.py",
        "self.mlp(symlog(", "self.mlp((",
    ),
    Mutation(
        "vector decoder reads [deter, stoch]", "decoder", f"{WORLD}/decoder.py",
        "x = torch.cat([features[..., self.deter :], features[..., : self.deter]], -1)", "x = features",
    ),
    Mutation(
        "two-hot interpolated in symlog space", "two-hot", f"{WORLD}/heads.py",
        "to_below = (self.bins[below] - value).abs().masked_fill(equal, 1.0)\n"
        "        to_above = (self.bins[above] - value).abs().masked_fill(equal, 1.0)",
        "squash = lambda x: torch.sign(x) * torch.log1p(x.abs())\n"
        "        to_below = (squash(self.bins[below]) - squash(value)).abs().masked_fill(equal, 1.0)\n"
        "        to_above = (squash(self.bins[above]) - squash(value)).abs().masked_fill(equal, 1.0)",
    ),
    Mutation(
        "images merged as they come", "port", f"{WORLD}/port.py",
        "for name, _ in sorted(self.images)], -1)", "for name, _ in self.images], -1)",
    ),
    Mutation(
        "vectors merged as they come", "port", f"{WORLD}/port.py",
        "return sorted(self.vectors, key=lambda vector: vector.name)", "return list(self.vectors)",
    ),
    Mutation(
        "decoded channels sorted by name too", "port", f"{WORLD}/port.py",
        '"dec/imgout", _channel_order(seen))', '"dec/imgout")',
    ),
    Mutation(
        "lambda return bootstraps with the value of this state", "returns", f"{BEHAVIOR}/returns.py",
        "mix = (1.0 - trace[:, t + 1]) * value[:, t + 1]", "mix = (1.0 - trace[:, t + 1]) * value[:, t]",
    ),
    Mutation(
        "lambda return across an episode's end", "returns", f"{BEHAVIOR}/returns.py",
        "lam * (1.0 - last.to(value.dtype))", "lam * torch.ones_like(value)",
    ),
    Mutation(
        "advantages scaled up", "returns", f"{BEHAVIOR}/returns.py",
        ".clamp(min=1.0)", ".clamp(min=1e-8)",
    ),
    Mutation(
        "imagination not weighted by its start's continue", "behavior", f"{BEHAVIOR}/losses.py",
        "torch.cumprod(continue_, 1)[:, :-1]", "torch.cumprod(continue_[:, 1:], 1)",
    ),
    Mutation(
        "replay value loss at an episode's last tick", "behavior", f"{BEHAVIOR}/losses.py",
        "return torch.where(is_last[:, :-1].bool(), loss.new_zeros(()), loss)", "return loss",
    ),
    Mutation(
        "critic without the pull to its slow copy", "behavior", f"{BEHAVIOR}/critic.py",
        "return self.fast.loss(logits, returns) + self.fast.loss(logits, slow)",
        "return self.fast.loss(logits, returns) + 0 * slow",
    ),
    Mutation(
        "one gradient norm for all tensors", "optimizer", "rssm_ros/training/optimizer.py",
        "gradient_norms = torch._foreach_norm(given)",
        "gradient_norms = [torch.linalg.vector_norm(torch.stack(torch._foreach_norm(given)))] * len(given)",
    ),
    Mutation(
        "RMS scaling without bias correction", "optimizer", "rssm_ros/training/optimizer.py",
        "[1.0 - BETA_SQUARE**count for count in counts]", "[1.0 for _ in counts]",
    ),
)  # fmt: skip


def copy(folder: Path) -> None:
    """The package and its tests."""
    ignore = shutil.ignore_patterns("__pycache__", "*.onnx")
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore)
        else:
            shutil.copy2(source, target)


def run(folder: Path, tests: Sequence[str] = TESTS) -> str:
    """The first test of `tests` that fails in this copy; empty if all pass. RuntimeError if none ran."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    command += ["-k", "not size12m and not published_number"]  # slow, and no mutation needs them
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [*command, *tests], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", result.stdout, re.MULTILINE)
    if result.returncode != 1 or failed is None or result.stdout.count("\nERROR "):
        raise RuntimeError(f"pytest ended with {result.returncode}:\n{result.stdout}{result.stderr}")
    return failed.group(1)


def run_with(folder: Path, mutation: Mutation, tests: Sequence[str] = TESTS) -> str:
    """Apply, `run`, undo. RuntimeError if the mutation does not apply."""
    path = folder / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise RuntimeError(
            f"{mutation.what}: {text.count(mutation.old)} places in {mutation.file}; update {__file__}"
        )
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        return run(folder, tests)
    finally:
        path.write_text(text, encoding="utf-8")


def table(noticed: Sequence[tuple[Mutation, str]]) -> str:
    """The section of the page."""
    lines = [
        HEADING,
        "",
        "Changed in a copy, one at a time: a test must notice. Written by `scripts/mutations.py --write`.",
        "",
        "| of | changed | file | the first test that fails |",
        "|---|---|---|---|",
    ]
    for mutation, test in noticed:
        short = test.replace("test/", "", 1).replace("|", "\\|") or "**none: it survives**"
        lines.append(f"| {mutation.group} | {mutation.what} | `{mutation.file}` | `{short}` |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run them; 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="those whose name or group contains this")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if options.only in f"{m.group} {m.what}"]
    if options.write and len(chosen) < len(MUTATIONS):
        parser.error("--write needs all of them")
    noticed = []
    with tempfile.TemporaryDirectory(prefix="rssm-mutations-") as name:
        folder = Path(name)
        copy(folder)
        if before := run(folder):
            print(f"fails without any mutation: {before}", file=sys.stderr)
            return 2
        for mutation in chosen:
            test = run_with(folder, mutation)
            noticed.append((mutation, test))
            print(f"{mutation.group}: {mutation.what}: {test or 'SURVIVES'}", flush=True)
    if options.write:
        page = PAGE.read_text(encoding="utf-8").split(HEADING)[0].rstrip()
        PAGE.write_text(f"{page}\n\n{table(noticed)}", encoding="utf-8")
    alive = [mutation.what for mutation, test in noticed if not test]
    print(f"{len(noticed) - len(alive)} of {len(noticed)} noticed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
