"""Planners: from the belief at actuation time to the next actions, by a deadline, whatever happens.

One interface: `plan(belief, deadline) -> Plan`. The belief is the one ahead (`Filter.ahead`), the deadline
is in seconds of `time.monotonic`. Candidates go through the same limits as the command will: what is
planned is what will be applied.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rssm_ros.contract import Contract
from rssm_ros.online import noise
from rssm_ros.online.belief import Belief, Floats
from rssm_ros.online.errors import FilterError
from rssm_ros.online.limits import Limits, Vector
from rssm_ros.online.steps import Imagined, State

KINDS = ("actor", "cem", "hold")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Plan:
    """What to do from the belief's tick on."""

    actions: Floats  # [H, A] normalised; the first one is the command
    value: float  # predicted return; NaN where the planner has no opinion
    spread: float  # disagreement between particles: of the value, or of the action
    kind: str
    iterations: int = 0


class Acting(Protocol):
    """What planners need of a session."""

    def act(self, state: State) -> Floats:
        """The actor's mean per particle, [N, A]."""

    def rollout(self, state: State, actions: Floats, noise: Floats) -> Imagined:
        """Candidates [N, H, A] with noise [N, H, S]."""


class Planner(Protocol):
    """One way of choosing actions."""

    def plan(self, belief: Belief, deadline: float) -> Plan:
        """The best found by the deadline (s of the steady clock); FilterError when there is none."""

    def applied(self, si: Vector) -> None:
        """The command that stands until the next plan's first action follows it, SI [A]."""

    def reset(self) -> None:
        """Forget the last plan."""


class HoldPlanner:
    """The contract's safe action, from whatever was planned or applied last."""

    def __init__(self, contract: Contract) -> None:
        self._limits = Limits(contract)
        self.reset()

    def reset(self) -> None:
        """Nothing was planned."""
        self.last = self._limits.safe(None, np.zeros_like(self._limits.low))  # SI [A]

    def applied(self, si: Vector) -> None:
        """What is held."""
        self.last = si

    def planned(self, action: Floats) -> None:
        """What another planner chose, normalised [A]: held from there, until what was applied is told."""
        self.last = self._limits.scale(action)

    def plan(self, belief: Belief, deadline: float) -> Plan:
        """The safe action. Needs neither model nor time."""
        action = self._limits.normalise(self._limits.safe(None, self.last)).astype(np.float32)
        return Plan(action[None], math.nan, math.nan, "hold")


class ActorPlanner:
    """The actor's mean action, averaged over the particles."""

    def __init__(self, session: Acting) -> None:
        self._session = session

    def applied(self, si: Vector) -> None:
        """It says where to go; the gate decides how fast."""

    def reset(self) -> None:
        """It has no memory."""

    def plan(self, belief: Belief, deadline: float) -> Plan:
        """One call of the actor; `spread` is the particles' disagreement (RMS over channels)."""
        means = self._session.act(State(belief.deter, belief.stoch))  # [N, A]
        action = means.mean(axis=0, dtype=np.float64).clip(-1.0, 1.0).astype(np.float32)
        if not np.isfinite(action).all():
            raise FilterError(
                "the actor's action is not finite; check the bundle with `rssm verify`", "non_finite"
            )
        spread = float(np.sqrt(np.square(means - action).mean()))
        return Plan(action[None], math.nan, spread, "actor")


@dataclass(frozen=True)
class CemSettings:
    """The cross-entropy method's knobs."""

    horizon: int  # that of rollout.onnx
    candidates: int = 32
    elites: int = 6
    iterations: int = 4  # at most; the deadline may end it earlier
    particles: int = 2  # of the belief, per candidate
    std: float = 0.4  # first, per channel, in normalised units
    least_std: float = 0.05
    pessimism: float = 1.0  # how many standard deviations between particles are taken off a value


