"""Every number that is held against DreamerV3: what is compared, by which route, to which bound.

The parity tests assert these and `scripts/parity.py` writes them down: one list, so that the table in
docs/reference/parity.md says what the tests test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from rssm_ros.behavior import Actor, Critic, lambda_returns
from rssm_ros.behavior.actor import entropy as normal_entropy
from rssm_ros.behavior.actor import log_probability
from rssm_ros.behavior.port import actor_from_dreamerv3, critic_from_dreamerv3
from rssm_ros.training.optimizer import Optimizer
from rssm_ros.world_model import RSSM, Sizes, State, WorldModel, losses
from rssm_ros.world_model.categorical import entropy
from rssm_ros.world_model.port import Observations, Vector, from_dreamerv3

from . import golden as record
from .reference import Network, Reference, mixed, random_parameters

Golden = dict[str, Tensor]
TIGHT, LOOSE, STEP, EXACT = 1e-6, 1e-5, 1e-4, 1e-11

# Recorded arrays of these three groups that are inputs of a comparison, not results.
INPUTS = {"lam/last", "lam/term", "lam/rew", "lam/val", "opt/p0_w", "opt/p0_b"}
INPUTS |= {f"opt/g{step}_{name}" for step in range(4) for name in "wb"}


@dataclass(frozen=True)
class Compared:
    """One array of ours beside the official one."""

    name: str  # the recorded array, or what is compared at other sizes
    route: str  # how ours came about
    ours: Tensor
    theirs: Tensor
    bound: float
    unit: str = "largest"  # error relative to theirs' "largest" value, to "each" value, or to the "rate"

    @property
    def error(self) -> float:
        """In the unit; infinite if shapes differ or ours is not finite."""
        if self.ours.shape != self.theirs.shape or not bool(torch.isfinite(self.ours).all()):
            return float("inf")
        ours, theirs = self.ours.double(), self.theirs.double()
        off = (ours - theirs).abs()
        if self.unit == "each":
            return float(torch.where(off == 0, 0.0, off / theirs.abs()).max())
        return float(off.max()) / (record.RATE if self.unit == "rate" else float(theirs.abs().max()))


def mixed_of(logits: Tensor) -> Tensor:
    """The official distribution: the reference's unimix, not the package's."""
    return torch.from_numpy(mixed(logits.double().numpy()))


@contextmanager
def captured_logits(rssm: RSSM) -> Iterator[dict[str, list[Tensor]]]:
    """The logits [..., S, K] that prior and posterior layers put out while the public interface runs."""
    logits: dict[str, list[Tensor]] = {"prior": [], "posterior": []}

    def keep(name: str) -> Callable[[torch.nn.Module, object, Tensor], None]:
        groups = (rssm.sizes.stoch, rssm.sizes.classes)
        return lambda _module, _inputs, output: logits[name].append(output.unflatten(-1, groups))

    hooks = [
        rssm.prior_logits.register_forward_hook(keep("prior")),
        rssm.posterior_logits.register_forward_hook(keep("posterior")),
    ]
    try:
        yield logits
    finally:
        for hook in hooks:
            hook.remove()


# The recorded run -------------------------------------------------------------------------------------------


@torch.no_grad()
def recorded(golden: Golden) -> list[Compared]:
    """Everything that the recorded run allows to compare."""
    model = record.world_model(golden)
    parts = (_core, _encoder, _forced, _observed, _kl, _reward_and_continue, _decoder)
    found = [item for part in parts for item in part(golden, model)]
    return found + _policy(golden) + _lambda(golden) + _optimizer(golden)


def _core(golden: Golden, model: WorldModel) -> list[Compared]:
    never = torch.zeros(3, dtype=torch.bool)
    with captured_logits(model.rssm) as logits:
        deter, prior = model.rssm.predict(
            golden["in/deter"], golden["in/stoch"], golden["in/action"][:, 0], never
        )
    theirs = golden["out/core_prior_logit"]
    found = [
        Compared("out/core_deter", "predict", deter, golden["out/core_deter"], TIGHT),
        Compared("out/core_prior_logit", "predict, logits", logits["prior"][0], theirs, TIGHT),
    ]
    probs = mixed_of(theirs)
    return [*found, Compared("out/core_prior_logit", "predict, mixed probabilities", prior, probs, TIGHT)]


def _encoder(golden: Golden, model: WorldModel) -> list[Compared]:
    odom, image = (model.encode(name, golden[f"in/{name}"]) for name in ("odom", "image"))
    theirs = golden["out/tokens"]
    return [
        Compared("out/tokens", "encode, vector", odom, theirs[..., :16], TIGHT),
        Compared("out/tokens", "encode, image", image, theirs[..., 16:], LOOSE),
    ]


def _seen(golden: Golden, rows: tuple[int, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    tokens = {"odom": golden["out/tokens"][..., :16], "image": golden["out/tokens"][..., 16:]}
    return tokens, {name: torch.ones(*rows, dtype=torch.bool) for name in tokens}


def _forced(golden: Golden, model: WorldModel) -> list[Compared]:
    """Tick by tick; every one starts from the recorded state, so that no error can add up."""
    tokens, here = _seen(golden, (3,))
    action = golden["in/action"]
    ticks: dict[str, list[Tensor]] = {name: [] for name in ("deter", "prior", "posterior")}
    with captured_logits(model.rssm) as logits:
        state = State(golden["in/deter"], golden["in/stoch"])
        # obs1 is tick 1, which has no reset, straight from the given state; the sequence resets at [:, 0] and
        # at [1, 2].
        seen = {name: value[:, 1] for name, value in tokens.items()}
        one, prior = model.rssm.predict(*state, action[:, 1], golden["in/reset"][:, 1])
        model.rssm.correct(one, prior, seen, here)
        for t in range(5):
            deter, prior = model.rssm.predict(*state, action[:, t], golden["in/reset"][:, t])
            seen = {name: value[:, t] for name, value in tokens.items()}
            posterior = model.rssm.correct(deter, prior, seen, here)
            for name, value in (("deter", deter), ("prior", prior), ("posterior", posterior)):
                ticks[name].append(value)
            state = State(golden["out/obs_deter"][:, t], golden["out/obs_stoch"][:, t])
    ours = {name: torch.stack(values, 1) for name, values in ticks.items()}
    said = {name: torch.stack(values[-5:], 1) for name, values in logits.items()}
    found = [
        Compared("out/obs1_deter", "one tick", one, golden["out/obs1_deter"], TIGHT),
        Compared("out/obs1_logit", "one tick", logits["posterior"][0], golden["out/obs1_logit"], TIGHT),
        Compared("out/obs_deter", "tick by tick", ours["deter"], golden["out/obs_deter"], TIGHT),
    ]
    for name, key in (("prior", "out/obs_prior"), ("posterior", "out/obs_logit")):
        probs = mixed_of(golden[key])
        found.append(Compared(key, "tick by tick, logits", said[name], golden[key], TIGHT))
        found.append(Compared(key, "tick by tick, mixed probabilities", ours[name], probs, TIGHT))
    return found


def _observed(golden: Golden, model: WorldModel) -> list[Compared]:
    """`observe` on raw observations over the whole sequence.

    JAX's random numbers are not ours: the noise is chosen in the middle of what draws the recorded class.
    """
    raw = {name: golden[f"in/{name}"] for name in ("odom", "image")}
    here = {name: torch.ones(3, 5, dtype=torch.bool) for name in raw}
    probs, drawn = mixed_of(golden["out/obs_logit"]), golden["out/obs_stoch"]
    noise = ((probs.cumsum(-1) - 0.5 * probs) * drawn).sum(-1).float()  # [B, T, S]
    start = State(golden["in/deter"], golden["in/stoch"])
    tokens = model.tokens(raw, here)
    beliefs = model.observe(tokens, here, golden["in/action"], golden["in/reset"], noise, start)
    prior = mixed_of(golden["out/obs_prior"])
    return [
        Compared("out/obs_deter", "observe", beliefs.deter, golden["out/obs_deter"], TIGHT),
        Compared("out/obs_stoch", "observe", beliefs.stoch, drawn, TIGHT),
        Compared("out/obs_prior", "observe, mixed probabilities", beliefs.prior, prior, TIGHT),
        Compared("out/obs_logit", "observe, mixed probabilities", beliefs.posterior, probs, LOOSE),
        Compared("out/feat", "observe", beliefs.features, golden["out/feat"], TIGHT),
    ]


def _kl(golden: Golden, model: WorldModel) -> list[Compared]:
    logits = (golden[f"out/{name}"].flatten(-2) for name in ("obs_logit", "obs_prior"))
    posterior, prior = (model.rssm.latent.distribution(value) for value in logits)
    dyn, rep = losses.kl_losses(posterior, prior)
    return [
        Compared("out/dyn", "KL with unimix", dyn, golden["out/dyn"], TIGHT),
        Compared("out/rep", "KL with unimix", rep, golden["out/rep"], TIGHT),
        Compared("out/dyn_ent", "prior's entropy", entropy(prior).mean(), golden["out/dyn_ent"], TIGHT),
        Compared("out/rep_ent", "posterior's", entropy(posterior).mean(), golden["out/rep_ent"], TIGHT),
    ]


def _reward_and_continue(golden: Golden, model: WorldModel) -> list[Compared]:
    features = golden["out/feat"]
    head, logits = model.reward_head, model.reward_head(features)
    loss = head.loss(logits, golden["in/reward"])
    logit = model.continue_head(features)
    # Recorded with no tick terminal: the target is 1 - 1/333 everywhere.
    target = torch.full_like(logit, 1.0 - 1.0 / 333.0)
    alone = head.mean(golden["out/rew_logits"])
    return [
        Compared("out/rew_logits", "reward head", logits, golden["out/rew_logits"], LOOSE),
        Compared("out/rew_pred", "two-hot mean", alone, golden["out/rew_pred"], LOOSE),
        Compared("out/rew_pred", "features", model.predict_reward(features), golden["out/rew_pred"], LOOSE),
        Compared("out/rew_loss", "two-hot loss", loss, golden["out/rew_loss"], LOOSE),
        Compared("out/bins", "bin by bin", head.bins, golden["out/bins"], LOOSE, "each"),
        Compared("out/con_logit", "continue head", logit, golden["out/con_logit"], LOOSE),
        Compared(
            "out/con_loss", "features", losses.continue_loss(logit, target), golden["out/con_loss"], LOOSE
        ),
    ]


def _decoder(golden: Golden, model: WorldModel) -> list[Compared]:
    features = golden["out/feat"]
    image, odom = model.decode(features)["image"], model.vector_decoders["odom"](features)
    image_loss = losses.image_loss(image, golden["in/image"])
    odom_loss = losses.vector_loss(odom, golden["in/odom"])
    return [
        Compared("out/rec_image", "decode", image, golden["out/rec_image"], LOOSE),
        Compared("out/rec_image_loss", "decode", image_loss, golden["out/rec_image_loss"], LOOSE),
        Compared("out/rec_odom", "decode, symlog", odom, golden["out/rec_odom"], LOOSE),
        Compared("out/rec_odom_loss", "decode", odom_loss, golden["out/rec_odom_loss"], LOOSE),
    ]


def _policy(golden: Golden) -> list[Compared]:
    mean, std = record.actor(golden)(golden["out/feat"])
    log_density = log_probability(mean, std, golden["in/action"])
    return [
        Compared("out/pol_mean", "actor", mean, golden["out/pol_mean"], LOOSE),
        Compared("out/pol_std", "actor", std, golden["out/pol_std"], LOOSE),
        Compared("out/pol_ent", "actor", normal_entropy(std), golden["out/pol_ent"], LOOSE),
        Compared("out/pol_logp", "actor", log_density, golden["out/pol_logp"], LOOSE),
    ]


def _lambda(golden: Golden) -> list[Compared]:
    live = (1.0 - golden["lam/term"].float()) * (1.0 - 1.0 / 333.0)
    ours = lambda_returns(golden["lam/rew"], live, golden["lam/val"], last=golden["lam/last"])
    return [Compared("lam/ret", "lambda_returns", ours, golden["lam/ret"], TIGHT)]


def _optimizer(golden: Golden) -> list[Compared]:
    parameters = [golden[f"opt/p0_{name}"].clone() for name in "wb"]
    optimizer = Optimizer(list(zip("wb", parameters, strict=True)))
    found = []
    for step in range(1, 5):
        optimizer.step([golden[f"opt/g{step - 1}_{name}"] for name in "wb"], record.RATE)
        for name, value in zip("wb", parameters, strict=True):
            key = f"opt/p{step}_{name}"
            found.append(Compared(key, "all steps in a row", value.clone(), golden[key], STEP, "rate"))
    return found


# Other sizes ------------------------------------------------------------------------------------------------

# Random parameters in the official layout, through `from_dreamerv3`, beside float64 numpy. Names are not in
# alphabetical order: the encoder sorts them, the image decoder does not.
CASES: dict[str, tuple[Network, Sizes]] = {
    "size1m, several vectors, two images": (
        Network(
            512, 64, 32, 4, 8, 4, 64,
            vectors={"wheels": (4, 0), "odom": (5, 0), "gear": (2, 3), "battery": (1, 0)},
            images={"front": (64, 64, 3), "depth": (64, 64, 1)},
            actions={"drive": 2, "arm": 4},
        ),
        Sizes(512, 64, 32, 4, 8, 4, 64, conv="exact"),
    ),
    "size12m, image": (
        Network(2048, 256, 32, 16, 8, 16, 256, images={"image": (64, 64, 3)}, actions={"action": 6}),
        Sizes(2048, 256, 32, 16, 8, 16, 256, conv="exact"),
    ),
    "image of 48 x 80, 4 blocks": (
        Network(48, 24, 3, 5, 4, 3, 20, images={"image": (48, 80, 3)}),
        Sizes(48, 24, 3, 5, 4, 3, 20, conv="exact"),
    ),
    "vectors only, 2 blocks": (
        Network(40, 12, 5, 3, 2, 2, 28, vectors={"b": (3, 0), "a": (2, 0)}, actions={"action": 1}),
        Sizes(40, 12, 5, 3, 2, 2, 28, conv="exact"),
    ),
    "three stages, kernel 3, other layer counts": (
        Network(
            32, 8, 2, 6, 8, 4, 16, {"odom": (5, 0)}, {"image": (32, 32, 3)}, multipliers=(2, 3, 4), kernel=3,
            layers=2, behavior_layers=1,
        ),
        Sizes(
            32, 8, 2, 6, 8, 4, 16, "exact", (2, 3, 4), kernel=3, encoder_layers=2, behavior_layers=1
        ),
    ),
}  # fmt: skip


def observations(net: Network) -> Observations:
    """The reference's spaces in the package's words."""
    vectors = tuple(Vector(name, length, k) for name, (length, k) in net.vectors.items())
    return Observations(vectors, tuple(net.images.items()))


def random_inputs(net: Network, rows: int, seed: int) -> dict[str, np.ndarray]:
    """A batch of raw observations, a latent state and an action beyond -1..1."""
    rng = np.random.default_rng(seed)
    given: dict[str, np.ndarray] = {}
    for name, (length, k) in net.vectors.items():
        shape = (rows, length)
        given[name] = rng.integers(k, size=shape) if k else rng.normal(0.0, 30.0, shape).astype(np.float32)
    for name, (height, width, channels) in net.images.items():
        given[name] = rng.integers(256, size=(rows, height, width, channels), dtype=np.uint8)
    given["deter"] = rng.standard_normal((rows, net.deter)).astype(np.float32)
    given["stoch"] = np.eye(net.classes, dtype=np.float32)[rng.integers(net.classes, size=(rows, net.stoch))]
    given["action"] = rng.normal(0.0, 1.5, (rows, sum(net.actions.values()))).astype(np.float32)
    return given


@torch.no_grad()
def other_size(case: str, rows: int = 3, exact: bool = False) -> list[Compared]:
    """Everything in a network of another size, ours in float32.

    exact: in float64 to 1e-11, where no constant can hide behind rounding. What `.float()` widens in the
    package (bytes, half precision) is then widened to float64.
    """
    net, sizes = CASES[case]
    params, given = random_parameters(net, seed=len(case)), random_inputs(net, rows, seed=7)
    modules = from_dreamerv3(params, sizes, observations(net)), critic_from_dreamerv3(params, sizes)
    agent = (*modules, actor_from_dreamerv3(params, sizes))
    if not exact:
        return _beside(case, net, agent, Reference(net, params), given)
    for module in agent:
        module.double()
    given = {name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in given.items()}
    with patch.object(Tensor, "float", Tensor.double):
        found = _beside(case, net, agent, Reference(net, params), given)
    return [replace(item, bound=EXACT) for item in found]


def _beside(
    case: str,
    net: Network,
    agent: tuple[WorldModel, Critic, Actor],
    theirs: Reference,
    given: dict[str, np.ndarray],
) -> list[Compared]:
    model, spec, rows = agent[0], observations(net), len(given["action"])
    wide = {name: given[name].astype(np.float64) for name in ("deter", "stoch", "action")}
    names = (*net.vectors, *net.images)
    raw = spec.merge({name: torch.from_numpy(given[name]) for name in names})
    here = {name: torch.ones(rows, dtype=torch.bool) for name in raw}
    tokens = {name: model.encode(name, value) for name, value in raw.items()}
    state = State(torch.from_numpy(given["deter"]), torch.from_numpy(given["stoch"]))
    with captured_logits(model.rssm) as logits:
        action = torch.from_numpy(given["action"])
        deter, prior = model.rssm.predict(*state, action, torch.zeros(rows, dtype=torch.bool))
        posterior = model.rssm.correct(deter, prior, tokens, here)
    their_tokens = theirs.encode({name: given[name] for name in names})
    their_deter = theirs.core(wide["deter"], wide["stoch"], wide["action"])
    their_prior, their_posterior = theirs.prior(their_deter), theirs.posterior(their_deter, their_tokens)
    after = LOOSE if net.images else TIGHT  # what convolutions went into
    found = [
        ("tokens", torch.cat([tokens[name] for name in model.signals.modalities], -1), their_tokens, after),
        ("deter", deter, their_deter, TIGHT),
        ("prior logits", logits["prior"][0], their_prior, TIGHT),
        ("prior", prior, mixed(their_prior), TIGHT),
        ("posterior logits", logits["posterior"][0], their_posterior, after),
        ("posterior", posterior, mixed(their_posterior), after),
    ]
    found += [(*row, LOOSE) for row in _heads(net, agent, theirs, state.features, wide)]
    return [
        Compared(name, case, ours, torch.from_numpy(np.ascontiguousarray(other)), bound)
        for name, ours, other, bound in found
    ]


def _heads(
    net: Network,
    agent: tuple[WorldModel, Critic, Actor],
    theirs: Reference,
    features: Tensor,
    wide: dict[str, np.ndarray],
) -> Iterator[tuple[str, Tensor, np.ndarray]]:
    model, critic, actor = agent
    spec = observations(net)
    known = np.concatenate([wide["deter"], wide["stoch"].reshape(len(features), -1)], -1)
    yield "reward logits", model.reward_head(features), theirs.logits("rew", known)
    yield "continue logit", model.continue_head(features)[:, None], theirs.logits("con", known)
    yield "value logits", critic.fast(features), theirs.logits("val", known)
    yield "slow value logits", critic.slow(features), theirs.logits("val", known)
    for part, ours, other in zip(("mean", "std"), actor(features), theirs.policy(known), strict=True):
        yield f"policy {part}", ours, other
    if net.images:
        decoded = spec.split(model.decode(features))
        images = theirs.decode_images(wide["deter"], wide["stoch"])
        for name, image in images.items():
            yield f"image {name}", decoded[name], image
    if net.vectors:
        said = model.vector_decoders[spec.vector_name](features)
        pieces = torch.split(said, list(net.columns.values()), -1)
        vectors = theirs.decode_vectors(wide["deter"], wide["stoch"])
        for name, piece in zip(net.columns, pieces, strict=True):
            yield f"vector {name}", piece, vectors[name]
