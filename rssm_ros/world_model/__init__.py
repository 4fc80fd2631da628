"""Recurrent State-Space Model: encoder, RSSM, decoder, heads and losses (torch)."""

from rssm_ros.world_model.categorical import sample_categorical
from rssm_ros.world_model.errors import WorldModelError
from rssm_ros.world_model.model import Beliefs, WorldModel
from rssm_ros.world_model.rssm import RSSM, State
from rssm_ros.world_model.sizes import PRESETS, Signals, Sizes, preset

__all__ = [
    "PRESETS",
    "RSSM",
    "Beliefs",
    "Signals",
    "Sizes",
    "State",
    "WorldModel",
    "WorldModelError",
    "preset",
    "sample_categorical",
]