class CemPlanner:
    """Cross-entropy method through rollout.onnx, started from the actor and from the last plan. Anytime."""

    def __init__(
        self,
        session: Acting,
        contract: Contract,
        settings: CemSettings,
        seed: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._session, self._limits, self._dt = session, Limits(contract), contract.dt
        self._settings, self._seed, self._clock = settings, seed, clock
        self._actor = ActorPlanner(session)
        self._cost = 0.0  # s of the slowest iteration lately
        self.reset()

    def reset(self) -> None:
        """Forget the last plan."""
        self._last: Floats | None = None  # [H, A]
        self._last_tick = -1
        self._standing: Vector | None = None  # SI [A]

    def applied(self, si: Vector) -> None:
        """What the first action of the next plan follows."""
        self._standing = si

    def plan(self, belief: Belief, deadline: float) -> Plan:
        """Improves the mean plan until the iterations or the time are used up; at worst the actor's plan."""
        started = self._actor.plan(belief, deadline)
        s = self._settings
        mean = self._warm_start(belief.tick, started.actions[0])
        std = np.full_like(mean, s.std)
        rows = np.arange(s.particles) % len(belief.deter)
        state = State(belief.deter[rows], belief.stoch[rows])
        draw = np.random.default_rng([self._seed, belief.tick])
        best: tuple[float, float, Floats] | None = None
        done = 0
        while done < s.iterations and self._clock() + self._cost < deadline:
            before = self._clock()
            wanted = mean + std * draw.standard_normal((s.candidates, *mean.shape), np.float32)
            wanted[0], wanted[1] = mean, started.actions[0]
            plans = self._reachable(wanted)
            values, spreads = self._evaluate(belief.tick, state, plans)
            if not np.isfinite(values).all():
                raise FilterError(
                    "imagined values are not finite; check the bundle with `rssm verify`", "non_finite"
                )
            order = np.argsort(-values, kind="stable")
            if best is None or values[order[0]] > best[0]:
                best = (float(values[order[0]]), float(spreads[order[0]]), plans[order[0]])
            elite = plans[order[: s.elites]]
            mean, std = elite.mean(axis=0), np.maximum(elite.std(axis=0), s.least_std)
            done += 1
            self._cost = max(0.9 * self._cost, self._clock() - before)
        if best is None:
            self._cost *= 0.9  # one slow moment must not end planning for good
            return started
        self._last, self._last_tick = best[2], belief.tick
        return Plan(best[2], best[0], best[1], "cem", done)

    def _warm_start(self, tick: int, action: Floats) -> Floats:
        """The last plan moved on to this tick; what it does not reach is the actor's."""
        mean = np.tile(action, (self._settings.horizon, 1))
        passed = tick - self._last_tick
        if self._last is not None and 0 <= passed < len(mean):
            mean[: len(mean) - passed] = self._last[passed:]
        return mean

    def _reachable(self, plans: Floats) -> Floats:
        """Plans [C, H, A] as the limits would let them through after the command that stands.

        As long as none is known, the first action is free.
        """
        si = self._limits.scale(plans)
        before = si[:, 0] if self._standing is None else self._standing
        for tick in range(si.shape[1]):
            before = si[:, tick] = self._limits.step(before, si[:, tick], self._dt)
        return self._limits.normalise(si).astype(np.float32)

    def _evaluate(self, tick: int, state: State, plans: Floats) -> tuple[Floats, Floats]:
        """Pessimistic values and the spread between particles, [C] each; all candidates share their noise."""
        count, particles = len(plans), len(state.deter)
        horizon, groups = plans.shape[1], state.stoch.shape[1]
        # A Gaussian latent's samples are numbers, a categorical one's class indices.
        made = noise.normals if state.stoch.dtype.kind == "f" else noise.uniforms
        draws = made(self._seed + 1, tick, particles, horizon * groups)
        draws = np.tile(draws.reshape(particles, horizon, groups), (count, 1, 1))
        rows = np.tile(np.arange(particles), count)
        repeated = State(state.deter[rows], state.stoch[rows])
        imagined = self._session.rollout(repeated, np.repeat(plans, particles, axis=0), draws)
        values = (imagined.returns + imagined.values).reshape(count, particles)
        spread = values.std(axis=1)
        return values.mean(axis=1) - self._settings.pessimism * spread, spread


class Fallback:
    """The first planner that has a plan wins: better planners first, `hold` last.

    `counters`: plans by the kind that made them, and refusals of better ones as `refused/CAUSE`.
    """

    def __init__(self, planners: Sequence[Planner], hold: HoldPlanner) -> None:
        self._planners, self._hold = planners, hold
        self.counters: Counter[str] = Counter()

    def applied(self, si: Vector) -> None:
        """Told to every planner."""
        for planner in (*self._planners, self._hold):
            planner.applied(si)

    def reset(self) -> None:
        """Forget the last plans."""
        for planner in (*self._planners, self._hold):
            planner.reset()

    def plan(self, belief: Belief, deadline: float) -> Plan:
        """Never raises FilterError; `kind` says who planned."""
        for planner in self._planners:
            try:
                plan = planner.plan(belief, deadline)
            except FilterError as error:
                self.counters[f"refused/{error.cause}"] += 1
                continue
            self._hold.planned(plan.actions[0])
            break
        else:
            plan = self._hold.plan(belief, deadline)
        self.counters[plan.kind] += 1
        return plan


def make_planner(kind: str, session: Acting, contract: Contract, horizon: int, seed: int = 0) -> Fallback:
    """`actor`, `cem` or `hold`, each with what it falls back to. Raises FilterError for another word."""
    actor, hold = ActorPlanner(session), HoldPlanner(contract)
    planners: dict[str, list[Planner]] = {
        "actor": [actor],
        "cem": [CemPlanner(session, contract, CemSettings(horizon), seed), actor],
        "hold": [],
    }
    if kind not in planners:
        raise FilterError(f"planner {kind!r} is unknown; expected one of {', '.join(KINDS)}")
    return Fallback(planners[kind], hold)
