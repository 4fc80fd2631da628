"""Two processes that train as one: the same parameters as a single process with the same global batch."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rssm_ros.training import checkpoint
from rssm_ros.training.distributed import World, join
from rssm_ros.training.errors import TrainingError

from . import synthetic
from .tiny import TINY, trainer
from .together import MUTATIONS

CHECKOUT = Path(__file__).resolve().parent.parent.parent
EXACT = {"warmup": 0, "batch": 4, "steps": 20, "autocast": False, "imagination_fraction": 1.0}
KINDS = ("reconstruction", "barlow", "infonce")
# Without meaning, so that its gradient is rounding only and each of its steps as large as any: what barlow's
# standardisation takes out again.
FREE = (
    "representation.camera.project.bias",
    "tracker.detector.out.bias",  # the same on all shares of a mixture, that is
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def job(
    name: str, steps: int, mutation: str = "none", float64: bool = True, **facts: object
) -> dict[str, object]:
    return {
        "name": name,
        "steps": steps,
        "mutation": mutation,
        "float64": float64,
        "facts": {**EXACT, **facts},
    }


def slug(words: str) -> str:
    return words.replace(" ", "-")


def kind_of(mutation: str) -> str:
    """A mutation shows in what it breaks."""
    return "barlow" if mutation == "statistics of its own" else "reconstruction"


WHOLE = [job(kind, 20, representation=kind) for kind in KINDS]
WHOLE += [job("single", 1, float64=False), job("v1", 2, free_nats_of="batch", free_nats=0.02)]
WHOLE += [job("everywhere", 3, starts=1000), job("gaussian", 3, latent="gaussian", posterior="product")]
WHOLE += [job("ahead", 3, scales={"overshoot": 1.0}, overshoot_horizon=3, overshoot_starts=9)]
WHOLE += [job("recurrent", 3, baseline="recurrent")]
WHOLE += [job("grounded", 3, preset="debug_grounded", motion_rows=6)]
BROKEN = [job(slug(name), 2, name, representation=kind_of(name)) for name in MUTATIONS]
# What the broken ones are compared with.
RIGHT = [job(f"two-{kind}", 2, representation=kind) for kind in ("reconstruction", "barlow")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Some labels are missing, and not as many in every row: a mask mean differs from row to row."""
    directory = synthetic.write(tmp_path_factory.mktemp("data"), 4, 40)
    for index, file in enumerate(sorted(directory.glob("episode-*.npz"))):
        with np.load(file) as arrays:
            kept = {name: arrays[name].copy() for name in arrays.files}
        kept["target_package"][: 10 * index] = np.nan
        np.savez(file, **kept)
    return directory


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT), **more}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launch(data, out, processes: int, jobs: list[dict[str, object]]) -> None:
    """So many processes that do the jobs one after the other."""
    command = [sys.executable, "-m", "test.training.together", str(data), str(out), json.dumps(jobs)]
    port, started = free_port(), []
    for rank in range(processes):
        place = {"RANK": str(rank), "WORLD_SIZE": str(processes)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(
            subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=environment(**(place if processes > 1 else {})),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
    said = [process.communicate()[0].decode() for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(said)


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    """(job's name, number of processes) -> its tensors."""
    out = tmp_path_factory.mktemp("results")
    trainer(replace(TINY, steps=1), data, out / "model").run()
    tracked = job("tracked", 3, before=str(out / "model"))
    launch(data, out, 1, [*WHOLE, *RIGHT, tracked])
    launch(data, out, 2, [*WHOLE, *RIGHT, tracked, *BROKEN])
    return lambda name, processes: load_file(out / f"{name}-{processes}.safetensors")


def worst(one, two, kind: str, relative: bool = False) -> float:
    """Largest difference over all tensors of a kind, in units of each tensor's largest where `relative`."""
    names = [name for name in one if name.startswith(kind) and not name.endswith(FREE)]
    assert names and one.keys() == two.keys()
    scales = {name: float(one[name].abs().max()) if relative else 1.0 for name in names}
    return max(float((one[n] - two[n]).abs().max()) / scales[n] for n in names if scales[n] > 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one_in_double_precision(results, kind):
    one, two = results(kind, 1), results(kind, 2)
    assert worst(one, two, "parameter/") <= 1e-9
    assert worst(one, two, "buffer/") <= 1e-9


def test_two_processes_have_one_s_gradients_in_single_precision(results):
    one, two = results("single", 1), results("single", 2)
    assert worst(one, two, "gradient/", relative=True) <= 1e-4


def test_free_nats_of_the_batch_are_those_of_all_of_it(results):
    assert worst(results("v1", 1), results("v1", 2), "parameter/") <= 1e-9


@pytest.mark.parametrize("name", ["everywhere", "gaussian", "ahead", "recurrent", "grounded"])
def test_other_kinds_equal_too(results, name):
    """Imagination from every tick, with the critic on replay; Gaussian latents and the product posterior;
    overshooting from a share of the beliefs; a baseline, by the same loop."""
    assert worst(results(name, 1), results(name, 2), "parameter/") <= 1e-9


def test_a_tracker_is_one_s_too(results):
    """Cells that no label is near have gradients of 1e-12, of which the optimizer makes whole steps."""
    one, two = results("tracked", 1), results("tracked", 2)
    assert worst(one, two, "gradient/") <= 1e-12
    assert worst(one, two, "parameter/") <= 1e-6


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_each_process_would_take_for_itself_makes_the_comparison_fail(results, mutation):
    right = f"two-{kind_of(mutation)}"
    assert worst(results(right, 1), results(right, 2), "parameter/") <= 1e-9
    assert worst(results(right, 1), results(slug(mutation), 2), "parameter/") > 1e-7


def test_torchrun_trains_saves_and_resumes(data, tmp_path):
    """As a person starts it: resumed by two processes bit for bit; by one, which carries on all streams."""
    run = tmp_path / "run"
    words = ["-m", "rssm_ros.cli.main", "train", "--data", str(data), "--val", str(data), "--out", str(run)]
    words += ["--preset", "debug", "--threads", "1", "--steps", "5", "--checkpoint-steps", "3"]

    def train(processes: int, *more: str) -> dict[str, torch.Tensor]:
        start = [sys.executable]
        if processes > 1:
            start += ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
        made = subprocess.run(
            [*start, *words, *more], env=environment(), capture_output=True, text=True, cwd=CHECKOUT
        )
        assert made.returncode == 0, made.stdout + made.stderr
        assert made.stdout.count("done after 5 updates") == 1
        saved = checkpoint.read(run)
        assert saved.state["step"] == 5 and saved.state["processes"] == processes
        assert saved.optimizer["stream/deter"].shape[0] == 4
        shutil.rmtree(run / "checkpoints" / "step-00000005")  # as if it had been killed before
        return {**saved.model, **saved.optimizer}

    whole = train(2)
    resumed, alone = train(2, "--resume"), train(1, "--resume")
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert any(not torch.equal(whole[name], alone[name]) for name in whole)  # sums in another order


def test_a_batch_that_cannot_be_dealt_out_is_refused():
    assert list(World(1, 3).rows(6)) == [2, 3]
    with pytest.raises(TrainingError, match="--batch 4 cannot be dealt out to 3"):
        World(0, 3).rows(4)


def test_half_of_torchrun_s_variables_is_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TrainingError, match="RANK, MASTER_ADDR, MASTER_PORT is not set"):
        join()


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(("wanted", "each"), [(1, 1), (6, 1), (7, 2), (24, 4), (1000, 5)])
def test_all_processes_together_choose_what_one_does(size, wanted, each):
    """Different ticks, as many of every row; what each process holds is known without looking."""
    rows, ticks, noise = 6 // size, 5, torch.Generator()
    here = [World(r, size).choose(noise.manual_seed(3), rows, ticks, wanted) for r in range(size)]
    assert [len(places) for places in here] == [rows * each] * size
    found = torch.cat([places + rank * rows * ticks for rank, places in enumerate(here)])
    assert torch.equal(found, World().choose(noise.manual_seed(3), 6, ticks, wanted))
    assert len(set(found.tolist())) == len(found)
    assert torch.equal(torch.bincount(found // ticks), torch.full((6,), each))


def test_any_tick_may_be_chosen():
    noise = torch.Generator().manual_seed(0)
    counts = sum(torch.bincount(World().choose(noise, 2, 5, 4), minlength=10) for _ in range(1000))
    assert ((counts - 400).abs() < 80).all(), counts  # five standard deviations


def test_a_single_process_is_the_identity():
    world, noise = World(), torch.Generator()
    value = torch.rand(3, 2)
    drawn = torch.rand(3, generator=noise.manual_seed(0))
    assert torch.equal(world.draw(lambda rows: torch.rand(rows, generator=noise.manual_seed(0)), 3), drawn)
    for same in (world.mean(value), world.gather(value)):
        assert same is value
    assert world.largest([1.0, 2.0]) == [1.0, 2.0]
