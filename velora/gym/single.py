"""A single environment in the form of a vector of one."""

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
    """Steps and resets one environment as a vector of one that does not reset by itself.

    Args:
        env: The environment.
    """

    num_envs = 1
    mode = AutoresetMode.DISABLED

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.action_space = env.action_space  # of a single action: that is what policies give

    @property
    def step(self) -> Callable[[Any], Any]:
        """The environment's own `step`."""
        return self.env.step

    def begin(self, seed: int | None, _is_cut: bool) -> tuple[Any, NDArray[np.bool_]]:
        """Starts an episode. Gives its observation, `(1, ...)`, and that none has ended."""
        return self._reset(seed=seed), np.zeros(1, np.bool_)

    def restart(self, _over: NDArray[np.bool_], _following: Any) -> Any:
        """Starts the next episode. Gives its observation, `(1, ...)`."""
        return self._reset()

    def _reset(self, **options: Any) -> Any:
        observation = copied(check_reset(self.env.reset(**options)), "observation")
        return stacked(observation)

    def seen(self, observations: Any) -> Any:
        """What the policy gets."""
        return only_row(observations)

    def batched(self, answer: Any) -> Any:
        """What the policy gave, `(1, ...)`."""
        return stacked(answer)

    def given(self, actions: Any) -> Any:
        """What the environment gets of actions `(1, ...)`.

        Raises:
            ValueError: If the policy gave a batch of one.
        """
        action = only_row(actions)
        _check_dimensions(action, self.action_space, "action")
        return action

    def results(self, step: Any) -> tuple[Any, Any, Any, Any, Any]:
        """What `step` gave, as a vector environment would.

        Raises:
            TypeError: If the reward or a flag is no number.
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
    """A batch of one, `(1, ...)`."""
    return tree.map_leaves(lambda leaf: as_array(leaf)[None], nest)


def only_row(nest: Any) -> Any:
    """What a batch of one holds."""
    return tree.map_leaves(lambda leaf: leaf[0], nest)


def _check_dimensions(action: Any, space: Any, name: str) -> None:
    for part, child, path in beside_space(action, space, name):
        if child.shape and part.ndim > len(child.shape):
            # Many an environment would broadcast it and observe something of another shape.
            raise ValueError(
                f"{path}: expected shape {child.shape}, as the action space has, got "
                f"{tuple(part.shape)}; the policy of a single environment gives one action"
            )


def _one_number(name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, float | bool):  # as nearly always
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
