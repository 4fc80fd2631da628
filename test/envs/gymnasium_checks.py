"""What every environment of the package has to pass."""

import warnings
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env


def assert_gymnasium_accepts(made: gymnasium.Env[Any, Any]) -> None:
    """Gymnasium's own checker, whose warnings count: most of what it finds (a reset that ignores its seed, an
    infinite space) it only warns of. And what the environment gives lies in its spaces."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made.unwrapped, skip_render_check=True)
    observation, _ = made.reset(seed=0)
    outcome = made.step(made.action_space.sample())
    assert observation in made.observation_space and outcome[0] in made.observation_space
