"""Sequence storage: slices over borders, streams that go on, and data that must be refused."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rssm_ros.contract import find_contract
from rssm_ros.training import replay
from rssm_ros.training.augment import Augmentation, augment
from rssm_ros.training.errors import TrainingError
from rssm_ros.training.replay import Replay, open_storage
from rssm_ros.world_model import Signals

from . import synthetic

SIGNALS = Signals.from_contract(find_contract("manipulator"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_storage(synthetic.write(tmp_path_factory.mktemp("data"), 4, 30), SIGNALS)


def test_slices_run_across_episode_borders_with_is_first(store):
    replay = Replay([store], rows=8, length=25, chunks=1, seed=0)
    inner = 0
    for step in range(6):
        batch = replay.batch(step)
        for row, (_, start, jumped) in enumerate(replay.places(step)):
            assert jumped and batch["is_first"][row, 0]
            borders = [t for t in range(1, 25) if (start + t) % 30 == 0]
            assert torch.nonzero(batch["is_first"][row, 1:]).flatten().add(1).tolist() == borders
            assert torch.equal(batch["action"][row], store["action"][start : start + 25])
            inner += len(borders)
    assert inner > 0


def test_expert_before_is_one_tick_earlier(store):
    replay = Replay([store], 4, 10, 2, seed=3)
    batch = replay.batch(1)
    for row, (_, start, _) in enumerate(replay.places(1)):
        assert torch.equal(batch["expert_before"][row, 1:], store["expert_action"][start : start + 9])
        if start:
            assert torch.equal(batch["expert_before"][row, 0], store["expert_action"][start - 1])


def test_streams_go_on_where_they_left_off(store):
    replay = Replay([store], rows=6, length=10, chunks=3, seed=1)
    went_on = 0
    for step in range(1, 9):
        for (_, before, _), (_, now, jumped) in zip(
            replay.places(step - 1), replay.places(step), strict=True
        ):
            if not jumped:
                assert now == before + 10
                went_on += 1
    assert went_on == 6 * 8 * 2 // 3


def test_batches_depend_on_seed_and_step_only(store):
    one, two = (Replay([store], 4, 10, 2, seed=5) for _ in range(2))
    assert one.places(7) == two.places(7)
    assert one.places(7) != Replay([store], 4, 10, 2, seed=6).places(7)


def test_motion_is_labels_alone_and_no_longer_than_a_storage(store):
    """120 ticks are there; every row is one stretch of them, whatever the batch is."""
    made = Replay([store], rows=2, length=5, chunks=1, seed=0)
    for length, ticks in ((40, 40), (1000, 120)):
        found = made.motion(3, range(6), length)
        assert set(found) == {
            f"{kind}_{n}" for kind in ("target", "visibility") for n, _ in SIGNALS.targets
        } | {
            "action",
            "is_first",
        }
        whole = store["action"].unfold(0, ticks, 1).movedim(-1, 1)  # every stretch
        for row in found["action"]:
            assert (row == whole).flatten(1).all(1).any()
    one, other = made.motion(3, range(6), 40), made.motion(4, range(6), 40)
    assert not torch.equal(one["action"], other["action"])


def test_two_runs_may_build_one_storage_at_once(tmp_path, monkeypatch):
    """Two comparisons started on new data together; the second met the first's half-made folder."""
    directory, fill, others = synthetic.write(tmp_path / "d", 2, 20), replay._fill, []

    def fill_while_another_run_does(*arguments):
        monkeypatch.setattr(replay, "_fill", fill)
        others.append(open_storage(directory, SIGNALS))
        fill(*arguments)

    monkeypatch.setattr(replay, "_fill", fill_while_another_run_does)
    mine = open_storage(directory, SIGNALS)
    assert torch.equal(mine["reward"], others[0]["reward"])
    assert [p.name for p in directory.glob(".storage*")] == [".storage"]


def test_storage_is_built_once_and_again_when_the_data_change(tmp_path):
    directory = synthetic.write(tmp_path / "d", 2, 20)
    open_storage(directory, SIGNALS)
    built = (directory / ".storage" / "complete.json").stat().st_mtime_ns
    assert len(open_storage(directory, SIGNALS)["is_first"]) == 40
    assert (directory / ".storage" / "complete.json").stat().st_mtime_ns == built
    synthetic.write(directory, 3, 20)
    assert len(open_storage(directory, SIGNALS)["is_first"]) == 60


