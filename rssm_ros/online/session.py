"""A bundle, loaded and proven, as onnxruntime sessions on this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from rssm_ros.bundle import Bundle, BundleError, Latent, load_bundle
from rssm_ros.online.belief import Floats, Indices, TargetBelief
from rssm_ros.online.golden import replay_golden
from rssm_ros.online.signature import check_signature, signatures
from rssm_ros.online.steps import Array, Imagined, State, Step


class Session:
    """The steps of one bundle. Loading checks hashes, names, shapes and dtypes, then replays the golden
    vectors.

    threads: of onnxruntime's intra-op pool, per call. Raises BundleError, naming the file and what to do.
    Equal inputs at an equal number of particles give bitwise equal outputs; replay rests on that.
    """

    def __init__(self, folder: Path | str, threads: int = 1, prove: bool = True) -> None:
        self.bundle: Bundle = load_bundle(folder)
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        for file, (inputs, outputs) in signatures(self.bundle).items():
            path = self.bundle.folder / file
            session = open_graph(path, threads)
            check_signature(path, session.get_inputs(), inputs, "input")
            check_signature(path, session.get_outputs(), outputs, "output")
            self._sessions[file.removesuffix(".onnx")] = session
        latent = self.bundle.latent
        self._encoders = {spec.name: f"encode_{spec.name}" for spec in self.bundle.contract.observations}
        self._outputs = {name: [item.name for item in s.get_outputs()] for name, s in self._sessions.items()}
        self._inputs = {name: {item.name for item in s.get_inputs()} for name, s in self._sessions.items()}
        self._absent = {m: np.zeros((1, size), np.float32) for m, size in latent.tokens.items()}
        self._here, self._gone = np.ones(1, np.bool_), np.zeros(1, np.bool_)
        if prove:
            replay_golden(self.bundle.folder, self.run)

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
        known = self._inputs[name]
        used = {key: value for key, value in feeds.items() if key in known}
        return dict(zip(self._outputs[name], self._sessions[name].run(None, used)))

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
        for m, nothing in self._absent.items():
            feeds[f"tokens_{m}"] = tokens.get(m, nothing)
            feeds[f"presence_{m}"] = self._here if m in tokens else self._gone
        return self._step(self.run("filter", feeds))

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
        rows = np.broadcast_to(np.asarray(action, np.float32), (len(state.deter), self.latent.action))
        is_first = np.full(len(state.deter), first)
        feeds: dict[str, Array] = {"deter": state.deter, "stoch": state.stoch, "noise": noise}
        return {**feeds, "action": np.ascontiguousarray(rows), "is_first": is_first}

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
        )


def open_graph(
    path: Path, threads: int, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> onnxruntime.InferenceSession:
    """One graph as this package runs it. Raises BundleError where onnxruntime refuses it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a robot has other work to do
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, list(providers))
    except Exception as error:  # onnxruntime raises bare classes of its own
        raise BundleError(f"{path}: onnxruntime refuses it: {error}; export the bundle again") from error
