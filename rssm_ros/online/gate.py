"""The gate: the last check on every command before the robot. A state machine in numpy, without ROS and
clock.

Times called `now` are seconds of a steady clock, given by the caller: ROS time stands still when its source
dies, and that is when the gate must act. Stamps are ns of ROS time and only say which tick something answers.

    run   the command, within range and slew
    slow  the same at a fraction of speed (surprise above its threshold)
    hold  the safe action, reached within slew; ends after `healthy_ticks` good commands in a row
    stop  the safe action; latched until `reset`
    estop the safe action at once, slew or not; latched until `reset`
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract
from rssm_ros.online.grid import SECOND
from rssm_ros.online.limits import Limits, Vector
from rssm_ros.online.surprise import surprised_for

RUN, SLOW, HOLD, STOP, ESTOP = "run", "slow", "hold", "stop", "estop"
MODES = (RUN, SLOW, HOLD, STOP, ESTOP)  # in order of severity
_LATCHED = (STOP, ESTOP)
UNMEASURED = "waiting for the measured state"  # nothing is sent: any value could move a joint


@dataclass(frozen=True)
class GateSettings:
    """When the gate loses patience. None: derived from the contract."""

    command_timeout: float | None = None  # s; default half of the robot's own shortest
    belief_timeout: float | None = None  # s without a new belief; default the same
    watch_observations: bool = True
    # Ticks in a row with surprise above its threshold. One tick in a thousand is, by calibration, and such
    # ticks come in runs (a collision, a package that appears): patience is half a second, 2 s and 10 s.
    slow_after: int = 10
    hold_after: int = 40
    stop_after: int = 200
    slow_factor: float = 0.5
    healthy_ticks: int = 10  # good commands in a row that end a slow or a hold
    hold_limit: float = math.inf  # s of uninterrupted hold, once running, that end in a stop


@dataclass(frozen=True)
class Decision:
    """What to send now. `send` is False when nothing new is due (the last one still stands)."""

    si: Vector  # [A]
    mode: str
    reason: str  # "" while running
    send: bool = True


@dataclass
class _Health:
    """What was last heard, in steady seconds; -inf: never."""

    command: float = -math.inf
    belief: float = -math.inf
    observations: dict[str, float] = field(default_factory=dict)
    lost: bool = False
    unseen: str = ""  # a modality that the belief has not seen for longer than it may be stale
    surprised: int = 0  # ticks in a row above the threshold


class Gate:
    """Checks commands and watches what they rest on. Every call takes the time from the caller."""

    def __init__(self, contract: Contract, settings: GateSettings | None = None) -> None:
        self.contract, self.settings = contract, settings or GateSettings()
        self.limits = Limits(contract)
        self.counters: Counter[str] = Counter()
        half = 0.5 * min(action.timeout for action in contract.actions)
        self._command_timeout = (
            half if self.settings.command_timeout is None else self.settings.command_timeout
        )
        self._belief_timeout = half if self.settings.belief_timeout is None else self.settings.belief_timeout
        self._stale = {spec.name: spec.stale for spec in contract.observations}
        self._stale_ticks = {name: stale / contract.dt + 1e-6 for name, stale in self._stale.items()}
        self._late_ns = int(max(self._stale.values()) * SECOND)
        self._speedlike = np.array([a.safe == "zero" for a in contract.actions for _ in range(a.dim)])
        self._slices = contract.action_slices()
        self._measured: dict[str, Vector] = {}
        self._applied = self.limits.safe(None, np.zeros(contract.action_dim))
        self._sent_at = -math.inf
        self._clock_ns = self._stamp_ns = 0
        self._clear()

    def _clear(self) -> None:
        self.mode, self.reason = HOLD, "waiting for the first command"
        self._health = _Health()
        self._healthy = 0
        self._held_since: float | None = None  # None before the first run: waiting to start is no failure
        self._safe: Vector | None = None
        self._command_stamp: int | None = None
        self._belief_stamp: int | None = None
        self._observation_stamps: dict[str, int] = {}

    @property
    def applied(self) -> Vector:
        """The command that stands, SI [A]."""
        return self._applied.copy()

    def stamp(self, now_ns: int, answers_ns: int = 0) -> int:
        """The stamp (ns) of what is sent now, at ROS time now_ns: after the stamp that it answers, and after
        everything sent before, as /clock stands still for 10 ms and more and the order must be told."""
        self._stamp_ns = max(now_ns, answers_ns + 1, self._stamp_ns + 1)
        return self._stamp_ns

    # What the gate hears

    def clock(self, now_ns: int) -> None:
        """ROS time, to be told before what came with it. Where it went back, a new run of a simulation or a
        bag has begun, or a clock was set: by the old stamps all that comes would be old for long, so
        everything must be heard again, as after a pause."""
        if now_ns < self._clock_ns:
            self.counters["clock_back"] += 1
            self._stamp_ns = 0
            self.restart()
        self._clock_ns = now_ns

    def observation(self, name: str, stamp_ns: int, now: float) -> None:
        """A header of one modality arrived. A stamp that does not advance is a frozen sensor, not news."""
        if stamp_ns > self._observation_stamps.get(name, -1):
            self._observation_stamps[name] = stamp_ns
            self._health.observations[name] = now
        else:
            self.counters["frozen_observation"] += 1

    def measured(self, name: str, values: npt.ArrayLike) -> None:
        """The robot's own values (SI) for the channels of action `name`: what `hold` holds."""
        array = np.asarray(values, np.float64)
        part = self._slices[name]
        if array.shape != self._applied[part].shape or not np.isfinite(array).all():
            self.counters["bad_measurement"] += 1
            return
        self._measured[name] = array
        if self._sent_at == -math.inf:  # nothing commanded yet: the robot is where it is
            self._applied[part] = np.clip(array, self.limits.low[part], self.limits.high[part])
            self._safe = None

    def belief_health(
        self,
        stamp_ns: int,
        surprise: float,
        threshold: float,
        lost: bool,
        now: float,
        ages: Mapping[str, float] | None = None,
    ) -> None:
        """One belief arrived. Surprise NaN: nothing seen, says nothing; threshold NaN or inf: not
        calibrated.

        ages: ticks since the belief saw each modality, negative for never. A stream whose messages arrive
        but are all refused (encoding, shape, NaN) is noticed here only.
        """
        if self._belief_stamp is not None and stamp_ns <= self._belief_stamp:
            self.counters["old_belief"] += 1
            return
        self._belief_stamp = stamp_ns
        self._health.belief, self._health.lost = now, lost
        old = (name for name, age in (ages or {}).items() if age < 0 or age > self._stale_ticks[name])
        self._health.unseen = next(old, "")
        self._health.surprised = surprised_for(self._health.surprised, surprise, threshold)

    def estop(self, now: float) -> Decision:
        """Latches the emergency stop and returns the safe command, to be sent at once."""
        self.counters["estop"] += 1
        self._enter(ESTOP, "emergency stop", now)
        return self._safe_decision(now, math.inf)

    def reset(self) -> None:
        """Unlatches: back to a hold that good commands end. Streams must prove themselves again."""
        self._clear()
        self.counters["reset"] += 1

    def restart(self) -> None:
        """Listens anew after a pause, in which the robot may have been moved: everything must be heard again,
        but what was latched stays latched."""
        mode, reason = self.mode, self.reason
        self._clear()
        self._measured, self._sent_at = {}, -math.inf
        self._applied = self.limits.safe(None, np.zeros(self.contract.action_dim))
        if mode in _LATCHED:
            self.mode, self.reason = mode, reason

    def final(self) -> Decision:
        """The last thing to send before the process ends: the safe action itself, where it is known."""
        if not self._grounded:
            return Decision(self.applied, self.mode, UNMEASURED, send=False)
        self._applied = self.limits.safe(self._measured, self._applied)
        return Decision(self.applied, self.mode, "shutting down")

    # What the gate decides

    def command(self, stamp_ns: int, si: npt.ArrayLike, now: float) -> Decision:
        """A command (SI [A]) that answers the belief of stamp_ns. Refused ones count and change nothing."""
        wanted = np.asarray(si, np.float64)
        refusal = self._refusal(stamp_ns, wanted)
        if refusal:
            self.counters[refusal] += 1
            self._healthy = 0
            return Decision(self.applied, self.mode, self.reason or refusal, send=False)
        elapsed = self._elapsed(stamp_ns, now)
        self._command_stamp, self._health.command = stamp_ns, now
        self._assess(now)
        if self._healthy_now(now):
            self._healthy += 1
            if self.mode in (SLOW, HOLD) and self._healthy >= self.settings.healthy_ticks:
                self._run()
        if self.mode in (RUN, SLOW):
            return self._send(self._stepped(wanted, elapsed), now)
        return self._safe_decision(now, elapsed)

    def watchdog(self, now: float) -> Decision:
        """To be called on a steady timer at about the contract's rate, whatever else happens."""
        self._assess(now)
        since = now - self._sent_at
        if self.mode in (RUN, SLOW) or since < 0.5 * self.contract.dt:
            return Decision(self.applied, self.mode, self.reason, send=False)
        return self._safe_decision(now, min(since, self.contract.dt))

    def _refusal(self, stamp_ns: int, wanted: Vector) -> str:
        if wanted.shape != self._applied.shape:
            return "wrong_shape"
        if not np.isfinite(wanted).all():
            return "not_finite"
        if self._command_stamp is not None and stamp_ns <= self._command_stamp:
            return "old_command"
        if stamp_ns < max(self._observation_stamps.values(), default=0) - self._late_ns:
            return "late_command"
        return ""

    def _elapsed(self, stamp_ns: int, now: float) -> float:
        """Seconds of slew this command may use: its distance to the last, never more than a tick."""
        since = now - self._sent_at
        if self._command_stamp is not None and self._sent_at <= self._health.command:
            since = (stamp_ns - self._command_stamp) / SECOND
        return min(since, self.contract.dt)

    def _assess(self, now: float) -> None:
        """Moves to a more severe mode where something is wrong; only good commands lead back."""
        trouble = self._trouble(now)
        if trouble:
            self._healthy = 0
            if self.mode not in _LATCHED:
                self._enter(HOLD, trouble, now)
        surprised = self._health.surprised
        if surprised >= self.settings.slow_after:
            self._healthy = 0
            steps = ((self.settings.stop_after, STOP), (self.settings.hold_after, HOLD), (0, SLOW))
            mode = next(mode for after, mode in steps if surprised >= after)
            self._enter(mode, f"surprised for {surprised} ticks", now)
        held = 0.0 if self._held_since is None else now - self._held_since
        if self.mode == HOLD and held >= self.settings.hold_limit:
            self._enter(STOP, f"held too long: {self.reason}", now)

    def _trouble(self, now: float) -> str:
        health = self._health
        if not self._grounded:
            return UNMEASURED
        if now - health.command > self._command_timeout:
            return "no command" if math.isfinite(health.command) else "waiting for the first command"
        if now - health.belief > self._belief_timeout:
            return "no new belief"
        if health.lost:
            return "the belief is lost"
        if self.settings.watch_observations:
            for name, stale in self._stale.items():
                if now - health.observations.get(name, -math.inf) > stale:
                    return f"no new {name}"
            if health.unseen:
                return f"the belief has not seen {health.unseen}"
        return ""

    def _healthy_now(self, now: float) -> bool:
        return not self._trouble(now) and self._health.surprised < self.settings.slow_after

    def _enter(self, mode: str, reason: str, now: float) -> None:
        if MODES.index(mode) < MODES.index(self.mode):
            return
        if mode != self.mode:
            self.counters[mode] += 1
            if mode == HOLD and self.mode in (RUN, SLOW):
                self._held_since = now
            if self._safe is None and mode != SLOW:  # held from here on: measuring anew each time would drift
                self._safe = self.limits.safe(self._measured, self._applied)
        self.mode, self.reason = mode, reason

    def _run(self) -> None:
        self.mode, self.reason, self._safe, self._held_since = RUN, "", None, None

    @property
    def _grounded(self) -> bool:
        """Whether the command that stands is known: something was sent, or all that `hold`s is measured."""
        holds = (action.name for action in self.contract.actions if action.safe == "hold")
        return self._sent_at > -math.inf or all(name in self._measured for name in holds)

    def _stepped(self, wanted: Vector, elapsed: float) -> Vector:
        if self.mode == SLOW:  # speeds are scaled, positions approached more slowly
            factor = self.settings.slow_factor
            slower = self.limits.step(self._applied, wanted, factor * elapsed)
            wanted = np.where(self._speedlike, factor * wanted, slower)
        return self.limits.step(self._applied, wanted, elapsed)

    def _safe_decision(self, now: float, elapsed: float) -> Decision:
        if not self._grounded:
            return Decision(self.applied, self.mode, UNMEASURED, send=False)
        if self._safe is None:
            self._safe = self.limits.safe(self._measured, self._applied)
        gentle = self.limits.step(self._applied, self._safe, elapsed)
        return self._send(self._safe if self.mode == ESTOP else gentle, now)

    def _send(self, si: Vector, now: float) -> Decision:
        self._applied, self._sent_at = np.array(si, np.float64), now
        return Decision(self.applied, self.mode, self.reason)
