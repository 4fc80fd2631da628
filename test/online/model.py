"""A tiny model in numpy: enough of an RSSM to tell any two histories apart, fast enough for thousands of
cases."""

import numpy as np

from rssm_ros.bundle import Latent
from rssm_ros.contract import Contract
from rssm_ros.online.belief import TargetBelief
from rssm_ros.online.steps import State, Step

D, S, K = 6, 3, 4


class TinyModel:
    """Implements `Steps`. Counts its calls. weighs: particles differ in weight, by some nats."""

    fingerprint = "tiny"

    def __init__(self, contract: Contract, weighs: bool = False) -> None:
        self.weighs = weighs
        draw = np.random.default_rng(5)
        self.tokens = {spec.name: 3 for spec in contract.observations}
        self.latent = Latent(D, S, K, self.tokens, contract.action_dim, {"package": 2}, 4)
        self._into = draw.normal(size=(D + S + contract.action_dim, D)).astype(np.float32)
        self._prior = draw.normal(size=(D, S * K)).astype(np.float32)
        self._seen = {name: draw.normal(size=(3, S * K)).astype(np.float32) for name in self.tokens}
        self._target = draw.normal(size=(D + S, 2)).astype(np.float32)
        self.calls: dict[str, int] = {"encode": 0, "step": 0, "predict": 0}

    def encode(self, name, value):
        self.calls["encode"] += 1
        flat = np.asarray(value, np.float32).ravel()
        return np.sin(np.stack([flat.mean(), flat[0], flat[-1]]))[None]

    def step(self, state, action, tokens, first, noise):
        self.calls["step"] += 1
        assert tokens
        return self._step(state, action, tokens, first, noise)

    def predict(self, state, action, first, noise):
        self.calls["predict"] += 1
        return self._step(state, action, {}, first, noise)

    def _step(self, state, action, tokens, first, noise) -> Step:
        rows = len(state.deter)
        keep = np.float32(0.0 if first else 1.0)
        feed = np.concatenate(
            [keep * state.deter, keep * state.stoch.astype(np.float32), np.tile(keep * action, (rows, 1))], -1
        )
        deter = np.tanh(feed @ self._into)
        logits = deter @ self._prior
        prior = _softmax(logits)
        posterior = prior
        if tokens:
            posterior = _softmax(logits + sum(tokens[name] @ self._seen[name] for name in sorted(tokens)))
        stoch = (noise[..., None] >= np.cumsum(posterior, -1)[..., :-1]).sum(-1)
        surprise = (posterior * (np.log(posterior) - np.log(prior))).sum((-1, -2)) if tokens else None
        mean = np.concatenate([deter, stoch.astype(np.float32)], -1) @ self._target
        return Step(
            state=State(deter, stoch),
            prior=prior,
            prior_entropy=_entropy(prior),
            targets={"package": TargetBelief(mean, np.full_like(mean, 0.1))},
            reward=deter[:, 0],
            continue_=np.ones(rows, np.float32),
            posterior=posterior if tokens else None,
            surprise=surprise,
            posterior_entropy=_entropy(posterior) if tokens else None,
            log_weight=3.0 * deter[:, 1] - stoch[:, 0] if tokens and self.weighs else None,
        )


def _softmax(logits):
    shaped = logits.reshape(len(logits), S, K)
    weights = np.exp(shaped - shaped.max(-1, keepdims=True))
    return np.float32(0.99) * weights / weights.sum(-1, keepdims=True) + np.float32(0.01 / K)


def _entropy(probs):
    return -(probs * np.log(probs)).sum((-1, -2))
