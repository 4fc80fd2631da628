"""A bundle, loaded and proven, computed by one of the backends."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rssm_ros.bundle import Bundle, Latent, load_bundle
from rssm_ros.online import noise
from rssm_ros.online.backends.backend import DEFAULT, Backend, open_backend
from rssm_ros.online.backends.fallback import Fallback
from rssm_ros.online.belief import Floats, Indices, TargetBelief
from rssm_ros.online.golden import replay_golden
from rssm_ros.online.signature import outputs_of
from rssm_ros.online.steps import Array, Imagined, State, Step, initial_state


class Session:
    """The steps of one bundle. Loading checks hashes, names, shapes and dtypes, then replays the golden
    vectors, on the backend asked for and, where that one's device may vanish, on the CPU behind it.

    threads: of the backend's pool on the CPU, per call. Raises BundleError, naming the file and what to do,
    and FilterError for a backend that this machine does not have.
    Equal inputs at an equal number of particles give bitwise equal outputs; replay rests on that. Once a
    device is lost (`lost` says so), the CPU's bits replace it: what is replayed after that may differ from
    what was published before it by the backends' tolerance.
    """

    def __init__(
        self, folder: Path | str, threads: int = 1, prove: bool = True, backend: str = DEFAULT
    ) -> None:
        self.bundle: Bundle = load_bundle(folder)
        self._backend = self._open(backend, threads, prove)
        latent = self.bundle.latent
        self._encoders = {spec.name: f"encode_{spec.name}" for spec in self.bundle.contract.observations}
        self._absent = {m: np.zeros((1, size), np.float32) for m, size in latent.tokens.items()}
        self._here, self._gone = np.ones(1, np.bool_), np.zeros(1, np.bool_)

    def _open(self, name: str, threads: int, prove: bool) -> Backend:
        first = self._proven(open_backend(name, self.bundle, threads), prove)
        if first.device == "cpu":
            return first
        return Fallback(first, self._proven(open_backend(DEFAULT, self.bundle, threads), prove))

    def _proven(self, backend: Backend, prove: bool) -> Backend:
        if prove:
            replay_golden(self.bundle.folder, backend.run, backend.tolerance)
        return backend

    @property
    def backend(self) -> str:
        """The name of what computes now."""
        return self._backend.name

    @property
    def device(self) -> str:
        """What it computes on now: `cpu`, or what may vanish."""
        return self._backend.device

    @property
    def tolerance(self) -> float:
        """How far a step of this backend may be from the record."""
        return self._backend.tolerance

    @property
    def lost(self) -> str:
        """What became of the device that this session was opened for, in a line; empty: it is there."""
        return self._backend.lost if isinstance(self._backend, Fallback) else ""

    @property
    def counters(self) -> Counter[str]:
        """`backend_lost`, for diagnostics beside the filter's own."""
        return self._backend.counters if isinstance(self._backend, Fallback) else Counter()

    def warm_up(self, particles: int = 1, candidates: int = 0) -> None:
        """Pays every first-call cost of these shapes now: to be called in configure, not in the loop.

        particles: of the filter's step, prediction, decoder and actor. candidates: plans of a rollout.
        """
        latent, state = self.latent, initial_state(self.latent, particles)
        tokens = {}
        for spec in self.bundle.contract.observations:
            value = np.zeros((1, *spec.shape), np.uint8 if spec.kind == "image" else np.float32)
            self._backend.warm_up(self._encoders[spec.name], {"value": value})
            tokens[spec.name] = np.zeros((1, latent.tokens[spec.name]), np.float32)
        drawn = noise.draw(latent, 0, 0, particles)
        feeds = self._feeds(state, np.zeros(latent.action, np.float32), True, drawn)
        self._backend.warm_up("predict", feeds)
        self._backend.warm_up("filter", self._seen(feeds, tokens))
        held: dict[str, Array] = {"deter": state.deter, "stoch": state.stoch}
        self._backend.warm_up("actor", held)
        self._backend.warm_up("decoder", held)
        if candidates:
            plans = initial_state(latent, candidates)
            shape = (candidates, latent.horizon)
            self._backend.warm_up(
                "rollout",
                {
                    "deter": plans.deter,
                    "stoch": plans.stoch,
                    "actions": np.zeros((*shape, latent.action), np.float32),
                    "noise": np.full((*shape, latent.stoch), 0.5, np.float32),
                },
            )

    def close(self) -> None:
        """Lets go of the backend; no step can be computed any more."""
        self._backend.close()

    @property
    def latent(self) -> Latent:
        """Sizes of the latent state."""
        return self.bundle.latent

    @property
    def fingerprint(self) -> str:
        """The bundle's SHA-256."""
        return self.bundle.sha256

    def run(self, name: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One graph by its file's stem, by name in and out. Inputs the graph does not use are left out."""
        return self._backend.run(name, feeds)

    def outputs(self, name: str) -> list[str]:
        """What a graph gives."""
        return outputs_of(self.bundle, name)

    def encode(self, name: str, value: Array) -> Floats:
        """One observation in the contract's form -> tokens [1, E_m]. Cheap enough to do once, never per
        particle."""
        tokens: Floats = self.run(self._encoders[name], {"value": value[None]})["tokens"]
        return tokens

    def step(
        self, state: State, action: Floats, tokens: Mapping[str, Floats], first: bool, noise: Floats
    ) -> Step:
        """predict + correct in one call. action [A], tokens {m: [1, E_m]} of what was seen, noise [N, S]."""
        feeds = self._feeds(state, action, first, noise)
        return self._step(self.run("filter", self._seen(feeds, tokens)))

    def step_apart(
        self,
        state: State,
        actions: Floats,
        tokens: Mapping[str, Floats],
        presence: Mapping[str, Array],
        first: bool,
        noise: Floats,
    ) -> Step:
        """N steps that have nothing to do with each other: actions [N, A], tokens {m: [N, E_m]}, presence
        {m: [N] bool}, noise [N, S].

        In one call where the graph takes so many rows, else one by one. No bits are promised: not those of
        `step`, and what a row gives may depend on how many others there are, by the backend's tolerance.
        """
        rows = len(noise)
        feeds: dict[str, Array] = {"deter": state.deter, "stoch": state.stoch, "noise": noise}
        feeds |= {"action": actions, "is_first": np.full(rows, first)}
        for m in self._absent:
            feeds |= {f"tokens_{m}": tokens[m], f"presence_{m}": presence[m]}
        if self.latent.own_tokens:
            return self._step(self.run("filter", feeds))
        parts = [self.run("filter", {n: v[at : at + 1] for n, v in feeds.items()}) for at in range(rows)]
        return self._step({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def predict(self, state: State, action: Floats, first: bool, noise: Floats) -> Step:
        """The prior half. action [A], noise [N, S]."""
        return self._step(self.run("predict", self._feeds(state, action, first, noise)))

    def act(self, state: State) -> Floats:
        """The actor's mean action per particle, [N, A] in [-1, 1]."""
        mean: Floats = self.run("actor", {"deter": state.deter, "stoch": state.stoch})["mean"]
        return mean

    def rollout(self, state: State, actions: Floats, noise: Floats) -> Imagined:
        """state of N rows, actions [N, H, A], noise [N, H, S] -> returns, values and target paths."""
        feeds: dict[str, Array] = {
            "deter": state.deter,
            "stoch": state.stoch,
            "actions": actions,
            "noise": noise,
        }
        out = self.run("rollout", feeds)
        paths = {name: out[f"target_{name}"] for name in self.latent.targets}
        return Imagined(out["returns"], out["values"], paths)

    def decode(self, state: State) -> dict[str, Floats]:
        """What the cameras should show: {image: [N, H, W, C] in 0..1}."""
        return self.run("decoder", {"deter": state.deter, "stoch": state.stoch})

    def _feeds(self, state: State, action: Floats, first: bool, noise: Floats) -> dict[str, Array]:
        count = len(state.deter)
        return {
            "deter": state.deter,
            "stoch": state.stoch,
            "noise": noise,
            "action": np.asarray(action, np.float32)[None].repeat(count, 0),
            "is_first": np.array([first]).repeat(count),
        }

    def _seen(self, feeds: dict[str, Array], tokens: Mapping[str, Floats]) -> dict[str, Array]:
        for m, nothing in self._absent.items():
            feeds[f"tokens_{m}"] = tokens.get(m, nothing)
            feeds[f"presence_{m}"] = self._here if m in tokens else self._gone
        return feeds

    def _step(self, out: Mapping[str, Array]) -> Step:
        stoch: Indices | Floats = out["next_stoch"]
        return Step(
            state=State(out["next_deter"], stoch),
            prior=out["prior"],
            prior_entropy=out["prior_entropy"],
            targets={
                name: TargetBelief(out[f"target_{name}_mean"], out[f"target_{name}_std"])
                for name in self.latent.targets
            },
            reward=out["reward"],
            continue_=out["continue"],
            posterior=out.get("posterior"),
            surprise=out.get("surprise"),
            posterior_entropy=out.get("posterior_entropy"),
            log_weight=out.get("log_weight"),
        )