def test_missing_and_empty_data_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="does not exist"):
        open_storage(tmp_path / "nowhere", SIGNALS)
    with pytest.raises(TrainingError, match=r"no episode-\*\.npz"):
        open_storage(tmp_path, SIGNALS)


def test_truncated_file_is_refused_by_name(tmp_path):
    directory = synthetic.write(tmp_path / "d", 2, 20)
    file = directory / "episode-00000001-synthetic.npz"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(TrainingError, match=r"episode-00000001-synthetic\.npz"):
        open_storage(directory, SIGNALS)


def test_other_contract_s_data_are_refused(tmp_path):
    directory = synthetic.write(tmp_path / "d", 1, 20)
    file = directory / "episode-00000000-synthetic.npz"
    with np.load(file) as data:
        arrays = {name: data[name] for name in data.files}
    np.savez(file, **{**arrays, "joints": arrays["joints"][:, :3]})
    with pytest.raises(TrainingError, match=r"joints has shape \(20, 3\), expected \(20, 8\)"):
        open_storage(directory, SIGNALS)
    del arrays["odom"]
    np.savez(file, **arrays)
    with pytest.raises(TrainingError, match="odom"):
        open_storage(directory, SIGNALS)


def changed(directory, **arrays):
    """The first episode there with other arrays."""
    file = sorted(directory.glob("episode-*.npz"))[0]
    with np.load(file) as data:
        np.savez(file, **{**{name: data[name] for name in data.files}, **arrays})
    return directory


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"is_first": np.zeros(20, bool)}, r"is_first\[0\] is false"),
        ({"is_first": np.ones(1, bool)}, "has 1 ticks, expected at least 2"),
        ({"reward": np.full(20, np.inf)}, "reward is not a finite number at tick 0"),
        ({"action": np.full((20, 6), np.nan)}, "action is not a finite number at tick 0"),
        ({"action": np.zeros((19, 6))}, r"action has shape \(19, 6\), expected \(20, 6\)"),
        (
            {"camera": np.zeros((20, 64, 64, 3))},
            "camera holds float64, expected uint8, .* 0..1 would be black",
        ),
    ],
    ids=["no start", "too short", "reward", "action", "another length", "a picture of 0..1"],
)
def test_an_episode_that_cannot_be_is_refused(tmp_path, arrays, words):
    with pytest.raises(TrainingError, match=rf"episode-00000000-synthetic\.npz: {words}"):
        open_storage(changed(synthetic.write(tmp_path / "d", 2, 20), **arrays), SIGNALS)


def test_one_labelled_tick_has_a_place_and_the_least_spread(tmp_path):
    label = np.full((20, 2), np.nan, np.float32)
    label[7] = 0.25, 0.5
    store = open_storage(changed(synthetic.write(tmp_path / "d", 1, 20), target_package=label), SIGNALS)
    mean, spread, hidden = Replay([store], 2, 4, 1, 0).target_statistics("package")
    assert mean.tolist() == hidden.tolist() == [0.25, 0.5]
    assert spread.tolist() == pytest.approx([1e-3, 1e-3])


def test_an_array_that_is_damaged_inside_is_refused(tmp_path):
    directory = synthetic.write(tmp_path / "d", 1, 20)
    file = directory / "episode-00000000-synthetic.npz"
    held = bytearray(file.read_bytes())
    held[2000:2100] = bytes(100)
    file.write_bytes(held)
    with pytest.raises(TrainingError, match="camera is truncated or corrupt"):
        open_storage(directory, SIGNALS)


def test_a_disk_without_room_for_the_storage_is_told_before(tmp_path, monkeypatch):
    """Writing to a memory map on a full disk ends a process without a word."""
    directory = synthetic.write(tmp_path / "d", 1, 20)
    monkeypatch.setattr(replay.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match=r"needs 0 MB, 0 MB are free; make room"):
        open_storage(directory, SIGNALS)


def test_a_stamp_that_was_cut_off_means_the_storage_is_built_again(tmp_path):
    directory = synthetic.write(tmp_path / "d", 1, 20)
    open_storage(directory, SIGNALS)
    (directory / ".storage" / "complete.json").write_text('{"finger')
    assert len(open_storage(directory, SIGNALS)["is_first"]) == 20


