import json
import math
from pathlib import Path

import numpy as np
import pytest

from rssm_ros.evaluation.runs import summary as summaries
from rssm_ros.evaluation.runs.summary import KEYS, Run
from rssm_ros.evaluation.runs.trace import (
    TraceError,
    TraceWriter,
    belief_dtype,
    gate_dtype,
    read_counters,
    read_last,
    read_trace,
    simulation_dtype,
    write_counters,
)
from test.disks import largest_file

DT, MS = 0.05, 1_000_000


def made(ticks: int = 41) -> Run:
    """A base that drives at 0.2 m/s towards a package that stands at (1, 0); hidden in the second half."""
    sim = np.zeros(ticks, simulation_dtype(3, 6, {"odom": (2,), "joints": (8,)}))
    k = np.arange(ticks)
    sim["tick"], sim["stamp_ns"], sim["monotonic_ns"] = 20 + k, (20 + k) * 50 * MS, 7 + k * 50 * MS
    sim["odom"][:, 0] = 0.2
    sim["package"][:, 0] = 1.0 - 0.2 * DT * k
    sim["visibility"] = np.where(k <= 20, 1.0, 0.0)
    sim["score"][-1] = (4, 2, 1, 1)
    gate = np.zeros(ticks, gate_dtype(6))
    gate["stamp_ns"], gate["monotonic_ns"] = sim["stamp_ns"], sim["monotonic_ns"] + 8 * MS
    beliefs = np.zeros(ticks, belief_dtype(2))
    beliefs["stamp_ns"] = sim["stamp_ns"]
    beliefs["mean"] = sim["package"] + np.array([0.03, 0.04], np.float32)
    return Run(sim, gate, beliefs, DT)


def test_pace_of_a_run_in_time() -> None:
    found = summaries.pace(made())
    assert (
        found["ticks"] == 40
        and found["sim_s"] == pytest.approx(2.0)
        and found["wall_s"] == pytest.approx(2.0)
    )
    assert found["realtime_factor"] == pytest.approx(1.0) and found["loop_hz"] == pytest.approx(20.0)
    assert found["over_budget_fraction"] == 0.0
    assert found["latency_ms"] == {"p50": pytest.approx(8.0), "p99": pytest.approx(8.0)}
    assert found["gate_modes"] == {"run": 41}


def test_late_and_missing_answers_are_over_budget() -> None:
    run = made()
    run.gate["monotonic_ns"][3] += 60 * MS
    gate = np.delete(run.gate, [10, 11])
    found = summaries.pace(Run(run.sim, gate, run.filter, DT))
    assert found["over_budget_fraction"] == pytest.approx(3 / 41)
    repeated = np.concatenate([run.gate, run.gate])  # a second answer to the same picture does not count
    assert summaries.pace(Run(run.sim, repeated, run.filter, DT))["loop_hz"] == pytest.approx(20.0)


def test_the_watchdogs_commands_are_no_answers() -> None:
    run = made()
    run.gate["stamp_ns"] = 0
    found = summaries.pace(run)
    assert (
        found["loop_hz"] is None
        and found["over_budget_fraction"] == 1.0
        and found["latency_ms"]["p50"] is None
    )


def test_errors_visible_and_hidden() -> None:
    found = summaries.belief_errors(made())
    assert found["belief_error_m"] == {"visible": pytest.approx(0.05), "hidden": pytest.approx(0.05)}
    assert found["hidden_ticks"] == 20 and found["dropped"] == 0


def test_hold_last_knows_how_the_robot_moved() -> None:
    """A package that stands still is no challenge to it, whatever the base does, turns included."""
    run = made()
    assert summaries.belief_errors(run)["hold_last_error_m"]["hidden"] == pytest.approx(0.0, abs=1e-6)
    turn, k = 0.4, np.arange(len(run.sim))
    run.sim["odom"] = (0.0, turn)
    angle = turn * DT * k
    run.sim["package"] = np.stack([np.cos(angle), -np.sin(angle)], axis=1)
    assert summaries.belief_errors(run)["hold_last_error_m"]["hidden"] == pytest.approx(0.0, abs=1e-6)
    run.sim["package"][21:] += 0.3  # it moves while hidden: now it is wrong by that
    expected = pytest.approx(0.3 * math.sqrt(2), abs=1e-5)
    assert summaries.belief_errors(run)["hold_last_error_m"]["hidden"] == expected


