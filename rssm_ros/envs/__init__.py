"""Simulated robots as Gymnasium environments; importing this package registers them.

`rssm_ros/Manipulator-v0` is the sorting cell, `rssm_ros/Dot-v0` the moving dot.
"""

import gymnasium

gymnasium.register(id="rssm_ros/Manipulator-v0", entry_point="rssm_ros.envs.manipulator:ManipulatorEnv")
gymnasium.register(id="rssm_ros/Dot-v0", entry_point="rssm_ros.envs.dot:DotEnv")
