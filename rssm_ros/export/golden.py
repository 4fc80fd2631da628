"""Golden vectors: inputs for every graph, with noise that no rounding can turn into another sample."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from rssm_ros.contract import Contract
from rssm_ros.export.steps import Encode, Filter, Named, Rollout, drawn, opened, own_part
from rssm_ros.online.steps import Array
from rssm_ros.world_model import WorldModel
from rssm_ros.world_model.encoder import ImageEncoder
from rssm_ros.world_model.heads import TwoHotHead
from rssm_ros.world_model.latents import Latent
from rssm_ros.world_model.tracking import Tracker

MARGIN = 1e-3  # least distance of a uniform from every edge of the distribution function
PARTICLES = 3
STEPS = 4
TWO_HOT = {"reward", "returns", "values"}  # outputs that are sums over two-hot bins


def clear_noise(latent: Latent, distribution: Tensor, generator: torch.Generator) -> Tensor:
    """Noise [N, S] for a distribution [N, S, P].

    Uniforms stay MARGIN away from every edge of the distribution function: drawn again until they do.
    """
    noise = latent.noise(len(distribution), generator=generator)
    if latent.width == 1:
        return noise
    edges = torch.cumsum(distribution, -1)[..., :-1]
    while True:
        close = ((noise.unsqueeze(-1) - edges).abs() < MARGIN).any(-1)
        if not close.any():
            return noise
        noise = torch.where(close, torch.rand(noise.shape, generator=generator), noise)


def observations(contract: Contract, generator: torch.Generator) -> Named:
    """One made-up observation per modality, with its leading axis of 1."""
    made = {}
    for spec in contract.observations:
        if spec.kind == "image":
            made[spec.name] = torch.randint(0, 256, (1, *spec.shape), generator=generator, dtype=torch.uint8)
        else:
            made[spec.name] = torch.randn((1, *spec.shape), generator=generator)
    return made


def looked_at(
    contract: Contract, tracker: Tracker | None, model: WorldModel, generator: torch.Generator
) -> Named:
    """`observations` whose picture leaves a tracker no doubt about which cells are its likeliest."""
    while True:
        made = observations(contract, generator)
        if tracker is None:
            return made
        encoder = model.encoders[tracker.image]
        assert isinstance(encoder, ImageEncoder)
        shares = tracker.detector(encoder.maps(made[tracker.image]))[..., 0].sort(-1, descending=True).values
        kept = tracker.detector.kept
        if kept == shares.shape[-1] or (shares[..., kept - 1] - shares[..., kept] >= MARGIN).all():
            return made


def presence_patterns(names: list[str]) -> list[set[str]]:
    """One per golden step: everything, everything, the first modality only, nothing."""
    return [set(names), set(names), {names[0]}, set()]


def filter_inputs(contract: Contract, step: Filter, generator: torch.Generator) -> Iterator[Named]:
    """STEPS teacher-forced inputs of filter.onnx, each from the state that the one before led to."""
    world_model, latent = step.world_model, step.latent
    encoders = {name: Encode(world_model, name, step.tracker) for name in step.names}
    kind = torch.float32 if latent.width == 1 else torch.int64
    deter = torch.zeros(PARTICLES, step.carried)
    stoch = torch.zeros(PARTICLES, world_model.sizes.stoch, dtype=kind)
    for tick, present in enumerate(presence_patterns(step.names)):
        action = torch.rand(PARTICLES, contract.action_dim, generator=generator) * 2 - 1
        first = torch.full((PARTICLES,), tick == 0)
        made = observations(contract, generator)
        tokens = {name: encoder(made[name])["tokens"] for name, encoder in encoders.items()}
        here = {name: torch.tensor([name in present]) for name in tokens}
        after, prior = step.prior(deter, stoch, action, first)
        probs = step.posterior(after, prior, step.split(tokens, here)[0], here)
        noise = clear_noise(latent, probs, generator)
        inputs = {"deter": deter, "stoch": stoch, "action": action, "is_first": first, "noise": noise}
        for name in tokens:
            inputs |= {f"tokens_{name}": tokens[name], f"presence_{name}": here[name]}
        yield inputs
        outputs = step(*inputs.values())
        deter, stoch = outputs["next_deter"], outputs["next_stoch"]


def own_rows(step: Filter, like: Named, generator: torch.Generator) -> Named:
    """filter.onnx where every particle has tokens of its own: `like`'s, each row lacking another modality."""
    inputs, rows = dict(like), len(like["deter"])
    for index, name in enumerate(step.names):
        scale = torch.rand((rows, 1), generator=generator) + 0.5
        inputs[f"tokens_{name}"] = like[f"tokens_{name}"] * scale
        inputs[f"presence_{name}"] = torch.arange(rows) % (len(step.names) + 1) != index
    tokens, presence = ({n: inputs[f"{kind}_{n}"] for n in step.names} for kind in ("tokens", "presence"))
    after, prior = step.prior(*(inputs[name] for name in ("deter", "stoch", "action", "is_first")))
    tokens, _ = step.split(tokens, presence)
    noise = clear_noise(step.latent, step.posterior(after, prior, tokens, presence), generator)
    return {**inputs, "noise": noise}


