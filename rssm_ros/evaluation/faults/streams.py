"""What can go wrong between a sensor and a filter: small pure transformations of streams of messages.

A stream is messages in the order in which they are received; a fault makes another stream of it and leaves
the given one alone. Chance is a function of (seed, modality, stamp, time of receipt): the same message meets
the same fate in every run, and what a drop of 30 % loses a drop of 50 % loses too.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.evaluation.errors import EvaluationError
from rssm_ros.recordings.recording import Observation

Stream = tuple[Observation, ...]  # as `in_order` leaves them
Fault = Callable[[Stream], Stream]
Array = npt.NDArray[Any]


def in_order(messages: Iterable[Observation]) -> Stream:
    """A stream of messages: as they are received; of what comes at the same time the earlier stamp first."""
    return tuple(sorted(messages, key=lambda message: (message.received_ns, message.stamp_ns, message.name)))


def chance(seed: int, message: Observation) -> float:
    """A number in [0, 1) that depends on the seed and on which message it is, on nothing else."""
    words = f"{seed}/{message.name}/{message.stamp_ns}/{message.received_ns}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest()) / 2.0**64


# One thing that goes wrong --------------------------------------------------------------------------------


def drop(share: float, seed: int) -> Fault:
    """Each message is lost with probability `share`."""
    _check_share(share)
    return lambda stream: tuple(m for m in stream if chance(seed, m) >= share)


def delay(by_ns: int) -> Fault:
    """Everything comes later by the same time; stamps stay."""
    _check_time(by_ns)
    return lambda stream: in_order(replace(m, received_ns=m.received_ns + by_ns) for m in stream)


def jitter(most_ns: int, seed: int) -> Fault:
    """Each message comes later by its own time in 0 to `most_ns`: one overtakes another."""
    _check_time(most_ns)

    def fault(stream: Stream) -> Stream:
        late = (int(chance(seed, m) * most_ns) for m in stream)
        return in_order(replace(m, received_ns=m.received_ns + by) for m, by in zip(stream, late))

    return fault


def stall(every_ns: int, for_ns: int) -> Fault:
    """The network stands still: what would come in the last `for_ns` of each `every_ns` comes at its end."""
    _check_spell(every_ns, for_ns)

    def end(received_ns: int) -> int:
        into = received_ns % every_ns
        return received_ns if into < every_ns - for_ns else received_ns - into + every_ns

    return lambda stream: in_order(replace(m, received_ns=end(m.received_ns)) for m in stream)


def freeze(every_ns: int, for_ns: int) -> Fault:
    """A sensor that says the same with new stamps: in the first `for_ns` of each `every_ns` its messages
    repeat the first one of that spell.
    """
    _check_spell(every_ns, for_ns)

    def fault(stream: Stream) -> Stream:
        first: dict[tuple[str, int], Observation] = {}
        said = []
        for message in stream:
            spell, into = divmod(message.received_ns, every_ns)
            kept = first.setdefault((message.name, spell), message) if into < for_ns else message
            said.append(replace(message, value=kept.value))
        return tuple(said)

    return fault


def duplicate(later_ns: int) -> Fault:
    """Every message comes again, `later_ns` after the first time."""
    _check_time(later_ns)

    def fault(stream: Stream) -> Stream:
        return in_order(stream + tuple(replace(m, received_ns=m.received_ns + later_ns) for m in stream))

    return fault


def skew(by_ns: int) -> Fault:
    """The sensor's clock is wrong: stamps are off by `by_ns`, ahead where positive; times of receipt stay."""
    return lambda stream: in_order(replace(m, stamp_ns=m.stamp_ns + by_ns) for m in stream)


def not_finite(share: float, seed: int) -> Fault:
    """Each message is NaN throughout with probability `share`; whole numbers become such of floats."""
    return _spoil(share, seed, lambda value: np.full(value.shape, np.nan, np.float32))


def wrong_size(share: float, seed: int) -> Fault:
    """Each message lacks the last entry of its last axis with probability `share`: a channel, or a number."""
    return _spoil(share, seed, lambda value: np.ascontiguousarray(value[..., :-1]))


def _spoil(share: float, seed: int, how: Callable[[Array], Array]) -> Fault:
    _check_share(share)

    def fault(stream: Stream) -> Stream:
        return tuple(replace(m, value=how(m.value)) if chance(seed, m) < share else m for m in stream)

    return fault


# Where and when it goes wrong -----------------------------------------------------------------------------


def chain(*faults: Fault) -> Fault:
    """One after the other, the first one nearest to the sensor; of none, nothing happens."""

    def fault(stream: Stream) -> Stream:
        for each in faults:
            stream = each(stream)
        return stream

    return fault


def where(chosen: Callable[[Observation], bool], fault: Fault) -> Fault:
    """The fault meets the chosen messages only; the others come as they would."""

    def partly(stream: Stream) -> Stream:
        met = fault(tuple(m for m in stream if chosen(m)))
        return in_order((*(m for m in stream if not chosen(m)), *met))

    return partly


def only(names: Collection[str], fault: Fault) -> Fault:
    """The fault meets these modalities."""
    return where(lambda message: message.name in names, fault)


def during(begin_ns: int, end_ns: int, fault: Fault) -> Fault:
    """The fault meets what is received from begin_ns on, before end_ns."""
    return where(lambda message: begin_ns <= message.received_ns < end_ns, fault)


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise EvaluationError(f"a share lies in 0 to 1, got {share}")


def _check_time(time_ns: int) -> None:
    if time_ns < 0:
        raise EvaluationError(f"nothing is received before it is sent: a delay of {time_ns} ns")


def _check_spell(every_ns: int, for_ns: int) -> None:
    if not 0 <= for_ns <= every_ns or every_ns == 0:
        raise EvaluationError(f"a spell of {for_ns} ns does not fit into {every_ns} ns")
