"""What a policy is called with, what it may give, and what an environment takes of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import torch

from velora.buffer import tree
from velora.gym.vector_step import as_numpy, copied

Policy: TypeAlias = Callable[[Any], Any] | Literal["random"] | None


def act(policy: Policy, observation: Any, space: gym.Space[Any]) -> tuple[Any, dict[str, Any]]:
    """Asks a policy what to do.

    Args:
        policy: A callable that gives an action of `space`, or `(action, extras)` with a dict of
            more fields to store; None or "random" draws from `space`.
        observation: What the environment gave.
        space: The environment's action space.

    Returns:
        The action and the extras, in memory of their own.

    Raises:
        TypeError: If `policy` is something else.
    """
    if policy is None or (isinstance(policy, str) and policy == "random"):
        return copied(space.sample()), {}
    if not callable(policy):
        raise TypeError(
            f"policy: expected a callable, None or 'random', got {type(policy).__name__}"
        )
    with torch.no_grad():
        answer = policy(observation)
    extras: dict[str, Any] = {}
    if _has_extras(answer, space):
        answer, extras = answer
    return copied(answer), copied(extras)


def for_env(actions: Any, observations: Any) -> Any:
    """Actions as the environment's own observations are: tensors on their device, or numpy."""
    example = next((x for x in tree.leaves(observations) if isinstance(x, torch.Tensor)), None)
    if example is None:
        return tree.map_leaves(as_numpy, actions)
    return tree.map_leaves(
        lambda leaf: (
            torch.as_tensor(leaf, device=example.device) if isinstance(leaf, np.ndarray) else leaf
        ),
        actions,
    )


def _has_extras(answer: Any, space: gym.Space[Any]) -> bool:
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
        return False
    # An action may be a pair of which the second is a dict. With extras its place is the first.
    return not isinstance(space, gym.spaces.Tuple) or isinstance(answer[0], tuple)
