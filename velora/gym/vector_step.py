"""Conversion of one vector environment step to rows, for every autoreset mode."""

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
from velora.gym.nests import as_array, flags, replaced, stacked_rows


@dataclass(frozen=True, eq=False)
class Transitions:
    """Rows for `buffer.extend(rows.batch, lanes=rows.lanes)`.

    Attributes:
        batch: K steps, at most one per environment.
        lanes: `(K,)`, int64, ascending: the environment of each row.
        ended: `(K,)`, bool: True for the last row of an episode.
    """

    batch: BatchExperience
    lanes: NDArray[np.int64]
    ended: NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of rows, K; 0 if all environments used the step for a reset."""
        return len(self.lanes)

    def only(self, wanted: NDArray[np.bool_]) -> Transitions:
        """Selects the rows of the environments in the mask `wanted`, `(N,)`."""
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
    """Converts one step of a vector environment of N environments to rows.

    In all three autoreset modes, each row is a step that an environment really took, with its true
    next state:

    - NEXT_STEP: the step after the end of an episode only resets and has no row.
    - SAME_STEP: the final observation is in `infos["final_obs"]`; the observation that `step`
      returns belongs to the next episode.
    - DISABLED: `step` returns the true next state. The caller resets.

    A custom loop, for any mode but DISABLED:

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
        observations: Observations before the step, arrays `(N, ...)` or a nest of them. Copy them
            first if the environment was made with `copy=False`, which overwrites them.
        actions: Actions, `(N, ...)` or a nest.
        step: The five results of `env.step(actions)`.
        mode: The autoreset mode, from `autoreset_mode(env)`, or its value.
        ended: `(N,)`: environments whose episode ended in the previous step; None if there are
            none, as after a reset.
        extras: Additional fields to store, by name, `(N, ...)` or nests.

    Returns:
        The rows to store. They share memory with the arguments where possible. If final
        observations have another dtype than the others, `next_states` is promoted.

    Raises:
        TypeError: If rewards or flags are not numbers.
        ValueError: If the mode is unknown, `step` does not have five results, there is not one
            reward and one flag per environment, or, in mode SAME_STEP, a final observation is
            missing or differs in form from the others.
    """
    mode = AutoresetMode(mode)
    next_states, rewards, terminations, truncations, infos = check_results(step)
    terminated, truncated = flags(terminations), flags(truncations)
    _check_column("terminations", terminations, len(terminated))
    _check_column("truncations", truncations, len(terminated))
    _check_column("rewards", rewards, len(terminated))
    over = terminated | truncated
    if mode is AutoresetMode.SAME_STEP and over.any():
        lanes = np.flatnonzero(over)
        final = _final_observations(infos, lanes)
        next_states = tree.map_leaves(as_array, next_states)
        next_states = replaced(next_states, lanes, final, "infos['final_obs']")
    states, actions, next_states = tree.map_leaves(as_array, (observations, actions, next_states))
    batch = BatchExperience(states, actions, rewards, next_states, terminations, truncations)
    if extras:
        batch.extras = tree.map_leaves(as_array, dict(extras))
    rows = Transitions(batch, np.arange(len(over)), over)
    if ended is None or mode is not AutoresetMode.NEXT_STEP:
        return rows
    return rows.only(~flags(ended))


def autoreset_mode(env: gym.vector.VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Returns the autoreset mode of a vector environment.

    Raises:
        ValueError: If it does not declare one. A wrong guess would store steps that never happened.
    """
    declared = env.metadata.get("autoreset_mode")
    if env.metadata is env.unwrapped.metadata:
        # Before 1.4, Gymnasium keeps the mode in a dict shared by all environments of a class,
        # where it is that of the newest environment. The attribute belongs to this one.
        declared = getattr(env.unwrapped, "autoreset_mode", declared)
    try:
        return AutoresetMode(declared)
    except ValueError:
        raise ValueError(
            "env: expected an AutoresetMode in env.metadata['autoreset_mode'], got "
            f"{declared!r} from {type(env.unwrapped).__name__}; set it to what the environment does"
        ) from None


def check_results(step: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Checks that `env.step` returned five results.

    Raises:
        ValueError: If it did not.
    """
    if isinstance(step, tuple | list) and len(step) == 5:
        return step  # type: ignore[return-value]
    hint = ""
    if isinstance(step, tuple | list) and len(step) == 4:
        hint = (
            "; four are those of the old Gym interface, whose `done` does not tell an end from a "
            "time limit: give terminated and truncated, or wrap the environment (shimmy does it)"
        )
    raise ValueError(
        "env.step: expected 5 results (observation, reward, terminated, truncated, info), got "
        f"{_number_of(step)}{hint}"
    )


def check_reset(result: Any) -> Any:
    """Returns the observation from the two results of `env.reset`.

    Raises:
        ValueError: If it returned something else, such as only the observation.
    """
    if isinstance(result, tuple | list) and len(result) == 2:
        return result[0]
    raise ValueError(f"env.reset: expected 2 results (observation, info), got {_number_of(result)}")


def _number_of(results: Any) -> str:
    return str(len(results)) if isinstance(results, tuple | list) else type(results).__name__


def _check_column(name: str, values: Any, count: int) -> None:
    array = as_array(values)
    if not isinstance(array, torch.Tensor) and array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected numbers, got {array.dtype} of shape {array.shape}")
    if array.shape != (count,) and array.shape != (count, 1):
        raise ValueError(
            f"{name}: expected one for each of {count} environments, got shape {tuple(array.shape)}"
        )


def _final_observations(infos: Any, lanes: NDArray[np.int64]) -> Any:
    """Returns the final observations of the episodes that have just ended, `(K, ...)`."""
    final = infos.get("final_obs") if isinstance(infos, Mapping) else None
    present = True if final is None else infos.get("_final_obs", True)
    for lane in lanes:
        if final is None or not (present if isinstance(present, bool) else present[lane]):
            raise ValueError(
                f"infos['final_obs']: expected the last observation of environment {lane}, whose "
                "episode has ended, got none"
            )
    return tree.map_leaves(lambda leaf: final_rows(leaf, lanes), final)


def final_rows(leaf: Any, lanes: NDArray[np.int64]) -> Any:
    """Selects rows of `infos["final_obs"]`, an object array in Gymnasium, else `(N, ...)`."""
    if isinstance(leaf, torch.Tensor) or (isinstance(leaf, np.ndarray) and leaf.dtype != object):
        return leaf[lanes]
    return stacked_rows([leaf[lane] for lane in lanes], "infos['final_obs']")
