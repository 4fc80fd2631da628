"""DreamerV3's network in float64 numpy, written from its definition: what a ported model is held against.

Nothing of the package is used here. It reads parameters under their official names and in their official
layouts (danijar/dreamerv3 at e3f0224), of any sizes; `shapes` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """Sizes and spaces of an official agent; vectors: name -> (length, classes or 0), in no special order."""

    deter: int
    hidden: int
    stoch: int
    classes: int
    blocks: int
    depth: int
    units: int
    vectors: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    images: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)  # in the space's order
    actions: Mapping[str, int] = field(default_factory=lambda: {"action": 2})
    multipliers: tuple[int, ...] = (2, 3, 4, 4)
    kernel: int = 5
    layers: int = 3
    behavior_layers: int = 3
    bins: int = 255

    @property
    def columns(self) -> dict[str, int]:
        return {name: length * max(1, k) for name, (length, k) in sorted(self.vectors.items())}

    @property
    def start(self) -> tuple[int, int, int]:
        """The smallest image inside: height, width, channels."""
        height, width, _ = next(iter(self.images.values()))
        times = 2 ** len(self.multipliers)
        return height // times, width // times, self.depth * self.multipliers[-1]

    @property
    def tokens(self) -> int:
        return (self.units if self.vectors else 0) + (int(np.prod(self.start)) if self.images else 0)


def shapes(net: Network) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every trained parameter: world model, policy and value."""
    found: dict[str, tuple[int, ...]] = {}
    d, h, u, z, a = net.deter, net.hidden, net.units, net.stoch * net.classes, sum(net.actions.values())

    def linear(name: str, inputs: int, outputs: int, norm: str = "") -> None:
        found[f"{name}/kernel"], found[f"{name}/bias"] = (inputs, outputs), (outputs,)
        if norm:
            found[f"{norm}/scale"] = (outputs,)

    def block(name: str, inputs: int, outputs: int) -> None:
        found[f"{name}/kernel"] = (net.blocks, inputs // net.blocks, outputs // net.blocks)
        found[f"{name}/bias"] = (outputs,)

    def mlp(name: str, inputs: int, layers: int) -> None:
        for i in range(layers):
            linear(f"{name}/linear{i}", u if i else inputs, u, f"{name}/norm{i}")

    def conv(name: str, inputs: int, outputs: int, norm: bool = True) -> None:
        found[f"{name}/kernel"], found[f"{name}/bias"] = (net.kernel, net.kernel, inputs, outputs), (outputs,)
        if norm:
            found[f"{name}norm/scale"] = (outputs,)

    for i, inputs in enumerate((d, z, a)):
        linear(f"dyn/dynin{i}", inputs, h, f"dyn/dynin{i}norm")
    block("dyn/dynhid0", d + 3 * h * net.blocks, d)
    found["dyn/dynhid0norm/scale"] = (d,)
    block("dyn/dyngru", d, 3 * d)
    linear("dyn/prior0", d, h, "dyn/prior0norm")
    linear("dyn/prior1", h, h, "dyn/prior1norm")
    linear("dyn/priorlogit", h, z)
    linear("dyn/obs0", d + net.tokens, h, "dyn/obs0norm")
    linear("dyn/obslogit", h, z)
    if net.vectors:
        for i in range(net.layers):
            linear(f"enc/mlp{i}", u if i else sum(net.columns.values()), u, f"enc/mlp{i}norm")
        mlp("dec/mlp", d + z, net.layers)
        for name, (_, k) in net.vectors.items():
            linear(f"dec/vec/{name}/{'logits' if k else 'pred'}", u, net.columns[name])
    if net.images:
        depths = [net.depth * m for m in net.multipliers]
        channels = sum(shape[2] for shape in net.images.values())
        for i, outputs in enumerate(depths):
            conv(f"enc/cnn{i}", depths[i - 1] if i else channels, outputs)
        flat = int(np.prod(net.start))
        block("dec/sp0", d, flat)
        linear("dec/sp1", z, 2 * u, "dec/sp1norm")
        linear("dec/sp2", 2 * u, flat)
        found["dec/spnorm/scale"] = (depths[-1],)
        for i, outputs in enumerate(depths[:-1]):
            conv(f"dec/conv{i}", depths[i + 1], outputs)
        conv("dec/imgout", depths[0], channels, norm=False)
    for name, layers, outputs in (("rew", 1, net.bins), ("val", net.behavior_layers, net.bins)):
        mlp(f"{name}/mlp", d + z, layers)
        linear(f"{name}/head/logits", u, outputs)
    mlp("con/mlp", d + z, 1)
    linear("con/head/logit", u, 1)
    mlp("pol/mlp", d + z, net.behavior_layers)
    for name, length in net.actions.items():
        linear(f"pol/head/{name}/mean", u, length)
        linear(f"pol/head/{name}/stddev", u, length)
    return found


def random_parameters(net: Network, seed: int) -> dict[str, NDArray[np.float32]]:
    """Every parameter random, biases and scales too, so that none of them can be lost unseen."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in shapes(net).items():
        if name.endswith("/kernel"):
            fan_in = int(np.prod(shape[:-1]))  # of a block linear: the full input
            value = rng.standard_normal(shape) / np.sqrt(fan_in)
        else:
            value = 0.3 * rng.standard_normal(shape) + (1.0 if name.endswith("/scale") else 0.0)
        params[name] = value.astype(np.float32)
    return params


class Reference:
    """The official network as functions of float64 arrays."""

    def __init__(self, net: Network, params: Mapping[str, NDArray[np.float32]]) -> None:
        self.net = net
        self.p = {name: np.asarray(value, np.float64) for name, value in params.items()}

    # Pieces

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.p[f"{name}/kernel"] + self.p[f"{name}/bias"]

    def block(self, name: str, x: Array) -> Array:
        kernel = self.p[f"{name}/kernel"]
        groups = np.split(x, len(kernel), -1)
        parts = [group @ weight for group, weight in zip(groups, kernel, strict=True)]
        return np.concatenate(parts, -1) + self.p[f"{name}/bias"]

    def norm(self, name: str, x: Array) -> Array:
        """RMSNorm over the last axis, then SiLU."""
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-4) * self.p[f"{name}/scale"]
        return x * sigmoid(x)

    def mlp(self, name: str, x: Array, layers: int) -> Array:
        for i in range(layers):
            x = self.norm(f"{name}/norm{i}", self.linear(f"{name}/linear{i}", x))
        return x

    def conv(self, name: str, x: Array) -> Array:
        """Stride 1, same size, [N, H, W, C]; a correlation, as in every network library."""
        kernel = self.p[f"{name}/kernel"]
        half = kernel.shape[0] // 2
        padded = np.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
        windows = sliding_window_view(padded, kernel.shape[:2], (1, 2))  # [N, H, W, C, k, k]
        return np.tensordot(windows, kernel, ((4, 5, 3), (0, 1, 2))) + self.p[f"{name}/bias"]

    # Encoder and decoder

    def encode(self, obs: Mapping[str, NDArray[np.generic]]) -> Array:
        """{name: [N, ...]} -> tokens [N, E]: all vectors through one MLP first, then all images."""
        tokens = []
        if self.net.vectors:
            columns = []
            for name, (length, k) in sorted(self.net.vectors.items()):
                x = np.asarray(obs[name]).reshape(-1, length)
                if k:
                    columns.append(np.eye(k)[x.astype(int)].reshape(len(x), -1))
                else:
                    wide = x.astype(np.float64)
                    columns.append(np.sign(wide) * np.log1p(np.abs(wide)))
            x = np.concatenate(columns, -1)
            for i in range(self.net.layers):
                x = self.norm(f"enc/mlp{i}norm", self.linear(f"enc/mlp{i}", x))
            tokens.append(x)
        if self.net.images:
            x = np.concatenate([np.asarray(obs[name]) for name in sorted(self.net.images)], -1) / 255.0 - 0.5
            for i in range(len(self.net.multipliers)):
                x = self.conv(f"enc/cnn{i}", x)
                n, height, width, c = x.shape
                x = x.reshape(n, height // 2, 2, width // 2, 2, c).max((2, 4))
                x = self.norm(f"enc/cnn{i}norm", x)
            tokens.append(x.reshape(len(x), -1))
        return np.concatenate(tokens, -1)

    def decode_images(self, deter: Array, stoch: Array) -> dict[str, Array]:
        """[N, D], [N, S, K] -> {name: [N, H, W, C] in 0..1}; channels in the order of the space."""
        height, width, channels = self.net.start
        rows, g = len(deter), self.net.blocks
        x = self.block("dec/sp0", deter).reshape(rows, g, height, width, channels // g)
        x = np.moveaxis(x, 1, 3).reshape(rows, height, width, channels)
        y = self.norm("dec/sp1norm", self.linear("dec/sp1", stoch.reshape(rows, -1)))
        x = x + self.linear("dec/sp2", y).reshape(rows, height, width, channels)
        x = self.norm("dec/spnorm", x)
        for i in reversed(range(len(self.net.multipliers) - 1)):
            x = self.norm(f"dec/conv{i}norm", self.conv(f"dec/conv{i}", twice(x)))
        x = sigmoid(self.conv("dec/imgout", twice(x)))
        ends = np.cumsum([shape[2] for shape in self.net.images.values()])
        return dict(zip(self.net.images, np.split(x, ends[:-1], -1), strict=True))

    def decode_vectors(self, deter: Array, stoch: Array) -> dict[str, Array]:
        """-> {name: [N, columns]}: a prediction in symlog space, or logits of a discrete vector."""
        x = np.concatenate([stoch.reshape(len(stoch), -1), deter], -1)
        x = self.mlp("dec/mlp", x, self.net.layers)
        kinds = {name: "logits" if k else "pred" for name, (_, k) in self.net.vectors.items()}
        return {name: self.linear(f"dec/vec/{name}/{kind}", x) for name, kind in kinds.items()}

    # RSSM

    def core(self, deter: Array, stoch: Array, action: Array) -> Array:
        """deter [N, D], stoch [N, S, K], action [N, A] -> deter' [N, D]."""
        net, rows = self.net, len(deter)
        action = action / np.maximum(1.0, np.abs(action))
        inputs = (deter, stoch.reshape(rows, -1), action)
        x = [self.norm(f"dyn/dynin{i}norm", self.linear(f"dyn/dynin{i}", v)) for i, v in enumerate(inputs)]
        blocks = [np.concatenate([own, *x], -1) for own in np.split(deter, net.blocks, -1)]
        hidden = self.norm("dyn/dynhid0norm", self.block("dyn/dynhid0", np.concatenate(blocks, -1)))
        gates = [
            np.split(block, 3, -1) for block in np.split(self.block("dyn/dyngru", hidden), net.blocks, -1)
        ]
        reset, candidate, update = (np.concatenate([gate[i] for gate in gates], -1) for i in range(3))
        update = sigmoid(update - 1.0)
        return update * np.tanh(sigmoid(reset) * candidate) + (1.0 - update) * deter

    def prior(self, deter: Array) -> Array:
        """[N, D] -> logits [N, S, K]."""
        for i in range(2):
            deter = self.norm(f"dyn/prior{i}norm", self.linear(f"dyn/prior{i}", deter))
        return self.linear("dyn/priorlogit", deter).reshape(len(deter), self.net.stoch, self.net.classes)

    def posterior(self, deter: Array, tokens: Array) -> Array:
        """[N, D], [N, E] -> logits [N, S, K]."""
        x = self.norm("dyn/obs0norm", self.linear("dyn/obs0", np.concatenate([deter, tokens], -1)))
        return self.linear("dyn/obslogit", x).reshape(len(x), self.net.stoch, self.net.classes)

    # Heads; features = concat[deter, flat stoch] [N, F]

    def logits(self, head: str, features: Array) -> Array:
        """rew or val -> [N, bins]; con -> [N, 1]."""
        layers = self.net.behavior_layers if head == "val" else 1
        kind = "logit" if head == "con" else "logits"
        return self.linear(f"{head}/head/{kind}", self.mlp(f"{head}/mlp", features, layers))

    def policy(self, features: Array) -> tuple[Array, Array]:
        """-> mean, std [N, A], the actions sorted by name."""
        x = self.mlp("pol/mlp", features, self.net.behavior_layers)
        names = sorted(self.net.actions)
        mean = np.concatenate([self.linear(f"pol/head/{name}/mean", x) for name in names], -1)
        std = np.concatenate([self.linear(f"pol/head/{name}/stddev", x) for name in names], -1)
        return np.tanh(mean), 0.9 * sigmoid(std + 2.0) + 0.1


def sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def twice(x: Array) -> Array:
    """[N, H, W, C] -> [N, 2 H, 2 W, C], nearest."""
    return x.repeat(2, 1).repeat(2, 2)


def mixed(logits: Array, unimix: float = 0.01) -> Array:
    """0.99 softmax + 0.01 / K, [..., K]."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return (1.0 - unimix) * raised / raised.sum(-1, keepdims=True) + unimix / logits.shape[-1]
