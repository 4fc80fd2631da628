"""`rssm dataset`: bags -> a data set, resumed by the bag; bad bags, other folders and options."""

import json
from pathlib import Path

import pytest

from rssm_ros.cli.main import main
from rssm_ros.training.bag_dataset import Conversion, convert
from rssm_ros.training.errors import TrainingError
from test import bags
from test.training.test_collect_bags import MANIPULATOR, episode


@pytest.fixture
def two_bags(tmp_path: Path) -> list[Path]:
    return [
        bags.write(tmp_path / name, bags.episode_entries(MANIPULATOR, episode(seed, 30)))
        for seed, name in enumerate(("one", "two"))
    ]


def words(bags_: list[Path], out: Path, *more: str) -> list[str]:
    return ["dataset", *map(str, bags_), "--contract", "manipulator", "--out", str(out), *more]


def test_a_data_set_that_rssm_train_reads(two_bags: list[Path], tmp_path: Path, capsys) -> None:
    from rssm_ros.training.replay import columns, content_hash, open_storage
    from rssm_ros.world_model import Signals

    out = tmp_path / "data"
    assert main(words(two_bags, out, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["episodes"] == 2 and told["ticks"] == 60 and told["contract"] == "manipulator"
    assert [bag["name"] for bag in told["bags"]] == ["one", "two"]
    assert content_hash(out) == told["sha256"]
    signals = Signals.from_contract(MANIPULATOR)
    store = open_storage(out, signals)
    assert len(store) == 60 and set(columns(signals)) == set(store.keys())


def test_it_goes_on_where_it_was_stopped(two_bags: list[Path], tmp_path: Path, monkeypatch, capsys) -> None:
    from rssm_ros.training import bag_dataset

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(words(two_bags, whole)) == 0
    real = bag_dataset.write_episode

    def stop_in_the_second(path: Path, arrays) -> None:
        if "-00010" in path.name:
            raise KeyboardInterrupt
        real(path, arrays)

    monkeypatch.setattr(bag_dataset, "write_episode", stop_in_the_second)
    assert main(words(two_bags, broken)) == 130
    assert not (broken / "dataset.json").exists() and (broken / "bag-0000.json").exists()
    monkeypatch.setattr(bag_dataset, "write_episode", real)
    capsys.readouterr()
    assert main(words(two_bags, broken)) == 0
    assert "(1 were there already)" in capsys.readouterr().out
    hashes = [json.loads((folder / "dataset.json").read_text())["sha256"] for folder in (whole, broken)]
    assert hashes[0] == hashes[1]
    assert main(words(two_bags[::-1], broken)) == 2
    assert "converted otherwise" in capsys.readouterr().err


def test_a_bad_bag_does_not_stop_the_others(two_bags: list[Path], tmp_path: Path, capsys) -> None:
    (two_bags[0] / "one.mcap").write_bytes(b"no bag")
    assert main(words(two_bags, tmp_path / "data")) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "one.mcap: cannot be opened" in captured.err
    assert "1 episodes, 30 ticks" in captured.out
    assert main(words(two_bags[:1], tmp_path / "none")) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bag_that_fails_at_its_end_leaves_no_episodes(two_bags: list[Path], tmp_path: Path, capsys) -> None:
    """Not one of its pictures can be read, which is known at the end: nothing of it must be trained on."""
    made = episode(1, 350, loss=0.0)
    made["present_camera"][:] = False
    entries = bags.episode_entries(MANIPULATOR, made)
    spoilt = bags.Entry("/camera/image_raw", "sensor_msgs/msg/Image", entries[-1].logged_ns, b"no picture")
    bad = bags.write(tmp_path / "bad", [*entries, spoilt])
    out = tmp_path / "data"
    assert main(words([two_bags[0], bad], out, "--longest", "5")) == 1
    assert "no message on /camera/image_raw can be used" in capsys.readouterr().err
    assert [path.name for path in out.glob("episode-*")] == ["episode-00000000-bag.npz"]
    assert json.loads((out / "dataset.json").read_text())["ticks"] == 30


def test_a_folder_with_other_episodes_is_refused(two_bags: list[Path], tmp_path: Path, capsys) -> None:
    out = tmp_path / "data"
    assert main(words(two_bags, out)) == 0
    assert main(words(two_bags[:1], out)) == 2  # the second one's episodes would count as the first one's
    assert "episode-00010000-bag.npz there is not of these 1 bags" in capsys.readouterr().err
    assert main(words(two_bags, out)) == 0
    (out / "episode-00000007-expert.npz").write_bytes(b"of rssm collect")
    assert main(words(two_bags, out)) == 2
    assert "another --out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data", "data/deeper"])
def test_an_out_that_is_a_file_is_told_in_a_line(
    two_bags: list[Path], tmp_path: Path, name: str, capsys
) -> None:
    (tmp_path / "data").touch()
    assert main(words(two_bags, tmp_path / name)) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and name in told


@pytest.mark.parametrize(
    "more",
    [
        ["--part", "0.5:0.2"],
        ["--part", "half"],
        ["--shortest", "0"],
        ["--longest", "0.1"],
        ["--shortest", "nan"],
        ["--longest", "inf"],
    ],
)
def test_options_that_make_no_sense(two_bags: list[Path], tmp_path: Path, more: list[str], capsys) -> None:
    assert main(words(two_bags, tmp_path / "data", *more)) == 2
    assert capsys.readouterr().err.startswith("rssm dataset: ")


def test_nothing_in_it_is_an_error(tmp_path: Path) -> None:
    path = bags.write(tmp_path / "bag", bags.episode_entries(MANIPULATOR, episode(0, 5)))
    with pytest.raises(TrainingError, match="5 ticks lie in stretches shorter than 10"):
        convert([path], "manipulator", MANIPULATOR, tmp_path / "data", Conversion())
