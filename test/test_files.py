"""A file is there whole or not at all."""

import os

import pytest

from rssm_ros.files import write_whole


def test_a_file_comes_with_its_folders_and_leaves_nothing_beside_it(tmp_path):
    path = write_whole(tmp_path / "a" / "b" / "page.html", "größer\n")
    assert path.read_bytes() == "größer\n".encode() and os.listdir(path.parent) == ["page.html"]
    write_whole(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01" and os.listdir(path.parent) == ["page.html"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "page.html", "before")

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "after")
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["page.html"]
