"""A vector environment as a collector steps and resets it."""

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
        ValueError: If it does not say how it resets.
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
        """Starts an episode everywhere.

        Args:
            seed: For the reset.
            is_cut: Whether the call before this one, to `step` or a reset, was not finished.

        Returns:
            Observations, `(N, ...)`, and where an episode had ended that the next step resets.

        Raises:
            RuntimeError: If the call before this one left processes that do not answer.
        """
        base: Any = self.env.unwrapped
        if is_cut and isinstance(base, AsyncVectorEnv) and not base.closed:
            settle(base)
        try:
            return self._begin(seed)
        except AlreadyPendingCallError:  # A call of somebody else's was not finished.
            settle(base)
            return self._begin(seed)

    def _begin(self, seed: int | None) -> tuple[Any, NDArray[np.bool_]]:
        ended = np.zeros(self.num_envs, np.bool_)
        if self.mode is gym.vector.AutoresetMode.NEXT_STEP and _resets_twice(self.env):
            # A step tells which environments will: after it, those that have just ended.
            observations = check_reset(self.env.reset())
            actions = for_env(copied(self.action_space.sample(), "action"), observations)
            _, _, terminations, truncations, _ = check_results(self.env.step(actions))
            ended = flags(terminations) | flags(truncations)
        observations = check_reset(self.env.reset(seed=seed))
        return copied(observations, "observations"), ended

    def restart(self, over: NDArray[np.bool_], following: Any) -> Any:
        """Starts an episode where one is over.

        Args:
            over: `(N,)`, where that is.
            following: What the last steps observed, `(N, ...)`. It stays as it is.

        Returns:
            Observations to go on from.

        Raises:
            ValueError: If a reset observes something of another form than a step does.
        """
        recorders = [x for x in wrappers_of(self.env) if isinstance(x, RecordEpisodeStatistics)]
        before = [{name: getattr(x, name) for name in _RECORDS} for x in recorders]
        observations = check_reset(self.env.reset(options={"reset_mask": over.copy()}))
        for recorder, records in zip(recorders, before, strict=True):
            # Gymnasium's environments remove the mask from the options before the wrapper sees it,
            # which then forgets the episodes of all.
            for name, values in records.items():
                getattr(recorder, name)[~over] = values[~over]
        rows = tree.map_leaves(lambda leaf: leaf[over], observations)
        return replaced(following, over, rows, "observations of env.reset")

    def seen(self, observations: Any) -> Any:
        """What the policy gets."""
        return observations

    def batched(self, answer: Any) -> Any:
        """What the policy gave, `(N, ...)`."""
        return answer

    def given(self, actions: Any) -> Any:
        """What the environment gets of actions `(N, ...)`."""
        return actions

    def results(self, step: Any) -> tuple[Any, Any, Any, Any, Any]:
        """What `step` gave.

        Raises:
            ValueError: If there are not five results.
        """
        return check_results(step)


def wrappers_of(env: Any) -> Iterator[Any]:
    """The wrappers around an environment, the outermost first."""
    while isinstance(env, gym.Wrapper | gym.vector.VectorWrapper):
        yield env
        env = env.env


# What Gymnasium's wrapper keeps of the episodes under way, arrays `(N,)`.
_RECORDS = ("episode_start_times", "episode_returns", "episode_lengths", "prev_dones")


def _resets_twice(env: AnyVectorEnv) -> bool:
    """Whether `env.reset` leaves alone that an episode had ended.

    The first step after it is then one more reset. So it is with Gymnasium, at least up to 1.4, of
    processes that share no memory.
    """
    base = env.unwrapped
    return isinstance(base, AsyncVectorEnv) and not base.shared_memory
