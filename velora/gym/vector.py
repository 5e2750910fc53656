"""Adapter through which a collector steps and resets a vector environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import AlreadyPendingCallError
from gymnasium.vector import AsyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from numpy.typing import NDArray

from velora.buffer import tree
from velora.gym.acting import for_env
from velora.gym.nests import copied, flags, replaced
from velora.gym.processes import settle
from velora.gym.vector_step import autoreset_mode, check_reset, check_results

AnyVectorEnv = gym.vector.VectorEnv[Any, Any, Any]


class VectorAdapter:
    """Steps and resets a vector environment of N.

    Args:
        env: The vector environment.

    Raises:
        ValueError: If it does not declare its autoreset mode.
    """

    def __init__(self, env: AnyVectorEnv) -> None:
        self.env = env
        self.mode = autoreset_mode(env)
        self.num_envs = int(env.num_envs)
        self.action_space = env.action_space

    @property
    def step(self) -> Callable[[Any], Any]:
        """The environment's own `step`."""
        return self.env.step

    def begin(self, seed: int | None, is_cut: bool) -> tuple[Any, NDArray[np.bool_]]:
        """Starts an episode in every environment.

        Args:
            seed: Seed of the reset.
            is_cut: Whether the previous call of `step` or `reset` did not finish.

        Returns:
            Observations, `(N, ...)`, and a mask of environments that the next step will reset.

        Raises:
            RuntimeError: If worker processes do not answer after an unfinished call.
        """
        base: Any = self.env.unwrapped
        if is_cut and isinstance(base, AsyncVectorEnv) and not base.closed:
            settle(base)
        try:
            return self._begin(seed)
        except AlreadyPendingCallError:  # A call from outside the collector did not finish.
            settle(base)
            return self._begin(seed)

    def _begin(self, seed: int | None) -> tuple[Any, NDArray[np.bool_]]:
        ended = np.zeros(self.num_envs, np.bool_)
        if self.mode is gym.vector.AutoresetMode.NEXT_STEP and _resets_twice(self.env):
            # A step shows which environments will reset again: those whose episodes it ends.
            observations = check_reset(self.env.reset())
            actions = for_env(copied(self.action_space.sample(), "action"), observations)
            _, _, terminations, truncations, _ = check_results(self.env.step(actions))
            ended = flags(terminations) | flags(truncations)
        observations = check_reset(self.env.reset(seed=seed))
        return copied(observations, "observations"), ended

    def restart(self, over: NDArray[np.bool_], following: Any) -> Any:
        """Starts an episode in each environment whose episode is over.

        Args:
            over: Mask of these environments, `(N,)`.
            following: Observations of the last step, `(N, ...)`. Not modified.

        Returns:
            Observations for the next actions, `(N, ...)`.

        Raises:
            ValueError: If observations of a reset and of a step differ in form.
        """
        recorders = [x for x in wrappers_of(self.env) if isinstance(x, RecordEpisodeStatistics)]
        before = [{name: getattr(x, name) for name in _RECORDS} for x in recorders]
        observations = check_reset(self.env.reset(options={"reset_mask": over.copy()}))
        for recorder, records in zip(recorders, before, strict=True):
            # Gymnasium's environments remove the mask from the options before the wrapper sees it,
            # so the wrapper clears the episodes of all environments.
            for name, values in records.items():
                getattr(recorder, name)[~over] = values[~over]
        rows = tree.map_leaves(lambda leaf: leaf[over], observations)
        return replaced(following, over, rows, "observations of env.reset")

    def seen(self, observations: Any) -> Any:
        """Converts observations `(N, ...)` to the policy's input."""
        return observations

    def batched(self, answer: Any) -> Any:
        """Converts the policy's output to actions `(N, ...)`."""
        return answer

    def given(self, actions: Any) -> Any:
        """Converts actions `(N, ...)` to the input of `env.step`."""
        return actions

    def results(self, step: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Checks the results of `env.step`.

        Raises:
            ValueError: If there are not five results.
        """
        return check_results(step)


def wrappers_of(env: Any) -> Iterator[Any]:
    """Yields the wrappers around an environment, outermost first."""
    while isinstance(env, gym.Wrapper | gym.vector.VectorWrapper):
        yield env
        env = env.env


# Attributes of Gymnasium's wrapper for unfinished episodes, arrays `(N,)`.
_RECORDS = ("episode_start_times", "episode_returns", "episode_lengths", "prev_dones")


def _resets_twice(env: AnyVectorEnv) -> bool:
    """Whether an environment that ended before `env.reset` is reset again by the next step.

    This is the case for AsyncVectorEnv without shared memory, at least up to Gymnasium 1.4.
    """
    base = env.unwrapped
    return isinstance(base, AsyncVectorEnv) and not base.shared_memory
