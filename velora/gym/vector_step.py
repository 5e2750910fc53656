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
from velora.gym.nests import as_array, flags, replaced, stacked_rows


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
        batch = self.batch[rows]  # type: ignore[index]
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
    """Sorts out what one step of a vector environment of N environments was.

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
        The rows to store. They share memory with the arguments where that is possible. A final
        observation of another dtype than the others makes `next_states` one that holds both.

    Raises:
        TypeError: If rewards or flags are no numbers.
        ValueError: If there is no such mode; `step` has not five results, or rewards and flags not
            one for each environment; or the mode is SAME_STEP and the final observation of an
            episode is missing or has another form than the others.
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


def check_results(step: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The five results of `env.step`.

    Raises:
        ValueError: If it gave something else.
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
    """The observation among the two results of `env.reset`.

    Raises:
        ValueError: If it gave something else, such as the observation alone.
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
    """What followed the last steps of the episodes that have just ended, `(K, ...)`."""
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
    """Rows of `infos["final_obs"]`: Gymnasium has an array of objects, others arrays `(N, ...)`."""
    if isinstance(leaf, torch.Tensor) or (isinstance(leaf, np.ndarray) and leaf.dtype != object):
        return leaf[lanes]
    return stacked_rows([leaf[lane] for lane in lanes], "infos['final_obs']")