def test_the_constant_guess_is_the_best_in_hindsight() -> None:
    run = made()
    hidden = run.sim["package"][run.sim["visibility"] <= 0.05]
    expected = math.sqrt(((hidden - hidden.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert summaries.belief_errors(run)["climatology_error_m"] == pytest.approx(expected)


def test_a_missing_belief_counts_and_the_last_one_stands() -> None:
    run = made()
    kept = Run(run.sim, run.gate, np.delete(run.filter, [30]), DT)
    believed, missing = summaries.aligned_beliefs(kept)
    assert missing == 1
    np.testing.assert_array_equal(believed[30], run.filter["mean"][29])


def test_beliefs_that_are_no_numbers_flatter_nobody() -> None:
    """They count as dropped, and all three errors are taken over the same ticks."""
    run, whole = made(), summaries.belief_errors(made())
    run.sim["package"][31:, 1] += 2.0  # the later half of what is hidden is the hard one
    run.filter["mean"][31:] = np.nan
    found = summaries.belief_errors(run)
    assert found["dropped"] == 10 and found["hidden_ticks"] == found["judged_ticks"] == 20
    assert found["belief_error_m"]["hidden"] > 1.0  # the last belief stands
    run.filter["mean"][:31] = np.nan
    empty = summaries.belief_errors(run)
    assert empty["belief_error_m"]["hidden"] is None and empty["judged_ticks"] == 0
    assert empty["hold_last_error_m"]["hidden"] is None and empty["climatology_error_m"] is None
    late = made()
    late.filter["mean"][:31] = np.nan  # no belief at all for the first ten hidden ticks
    half = summaries.belief_errors(late)
    late.sim["visibility"][:31] = 1.0
    assert half["judged_ticks"] == 10 and half["dropped"] == 31 and whole["judged_ticks"] == 20
    assert half["climatology_error_m"] == summaries.belief_errors(late)["climatology_error_m"]


@pytest.mark.parametrize(
    ("lockstep", "lost", "good"), [(False, 1, True), (False, 5, False), (True, 1, False)]
)
def test_dropped_ticks_are_checked(lockstep: bool, lost: int, good: bool) -> None:
    run = made(201)
    kept = Run(run.sim, run.gate, run.filter[lost:], DT)
    checks = summaries.summarise(kept, 20.0, lockstep=lockstep)["checks"]
    assert next(check for check in checks if check["name"] == "dropped")["pass"] == good


def test_no_package_is_no_error() -> None:
    run = made()
    run.sim["package"] = np.nan
    run.sim["visibility"] = np.nan
    found = summaries.belief_errors(run)
    assert found["belief_error_m"] == {"visible": None, "hidden": None} and found["hidden_ticks"] == 0


def test_packages_of_all_episodes_count() -> None:
    run = made()
    run.sim["score"][:20] = (3, 1, 1, 1)
    run.sim["score"][20:] = (1, 1, 0, 0)
    run.sim["reset"][[0, 20]] = 1
    assert summaries.packages(run) == {"packages": 4, "sorted": 2, "wrong": 1, "missed": 1}


def test_checks_and_their_bounds() -> None:
    found = summaries.summarise(made(), 20.0)
    names = {check["name"]: check for check in found["checks"]}
    assert set(names) == {
        "loop_hz",
        "realtime_factor",
        "over_budget_fraction",
        "dropped",
        "hidden_error_to_hold_last",
        "hidden_error_to_climatology",
    }
    assert names["loop_hz"]["pass"] and names["loop_hz"]["bound"] == ">= 19.6 and <= 20.4"
    assert not names["hidden_error_to_hold_last"]["pass"]  # hold-last is perfect here
    lockstep = summaries.summarise(made(), 20.0, lockstep=True)
    assert not {"loop_hz", "realtime_factor"} & {check["name"] for check in lockstep["checks"]}
    half = summaries.summarise(made(), 20.0, speed=0.5)
    assert not next(check for check in half["checks"] if check["name"] == "loop_hz")["pass"]


def test_little_that_was_hidden_is_not_judged() -> None:
    run = made(30)  # nine hidden ticks
    assert all("hidden" not in check["name"] for check in summaries.summarise(run, 20.0)["checks"])


def test_a_long_run_that_hides_nothing_fails() -> None:
    run = made(601)
    run.sim["visibility"] = 1.0
    (check,) = [c for c in summaries.summarise(run, 20.0)["checks"] if "hidden" in c["name"]]
    assert check == {"name": "hidden_ticks", "value": 0, "bound": ">= 20", "pass": False}
    run.sim["visibility"][:20] = 0.0
    found = {check["name"]: check["pass"] for check in summaries.summarise(run, 20.0)["checks"]}
    assert found["hidden_ticks"] and "hidden_error_to_hold_last" in found


def test_the_constant_guess_must_be_beaten_by_more_than_the_bound() -> None:
    found = {"hidden_ticks": 20, "belief_error_m": {"hidden": 0.7}, "hold_last_error_m": {"hidden": 1.4}}
    made_of = {**found, "climatology_error_m": 1.0, "dropped": 0, "ticks": 20}
    passed = {c["name"]: c for c in summaries.checks(made_of, summaries.Bounds(), 20.0, 1.0, lockstep=True)}
    assert passed["hidden_error_to_hold_last"]["pass"]
    assert passed["hidden_error_to_climatology"]["bound"] == "< 0.7"
    assert not passed["hidden_error_to_climatology"]["pass"]


def test_when_the_robot_stopped() -> None:
    run = made()
    run.sim["speed"][:, 0] = np.where(np.arange(41) < 15, 0.3, 0.001)
    fault = int(run.sim["monotonic_ns"][10])
    assert summaries.stopped_after(run, fault) == pytest.approx(0.25)
    run.sim["monotonic_ns"][12:] += 2_000_000_000  # the machine stalls, and the simulated robot with it
    assert summaries.stopped_after(run, fault) == pytest.approx(0.25)
    run.sim["speed"][-1, 1] = 0.2
    assert summaries.stopped_after(run, fault) is None
    assert summaries.stopped_after(run, int(run.sim["monotonic_ns"][-1]) + 1) is None


def test_the_file_has_every_key_and_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    summaries.write_summary(
        path, {"status": "error", "error": "x", "wall_s": np.float64("nan"), "ticks": np.int64(3)}
    )
    read = json.loads(path.read_text())
    assert set(KEYS) <= set(read) and read["wall_s"] is None and read["ticks"] == 3 and read["checks"] == []
    assert list(tmp_path.iterdir()) == [path]


def test_what_the_nodes_have_counted_is_told(tmp_path: Path) -> None:
    write_counters(tmp_path, "sim_node", {"lockstep_timeout": 2, "dropped_time_ms": 0})
    write_counters(tmp_path, "filter_node", {"accepted": 3})
    found = summaries.summarise(summaries.load_run(tmp_path, DT), 20.0, lockstep=True)
    assert found["counters"]["filter_node"] == {"accepted": 3} and found["lockstep_timeout"] == 2
    assert not next(c for c in found["checks"] if c["name"] == "lockstep_timeout")["pass"]
    (tmp_path / "gate_node.counters.json").write_text("{")
    with pytest.raises(TraceError, match="gate_node"):
        summaries.load_run(tmp_path, DT)


def test_a_run_without_traces_is_empty(tmp_path: Path) -> None:
    found = summaries.summarise(summaries.load_run(tmp_path, DT), 20.0)
    assert (
        found["ticks"] == 0
        and found["packages"] is None
        and not any(check["pass"] for check in found["checks"])
    )


def test_traces_survive_a_half_written_record(tmp_path: Path) -> None:
    """What SIGKILL leaves: whole records, perhaps one torn."""
    path = tmp_path / "gate.trace"
    writer = TraceWriter(path, gate_dtype(2))
    for stamp in (5, 6):
        writer.write(stamp_ns=stamp, applied=(0.5, stamp), mode=1)
    with path.open("ab") as file:
        file.write(b"torn")
    assert read_trace(path)["stamp_ns"].tolist() == [5, 6]
    assert read_last(path)["applied"].tolist() == [0.5, 6.0]
    writer.close()


@pytest.mark.parametrize("room", [0, 100, 400])  # nothing, a part of the head, and of a record
def test_a_full_disk_ends_a_trace_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], room: int
) -> None:
    path = tmp_path / "gate.trace"
    with largest_file(room):
        writer = TraceWriter(path, gate_dtype(2))
        for stamp in range(20):
            writer.write(stamp_ns=stamp)
    writer.write(stamp_ns=99)  # there is room again, behind a record that was cut off
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith(f"{path}: cannot be written (")
    stamps = read_trace(path)["stamp_ns"].tolist() if room > 100 else []
    assert stamps == list(range(len(stamps))) and bool(stamps) == (room > 100)


def test_counters_for_which_there_is_no_room_leave_the_others_readable(tmp_path: Path) -> None:
    write_counters(tmp_path, "sim_node", {"accepted": 3})
    with largest_file(4), pytest.raises(OSError):
        write_counters(tmp_path, "filter_node", {"accepted": 4})
    assert read_counters(tmp_path) == {"sim_node": {"accepted": 3}}


@pytest.mark.parametrize("content", [b"", b"no trace\n", b"[1]\n"])
def test_what_is_no_trace_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gate.trace"
    path.write_bytes(content)
    for read in (read_trace, read_last):
        with pytest.raises(TraceError, match=r"gate\.trace"):
            read(path)


def test_references_sort_on_the_same_seed() -> None:
    scores = summaries.reference_scores(0, 15.0)
    assert scores["expert"] >= 1 and scores["random"] < scores["expert"]
