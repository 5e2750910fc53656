"""Calling a policy, and converting its actions for an environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import torch

from velora.buffer import tree
from velora.gym.nests import as_numpy, copied

Policy: TypeAlias = Callable[[Any], Any] | Literal["random"] | None


def act(policy: Policy, observation: Any, space: gym.Space[Any]) -> tuple[Any, dict[str, Any]]:
    """Calls a policy without gradients.

    Args:
        policy: A callable that returns an action of `space`, or `(action, extras)` with a dict of
            additional fields to store; None or "random" samples `space`.
        observation: The environment's observation.
        space: The environment's action space.

    Returns:
        Copies of the action and the extras.

    Raises:
        TypeError: If `policy` is something else, or returns a list for a Tuple or Dict space.
        ValueError: If a part of the action or of the extras is not an array.
    """
    if policy is None or (isinstance(policy, str) and policy == "random"):
        return copied(space.sample(), "action"), {}
    if not callable(policy):
        raise TypeError(
            f"policy: expected a callable, None or 'random', got {type(policy).__name__}"
        )
    has_gradients = torch.is_grad_enabled()
    try:
        with torch.no_grad():
            answer = policy(observation)
    except BaseException:
        torch.set_grad_enabled(has_gradients)  # Interrupting no_grad itself leaves them off.
        raise
    extras: dict[str, Any] = {}
    if _has_extras(answer, space):
        answer, extras = answer
    _check_form(answer, space, "action")
    return copied(answer, "action"), copied(extras, "extras")


def for_env(actions: Any, observations: Any) -> Any:
    """Converts actions to the type of the observations: tensors on their device, or numpy."""
    tensors = [x for x in tree.leaves(observations) if isinstance(x, torch.Tensor)]
    if not tensors:
        return tree.map_leaves(as_numpy, actions)
    return tree.map_leaves(
        lambda leaf: (
            torch.as_tensor(leaf, device=tensors[0].device)
            if isinstance(leaf, np.ndarray)
            else leaf
        ),
        actions,
    )


def _has_extras(answer: Any, space: gym.Space[Any]) -> bool:
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
        return False
    # A Tuple action may itself be a pair ending in a dict; with extras, it is the first entry.
    return not isinstance(space, gym.spaces.Tuple) or isinstance(answer[0], tuple)


def _check_form(action: Any, space: Any, name: str) -> None:
    """Raises TypeError for a list, which is one array, if the space has several."""
    for part, child, path in beside_space(action, space, name):
        if isinstance(part, list) and isinstance(child, gym.spaces.Dict | gym.spaces.Tuple):
            kind = "a dict" if isinstance(child, gym.spaces.Dict) else "a tuple"
            raise TypeError(f"{path}: expected {kind}, as the action space says, got list")


def beside_space(action: Any, space: Any, name: str) -> list[tuple[Any, Any, str]]:
    """Returns each part of an action with its space and its path, as far as their nests agree.

    A list rather than a generator: an interrupted generator resumes when it is collected.
    """
    if isinstance(action, dict) and isinstance(space, gym.spaces.Dict):
        pairs = [
            (action[key], space.spaces[key], f"{name}[{key!r}]")
            for key in action.keys() & space.spaces.keys()
        ]
    elif isinstance(action, tuple) and isinstance(space, gym.spaces.Tuple):
        pairs = [
            (part, child, f"{name}[{i}]")
            for i, (part, child) in enumerate(zip(action, space.spaces, strict=False))
        ]
    else:
        return [(action, space, name)]
    return [found for pair in pairs for found in beside_space(*pair)]
