"""What the monitor's picture shows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2")

from rssm_ros.contract import find_contract
from rssm_ros.evaluation.film.video import SEEN, UNSEEN
from rssm_ros.nodes.panel import BANNER, CURVE, LIMIT, LINE, OVER, WIDTH, Panel, View
from rssm_ros.online.belief import NEVER, Belief, TargetBelief
from rssm_ros.online.grid import SECOND
from rssm_ros.online.reviews import Surprise

CONTRACT = replace(find_contract("manipulator"), name="other")  # nobody knows its projection
NOW = 20 * SECOND
TICK = SECOND // 20
NAN = float("nan")


def belief(**others: Any) -> Belief:
    target = TargetBelief(np.array([[0.1, 0.2]], np.float32), np.full((1, 2), 0.03, np.float32))
    made = Belief(
        tick=400,
        stamp_ns=NOW,
        deter=np.zeros((1, 2), np.float32),
        stoch=np.zeros((1, 2), np.int64),
        surprise=3.0,
        prior_entropy=1.0,
        posterior_entropy=1.0,
        targets={"package": target, "destination": target},
        reward=np.zeros(1, np.float32),
        continue_=np.ones(1, np.float32),
        presence={"camera": True, "odom": True, "joints": True},
        age={"camera": 0, "odom": 1, "joints": 0},
        lost=False,
    )
    return replace(made, **others)


def view(**others: Any) -> View:
    picture = np.full((64, 64, 3), 77, np.uint8)
    told = [Surprise(NOW - tick * TICK, 3.0, 16.0) for tick in range(40, -1, -1)]
    made = View(NOW, belief(), picture, told, 0, 10, "no snapshot yet")
    return replace(made, **others)


def drawn(**others: Any) -> Any:
    return Panel(CONTRACT, 10.0).draw(view(**others))


def parts(panel: Any) -> tuple[Any, Any, Any, Any]:
    """Banner, picture, chart, and one row per modality."""
    bottom = len(panel) - LINE
    modalities = panel[bottom - 3 * LINE : bottom].reshape(3, LINE, WIDTH, 3)
    chart = panel[bottom - 3 * LINE - 120 + 24 : bottom - 3 * LINE - 8]
    return panel[:BANNER], panel[BANNER : BANNER + WIDTH], chart, modalities


def count(picture: Any, colour: tuple[int, int, int]) -> int:
    return int((picture == np.array(colour)).all(axis=2).sum())


def test_it_has_one_size_whatever_is_known() -> None:
    panels = [drawn(), drawn(belief=None), drawn(surprises=[]), drawn(belief=belief(lost=True), surprises=[])]
    assert {panel.shape for panel in panels} == {panels[0].shape} and panels[0].dtype == np.uint8
    assert panels[0].shape[1] == WIDTH
    assert (parts(panels[0])[1] == 77).all()
    assert drawn(picture=None).shape[0] < panels[0].shape[0]
    wide = drawn(picture=np.full((480, 640, 1), 9, np.uint8))
    assert wide.shape[0] == panels[0].shape[0] - WIDTH + WIDTH * 3 // 4 and (wide[BANNER + 5] == 9).all()


def test_surprise_is_a_bar_per_tick_and_red_above_its_threshold() -> None:
    calm, width = parts(drawn())[2], WIDTH // 200
    assert count(calm, OVER) == 0 and count(calm, LIMIT) >= 40 * width
    told = [
        Surprise(NOW - tick * TICK, 40.0 if tick in (3, 4, 5) else 3.0, 16.0) for tick in range(40, -1, -1)
    ]
    excited = parts(drawn(surprises=told))[2]
    columns = np.flatnonzero((excited == np.array(OVER)).all(axis=2).any(axis=0))
    assert 3 * width <= len(columns) <= 3 * width + 2 and columns.max() < WIDTH - 3 * width
    assert count(excited, CURVE) > 0
    tall = (excited == np.array(OVER)).all(axis=2)[:, columns[1]].sum()
    assert tall > 0.8 * len(excited) > 0.0
    # What was not seen has no bar, what is not calibrated no line.
    blind = [Surprise(item.stamp_ns, NAN, NAN) for item in told]
    empty = parts(drawn(surprises=blind))[2]
    assert count(empty, CURVE) == count(empty, OVER) == 0 and count(empty, LIMIT) == 0


@pytest.mark.parametrize(
    ("ticks", "quiet", "colour"),
    [(0, 0.0, SEEN), (2, 0.0, SEEN), (4, 0.0, UNSEEN), (0, 0.4, UNSEEN), (NEVER, 0.0, UNSEEN)],
)
def test_the_age_of_a_modality_is_a_bar_up_to_now(ticks: int, quiet: float, colour: Any) -> None:
    """Stale is 0.15 s for the camera: three ticks; it also grows while no belief comes."""
    ages = {"camera": ticks, "odom": 0, "joints": 0}
    panel = drawn(belief=belief(age=ages), now_ns=NOW + int(quiet * SECOND))
    bar = parts(panel)[3][0][LINE // 2, 220:500]
    length = int((bar == np.array(colour)).all(axis=1).sum())
    age = 1e9 if ticks < 0 else ticks * 0.05 + quiet
    whole = 280
    assert length == pytest.approx(min(1.0, age / 0.3) * whole, abs=3)
    assert not (bar == np.array(UNSEEN if colour == SEEN else SEEN)).all(axis=1).any()


@pytest.mark.parametrize(
    ("others", "colour"),
    [
        ({}, SEEN),
        ({"streak": 4}, UNSEEN),
        ({"streak": 12}, OVER),
        ({"belief": belief(lost=True)}, OVER),
        ({"now_ns": NOW + 2 * SECOND}, OVER),
        ({"belief": None}, UNSEEN),
    ],
    ids=["calm", "surprised", "review", "lost", "no belief comes", "none yet"],
)
def test_the_banner_says_how_it_stands(others: dict[str, Any], colour: tuple[int, int, int]) -> None:
    banner = parts(drawn(**others))[0]
    counts = {name: count(banner, name) for name in (SEEN, UNSEEN, OVER)}
    assert max(counts, key=lambda name: counts[name]) == colour and counts[colour] > 50
    assert sum(value > 0 for value in counts.values()) == 1
