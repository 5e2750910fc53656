"""What one step of an environment has to store, in whichever way ended episodes are reset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from velora.buffer import BatchExperience, tree


@dataclass(frozen=True, eq=False)
class Transitions:
    """Rows for `buffer.extend(rows.batch, lanes=rows.lanes)`.

    Attributes:
        batch: K steps, at most one of each environment.
        lanes: `(K,)`, int64, ascending: the environment that each row comes from.
        ended: `(K,)`, bool: which rows are the last of their episodes.
    """

    batch: BatchExperience
    lanes: NDArray[np.int64]
    ended: NDArray[np.bool_]

    def __len__(self) -> int:
        """How many rows there are: 0 where all environments spent the step on a reset."""
        return len(self.lanes)

    def only(self, wanted: NDArray[np.bool_]) -> Transitions:
        """The rows of the environments in the mask `wanted`, `(N,)`."""
        rows = wanted[self.lanes]
        if rows.all():
            return self
        batch = self.batch[rows]
        return Transitions(batch, self.lanes[rows], self.ended[rows])


def transitions(
    observations: Any,
    actions: Any,
    step: tuple[Any, Any, Any, Any, Any],
    *,
    mode: AutoresetMode,
    ended: NDArray[np.bool_] | None,
    extras: Mapping[str, Any] | None = None,
) -> Transitions:
    """Sorts out what a step of a vector environment of N environments was.

    Every row is a step that an environment really took, with the state that really followed, in
    all three autoreset modes:

    - NEXT_STEP: the step after the end of an episode only resets, and gives no row.
    - SAME_STEP: what follows the last step is in `infos["final_obs"]`; the observation that `step`
      gave belongs to the next episode.
    - DISABLED: `step` gave what follows. Resetting is up to the caller.

    A loop of one's own, with an environment that is not DISABLED:

        mode = autoreset_mode(env)
        observations, _ = env.reset()
        ended = None
        while True:
            actions = policy(observations)
            step = env.step(actions)
            rows = transitions(observations, actions, step, mode=mode, ended=ended)
            if len(rows) > 0:
                buffer.extend(rows.batch, lanes=rows.lanes)
            observations, ended = step[0], step[2] | step[3]

    Args:
        observations: What the actions were chosen for, arrays `(N, ...)` or a nest of them. An
            environment made with `copy=False` writes the next ones over them: then copy first.
        actions: What was done, `(N, ...)` or a nest.
        step: The five results of `env.step(actions)`.
        mode: How the environment resets; `autoreset_mode(env)` says it. Its value is as good.
        ended: `(N,)`: where the step before this one ended an episode; None where none did, as
            after a reset.
        extras: More fields to store, by name, `(N, ...)` or nests.

    Returns:
        The rows to store. They share memory with the arguments where that is possible.

    Raises:
        ValueError: If there is no such mode, or it is SAME_STEP and the final observation of an
            episode is missing.
    """
    mode = AutoresetMode(mode)
    next_states, rewards, terminations, truncations, infos = step
    over = flags(terminations) | flags(truncations)
    if mode is AutoresetMode.SAME_STEP and over.any():
        next_states = copied(next_states)
        for lane in np.flatnonzero(over):
            assign(next_states, int(lane), _final_observation(infos, int(lane)))
    states, actions, next_states = tree.map_leaves(as_array, (observations, actions, next_states))
    batch = BatchExperience(states, actions, rewards, next_states, terminations, truncations)
    if extras:
        batch.extras = tree.map_leaves(as_array, dict(extras))
    rows = Transitions(batch, np.arange(len(over)), over)
    if ended is None or mode is not AutoresetMode.NEXT_STEP:
        return rows
    return rows.only(~flags(ended))


def autoreset_mode(env: gym.vector.VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """How a vector environment resets environments whose episodes have ended.

    Raises:
        ValueError: If it does not say so. To guess wrong would store steps that nobody took.
    """
    declared = env.metadata.get("autoreset_mode")
    if env.metadata is env.unwrapped.metadata:
        # Gymnasium before 1.4 keeps the mode in a dict that all environments of one class share:
        # it is that of the one made last. The attribute is this one's own.
        declared = getattr(env.unwrapped, "autoreset_mode", declared)
    try:
        return AutoresetMode(declared)
    except ValueError:
        raise ValueError(
            "env: expected an AutoresetMode in env.metadata['autoreset_mode'], got "
            f"{declared!r} from {type(env.unwrapped).__name__}; set it to what the environment does"
        ) from None


def _final_observation(infos: Any, lane: int) -> Any:
    """What followed the last step of the episode that has just ended in `lane`."""
    final = infos.get("final_obs") if isinstance(infos, Mapping) else None
    present = True if final is None else infos.get("_final_obs", True)
    if final is None or not (present if isinstance(present, bool) else present[lane]):
        raise ValueError(
            f"infos['final_obs']: expected the last observation of environment {lane}, whose "
            "episode has ended, got none"
        )
    # Gymnasium has an array of objects; others have arrays (N, ...), or a nest of them.
    return tree.map_leaves(lambda leaf: leaf[lane], final)


def assign(nest: Any, index: Any, values: Any) -> None:
    """Does `leaf[index] = value` in a nest of arrays, from a nest of the same form."""
    if isinstance(nest, dict):
        for key, child in nest.items():
            assign(child, index, values[key])
    elif isinstance(nest, tuple):
        for child, value in zip(nest, values, strict=True):
            assign(child, index, value)
    elif isinstance(nest, torch.Tensor):
        nest[index] = torch.as_tensor(values, device=nest.device)
    else:
        nest[index] = values


def copied(nest: Any) -> Any:
    """The same nest of arrays, in memory of its own."""
    return tree.map_leaves(_copied_array, nest)


def _copied_array(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) else np.array(leaf)


def as_array(leaf: Any) -> Any:
    """A tensor as it is, anything else as a numpy array."""
    return leaf if isinstance(leaf, torch.Tensor) else np.asarray(leaf)


def flags(values: Any) -> NDArray[np.bool_]:
    """Flags from any device as a mask `(K,)`."""
    return as_numpy(values).astype(np.bool_, copy=False).reshape(-1)


def as_numpy(leaf: Any) -> NDArray[Any]:
    """A tensor or array as a numpy array."""
    return leaf.detach().cpu().numpy() if isinstance(leaf, torch.Tensor) else np.asarray(leaf)
