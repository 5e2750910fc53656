"""A single environment in the form of a vector of one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from velora.buffer import tree
from velora.gym.vector_step import as_array, as_numpy


class VectorOfOne:
    """Steps and resets as a vector environment with one environment does, without autoreset.

    Args:
        env: The environment.
    """

    num_envs = 1

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.action_space = env.action_space  # of a single action: that is what policies give
        self._env = env

    def reset(self, *, seed: int | None = None, **_: Any) -> tuple[Any, dict[str, Any]]:
        """Starts an episode. Options, which say where to reset, have nothing to add to that."""
        observation, _ = self._env.reset(seed=seed)
        return stacked(observation), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Takes a step with the one action of a batch `(1, ...)`."""
        result = self._env.step(only_row(actions))
        observation, reward, terminated, truncated, info = result
        rewards = as_numpy(reward).reshape(1)
        return (
            stacked(observation),
            rewards,
            np.array([terminated], np.bool_),
            np.array([truncated], np.bool_),
            info,
        )


def stacked(nest: Any) -> Any:
    """A batch of one, `(1, ...)`."""
    return tree.map_leaves(lambda leaf: as_array(leaf)[None], nest)


def only_row(nest: Any) -> Any:
    """What a batch of one holds."""
    return tree.map_leaves(lambda leaf: leaf[0], nest)
