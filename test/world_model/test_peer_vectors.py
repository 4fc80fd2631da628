"""Numbers that other projects' test suites state (test/data/peer_vectors.json), each through this package."""

import pytest
import torch

from .peers import PEERS, PROVEN, WITHOUT_COUNTERPART, stated


@pytest.mark.parametrize("name", PROVEN)
def test_peers_numbers(name: str) -> None:
    found = PROVEN[name](PEERS[name])
    assert found
    assert not [(item.what, item.ours, item.expected) for item in found if not item.holds]


def test_every_entry_is_tested_or_has_a_reason() -> None:
    assert set(PROVEN) | set(WITHOUT_COUNTERPART) == set(PEERS) - {"_note"}
    assert not set(PROVEN) & set(WITHOUT_COUNTERPART)
    assert all(WITHOUT_COUNTERPART.values())


def test_the_comparison_can_fail() -> None:
    ours = torch.tensor([1.0, 2.0])
    assert stated("", ours, [1.0, 2.1], rtol=0.05).holds
    assert not stated("", ours, [1.0, 2.1], rtol=0.04).holds
    assert not stated("", ours, [1.0], atol=9.0).holds
    assert not stated("", ours * float("nan"), [1.0, 2.0], atol=9.0).holds
