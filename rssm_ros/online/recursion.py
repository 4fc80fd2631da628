"""The Bayes filter's recursion: the belief of a tick, from the belief before it and the evidence at it.

    predict   h_k = f(h_{k-1}, z_{k-1}, a_{k-1})   deterministic state; a_{k-1}: the action over [k-1, k)
              z_k ~ p(z | h_k)                     prior
    correct   z_k ~ q(z | h_k, e_k)                posterior; e_k: tokens of the modalities seen at k
    weigh     w_k = p(e_k | h_k), resample         of a grounded latent only, see below

Where nothing was seen the prior is the belief, exactly: nothing missing is ever filled in. f, p and q are
learned; they are the RSSM's (Hafner et al., Learning Latent Dynamics for Planning from Pixels, 2019). Each of
N particles is one such story with draws of its own. q stands for the posterior given a story's own past;
what would weigh the pasts themselves, p(e_k | h_k), an RSSM does not say in numbers: all its stories weigh
the same. A model whose latent is grounded does (`world_model.grounded`): stories that expected what is not
seen are given up for those that did not.

Nothing here knows when a message came: what is asked is in `Memory`, by tick.
"""

from collections.abc import Mapping

import numpy as np

from rssm_ros.contract import Contract
from rssm_ros.online import noise
from rssm_ros.online.belief import NEVER, Belief, Floats
from rssm_ros.online.errors import FilterError
from rssm_ros.online.frozen import FrozenPictures, Watch
from rssm_ros.online.grid import stamp_of, tick_of
from rssm_ros.online.limits import Limits
from rssm_ros.online.memory import Memory, Snapshot
from rssm_ros.online.mode import at_mode
from rssm_ros.online.report import belief_ahead
from rssm_ros.online.ring import AppliedLog, ObservationRing, Seen
from rssm_ros.online.steps import State, Step, Steps, initial_state
from rssm_ros.online.weights import ancestors, survivors


class Recursion:
    """N particles over a contract's observations and applied actions.

    deterministic: one particle, its latent the mode instead of a draw; no spread, so no covariance (NaN).
    frozen_after: as `FrozenPictures` has it.
    """

    _memory: Memory  # the evidence, and the ticks computed from it

    def __init__(
        self,
        session: Steps,
        contract: Contract,
        particles: int,
        seed: int,
        deterministic: bool,
        frozen_after: int,
    ) -> None:
        if particles < 1:
            raise FilterError(f"particles is {particles}; at least 1 is needed")
        if deterministic and particles > 1:
            raise FilterError(f"particles is {particles}; a deterministic filter has 1, more would be copies")
        self.session, self.contract, self.particles, self.seed = session, contract, particles, seed
        self.deterministic, self.frozen_after = deterministic, frozen_after
        self.limits = Limits(contract)
        self._cameras = FrozenPictures(contract, frozen_after)
        self._initial, self._max_gap = initial_state(session.latent, particles), contract.max_gap_ticks

    def _nothing(self) -> Memory:
        """Before anything was seen or applied."""
        safe = self.limits.safe(None, np.zeros(self.contract.action_dim))
        return Memory(ObservationRing(self.contract.rate), AppliedLog(safe))

    def _tick(self, tick: int, before: Snapshot | None) -> Snapshot:
        """belief_k = step(belief_{k-1}, action over [k-1, k), whatever was seen at k).

        before: of the tick before, or of an earlier one with nothing observed between; None: there is none.
        """
        if before is not None and self._begins(before.tick, tick):
            before = None  # an episode knows nothing of the one before it
        seen, watch = (before.seen, before.watch) if before else ({}, Watch())
        heard = self._memory.observations.at(tick)
        watch = self._cameras.look(watch, tick, heard)
        observed = {name: item for name, item in heard.items() if name not in watch.frozen}
        first = self._is_first(tick, seen)
        state = self._initial if first or before is None else before.step.state
        action, known = self._action_into(tick)
        tokens = {name: self._tokens(name, item) for name, item in observed.items()}
        return Snapshot(
            tick=tick,
            step=self._step(state, action, tokens, first, tick),
            seen={**seen, **dict.fromkeys(observed, tick)},
            presence=frozenset(observed),
            first=first,
            assumed=not (known or first),
            watch=watch,
        )

    def _step(
        self, state: State, action: Floats, tokens: Mapping[str, Floats], first: bool, tick: int
    ) -> Step:
        """Predict, and correct where anything was seen. action [A]; tokens {modality: [1, E_m]}."""

        def with_noise(drawn: Floats) -> Step:
            if tokens:
                return self.session.step(state, action, tokens, first, drawn)
            return self.session.predict(state, action, first, drawn)

        step = with_noise(noise.draw(self.session.latent, self.seed, tick, self.particles))
        if self.deterministic:
            return at_mode(self.session.latent, step, with_noise)
        if self.particles > 1 and step.log_weight is not None:
            step = survivors(step, ancestors(step.log_weight, noise.offset(self.seed, tick)))
        return step

    def _is_first(self, tick: int, seen: Mapping[str, int]) -> bool:
        """Whether nothing was seen in the `max_gap` before a tick: it starts from nowhere.

        seen: modality -> the last tick at which it was.
        """
        return all(tick - last > self._max_gap for last in seen.values())

    def _begins(self, after: int, until: int) -> bool:
        """Whether an episode begins at one of the ticks after + 1 to until."""
        ticks = (tick_of(stamp, self.contract.rate) for stamp in self._memory.applied.restarts)
        return any(after < tick <= until for tick in ticks)

    def _action_into(self, tick: int) -> tuple[Floats, bool]:
        """The normalised action over [tick - 1, tick), [A], and whether it was really applied."""
        si, known = self._memory.applied.at(stamp_of(tick - 1, self.contract.rate))
        return self.limits.normalise(si).astype(np.float32), known

    def _tokens(self, name: str, item: Seen) -> Floats:
        """Of one observation, [1, E_m]; computed once, however often its tick is."""
        if item.tokens is None:
            item.tokens = self.session.encode(name, item.value)
        return item.tokens

    def ahead(self, belief: Belief) -> Belief:
        """The belief rolled forward by the actuation delay, through commands already applied or published.

        By what is known now; the noise is that of the ticks it passes: an unseen tick turns out the same, and
        so does one that starts from nowhere, as nothing was seen for too long.
        """
        state, step, tick, lost = State(belief.deter, belief.stoch), None, belief.tick, belief.lost
        seen = {name: tick - age for name, age in belief.age.items() if age != NEVER}
        for tick in range(belief.tick + 1, belief.tick + 1 + self.contract.actuation_delay):
            lost = self._is_first(tick, seen)
            action, _ = self._action_into(tick)
            step = self._step(self._initial if lost else state, action, {}, lost, tick)
            state = step.state
        return belief if step is None else belief_ahead(belief, step, tick, lost, self.contract)
