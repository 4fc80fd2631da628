"""What is found in a folder of snapshots, whatever is in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.nodes.errors import NodeError
from rssm_ros.nodes.review_files import Review, find_reviews
from test.nodes.snapshots import review

PLAIN = json.loads(review().text())
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def snapshot(folder: Path, number: int, text: str, cause: str = "surprise") -> Path:
    made = folder / f"{number:04d}-{cause}-20261121T165500Z"
    made.mkdir(parents=True)
    (made / "review.json").write_text(text)
    return made


def test_they_are_listed_oldest_first_wherever_one_points(tmp_path: Path) -> None:
    made = [snapshot(tmp_path / "reviews", number, review(tick=number).text()) for number in (10000, 9, 9999)]
    (tmp_path / "reviews" / ".0012-hand-20261121T165500Z.part").mkdir()
    for folder in (tmp_path / "reviews", tmp_path):  # the monitor's, and a run's
        found = find_reviews(folder)
        assert [item.review.tick for item in found if item.review] == [9, 9999, 10000]
    assert [item.folder for item in find_reviews(made[1])] == [made[1]]


def test_no_snapshots_yet_is_no_error_but_another_folder_is(tmp_path: Path) -> None:
    assert find_reviews(tmp_path) == []
    (tmp_path / "bag").mkdir()
    with pytest.raises(NodeError, match=r"holds no snapshots of monitor_node, but 'bag'"):
        find_reviews(tmp_path)
    (tmp_path / "reviews").mkdir()
    assert find_reviews(tmp_path) == []
    with pytest.raises(NodeError, match="there is no such folder"):
        find_reviews(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no review"),
        ("[]", "is no review"),
        (json.dumps({**PLAIN, "schema": 9}), "schema is 9, this version reads 1"),
        (json.dumps({**PLAIN, "from_ns": None}), "from_ns is None"),
        (json.dumps({**PLAIN, "tick": "x"}), "tick is 'x'"),
        (json.dumps({**PLAIN, "messages": {"/odom": "many"}}), "messages is"),
    ],
)
def test_a_damaged_one_is_told_in_a_line(tmp_path: Path, text: str, told: str) -> None:
    snapshot(tmp_path, 1, text)
    (found,) = find_reviews(tmp_path)
    assert found.review is None and told in found.problem and "\n" not in found.problem


def test_one_without_a_reason_is_listed_too(tmp_path: Path) -> None:
    (snapshot(tmp_path, 1, "") / "review.json").unlink()
    assert "cannot be read (No such file" in find_reviews(tmp_path)[0].problem


@given(st.sampled_from(sorted(PLAIN)), ANYTHING)
def test_any_value_of_any_key_is_read_or_refused(key: str, value: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        snapshot(Path(name), 1, json.dumps({**PLAIN, key: value, "later": [1]}))
        (found,) = find_reviews(Path(name))
    assert isinstance(found.review, Review) != bool(found.problem)
