"""Multiply-adds and weights of a world model's layers, from their shapes alone.

A linear layer, dense or by blocks, uses every weight once a row; a convolution once an output position, a
transposed one once an input position. Biases, norms and nonlinearities count as nothing: a floor is a floor.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from rssm_ros.evaluation.bench.rows import Part, scaled
from rssm_ros.world_model import WorldModel
from rssm_ros.world_model.decoder import ImageDecoder
from rssm_ros.world_model.encoder import ImageEncoder
from rssm_ros.world_model.tracking import Tracker

SEES = ("posterior", "product")  # how RSSM's own names of what sees tokens begin
AT_ONCE = ("prior", "input_action", "plain.of_action")  # ... of what needs no state of an earlier tick
TOKENS = "posterior.tokens"


def linear_parts(module: nn.Module, name: str) -> list[Part]:
    """Every matrix of a module without convolutions."""
    return [
        Part(f"{name}.{parameter}", weight.numel(), weight.numel())
        for parameter, weight in module.named_parameters()
        if weight.dim() >= 2 and not parameter.endswith("scale")  # a norm's, one row per modality
    ]


def encoder_parts(module: nn.Module, name: str) -> list[Part]:
    """One observation -> tokens."""
    if not isinstance(module, ImageEncoder):
        return linear_parts(module, name)
    parts, area = [], module.grid[0] * module.grid[1]  # after the last stage
    for index, conv in reversed(list(enumerate(module.convs))):
        assert isinstance(conv, nn.Conv2d)
        area *= 4 if module.pooled else 1
        parts.append(_convolution(conv, f"{name}.conv{index}", area))
        area *= conv.stride[0] ** 2
    parts.reverse()
    return parts


def decoder_parts(module: nn.Module, name: str) -> list[Part]:
    """Features -> one observation."""
    if not isinstance(module, ImageDecoder):
        return linear_parts(module, name)
    parts = [part for part in linear_parts(module, name) if ".convs." not in part.name]
    height, width, _ = module.start
    for index, conv in enumerate(module.convs):
        assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
        # A transposed convolution meets every position of the smaller image, a plain one of the doubled one.
        doubled = 2**index if module.strided else 2 ** (index + 1)
        parts.append(_convolution(conv, f"{name}.conv{index}", height * width * doubled**2))
    return parts


def core_parts(model: WorldModel) -> list[Part]:
    """(state, action) -> deter and prior: the recurrent core without anything that sees."""
    return [part for part in linear_parts(model.rssm, "core") if not _sees(part)]


def posterior_parts(model: WorldModel) -> list[Part]:
    """deter and tokens -> posterior. What only tokens pass through is a part of its own: `TOKENS`."""
    shared = model.sizes.hidden * sum(model.rssm.tokens.values())
    parts = []
    for part in linear_parts(model.rssm, "posterior"):
        if part.name.endswith("posterior_layer.linear.weight"):
            own = part.weights - shared
            parts += [Part(part.name, own, own), Part(TOKENS, shared, shared)]
        elif part.name.startswith("posterior.product.of_tokens"):
            parts.append(Part(f"{TOKENS}.{part.name}", part.multiply_adds, part.weights))
        elif _sees(part):
            parts.append(part)
    return parts


def filter_parts(model: WorldModel, particles: int = 1, heads: bool = True) -> list[Part]:
    """One tick of `particles`, tokens in. All particles share the tokens, so that is done once."""
    parts = core_parts(model) + (head_parts(model) if heads else [])
    posterior = posterior_parts(model)
    each = [part for part in posterior if not part.name.startswith(TOKENS)]
    return scaled(parts + each, particles) + [part for part in posterior if part.name.startswith(TOKENS)]


def head_parts(model: WorldModel) -> list[Part]:
    """Features -> reward, continue and targets."""
    parts = linear_parts(model.reward_head, "heads.reward") + linear_parts(
        model.continue_head, "heads.continue"
    )
    for name, head in model.target_heads.items():
        parts += linear_parts(head, f"heads.target_{name}")
    return parts


def tracker_parts(tracker: Tracker | None, particles: int = 1) -> list[Part]:
    """What a tracker adds to a tick of `particles`, its detector's look at one picture included."""
    if tracker is None:
        return []
    detector, cells = tracker.detector, tracker.detector.anchors.shape[0]
    alike = {"finest": detector.finest, "same": detector.same, "out": detector.out}
    alike |= {f"conv{index}": conv for index, conv in enumerate(detector.convs)}  # type: ignore[misc]
    seen = [_convolution(conv, f"encode.detector.{name}", cells) for name, conv in alike.items()]
    for index, conv in enumerate(detector.coarser):
        assert isinstance(conv, nn.Conv2d)
        seen.append(_convolution(conv, f"encode.detector.coarser{index}", cells // 4 ** (index + 1)))
    parts = [part for part in linear_parts(tracker, "tracker") if ".detector." not in part.name]
    shared = [part for part in parts if ".felt." in part.name]  # of joints, which all particles share
    return seen + shared + scaled([part for part in parts if part not in shared], particles)


def rollout_parts(model: WorldModel, starts: int, horizon: int) -> list[Part]:
    """`imagine`: the prior half, `starts` rows, `horizon` times."""
    return scaled(core_parts(model), starts, horizon)


def training_parts(
    model: WorldModel, actor: nn.Module, batch: int, length: int, particles: int
) -> list[Part]:
    """One update without imagination: forward, and backward twice that (weights and inputs).

    The recurrence reads its weights once a tick on the way up and once on the way down; gradients of weights
    are one product over all ticks, like everything that is not recurrent. Images need no gradient.
    """
    frames = batch * length
    recurrence = core_parts(model) + posterior_parts(model)
    in_order = [part for part in recurrence if not _at_once(part)]
    parts = scaled(in_order, batch, 2 * length) + scaled(in_order, frames)
    at_once = [part for part in recurrence if _at_once(part)]
    for name, encoder in model.encoders.items():
        layers = encoder_parts(encoder, f"encoder.{name}")
        parts += scaled(layers[:1], frames, 2)
        at_once += layers[1:]
    for kind in (model.image_decoders, model.vector_decoders):
        for name, decoder in kind.items():
            at_once += decoder_parts(decoder, f"decoder.{name}")
    at_once += linear_parts(model.reward_head, "heads.reward")
    at_once += linear_parts(model.continue_head, "heads.continue") + linear_parts(actor, "heads.actor")
    for name, head in model.target_heads.items():  # from so many samples of the posterior, and of the prior
        at_once += scaled(linear_parts(head, f"heads.target_{name}"), 2 * particles)
    return parts + scaled(at_once, frames, 3)


def multiply_adds(parts: Iterable[Part]) -> int:
    """Of all parts together."""
    return sum(part.operations for part in parts) // 2


def weights(parts: Iterable[Part]) -> int:
    """Numbers read by all parts together, each layer's once."""
    return sum(part.weights for part in parts)


def _convolution(conv: nn.Conv2d | nn.ConvTranspose2d, name: str, positions: int) -> Part:
    return Part(name, conv.weight.numel() * positions, conv.weight.numel())


def _sees(part: Part) -> bool:
    return part.name.split(".", 1)[1].startswith(SEES)


def _at_once(part: Part) -> bool:
    return part.name.startswith(TOKENS) or part.name.split(".", 1)[1].startswith(AT_ONCE)
