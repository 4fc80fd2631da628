"""Snapshots on the disk: whole or not there, no more than so many, and never at the cost of what is there."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace as Space

import pytest

pytest.importorskip("mcap")

from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.review_files import find_reviews
from rssm_ros.nodes.review_folder import LEAST_FREE, ReviewFolder
from rssm_ros.online.reviews import HAND, SURPRISE
from test.nodes.snapshots import channels, messages, review, values

ENDLESS = """
import sys
from pathlib import Path
from rssm_ros.nodes.review_folder import ReviewFolder
from test.nodes.snapshots import channels, messages, review
folder, made = ReviewFolder(Path(sys.argv[1]), 5), messages(500)
while True:
    print(folder.write(review(cause="surprise"), channels(), made).folder.name, flush=True)
"""


@pytest.fixture
def kept(tmp_path: Path) -> ReviewFolder:
    return ReviewFolder(tmp_path / "reviews", 3)


def names(folder: ReviewFolder) -> list[str]:
    return sorted(path.name for path in folder.folder.iterdir())


def test_a_snapshot_is_a_bag_with_its_reason(kept: ReviewFolder) -> None:
    written = kept.write(review(), channels(["/value", "/silent"]), messages(5))
    assert written.removed == 0 and written.folder.name == "0001-hand-20261121T165500Z"
    assert names(kept) == [written.folder.name] and values(written.folder) == [0, 1, 2, 3, 4]
    assert values(written.folder / f"{written.folder.name}_0.mcap") == [0, 1, 2, 3, 4]
    (found,) = find_reviews(kept.folder)
    assert found.review == review() and not found.problem and found.folder == written.folder
    assert json.loads((written.folder / "review.json").read_text())["schema"] == 1


def test_the_oldest_make_room_but_not_those_taken_by_hand(kept: ReviewFolder) -> None:
    causes = [SURPRISE, HAND, SURPRISE, SURPRISE, HAND, SURPRISE]
    removed = [kept.write(review(cause=cause), channels(), messages(2)).removed for cause in causes]
    assert removed == [0, 0, 0, 1, 1, 1]
    assert [name[:6] for name in names(kept)] == ["0002-h", "0005-h", "0006-s"]
    kept.write(review(cause=HAND), channels(), messages(2))
    with pytest.raises(NodeError, match=r"holds 3 snapshots.*never removed.*`most`"):
        kept.write(review(cause=SURPRISE), channels(), messages(2))
    assert [name[:6] for name in names(kept)] == ["0002-h", "0005-h", "0007-h"]
    # Numbers go on after the highest that is there, whatever was moved away.
    shutil.move(str(kept.folder / names(kept)[0]), kept.folder.parent / "elsewhere")
    assert kept.write(review(), channels(), messages(1)).folder.name.startswith("0008-")


def test_a_disk_that_is_nearly_full_is_left_to_others(
    kept: ReviewFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = messages(10)
    size = sum(len(message.data) for message in made)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Space(free=LEAST_FREE + size - 1))
    with pytest.raises(OSError, match="No space left") as raised:
        kept.write(review(), channels(), made)
    assert raised.value.errno == errno.ENOSPC and names(kept) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Space(free=LEAST_FREE + size))
    assert values(kept.write(review(), channels(), made).folder) == list(range(10))


@pytest.mark.parametrize("call", ["pwrite", "mkdir", "fsync", "rename"])
def test_a_disk_that_fails_at_any_step_leaves_what_was_there(
    kept: ReviewFolder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for _ in range(3):
        kept.write(review(cause=SURPRISE), channels(), messages(4))
    before = names(kept)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as broken:
        broken.setattr(os, call, fail)
        with pytest.raises(OSError, match="Read-only") as raised:
            kept.write(review(cause=SURPRISE), channels(), messages(4))
    assert raised.value.errno == errno.EROFS
    assert names(kept) == before and all(values(kept.folder / name) == [0, 1, 2, 3] for name in before)
    kept.write(review(cause=SURPRISE), channels(), messages(4))
    assert len(names(kept)) == 3 and names(kept)[0] == before[1]


def test_a_folder_has_one_monitor(kept: ReviewFolder, tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="another monitor_node"):
        ReviewFolder(kept.folder, 3)
    kept.close()
    ReviewFolder(kept.folder, 3).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeError, match=r"file: cannot keep reviews here .*another folder"):
        ReviewFolder(tmp_path / "file", 3)


def test_only_its_own_remains_are_cleared_away(tmp_path: Path) -> None:
    mine = (".0003-hand-20261121T165500Z.part", ".0001-surprise-20261121T165500Z.old")
    others = (".film.part", "0002-hand-20261121T165500Z", "notes.old", ".git")
    for name in (*mine, *others):
        (tmp_path / name).mkdir()
    assert names(ReviewFolder(tmp_path, 3)) == sorted(others)


def test_killed_at_any_moment_it_leaves_whole_snapshots_only(tmp_path: Path, checkout: Path) -> None:
    folder = tmp_path / "reviews"
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(folder)],
        stdout=subprocess.PIPE,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )
    assert process.stdout is not None
    for _ in range(7):
        process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = find_reviews(folder)
    assert 4 <= len(found) <= 5 and all(item.review is not None for item in found)
    assert all(values(item.folder) == list(range(500)) for item in found)
    again = ReviewFolder(folder, 5)
    assert not [name for name in names(again) if name.startswith(".")]
