"""Saving and loading a belief: what the services answer, without ROS."""

import os
from types import SimpleNamespace

from rssm_ros.nodes import state_file
from rssm_ros.online.errors import FilterError


def test_what_was_saved_is_loaded_and_the_answer_names_the_file(tmp_path):
    path, got = tmp_path / "state.bin", []
    saved = state_file.save(SimpleNamespace(), str(path), lambda: b"state")
    assert saved.success and saved.message == str(path)
    assert state_file.load(SimpleNamespace(), str(path), got.append).success and got == [b"state"]
    assert [file.name for file in tmp_path.iterdir()] == ["state.bin"]


def test_a_refusal_is_an_answer_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "state.bin"
    path.write_bytes(b"old")

    def nothing():
        raise FilterError("there is nothing to save")

    def refuse(_):
        raise FilterError("particles is 2, this filter has 3")

    assert state_file.save(SimpleNamespace(), str(path), nothing).message == "there is nothing to save"
    assert path.read_bytes() == b"old"
    told = state_file.load(SimpleNamespace(), str(path), refuse)
    assert not told.success and "particles is 2" in told.message
    assert not state_file.load(SimpleNamespace(), str(tmp_path / "none"), refuse).success


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    """Once nothing was synchronised: after a power cut the old state could be gone and the new one empty."""
    path, seen = tmp_path / "state.bin", []
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda _: seen.append((path.read_bytes(), part(tmp_path).read_bytes())))
    assert state_file.save(SimpleNamespace(), str(path), lambda: b"new").success
    assert seen == [(b"old", b"new")] and path.read_bytes() == b"new"


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    """Once the `.part` file stayed."""
    (tmp_path / "folder").mkdir()
    assert not state_file.save(SimpleNamespace(), str(tmp_path / "folder"), lambda: b"state").success
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def part(folder):
    (file,) = folder.glob(".*.part")
    return file
