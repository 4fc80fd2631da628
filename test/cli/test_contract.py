"""`rssm contract`."""

import json
from pathlib import Path

import pytest

from rssm_ros.cli.main import main
from rssm_ros.contract import find_contract


def test_it_tells_every_topic_and_every_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contract", "manipulator"]) == 0
    told, contract = capsys.readouterr().out, find_contract("manipulator")
    for item in (*contract.observations, *contract.actions, *contract.targets):
        assert item.topic in told, item.name
    for channel, low, high in zip(contract.channels, contract.low, contract.high, strict=True):
        assert f"{channel}: {low:g} to {high:g}" in told


def test_what_json_tells_is_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contract", "manipulator", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rate"] in (20, "20") and set(told["observations"]) == {"camera", "odom", "joints"}


def test_a_contract_that_cannot_be_used_is_one_line(
    tmp_path: Path, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "mine.yaml"
    shipped = (checkout / "config" / "contracts" / "manipulator.yaml").read_text()
    wrong.write_text(shipped.replace("slew:", "slow:"))
    assert main(["contract", str(wrong)]) == 2
    told = capsys.readouterr().err
    assert "mine.yaml" in told and "slow: is not a known key" in told and told.count("\n") == 1
