"""The Bayes filter over messages, whatever order they arrive in.

`Recursion` says what belief_k is: a pure function of (the set of accepted messages, the seed, k). Here is
which messages are accepted, when a tick is computed, and what is kept. Late data are put where they belong
and the ticks after them are computed again, from cached tokens, by the same calls: bitwise the same as if
nothing had been late.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rssm_ros.contract import Contract
from rssm_ros.online.belief import Belief
from rssm_ros.online.errors import FilterError
from rssm_ros.online.frozen import AFTER
from rssm_ros.online.grid import SECOND, stamp_of, tick_from, tick_of
from rssm_ros.online.memory import Snapshot, pack, unpack
from rssm_ros.online.preprocess import all_finite, prepare
from rssm_ros.online.recursion import Recursion
from rssm_ros.online.report import belief_of
from rssm_ros.online.ring import DUPLICATE
from rssm_ros.online.steps import Array, Steps

FUTURE_NS = SECOND // 10  # how far ahead of `now` a stamp may lie
# Messages kept before the first `advance`: nobody knows the time yet.
WAITING, WAITING_LIMIT = "waiting", 1000


class Filter(Recursion):
    """N particles over a contract's observations and applied actions. Stamps and `now` are ns of ROS time.

    `observe` and `applied` put messages in, `advance(now)` computes what is due and returns it. Data never
    raise: what is refused is counted in `counters`, by cause and as `source/cause`, and the cause is
    returned. Besides: `late` (accepted after its tick was computed), `replayed` (ticks computed again),
    `skipped` (ticks so old and so lost that nobody needs them), `safe_assumed` (ticks before any command),
    `repeated` and `frozen` (ticks of a camera that shows the picture before, or hangs: `FrozenPictures`).
    """

    def __init__(
        self,
        session: Steps,
        contract: Contract,
        particles: int = 1,
        seed: int = 0,
        deterministic: bool = False,
        frozen_after: int = AFTER,
    ) -> None:
        super().__init__(session, contract, particles, seed, deterministic, frozen_after)
        self.counters: Counter[str] = Counter()
        self.epoch = 0
        self.on_final: Callable[[Belief], None] | None = None  # gets each belief as it leaves the window
        self._specs = {spec.name: spec for spec in contract.observations}
        self._triggers = {spec.name for spec in contract.observations if spec.trigger}
        self._wait_ns, self._history = contract.patience_ns, contract.window_ticks
        self._clear()

    @property
    def most_steps(self) -> int:
        """The most ticks that one `advance` can compute, whatever came and however long it was not called.

        The window of the last call again, what was seen ahead of it, `max_gap` of predicting, and the new
        window. A late message alone costs half of it.
        """
        ahead = 2 + tick_of(FUTURE_NS, self.contract.rate)
        return 2 * self._history + ahead + self.contract.max_gap_ticks

    def _clear(self) -> None:
        self._memory = self._nothing()
        self._early: list[Callable[[], str]] = []
        self._final = -1  # the last tick that was frozen
        self.frozen_cameras: frozenset[str] = frozenset()  # by what `advance` returned last

    @property
    def now_ns(self) -> int | None:
        """The time last given to `advance` in this epoch."""
        return self._memory.now_ns

    # Messages in ------------------------------------------------------------------------------------------

    def observe(self, name: str, stamp_ns: int, value: npt.ArrayLike) -> str:
        """One message of a modality, decoded to an array (see `preprocess`). Returns what became of it:

        `accepted`, `superseded` (another one is nearer to the tick), `duplicate`, `conflict` (same stamp,
        other content), `too_old`, `future`, `unset` (stamp 0), `shape`, `encoding`, `non_finite`, or
        `waiting` (before the first `advance`). KeyError for a modality that the contract does not have.
        """
        spec = self._specs[name]
        try:
            prepared = prepare(spec, value)  # before anything else: a bad frame never shadows a good one
        except FilterError as error:
            return self._count(name, error.cause)
        kept = prepared.copy() if np.may_share_memory(prepared, np.asarray(value)) else prepared
        return self._once_time_is_known(lambda: self._observe(name, stamp_ns, kept))

    def _observe(self, name: str, stamp_ns: int, value: Array) -> str:
        refusal = self._outside_window(stamp_ns)
        if refusal:
            return self._count(name, refusal)
        tick = tick_of(stamp_ns, self.contract.rate)
        verdict, changed = self._memory.observations.add(tick, name, stamp_ns, value)
        if changed:
            self._memory.start = tick if self._memory.start is None else min(tick, self._memory.start)
            self._revise(name, tick)
        return self._count(name, verdict)

    def _revise(self, source: str, tick: int) -> None:
        if self._memory.changed(tick):
            self._count(source, "late")

    def applied(self, stamp_ns: int, si: npt.ArrayLike, stamped: bool = True) -> str:
        """A command as really applied: SI [A] in contract order, NaN for channels it says nothing about.

        stamped: False where the message has no stamp and stamp_ns is when it was received or logged; counted
        `unstamped`. Returns what became of it, in the words of `observe`.
        """
        if not stamped:
            self._count("applied", "unstamped")
        command = np.array(si, np.float64)
        if command.shape != (self.contract.action_dim,):
            return self._count("applied", "shape")
        if not all_finite(command) and (np.isinf(command).any() or np.isnan(command).all()):
            return self._count("applied", "non_finite")
        return self._once_time_is_known(lambda: self._apply(stamp_ns, command))

    def _apply(self, stamp_ns: int, command: npt.NDArray[np.float64]) -> str:
        refusal = self._outside_window(stamp_ns)
        if refusal:
            return self._count("applied", refusal)
        verdict = self._memory.applied.add(stamp_ns, command)
        if verdict != DUPLICATE:
            self._revise("applied", tick_from(stamp_ns, self.contract.rate) + 1)
        return self._count("applied", verdict)

    def begin_episode(self, stamp_ns: int) -> str:
        """Something was reset: the tick of this stamp starts from nowhere, earlier commands no longer hold.

        In tick order, like any other message: ticks before it stay the old episode's, however late they or
        this come. Returns what became of it, in the words of `observe`.
        """
        return self._once_time_is_known(lambda: self._begin(stamp_ns))

    def _begin(self, stamp_ns: int) -> str:
        refusal = self._outside_window(stamp_ns)
        if refusal:
            return self._count("episode", refusal)
        verdict = self._memory.applied.restart(stamp_ns)
        if verdict != DUPLICATE:
            self._revise("episode", tick_of(stamp_ns, self.contract.rate))
        return self._count("episode", verdict)

    def _outside_window(self, stamp_ns: int) -> str:
        """Why a stamp is not accepted now, or nothing."""
        now_ns = self._memory.now_ns
        assert now_ns is not None
        if stamp_ns <= 0:
            return "unset"
        if tick_of(stamp_ns, self.contract.rate) <= self._frozen(now_ns):
            return "too_old"
        return "future" if stamp_ns > now_ns + FUTURE_NS else ""

    def _frozen(self, now_ns: int) -> int:
        """The last tick that no message can change any more."""
        return tick_of(now_ns, self.contract.rate) - self._history

    def _once_time_is_known(self, accept: Callable[[], str]) -> str:
        if self._memory.now_ns is not None:
            return accept()
        if len(self._early) == WAITING_LIMIT:
            del self._early[0]
            self.counters["waiting_overflow"] += 1
        self._early.append(accept)
        return WAITING

    def _count(self, source: str, cause: str) -> str:
        self.counters[cause] += 1
        self.counters[f"{source}/{cause}"] += 1
        return cause

    # Beliefs out ------------------------------------------------------------------------------------------

    def advance(self, now_ns: int) -> list[Belief]:
        """Time is now_ns: computes every tick that is due, and returns those never returned before.

        Normally none or one; several after a pause. A `now` before the last one starts a new epoch. `now` 0
        (a clock that does not run yet) does nothing.
        """
        if now_ns <= 0:
            return []
        if self._memory.now_ns is not None and now_ns < self._memory.now_ns:
            self.reset()
        self._memory.now_ns = now_ns
        for accept in self._early:
            accept()
        self._early = []
        due, frozen = self._last_due(now_ns), self._frozen(now_ns)
        fresh: list[Snapshot] = []
        if due is not None:
            published = self._memory.published
            dirty = self._memory.dirty
            if self._memory.computed != due or (dirty is not None and dirty <= frozen):
                self._bring_up_to(due)
            after = due - self._history - 1 if published is None else published
            fresh = [s for tick, s in sorted(self._memory.snapshots.items()) if tick > after]
            self._memory.published = due
            if published is not None and len(fresh) < due - published:
                self.counters["skipped"] += due - published - len(fresh)
        for snapshot in fresh:
            self._count_ticks(snapshot)
        beliefs = [belief_of(snapshot, self.contract) for snapshot in fresh]
        self._freeze(frozen)
        return beliefs

    def _count_ticks(self, snapshot: Snapshot) -> None:
        """What a tick says of itself when it is told first."""
        if snapshot.assumed:
            self.counters["safe_assumed"] += 1
        self.frozen_cameras = frozen = snapshot.watch.frozen
        for name in frozen | snapshot.watch.repeated:
            self._count(name, "frozen" if name in frozen else "repeated")

    def _last_due(self, now_ns: int) -> int | None:
        """The last tick to be computed: waited for long enough, or every trigger in, and so before."""
        memory, rate = self._memory, self.contract.rate
        if memory.start is None:
            return None
        due = tick_of(now_ns - self._wait_ns, rate)
        if stamp_of(due, rate) > now_ns - self._wait_ns:
            due -= 1
        due = max(due, memory.start - 1 if memory.computed is None else memory.computed)
        while self._triggers <= memory.observations.at(due + 1).keys():
            due += 1
        return due if due >= memory.start else None

    def _bring_up_to(self, due: int) -> None:
        """Computes the ticks that are new or no longer hold."""
        memory = self._memory
        assert memory.start is not None
        tick = memory.start if memory.computed is None else memory.computed + 1
        tick = max(memory.start, tick if memory.dirty is None else min(tick, memory.dirty))
        before = memory.snapshots.get(tick - 1)
        while tick <= due:
            tick = self._after_silence(tick, before)
            if memory.computed is not None and tick <= memory.computed:
                self.counters["replayed"] += 1
            before = memory.snapshots[tick] = self._tick(tick, before)
            tick += 1
        memory.computed, memory.dirty = due, None

    def _after_silence(self, tick: int, before: Snapshot | None) -> int:
        """The next tick worth computing: lost ticks older than the window lead nowhere."""
        memory = self._memory
        assert memory.now_ns is not None
        frozen = self._frozen(memory.now_ns)
        new = memory.computed is None or tick > memory.computed
        if before is None or tick >= frozen or not new or not self._is_first(tick, before.seen):
            return tick
        observed = memory.observations.first_from(tick)
        return frozen if observed is None else min(observed, frozen)

    def revised(self) -> list[Belief]:
        """The beliefs still in the ring, oldest first, as everything accepted by now makes them."""
        memory = self._memory
        if memory.dirty is not None and memory.computed is not None:
            self._bring_up_to(memory.computed)
        return [belief_of(memory.snapshots[tick], self.contract) for tick in sorted(memory.snapshots)]

    def _freeze(self, frozen: int) -> None:
        """Lets go of what can no longer change; the last frozen tick stays, for the ring to build on."""
        memory = self._memory
        if memory.snapshots and self.on_final is not None:
            for tick in sorted(tick for tick in memory.snapshots if self._final < tick <= frozen):
                self.on_final(belief_of(memory.snapshots[tick], self.contract))
        self._final = max(self._final, frozen)
        for tick in [tick for tick in memory.snapshots if tick < frozen]:
            del memory.snapshots[tick]
        memory.observations.forget(frozen)
        memory.applied.forget(stamp_of(frozen, self.contract.rate))

    def reset(self) -> None:
        """A new epoch: everything accepted and computed is forgotten; counters stay."""
        self._clear()
        self.epoch += 1
        self.counters["reset"] += 1

    # Save and load ----------------------------------------------------------------------------------------

    def save_state(self) -> bytes:
        """Everything beliefs depend on from here on: ring, epoch, noise key, held actions, counters."""
        if self._memory.now_ns is None:
            raise FilterError("save_state: there is nothing to save before the first `advance`")
        self.revised()
        varying = {
            "seed": self.seed,
            "epoch": self.epoch,
            "counters": dict(self.counters),
            "final": self._final,
        }
        return pack(self._memory, {**self._identity(), **varying})

    def load_state(self, data: bytes) -> None:
        """Continues from `save_state`'s bytes, bitwise; raises FilterError when they are another filter's."""
        saved = self._nothing()
        header = unpack(data, saved, self._identity())
        self._memory, self._early = saved, []
        self.seed, self.epoch, self._final = int(header["seed"]), int(header["epoch"]), int(header["final"])
        self.revised()  # now, not in the first tick
        self.counters = Counter(header["counters"])

    def _identity(self) -> dict[str, Any]:
        document = json.dumps(self.contract.to_dict(), sort_keys=True, default=str)
        return {
            "bundle": self.session.fingerprint,
            "contract": f"{self.contract.name} {hashlib.sha256(document.encode()).hexdigest()[:12]}",
            "particles": self.particles,
            "deterministic": self.deterministic,
            "frozen_after": self.frozen_after,
        }
