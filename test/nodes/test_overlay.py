"""What `~/overlay` shows."""

import time
from types import SimpleNamespace as Space
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2")

from rssm_ros.contract import find_contract
from rssm_ros.nodes.overlay import COLOURS, SIDE, Overlay
from rssm_ros.online.belief import TargetBelief


def belief(**targets: Any) -> Any:
    return Space(
        targets={
            name: TargetBelief(np.array(mean, np.float32), np.full_like(mean, std, np.float32))
            for name, (mean, std) in targets.items()
        }
    )


def drawn_when_ready(overlay: Overlay, picture: Any, told: Any) -> Any:
    """The scene is loaded aside: until then the picture is plain."""
    deadline = time.monotonic() + 30
    overlay.draw(picture, told)
    while not all(projection is not None for projection in overlay._projections.values()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return overlay.draw(picture, told)


def coloured(picture: Any, colour: tuple[int, int, int]) -> Any:
    """Pixels of this very colour, [n, 2] as x, y."""
    rows, columns = np.nonzero((picture == np.array(colour)).all(axis=2))
    return np.stack([columns, rows], axis=1)


def test_the_dot_is_drawn_where_it_is_believed_to_be() -> None:
    contract = find_contract("dot")
    size, channels = contract.observations[0].size, contract.observations[0].channels
    assert size is not None and channels is not None
    picture = np.zeros((size[1], size[0], channels), np.uint8)
    believed = belief(dot=([[10.0, 20.0], [12.0, 22.0]], 2.0))
    drawn = drawn_when_ready(Overlay(contract), picture, believed)
    factor = SIDE // max(size)
    found = coloured(drawn, COLOURS[0])
    middle = (np.array([11.0, 21.0]) + 0.5) * factor
    assert drawn.shape == (size[1] * factor, size[0] * factor, 3) and not picture.any()
    assert np.abs(found.mean(axis=0) - middle).max() < 0.5 * factor
    reach = np.abs(found - middle).max(axis=0) / factor  # along the diagonal the particles lie apart, too
    assert (reach > 3.0).all() and (reach < 6.0).all()


def test_a_better_hidden_package_has_a_larger_ellipse_and_no_claim_has_none() -> None:
    contract = find_contract("manipulator")
    picture, overlay = np.zeros((64, 64, 3), np.uint8), Overlay(contract)

    def area(std: float) -> int:
        told = belief(package=([[-0.2, 0.6]], std), destination=([[0.1, 0.9]], std))
        return len(coloured(drawn_when_ready(overlay, picture, told), COLOURS[0]))

    small, large, none = area(0.02), area(0.08), area(float("nan"))
    assert 0 < none < small < large


def test_a_robot_that_nobody_knows_has_the_plain_picture() -> None:
    from dataclasses import replace

    contract = replace(find_contract("manipulator"), name="other")
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    told = belief(package=([[0.8, 0.1]], 0.1), destination=([[0.5, 0.5]], 0.1))
    drawn = Overlay(contract).draw(picture, told)
    np.testing.assert_array_equal(drawn[::5, ::5], picture)
