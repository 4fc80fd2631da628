"""The faults of the table: which transformation meets which messages, and what the row is called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rssm_ros.contract import Contract
from rssm_ros.evaluation.faults import streams
from rssm_ros.evaluation.faults.streams import Fault
from rssm_ros.online.grid import SECOND
from rssm_ros.recordings.recording import APPLIED

MS = 1_000_000  # ns
FOREVER = 2**62  # ns
NOMINAL = "no fault"
JUDGED_MS = 200  # the delay under which the online belief is judged
JUDGED = f"{JUDGED_MS} ms late"


@dataclass(frozen=True)
class Scenario:
    """One row of the table."""

    name: str
    group: str
    make: Callable[[int], Fault]  # from a seed, since no two episodes should lose the same messages
    level: float = float("nan")  # of series that are drawn: ms, or a share
    same: bool = False  # the same messages come inside the window: final beliefs must be the same


def scenarios(contract: Contract) -> tuple[Scenario, ...]:
    """What the table shows of a robot: faults of all observations, of the trigger alone, of commands."""
    everything = [spec.name for spec in contract.observations]
    camera = [spec.name for spec in contract.observations if spec.trigger]
    numbers = [spec.name for spec in contract.observations if spec.kind != "image"]
    called = " and ".join(camera)
    too_late = int((contract.history + 0.5) * SECOND)

    def plain(names: Sequence[str], fault: Fault) -> Callable[[int], Fault]:
        return lambda seed: streams.only(names, fault)

    def by_chance(
        names: Sequence[str], fault: Callable[[Any, int], Fault], size: float
    ) -> Callable[[int], Fault]:
        return lambda seed: streams.only(names, fault(size, seed))

    commands_too = [*everything, APPLIED]
    rows = [Scenario(NOMINAL, "none", lambda seed: streams.chain(), 0.0, True)]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        rows.append(Scenario(f"{share:.0%} lost", "drop", by_chance(everything, streams.drop, share), share))
    rows.append(Scenario(f"90% of {called} lost", "drop", by_chance(camera, streams.drop, 0.9)))
    rows.append(Scenario("30% of commands lost", "commands", by_chance([APPLIED], streams.drop, 0.3)))
    for ms in (50, 100, JUDGED_MS, 300, 500):
        late = streams.delay(ms * MS)
        rows.append(Scenario(f"{ms} ms late", "delay", plain(everything, late), ms, True))
    for ms in (JUDGED_MS, 500):
        late = streams.delay(ms * MS)
        rows.append(Scenario(f"{called} {ms} ms late", "delay", plain(camera, late), same=True))
    late = streams.delay(JUDGED_MS * MS)
    shuffled = by_chance(everything, streams.jitter, JUDGED_MS * MS)
    stalled = streams.stall(3 * SECOND, SECOND // 2)
    return (
        *rows,
        Scenario(f"{JUDGED_MS} ms late, commands too", "commands", plain(commands_too, late), same=True),
        Scenario(f"{called} {too_late / SECOND:g} s late", "beyond", plain(camera, streams.delay(too_late))),
        Scenario(f"0 to {JUDGED_MS} ms late, out of order", "reorder", shuffled, same=True),
        Scenario("0.5 s of 3 s held back", "reorder", plain(everything, stalled), same=True),
        Scenario(f"{called} frozen 1 s of 4 s", "freeze", plain(camera, streams.freeze(4 * SECOND, SECOND))),
        Scenario(f"{called} frozen", "freeze", plain(camera, streams.freeze(FOREVER, FOREVER))),
        Scenario("all twice", "duplicate", plain(commands_too, streams.duplicate(30 * MS)), same=True),
        *(
            Scenario(f"{called} stamped {ms:+d} ms", "skew", plain(camera, streams.skew(ms * MS)))
            for ms in (-100, -30, 50, 150)
        ),
        Scenario("30% NaN", "broken", by_chance(numbers, streams.not_finite, 0.3)),
        Scenario("30% of a wrong size", "broken", by_chance(everything, streams.wrong_size, 0.3)),
    )
