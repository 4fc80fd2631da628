"""Every wrong contract is refused with the file, the key and what was expected."""

import copy
import dataclasses
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rssm_ros.contract import Contract, ContractError, find_contract, load_contract

CONTRACT = find_contract("manipulator")
PLAIN = CONTRACT.to_dict()
ODOM = ("observations", "odom")
BASE = ("actions", "base")
MISSING = object()


def changed(path, value):
    data = copy.deepcopy(PLAIN)
    item = data
    for key in path[:-1]:
        item = item[key]
    if value is MISSING:
        del item[path[-1]]
    else:
        item[path[-1]] = value
    return data


def test_the_shipped_contract_says_what_the_design_says():
    assert CONTRACT.rate == 20 and CONTRACT.dt == 0.05 and CONTRACT.history_ticks == 40
    assert CONTRACT.max_gap_ticks == 20 and CONTRACT.actuation_delay == 1
    assert CONTRACT.observation("camera").shape == (64, 64, 3)
    assert CONTRACT.observation("joints").dim == 8 and CONTRACT.observation("odom").shape == (2,)
    assert CONTRACT.channels[0] == "base/twist.linear.x" and CONTRACT.channels[2] == "arm/yaw"
    assert CONTRACT.action_dim == 6 == len(CONTRACT.low) == len(CONTRACT.high) == len(CONTRACT.slew)
    assert CONTRACT.action_slices() == {"base": slice(0, 2), "arm": slice(2, 6)}
    assert (CONTRACT.low < CONTRACT.high).all() and (CONTRACT.slew > 0).all()
    assert CONTRACT.targets[0].dim == 2


def test_what_is_kept_does_not_change_what_a_contract_is():
    asked, fresh = Contract.from_dict(PLAIN), Contract.from_dict(PLAIN)
    assert asked.channels is asked.channels, "not made anew for every message"
    assert asked == fresh and hash(asked) == hash(fresh) and asked.to_dict() == fresh.to_dict()
    assert pickle.loads(pickle.dumps(asked)) == fresh
    fewer = dataclasses.replace(asked, actions=asked.actions[:1])
    assert fewer.channels == asked.channels[:2], "another contract has its own"


def test_plain_data_round_trips_through_yaml():
    assert Contract.from_dict(yaml.safe_load(yaml.safe_dump(PLAIN, sort_keys=False))) == CONTRACT


@given(st.fractions(min_value=Fraction(1, 50), max_value=500, max_denominator=2000))
def test_any_exact_rate_survives(rate):
    data = {**PLAIN, "rate": str(rate)}
    contract = Contract.from_dict(data)
    assert contract.rate == rate and Contract.from_dict(contract.to_dict()).rate == rate
    assert contract.history_ticks == int(np.ceil(2 * rate))


WRONG = [
    (("colour",), "red", r"colour: is not a known key; expected one of .*actions"),
    ((*ODOM, "topics"), "odom", r"observations\.odom\.topics: is not a known key; expected one of"),
    ((*BASE, "limit"), [1], r"actions\.base\.limit: is not a known key"),
    (("targets", "package", "units"), "m", r"targets\.package\.units: is not a known key"),
    ((*BASE, "low"), MISSING, r"actions\.base\.low: expected a list of 2 finite numbers"),
    ((*BASE, "slew"), MISSING, r"actions\.base\.slew: expected a list of 2 finite numbers"),
    ((*BASE, "safe"), MISSING, r"actions\.base\.safe: expected `zero`, `hold` or"),
    ((*BASE, "timeout"), MISSING, r"actions\.base\.timeout: expected"),
    ((*BASE, "low"), [-0.4], r"actions\.base\.low: expected a list of 2 finite numbers"),
    ((*BASE, "high"), [0.4, float("nan")], r"actions\.base\.high: expected a list of 2 finite numbers"),
    ((*BASE, "high"), [-0.4, 0.6], r"actions\.base\.\w+: .*low"),
    ((*BASE, "slew"), [0.0, 3.0], r"actions\.base\.slew: "),
    ((*BASE, "safe"), [5.0, 0.0], r"actions\.base\.safe: expected .*within low\.\.high"),
    (("actions", "arm", "safe"), "zero", r"actions\.arm\.safe: `zero` lies outside low\.\.high"),
    (
        (*ODOM, "topic"),
        "camera/image_raw",
        r"observations\.odom\.topic: expected a topic of its own, .*camera",
    ),
    (("targets", "package", "topic"), "odom", r"targets\.package\.topic: .*observations\.odom"),
    ((*ODOM, "topic"), MISSING, r"observations\.odom\.topic: is missing"),
    ((*ODOM, "fields"), [], r"observations\.odom\.fields: expected a list of texts"),
    ((*ODOM, "fields"), ["a", "a"], r"observations\.odom\.fields: expected each entry once"),
    ((*ODOM, "stale"), -1, r"observations\.odom\.stale: expected seconds"),
    (("observations", "camera", "size"), [64], r"observations\.camera\.size: expected \[width, height\]"),
    (("observations", "camera", "channels"), 2, r"observations\.camera\.channels: expected 1 or 3"),
    (("observations", "camera", "resize"), "zoom", r"observations\.camera\.resize: expected one of stretch"),
    (("observations", "camera", "trigger"), False, r"observations: at least one needs `trigger: true`"),
    (("observations", "joints", "names"), MISSING, r"observations\.joints\.names: expected the joint names"),
    (("observations",), {}, r"observations: expected at least one entry"),
    (("actions",), [1], r"actions: expected a mapping"),
    (("rate",), 0, r"rate: expected more than 0"),
    (("rate",), "fast", r"rate: expected ticks per second"),
    (("rate",), True, r"rate: expected ticks per second"),
    (("history",), -2, r"history: expected seconds"),
    (("actuation_delay",), 0.5, r"actuation_delay: expected a whole number of ticks"),
    (("name",), MISSING, r"name: is missing; a text is expected"),
    (("frame",), 3, r"frame: expected a text, got 3"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[m[:40] for *_, m in WRONG])
def test_what_is_wrong_is_named_with_file_key_and_expectation(tmp_path, path, value, message):
    file = tmp_path / "robot.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)))
    with pytest.raises(ContractError, match=r"robot\.yaml: " + message):
        load_contract(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not valid YAML"), ("[1]", "expected a mapping"), ("", "expected a mapping")],
)
def test_a_file_that_is_no_contract_says_so(tmp_path, text, message):
    (tmp_path / "robot.yaml").write_text(text)
    with pytest.raises(ContractError, match=message):
        load_contract(tmp_path / "robot.yaml")


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ContractError, match=r"absent\.yaml: cannot be read"):
        load_contract(tmp_path / "absent.yaml")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ContractError, match=r"'manipulatr'.*there are: .*manipulator"):
        find_contract("manipulatr")


def test_a_contract_is_found_by_path_too(tmp_path):
    file = Path(tmp_path) / "mine.yaml"
    file.write_text(yaml.safe_dump(PLAIN, sort_keys=False))
    assert find_contract(str(file)) == CONTRACT
