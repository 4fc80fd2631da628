"""Actor and critic on world-model features (torch)."""

from rssm_ros.behavior.actor import Actor
from rssm_ros.behavior.critic import Critic
from rssm_ros.behavior.losses import ImaginationLosses, imagination_losses, replay_value_loss
from rssm_ros.behavior.returns import ReturnRange, lambda_returns

__all__ = [
    "Actor",
    "Critic",
    "ImaginationLosses",
    "ReturnRange",
    "imagination_losses",
    "lambda_returns",
    "replay_value_loss",
]