def predict_inputs(step: Filter, like: Named, generator: torch.Generator) -> Named:
    """predict.onnx from the state of a filter step, with noise clear of the prior's edges."""
    driven = {name: like[name] for name in ("deter", "stoch", "action", "is_first")}
    _, prior = step.prior(*driven.values())
    return {**driven, "noise": clear_noise(step.latent, prior, generator)}


def rollout_inputs(step: Rollout, deter: Tensor, stoch: Tensor, generator: torch.Generator) -> Named:
    """rollout.onnx from a state, its noise clear of the edges met on the way."""
    rssm, rows = step.world_model.rssm, len(deter)
    actions = torch.rand(rows, step.horizon, rssm.action_dim, generator=generator) * 2 - 1
    h = own_part(deter, step.world_model.sizes.deter)
    noises, sample = [], opened(step.latent, stoch)
    for tick in range(step.horizon):
        h = step.core(h, sample, actions[:, tick])
        probs = rssm.prior(h)
        noises.append(clear_noise(step.latent, probs, generator))
        _, sample = drawn(step.latent, probs, noises[-1])
    return {"deter": deter, "stoch": stoch, "actions": actions, "noise": torch.stack(noises, 1)}


@contextmanager
def two_hot_scale(module: nn.Module) -> Iterator[list[float]]:
    """Collects, as its last entry, the largest sum of |probability * bin| that a two-hot head met inside.

    Bins reach 4.85e8, so a small mean is a difference of large terms: float32 rounds it in proportion to
    them, not to itself. 0 where no two-hot head ran.
    """
    scale = [0.0]

    def look(head: nn.Module, _: tuple[Tensor, ...], logits: Tensor) -> None:
        assert isinstance(head, TwoHotHead)
        scale.append(max(scale[-1], float((torch.softmax(logits, -1) * head.bins.abs()).sum(-1).max())))

    hooks = [part.register_forward_hook(look) for part in module.modules() if isinstance(part, TwoHotHead)]
    try:
        yield scale
    finally:
        for hook in hooks:
            hook.remove()


def record(
    arrays: dict[str, Array], graph: str, case: int, inputs: Named, outputs: Named, scale: float
) -> None:
    """Adds one case in golden.npz's form; `scale` as `two_hot_scale` tells it."""
    for kind, values in (("in", inputs), ("out", outputs)):
        for name, value in values.items():
            arrays[f"{graph}/{case}/{kind}/{name}"] = np.ascontiguousarray(value.detach().numpy())
    for name in TWO_HOT & outputs.keys():
        arrays[f"{graph}/{case}/scale/{name}"] = np.array(scale)
