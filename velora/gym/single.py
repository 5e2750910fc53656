"""Adapter from a single environment to a vector environment of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from velora.buffer import tree
from velora.gym.acting import beside_space
from velora.gym.nests import as_array, as_numpy, copied
from velora.gym.vector_step import check_reset, check_results


class SingleAdapter:
    """Presents one environment as a vector environment of one with autoreset DISABLED.

    Args:
        env: The environment.
    """

    num_envs = 1
    mode = AutoresetMode.DISABLED

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.action_space = env.action_space  # of a single action, which policies return

    @property
    def step(self) -> Callable[[Any], Any]:
        """The environment's own `step`."""
        return self.env.step

    def begin(self, seed: int | None, _is_cut: bool) -> tuple[Any, NDArray[np.bool_]]:
        """Starts an episode. Returns its observation, `(1, ...)`, and a mask of False."""
        return self._reset(seed=seed), np.zeros(1, np.bool_)

    def restart(self, _over: NDArray[np.bool_], _following: Any) -> Any:
        """Starts the next episode. Returns its observation, `(1, ...)`."""
        return self._reset()

    def _reset(self, **options: Any) -> Any:
        observation = copied(check_reset(self.env.reset(**options)), "observation")
        return stacked(observation)

    def seen(self, observations: Any) -> Any:
        """Converts observations `(1, ...)` to the policy's input."""
        return only_row(observations)

    def batched(self, answer: Any) -> Any:
        """Converts the policy's output to actions `(1, ...)`."""
        return stacked(answer)

    def given(self, actions: Any) -> Any:
        """Converts actions `(1, ...)` to the input of `env.step`.

        Raises:
            ValueError: If the policy returned a batch of one.
        """
        action = only_row(actions)
        _check_dimensions(action, self.action_space, "action")
        return action

    def results(self, step: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Converts the results of `env.step` to those of a vector environment.

        Raises:
            TypeError: If the reward or a flag is not numeric.
            ValueError: If there are not five results, or the reward or a flag is not one number.
        """
        observation, reward, terminated, truncated, info = check_results(step)
        return (
            stacked(observation),
            _one_number("reward", reward),
            _one_number("terminated", terminated).astype(np.bool_),
            _one_number("truncated", truncated).astype(np.bool_),
            info,
        )


def stacked(nest: Any) -> Any:
    """Adds a batch dimension, `(1, ...)`."""
    return tree.map_leaves(lambda leaf: as_array(leaf)[None], nest)


def only_row(nest: Any) -> Any:
    """Removes the batch dimension of a batch of one."""
    return tree.map_leaves(lambda leaf: leaf[0], nest)


def _check_dimensions(action: Any, space: Any, name: str) -> None:
    for part, child, path in beside_space(action, space, name):
        if child.shape and part.ndim > len(child.shape):
            # Many environments would broadcast it and return observations of another shape.
            raise ValueError(
                f"{path}: expected shape {child.shape}, as the action space has, got "
                f"{tuple(part.shape)}; the policy of a single environment gives one action"
            )


def _one_number(name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, float | bool):  # fast path
        return np.array([value])
    try:
        array = as_numpy(value)
    except ValueError:  # a list of lists of different lengths, say
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected one number, got {type(value).__name__}")
    if array.size != 1:
        raise ValueError(
            f"{name}: expected one number, got shape {array.shape}; several environments in one "
            "are a gymnasium.vector.VectorEnv"
        )
    return array.reshape(1)
