"""Official DreamerV3 actors and critics (danijar/dreamerv3 at e3f0224) in this package's layout."""

from __future__ import annotations

from rssm_ros.behavior.actor import Actor
from rssm_ros.behavior.critic import Critic
from rssm_ros.world_model import Sizes, WorldModelError
from rssm_ros.world_model.port import Parameters, Reader

HEAD, MEAN = "pol/head/", "/mean/bias"


def actor_from_dreamerv3(params: Parameters, sizes: Sizes) -> Actor:
    """The official policy: several continuous actions come one after the other, sorted by name.

    WorldModelError for a discrete action (our actor is a Gaussian) and for every parameter that is missing,
    unknown or misshaped.
    """
    discrete = sorted(name for name in params if name.startswith(HEAD) and "/logits/" in name)
    if discrete:
        raise WorldModelError(f"port: {discrete[0]} is of a discrete action, the actor is a Gaussian")
    lengths = {
        name[len(HEAD) : -len(MEAN)]: len(params[name])
        for name in sorted(params)
        if name.startswith(HEAD) and name.endswith(MEAN)
    }
    if not lengths:
        raise WorldModelError(f"port: {HEAD}NAME{MEAN}: missing; are these an official agent's parameters?")
    read = Reader(params, ("pol",))
    actor = Actor(sizes, sum(lengths.values()))
    read.mlp(actor.mlp, "pol/mlp")
    for ours, theirs in ((actor.mean, "mean"), (actor.std, "stddev")):
        read.linears(ours, [(f"{HEAD}{name}/{theirs}", length) for name, length in sorted(lengths.items())])
    read.finish()
    return actor


def critic_from_dreamerv3(params: Parameters, sizes: Sizes) -> Critic:
    """The official value head and its slow copy (the same as the fast one where `slowval/*` is not given).

    WorldModelError for every parameter that is missing, unknown or misshaped.
    """
    slow = "slowval" if any(name.startswith("slowval/") for name in params) else "val"
    read = Reader(params, ("val", "slowval"))
    critic = Critic(sizes)
    read.two_hot(critic.fast, "val")
    read.two_hot(critic.slow, slow)
    read.finish()
    return critic
