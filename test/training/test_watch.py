"""Alarms in words: raised where a run goes wrong, and not where it does not."""

import re

from rssm_ros.cli.train import _scales
from rssm_ros.training.options import Scales
from rssm_ros.training.watch import (
    PATIENCE,
    Watch,
    image_drowns,
    image_share,
    posterior_collapse,
    prior_drift,
)

SCALES = Scales()


def windows(kl, image=10.0, reward=1.0):
    """One window for each KL; image and reward may be sequences too."""
    spread = [value if isinstance(value, list) else [value] * len(kl) for value in (image, reward)]
    rows = zip(kl, *spread, strict=True)
    return [
        {"kl": k, "image_camera": i, "reward": r, "dyn": max(1.0, k), "loss": i + r + k} for k, i, r in rows
    ]


def test_a_posterior_that_says_nothing_is_called_collapsed():
    words = posterior_collapse(windows([3.0] * 10 + [0.02] * PATIENCE))
    assert words is not None and "posterior collapse" in words and "0.020 nats" in words


def test_a_small_but_lively_posterior_is_not():
    assert posterior_collapse(windows([3.0] * 10 + [0.02] * (PATIENCE - 1) + [0.5])) is None


def test_nor_is_one_that_has_not_yet_learned_to_look():
    """An untrained posterior equals its prior."""
    assert posterior_collapse(windows([0.01] * PATIENCE)) is None


def test_a_kl_that_rises_for_long_is_prior_drift():
    words = prior_drift(windows([3.0] * 10 + [3.0 + 0.4 * k for k in range(12)]))
    assert words is not None and "prior drift" in words and "from 3.00" in words


def test_a_kl_that_falls_or_only_jumps_is_not():
    assert prior_drift(windows([9.0 - 0.3 * k for k in range(25)])) is None
    assert prior_drift(windows([3.0] * 20 + [9.0])) is None  # one bad window
    assert prior_drift(windows([0.1] * 10 + [0.1 * k for k in range(10)])) is None  # below the free nats


def test_a_posterior_that_wakes_up_is_no_drift():
    """KL starts at 0 and grows while the posterior learns to look; reconstruction gains by it."""
    waking = [0.2 * k for k in range(28)]
    assert prior_drift(windows(waking, image=[500.0 / (k + 1) for k in range(28)])) is None
    assert prior_drift(windows(waking, image=500.0)) is not None


def test_an_image_that_is_all_of_the_loss_while_the_reward_learns_nothing():
    drowned = windows([2.0] * 12, image=500.0, reward=1.0)
    words = image_drowns(drowned, SCALES)
    assert words is not None and "drowns" in words and "99 %" in words
    learning = windows([2.0] * 12, image=500.0, reward=[1.0 - 0.05 * k for k in range(12)])
    assert image_drowns(learning, SCALES) is None
    assert image_drowns(windows([2.0] * 12, image=5.0), SCALES) is None
    assert image_drowns(drowned, Scales(image=0.001)) is None
    looking_on = [{**window, "barlow_camera": 1.0} for window in drowned]
    assert image_drowns(looking_on, SCALES) is None  # no gradient of the decoder's reaches the model


def test_what_an_alarm_advises_is_an_option_of_the_command():
    """They named scales that no option could set."""
    drifting = windows([3.0] * 10 + [3.0 + 0.4 * k for k in range(12)])
    said = [
        posterior_collapse(windows([3.0] * 10 + [0.02] * PATIENCE), SCALES),
        prior_drift(drifting, 1.0, SCALES),
        image_drowns(windows([2.0] * 12, image=500.0), SCALES),
    ]
    for words, names in zip(said, ({"dyn", "rep"}, {"rep", "policy"}, {"image"}), strict=True):
        advised = re.findall(r"--scale ([a-z]+=[0-9.e-]+)", words or "")
        assert {text.split("=")[0] for text in advised} == names
        lower = _scales(SCALES, advised)
        assert all(0.0 < getattr(lower, name) < getattr(SCALES, name) for name in names)


def test_shares_are_weighted():
    window = {
        "image_a": 10.0,
        "reward": 2.0,
        "continue": 1.0,
        "target_x": 2.0,
        "target_x_prior": 4.0,
        "target_x_ahead": 8.0,
        "perception_x": 3.0,
        "kl": 99.0,
    }
    scales = Scales(
        image=0.5, reward=1.0, continue_=1.0, target=1.0, target_prior=0.5, overshoot=0.25, perception=2.0
    )
    assert image_share(window, scales) == 5.0 / (5.0 + 2.0 + 1.0 + 2.0 + 2.0 + 2.0 + 6.0)
    assert image_share({"loss": 3.0}, scales) == 0.0


def test_an_alarm_is_given_when_it_begins_and_again_only_after_it_was_over():
    watch = Watch(SCALES, 1.0)
    said = [watch.look(w) for w in windows([3.0] * 10 + [0.01] * 9 + [3.0] + [0.01] * 6)]
    assert [index for index, words in enumerate(said) if words] == [10 + PATIENCE - 1, 20 + PATIENCE - 1]


def test_imagination_s_terms_are_no_part_of_it():
    """Windows before and after imagination begins have different terms."""
    watch = Watch(SCALES, 1.0)
    for window in windows([3.0] * 30):
        assert watch.look({**window, "policy": -1e6}) == []
