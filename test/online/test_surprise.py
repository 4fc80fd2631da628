"""When surprise becomes a review."""

import math

from rssm_ros.online.surprise import REVIEW_AFTER, Review, calibrated_after, surprised_for


def test_a_run_above_the_threshold_is_one_review():
    watch = Review(after=3)
    told = [watch.tell(value, 10.0) for value in (11, 11, 9, 11, 12, 13, 14, 15, 1, 11, 11, 11)]
    assert told == [False] * 5 + [True] + [False] * 5 + [True]


def test_ticks_that_say_nothing_neither_add_nor_forgive():
    assert surprised_for(4, math.nan, 10.0) == 4
    assert surprised_for(4, 99.0, math.nan) == 4
    assert surprised_for(4, 10.0, 10.0) == 0
    assert surprised_for(4, math.inf, 10.0) == 5


def test_how_many_ticks_a_bundle_was_calibrated_for():
    assert calibrated_after({"report": {"false_alarms": {"after": 40, "reviews": 0}}}) == 40
    assert calibrated_after({}) == calibrated_after({"report": {}}) == REVIEW_AFTER