@pytest.mark.parametrize(
    "damage",
    [
        lambda ticks: os.truncate(ticks / "camera.memmap", 1000),  # torch would fill it up with zeros
        lambda ticks: (ticks / "joints.memmap").unlink(),
        lambda ticks: (ticks / "meta.json").unlink(),
        lambda ticks: (ticks / "meta.json").write_text('{"cam'),
    ],
    ids=["cut off", "lost", "no list", "list cut off"],
)
def test_a_storage_that_is_damaged_is_built_again(tmp_path, damage):
    directory = synthetic.write(tmp_path / "d", 1, 20)
    whole = open_storage(directory, SIGNALS)["camera"].clone()
    damage(directory / ".storage" / "ticks")
    again = open_storage(directory, SIGNALS)
    assert torch.equal(again["camera"], whole) and len(again["joints"]) == 20


def test_a_storage_that_is_whole_is_not_built_again(tmp_path, monkeypatch):
    directory = synthetic.write(tmp_path / "d", 1, 20)
    open_storage(directory, SIGNALS)
    monkeypatch.setattr(replay, "_build", None)
    assert len(open_storage(directory, SIGNALS)["is_first"]) == 20


def test_rows_are_the_same_whoever_makes_them(store):
    """Two processes share the batch; augmentation, too, belongs to the global row."""
    whole = Replay([store], 6, 10, 2, seed=3)
    parts = [Replay([store], 6, 10, 2, seed=3, own=range(at, at + 3)) for at in (0, 3)]
    often = Augmentation(gap=0.5, blackout=0.5, sparse=0.3, silent=0.5, patch=0.5)
    for step in range(4):
        expected = augment(whole.batch(step), SIGNALS, often, 0, step)
        made = [augment(p.batch(step), SIGNALS, often, 0, step, p.own.start) for p in parts]
        for name, value in expected.items():
            halves = torch.cat([half[name] for half in made])
            assert torch.equal(torch.nan_to_num(halves.float()), torch.nan_to_num(value.float())), name
    assert not torch.equal(made[0]["seen_camera"], made[1]["seen_camera"])


def without(directory, *names):
    """The episodes there, without some of their arrays: recorded before the contract had them."""
    for file in directory.glob("episode-*.npz"):
        with np.load(file) as data:
            arrays = {name: data[name] for name in data.files if name not in names}
        np.savez(file, **arrays)
    return directory


def test_data_older_than_a_target_have_no_labels_of_it(store, tmp_path):
    """They still serve for all else, and what labels there are alone decide about offset and scale."""
    gone = ("target_destination", "visibility_destination")
    older = open_storage(without(synthetic.write(tmp_path / "old", 3, 30, seed=1), *gone), SIGNALS)
    assert (
        torch.isnan(older["target_destination"]).all() and torch.isnan(older["visibility_destination"]).all()
    )
    assert not torch.isnan(older["target_package"]).any()
    batch = Replay([older], 4, 10, 1, seed=0).batch(0)
    assert batch["target_destination"].shape == (4, 10, 2) and torch.isnan(batch["target_destination"]).all()
    both, alone = (Replay(stores, 4, 10, 1, seed=0) for stores in ([older, store], [store]))
    for mixed, expected in zip(
        both.target_statistics("destination"), alone.target_statistics("destination"), strict=True
    ):
        assert torch.equal(mixed, expected) and torch.isfinite(mixed).all()
    with pytest.raises(TrainingError, match="destination has no label in any tick"):
        Replay([older], 4, 10, 1, seed=0).target_statistics("destination")


def test_less_data_than_one_slice_is_refused(store):
    with pytest.raises(TrainingError, match="fewer than one slice of 500"):
        Replay([store], 4, 500, 2, seed=0)


def test_augmentation_hides_but_never_changes_what_is_reconstructed(store):
    batch = Replay([store], 16, 25, 1, seed=0).batch(0)
    often = Augmentation(gap=1.0, blackout=0.5, sparse=0.3, silent=1.0, patch=1.0)
    changed = augment(batch, SIGNALS, often, seed=0, step=0)
    assert torch.equal(changed["camera"], batch["camera"])
    assert not torch.equal(changed["seen_camera"], batch["camera"])
    assert batch["present_camera"].all() and not changed["present_camera"].all()
    assert changed["recorded_camera"].all() and changed["recorded_odom"].all()
    gone = (~changed["present_camera"]).sum(1)
    assert (gone >= 4).all()
    again = augment(batch, SIGNALS, often, seed=0, step=0)
    assert all(
        torch.equal(changed[name], again[name]) for name in ("seen_camera", "present_odom", "present_camera")
    )
