import json
import math

import pytest

from rssm_ros.bundle import BundleError, load_bundle, needed_files, pattern, sha256_of, write_manifest
from rssm_ros.contract import find_contract
from test.bundles import tiny_bundle


def test_a_bundle_reads_back_what_was_written():
    bundle = load_bundle(tiny_bundle())
    assert bundle.contract == find_contract("manipulator")
    assert bundle.latent.deter == 32 and bundle.latent.horizon == 4
    assert bundle.dataset["name"] == "made up" and bundle.training["commit"] == "abc"
    assert bundle.normalisation == {"camera": "x / 255 - 0.5", "odom": "symlog", "joints": "symlog"}
    assert bundle.action_scaling["low"] == bundle.contract.low.tolist()
    assert bundle.sha256 == sha256_of(tiny_bundle() / "bundle.json")


def test_every_file_is_listed_with_its_hash():
    bundle = load_bundle(tiny_bundle())
    assert set(bundle.files) == set(needed_files(bundle.contract))
    assert bundle.files["weights.bin"] == sha256_of(tiny_bundle() / "weights.bin")


def test_thresholds_are_looked_up_by_presence_pattern():
    bundle = load_bundle(tiny_bundle())
    assert pattern({"odom", "camera"}) == "camera+odom"
    assert bundle.surprise_threshold(("odom", "joints", "camera")) == 3.5
    assert math.isnan(bundle.surprise_threshold(()))


def test_writing_the_manifest_again_keeps_everything(tmp_path):
    bundle = load_bundle(tiny_bundle())
    for name in bundle.files:
        (tmp_path / name).write_bytes((tiny_bundle() / name).read_bytes())
    (tmp_path / "notes.txt").write_text("not part of it")
    written = write_manifest(bundle, tmp_path)
    assert written.sha256 == bundle.sha256 == load_bundle(tmp_path).sha256


def test_a_file_that_the_manifest_forgot_is_named(tmp_path):
    bundle = load_bundle(tiny_bundle())
    for name in (*bundle.files, "bundle.json"):
        (tmp_path / name).write_bytes((tiny_bundle() / name).read_bytes())
    manifest = json.loads((tmp_path / "bundle.json").read_text())
    del manifest["files"]["actor.onnx"]
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"actor.onnx: is not listed in bundle.json"):
        load_bundle(tmp_path)
