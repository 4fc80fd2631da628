"""Official DreamerV3 parameters (danijar/dreamerv3 at e3f0224, JAX) in this package's layout.

The official agent concatenates all vectors into one MLP and all images along the channels, so a ported world
model has at most one modality of each kind; `Observations.merge` puts raw observations together the way the
official encoder does. Layouts that differ from ours: a kernel is [in, out], a convolution [k, k, in, out]; a
block linear is [group, in, out] in both. Our posterior also reads absence flags: zero columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rssm_ros.world_model.decoder import ImageDecoder, VectorDecoder
from rssm_ros.world_model.encoder import ImageEncoder, VectorEncoder
from rssm_ros.world_model.errors import WorldModelError
from rssm_ros.world_model.heads import ContinueHead, TwoHotHead
from rssm_ros.world_model.layers import MLP, BlockLinear, Layer, RMSNorm
from rssm_ros.world_model.model import WorldModel
from rssm_ros.world_model.rssm import RSSM
from rssm_ros.world_model.sizes import Signals, Sizes

Parameters = Mapping[str, np.ndarray]

WORLD_MODEL = ("enc", "dyn", "dec", "rew", "con")
# What else a checkpoint of the official agent holds; no concern of the world model's.
BESIDES = ("pol", "val", "slowval", "slowval_count", "opt", "retnorm", "valnorm", "advnorm")
SHOWN = 6  # problems that one error message lists


@dataclass(frozen=True)
class Vector:
    """An official vector observation: `length` numbers, all axes flattened; `classes` > 0 if discrete."""

    name: str
    length: int
    classes: int = 0

    @property
    def columns(self) -> int:
        """Inputs of the encoder, outputs of the decoder: a discrete number is a one-hot of its classes."""
        return self.length * max(1, self.classes)


@dataclass(frozen=True)
class Observations:
    """What the official agent observed, in the order of its observation space.

    The encoder and the vector heads sort the names; the image decoder keeps the space's order, which
    parameters do not record: with several images, give them in that order.
    """

    vectors: tuple[Vector, ...] = ()
    images: tuple[tuple[str, tuple[int, int, int]], ...] = ()  # (name, (height, width, channels))

    def __post_init__(self) -> None:
        """WorldModelError for a name given twice, nothing at all, or images of several sizes."""
        names = [vector.name for vector in self.vectors] + [name for name, _ in self.images]
        if not names or len(set(names)) < len(names):
            raise WorldModelError(f"port: observations {names}, expected at least one, each name once")
        if len({shape[:2] for _, shape in self.images}) > 1:
            raise WorldModelError(f"port: images are joined along channels, so of one size: {self.images}")

    @property
    def vector_name(self) -> str:
        """The merged vector modality's name: the vector's own where there is one only."""
        return self.vectors[0].name if len(self.vectors) == 1 else "vectors"

    @property
    def image_name(self) -> str:
        """The merged image modality's name: the image's own where there is one only."""
        return self.images[0][0] if len(self.images) == 1 else "images"

    @property
    def sorted_vectors(self) -> list[Vector]:
        """In the order of the encoder's inputs."""
        return sorted(self.vectors, key=lambda vector: vector.name)

    def signals(self, action_dim: int) -> Signals:
        """Names and shapes of the ported model."""
        vectors, images = [], []
        if self.vectors:
            vectors = [(self.vector_name, sum(vector.columns for vector in self.vectors))]
        if self.images:
            height, width, _ = self.images[0][1]
            images = [(self.image_name, (height, width, sum(shape[2] for _, shape in self.images)))]
        return Signals(tuple(vectors), tuple(images), action_dim, ())

    def merge(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw observations under their official names -> the ported model's one or two modalities.

        Continuous vectors float [..., length], discrete ones integer [..., length], images uint8
        [..., H, W, C]. A vector with a -inf, or a discrete one with a -1, counts as missing: zeros.
        WorldModelError for one that is not there or of another shape.
        """
        shapes = [(vector.name, (vector.length,)) for vector in self.vectors]
        for name, shape in (*shapes, *self.images):
            if name not in raw or tuple(raw[name].shape[-len(shape) :]) != shape:
                found = f"of shape {tuple(raw[name].shape)}" if name in raw else "missing"
                raise WorldModelError(f"observation {name!r} is {found}, expected [..., {shape}]")
        merged = {}
        if self.vectors:
            columns = [_columns(vector, raw[vector.name]) for vector in self.sorted_vectors]
            merged[self.vector_name] = torch.cat(columns, -1)
        if self.images:
            merged[self.image_name] = torch.cat([raw[name] for name, _ in sorted(self.images)], -1)
        return merged

    def split(self, decoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of `merge` for `decode` and `decode_vectors`; of discrete vectors the likeliest classes."""
        parts: dict[str, Tensor] = {}
        if self.vectors and self.vector_name in decoded:
            vectors = self.sorted_vectors
            pieces = torch.split(decoded[self.vector_name], [vector.columns for vector in vectors], -1)
            for vector, piece in zip(vectors, pieces, strict=True):
                if vector.classes:
                    piece = piece.reshape(*piece.shape[:-1], vector.length, vector.classes).argmax(-1)
                parts[vector.name] = piece
        if self.images and self.image_name in decoded:
            images = sorted(self.images)
            channels = torch.split(decoded[self.image_name], [shape[2] for _, shape in images], -1)
            parts |= {name: piece for (name, _), piece in zip(images, channels, strict=True)}
        return parts


def _columns(vector: Vector, raw: Tensor) -> Tensor:
    """One vector as the merged modality's columns: [..., length] -> [..., columns]."""
    if vector.classes:
        known = (raw != -1).all(-1, keepdim=True)
        one_hot = F.one_hot(raw.long().clamp(min=0), vector.classes).float().flatten(-2)  # [..., columns]
        # Officially no symlog on a one-hot; our encoder has one: symlog(e - 1) = 1.
        return torch.where(known, one_hot * math.expm1(1.0), 0.0)
    known = (raw != -math.inf).all(-1, keepdim=True)
    return torch.where(known, raw.float(), 0.0)


class Reader:
    """Takes official parameters by name, checks every shape, and reports all that does not fit at once."""

    def __init__(self, params: Parameters, prefixes: Sequence[str]) -> None:
        self.params = params
        self.prefixes = prefixes
        self.taken: set[str] = set()
        self.filled: set[int] = set()
        self.problems: list[str] = []

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """The array called `name` as float32; zeros, and a problem for `finish`, if it does not fit."""
        self.taken.add(name)
        found = self.params.get(name)
        if found is None:
            self.problems.append(f"{name}: missing, expected {tuple(shape)}")
        elif tuple(found.shape) != tuple(shape):
            self.problems.append(f"{name}: expected {tuple(shape)}, found {tuple(found.shape)}")
        elif not np.issubdtype(found.dtype, np.floating):
            self.problems.append(f"{name}: expected floating point, found {found.dtype}")
        else:
            return torch.from_numpy(np.array(found, dtype=np.float32))
        return torch.zeros(*shape)

    def fill(self, target: Tensor, value: Tensor) -> None:
        """Overwrite one of our parameters."""
        assert target.shape == value.shape, (target.shape, value.shape)
        with torch.no_grad():
            target.copy_(value)
        self.filled.add(id(target))

    def plain(self, target: Tensor, name: str) -> None:
        """Where both layouts are the same: biases, norm scales, block linears."""
        self.fill(target, self.take(name, target.shape))

    def linear(self, ours: nn.Linear, name: str) -> None:
        """kernel [in, out] -> weight [out, in]."""
        self.fill(ours.weight, self.take(f"{name}/kernel", (ours.in_features, ours.out_features)).T)
        self.plain(ours.bias, f"{name}/bias")

    def linears(self, ours: nn.Linear, named: Sequence[tuple[str, int]]) -> None:
        """Several official linears of one input become ours, their outputs [columns] one after another."""
        kernels = [self.take(f"{name}/kernel", (ours.in_features, columns)) for name, columns in named]
        biases = [self.take(f"{name}/bias", (columns,)) for name, columns in named]
        self.fill(ours.weight, torch.cat(kernels, 1).T)
        self.fill(ours.bias, torch.cat(biases))

    def blocks(self, ours: BlockLinear, name: str) -> None:
        """[group, in, out] in both."""
        self.plain(ours.weight, f"{name}/kernel")
        self.plain(ours.bias, f"{name}/bias")

    def layer(self, ours: nn.Module, name: str, norm: str | None = None) -> None:
        """Linear, RMSNorm; the norm's official name is the linear's + "norm" outside of an MLP."""
        assert isinstance(ours, Layer) and isinstance(ours.norm, RMSNorm)
        self.linear(ours.linear, name)
        self.plain(ours.norm.scale, f"{norm or name + 'norm'}/scale")

    def mlp(self, ours: MLP, name: str) -> None:
        """NAME/linear0, NAME/norm0, ..."""
        for index, layer in enumerate(ours.layers):
            self.layer(layer, f"{name}/linear{index}", f"{name}/norm{index}")

    def two_hot(self, ours: TwoHotHead, name: str) -> None:
        """An MLP and 255 logits: reward or value."""
        self.mlp(ours.mlp, f"{name}/mlp")
        self.linear(ours.out, f"{name}/head/logits")

    def convolution(self, ours: nn.Module, name: str, order: Sequence[int] | None = None) -> None:
        """kernel [k, k, in, out] -> [out, in, k, k]; output channel i is the official one order[i]."""
        weight, bias = ours.weight, ours.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        outputs, inputs, height, width = weight.shape
        kernel = self.take(f"{name}/kernel", (height, width, inputs, outputs)).permute(3, 2, 0, 1)
        picked = list(range(outputs)) if order is None else list(order)
        self.fill(weight, kernel[picked])
        self.fill(bias, self.take(f"{name}/bias", bias.shape)[picked])

    def finish(self) -> None:
        """WorldModelError naming every parameter that is missing, misshaped or unknown (the first few)."""
        for name in self.params:
            top = name.split("/")[0]
            if (top in self.prefixes and name not in self.taken) or top not in (*WORLD_MODEL, *BESIDES):
                self.problems.append(f"{name}: unknown, found {tuple(self.params[name].shape)}")
        if self.problems:
            shown = "; ".join(self.problems[:SHOWN])
            more = f"; and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
            raise WorldModelError(
                f"official DreamerV3 parameters do not fit these sizes and observations: {shown}{more}"
            )


def from_dreamerv3(params: Parameters, sizes: Sizes, observations: Observations | None = None) -> WorldModel:
    """A world model that computes what the official one does with `params` (its own names and layouts).

    sizes: those of the official run, `conv="exact"`. observations: see `observations_of` for what can be
    told from the parameters alone. Actor, critic and optimizer entries of a whole checkpoint are passed over.
    WorldModelError names every parameter that is missing, unknown or misshaped, with both shapes.
    """
    for name, value in (("conv", "exact"), ("latent", "categorical"), ("posterior", "concat")):
        if getattr(sizes, name) != value:
            raise WorldModelError(
                f"port: official DreamerV3 parameters need sizes with {name} {value!r}, "
                f"found {getattr(sizes, name)!r}"
            )
    if not sizes.blocks:
        raise WorldModelError("port: official DreamerV3 parameters need a block GRU, found blocks 0")
    seen = observations or observations_of(params)
    model = WorldModel(seen.signals(action_columns(params)), sizes)
    read = Reader(params, WORLD_MODEL)
    _rssm(read, model.rssm)
    for encoder in model.encoders.values():
        _encoder(read, encoder)
    for decoder in (*model.image_decoders.values(), *model.vector_decoders.values()):
        _decoder(read, decoder, seen)
    read.two_hot(model.reward_head, "rew")
    head = model.continue_head
    assert isinstance(head, ContinueHead)
    read.mlp(head.mlp, "con/mlp")
    read.linear(head.out, "con/head/logit")
    read.finish()
    left = [name for name, value in model.named_parameters() if id(value) not in read.filled]
    assert all(name.startswith("rssm.absent.") for name in left), left
    return model


def observations_of(params: Parameters) -> Observations:
    """Observations as far as parameters tell: continuous vectors, and one square image called "image".

    Several images look like one with all their channels. WorldModelError where that is not enough: discrete
    vectors, images that are not square; then say what was observed.
    """
    vectors = []
    for name in sorted(params):
        if name.startswith("dec/vec/") and name.endswith("/pred/bias"):
            vectors.append(Vector(name[len("dec/vec/") : -len("/pred/bias")], len(params[name])))
        elif name.startswith("dec/vec/") and name.endswith("/logits/bias"):
            raise WorldModelError(f"port: {name} is of a discrete observation: pass its length and classes")
    if "enc/cnn0/kernel" not in params:
        return Observations(tuple(vectors))
    for name in ("dec/spnorm/scale", "dec/sp2/bias"):
        if name not in params:
            raise WorldModelError(f"port: {name}: missing, so the image's size is unknown")
    stages = sum(name.startswith("enc/cnn") and name.endswith("/kernel") for name in params)
    cells = len(params["dec/sp2/bias"]) // len(params["dec/spnorm/scale"])  # height x width of the last stage
    side = math.isqrt(cells)
    if side * side != cells:
        raise WorldModelError(f"port: {cells} cells are no square image: pass its height and width")
    shape = (side * 2**stages, side * 2**stages, int(params["enc/cnn0/kernel"].shape[-2]))
    return Observations(tuple(vectors), (("image", shape),))


def action_columns(params: Parameters) -> int:
    """Numbers in an action: all official actions sorted by name and concatenated, discrete ones one-hot."""
    if "dyn/dynin2/kernel" not in params:
        raise WorldModelError("port: dyn/dynin2/kernel: missing; are these an official agent's parameters?")
    return int(params["dyn/dynin2/kernel"].shape[0])


def _rssm(read: Reader, rssm: RSSM) -> None:
    read.layer(rssm.input_deter, "dyn/dynin0")
    read.layer(rssm.input_stoch, "dyn/dynin1")
    read.layer(rssm.input_action, "dyn/dynin2")
    read.blocks(rssm.dynamics, "dyn/dynhid0")
    read.plain(rssm.dynamics_norm.scale, "dyn/dynhid0norm/scale")
    read.blocks(rssm.gates, "dyn/dyngru")
    for index, layer in enumerate(rssm.prior_layers):
        read.layer(layer, f"dyn/prior{index}")
    read.linear(rssm.prior_logits, "dyn/priorlogit")
    ours, flags = rssm.posterior_layer, len(rssm.tokens)
    weight = ours.linear.weight
    official = read.take("dyn/obs0/kernel", (weight.shape[1] - flags, weight.shape[0]))
    read.fill(weight, F.pad(official.T, (0, flags)))  # [deter, vectors, images, flags]
    read.plain(ours.linear.bias, "dyn/obs0/bias")
    assert isinstance(ours.norm, RMSNorm)
    read.plain(ours.norm.scale, "dyn/obs0norm/scale")
    read.linear(rssm.posterior_logits, "dyn/obslogit")


def _encoder(read: Reader, encoder: nn.Module) -> None:
    if isinstance(encoder, VectorEncoder):
        for index, layer in enumerate(encoder.mlp.layers):
            read.layer(layer, f"enc/mlp{index}")
        return
    assert isinstance(encoder, ImageEncoder)
    for index, (conv, norm) in enumerate(zip(encoder.convs, encoder.norms, strict=True)):
        assert isinstance(norm, RMSNorm)
        read.convolution(conv, f"enc/cnn{index}")
        read.plain(norm.scale, f"enc/cnn{index}norm/scale")


def _decoder(read: Reader, decoder: nn.Module, seen: Observations) -> None:
    if isinstance(decoder, VectorDecoder):
        read.mlp(decoder.mlp, "dec/mlp")
        named = [(f"dec/vec/{v.name}/{'logits' if v.classes else 'pred'}", v) for v in seen.sorted_vectors]
        read.linears(decoder.out, [(name, vector.columns) for name, vector in named])
        return
    assert isinstance(decoder, ImageDecoder)
    first, second = decoder.from_stoch
    assert isinstance(second, nn.Linear)
    read.blocks(decoder.from_deter, "dec/sp0")
    read.layer(first, "dec/sp1")
    read.linear(second, "dec/sp2")
    read.plain(decoder.start_norm.scale, "dec/spnorm/scale")
    for index, norm in enumerate(decoder.norms):
        assert isinstance(norm, RMSNorm)
        name = f"dec/conv{len(decoder.norms) - 1 - index}"
        read.convolution(decoder.convs[index], name)
        read.plain(norm.scale, f"{name}norm/scale")
    read.convolution(decoder.convs[-1], "dec/imgout", _channel_order(seen))


def _channel_order(seen: Observations) -> list[int]:
    """Which channel of the official decoder (the space's order) each of ours (sorted by name) is."""
    begin, where = 0, {}
    for name, shape in seen.images:
        where[name] = range(begin, begin + shape[2])
        begin += shape[2]
    return [channel for name, _ in sorted(seen.images) for channel in where[name]]
