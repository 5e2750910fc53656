"""Schemas from an environment's spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from velora.buffer import tree
from velora.buffer.columns import columns_of
from velora.buffer.experience import BatchExperience
from velora.buffer.schema import Schema


def schema_of_spaces(
    observation_space: Any, action_space: Any, extras: Mapping[str, Any] | None = None
) -> Schema:
    """Returns the schema that the first transition of an environment would fix.

    Raises:
        TypeError: If a space is none, or does not contain arrays.
        ValueError: If a space has an unsupported dtype or no elements, or an extra field has the
            name of another field.
    """
    # Infer the schema from an example step, as the first `extend` would.
    states = _example("observation_space", observation_space)
    step = BatchExperience(
        states,
        _example("action_space", action_space),
        np.zeros(1, np.float32),
        states,
        np.zeros(1, np.bool_),
        extras=tree.map_leaves(_batch_of_one, dict(extras or {})),
    )
    return Schema.from_columns(columns_of(step))


def spaces_of_env(env: Any) -> tuple[int, Any, Any]:
    """Returns the number of environments, and the observation and action space of one.

    Raises:
        TypeError: If `env` is not a Gymnasium environment.
    """
    import gymnasium as gym  # not at the top: buffers do not need gymnasium

    if isinstance(env, gym.vector.VectorEnv):
        return int(env.num_envs), env.single_observation_space, env.single_action_space
    if isinstance(env, gym.Env):
        return 1, env.observation_space, env.action_space
    raise TypeError(f"env: expected a Gymnasium Env or VectorEnv, got {type(env).__name__}")


def _example(name: str, space: Any) -> Any:
    """Returns a batch of one element of a space, in the layout of a vector environment."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {key: _example(f"{name}[{key!r}]", child) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_example(f"{name}[{i}]", child) for i, child in enumerate(space.spaces))
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiBinary | spaces.MultiDiscrete):
        return np.zeros((1, *(space.shape or ())), space.dtype)
    raise TypeError(
        f"{name}: expected a Box, Discrete, MultiBinary, MultiDiscrete, or a Dict or Tuple of "
        f"these, got {space}"
    )


def _batch_of_one(example: Any) -> Any:
    return example[None] if hasattr(example, "ndim") else np.asarray(example)[None]
