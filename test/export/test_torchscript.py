"""The steps as TorchScript files: proven, equal step by step, and at home on another device."""

import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch

from rssm_ros.bundle import BundleError
from rssm_ros.cli.main import main
from rssm_ros.contract import find_contract
from rssm_ros.export import torchscript
from rssm_ros.export.bundle import export_bundle
from rssm_ros.online.backends import parity
from rssm_ros.online.errors import FilterError
from rssm_ros.online.session import Session
from test.bundles import tiny_bundle, tiny_model


@cache
def exported(variant):
    place = Path(tempfile.mkdtemp(prefix="rssm-test-torchscript-")) / "tiny"
    model = tiny_model(variant=variant)
    export_bundle(model, find_contract("manipulator"), place, horizon=2, torchscript=True)
    return place


@pytest.fixture
def folder():
    return exported("concat")


@pytest.mark.parametrize("variant", ["concat", "gaussian-product", "tracked"])
def test_torch_and_onnxruntime_agree_over_200_ticks_and_in_a_free_run(variant):
    """The files at another number of particles than they were traced with."""
    folder = exported(variant)
    reference, session = Session(folder), Session(folder, backend="torchscript")
    forced = parity.teacher_forced(reference, session, ticks=200, particles=4)
    assert forced.passed and forced.samples == 200 * 4 * reference.latent.stoch
    assert {"deter", "prior", "posterior", "tokens_camera", "target_package_mean"} <= forced.worst.keys()
    assert forced.near < 0.01 * forced.samples
    free = parity.free_run(reference, session, ticks=100, particles=4)
    assert free.passed


def test_equal_inputs_give_equal_bits(folder):
    session = Session(folder, backend="torchscript")
    session.warm_up(particles=2, candidates=3)
    runs = [list(parity.made_up(session, 3, 2, seed=1)) for _ in range(2)]
    for left, right in zip(*runs, strict=True):
        assert all(left.tokens[name].tobytes() == right.tokens[name].tobytes() for name in left.tokens)


def test_what_a_graph_makes_by_itself_is_made_where_its_inputs_are(folder):
    """No GPU is needed to see that no graph names the CPU, and that its constants are scalars."""
    found = 0
    for path in sorted(folder.glob("*.pt")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path))
        found += devices(module).count("cpu")
        torchscript.move_constants(module, "cuda")
        assert "cpu" not in devices(module)
        for graph in torchscript.graphs(module):
            for node in graph.findAllNodes("prim::Constant"):
                if node.hasAttribute("value") and node.kindOf("value") == "t":
                    assert node.t("value").dim() == 0
    assert found


def devices(module):
    return [node.s("value") for graph in torchscript.graphs(module) for node in torchscript.texts(graph)]


def test_a_damaged_file_is_found_by_its_hash(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    raw = bytearray((broken / "filter.pt").read_bytes())
    raw[len(raw) // 2] ^= 1
    (broken / "filter.pt").write_bytes(raw)
    with pytest.raises(BundleError, match=r"filter.pt: is damaged"):
        Session(broken)


def test_a_bundle_without_them_says_how_to_get_them():
    with pytest.raises(BundleError, match=r"no TorchScript files; .*rssm export --torchscript"):
        Session(tiny_bundle(), backend="torchscript")


def test_without_a_gpu_it_says_so(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FilterError, match="torch finds no GPU here"):
        Session(folder, backend="torchscript-cuda")


def test_verify_compares_it_with_onnxruntime(folder, capsys, monkeypatch):
    for compare in (parity.teacher_forced, parity.free_run):
        monkeypatch.setattr(compare, "__defaults__", (20, 2, 0))  # the long ones are above
    assert main(["verify", str(folder), "--backend", "torchscript"]) == 0
    told = capsys.readouterr().out
    assert (
        "step by step" in told
        and "free run" in told
        and "proven on this machine, backend torchscript" in told
    )
    assert main(["verify", str(folder), "--backend", "abacus"]) == 2
