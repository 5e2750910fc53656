"""From an environment and a policy into a buffer."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from velora.buffer import ReplayBuffer, RolloutBuffer, tree
from velora.buffer.checks import check_count
from velora.gym.acting import Policy, act, for_env
from velora.gym.progress import progress_bar
from velora.gym.single import VectorOfOne, only_row, stacked
from velora.gym.statistics import CollectStatistics, Scores
from velora.gym.vector_step import (
    Transitions,
    assign,
    autoreset_mode,
    copied,
    flags,
    transitions,
)

AnyEnv = gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]


class Collector:
    """Steps an environment with a policy and stores every transition in a buffer.

    Takes single environments and vector environments with any autoreset mode. What is stored are
    the steps that the environments took, each with the state that followed: no reset is stored as
    a step, and no last observation is lost to one.

    A collector carries its episodes on from call to call. So it should be all that writes to its
    buffer: rows from elsewhere would come between the steps of an episode. To change the policy
    set `collector.policy`; before another collector takes over, end with `truncate=True`.

    Args:
        env: An environment, or a vector environment of N. It is reset at the first `collect`.
        policy: Is called with the environment's observations, `(N, ...)`, for a single
            environment `(...)`, without gradients, and gives the actions alike; or
            `(actions, extras)` with a dict of more fields to store, `{"log_prob": ...}`. Tensors
            are turned into numpy arrays for environments whose observations are such. None or
            "random" draws from the action space.
        buffer: Where the transitions go; its `num_envs` is the environment's.
        seed: For the first reset, and for the action space where it is drawn from.

    Raises:
        TypeError: If `env` is not a Gymnasium environment or `buffer` not a buffer.
        ValueError: If `buffer.num_envs` is not the environment's, or a vector environment does
            not say how it resets.
    """

    def __init__(
        self,
        env: AnyEnv,
        policy: Policy,
        buffer: ReplayBuffer | RolloutBuffer,
        *,
        seed: int | None = None,
    ) -> None:
        self.policy = policy
        self._is_single = isinstance(env, gym.Env)
        self._env: Any
        if isinstance(env, gym.Env):
            self._env, self._mode = VectorOfOne(env), AutoresetMode.DISABLED
        elif isinstance(env, gym.vector.VectorEnv):
            self._env, self._mode = env, autoreset_mode(env)
        else:
            raise TypeError(f"env: expected a Gymnasium Env or VectorEnv, got {type(env).__name__}")
        _check_lanes(buffer, self._env.num_envs)
        self._buffer = buffer
        self._is_even = isinstance(buffer, RolloutBuffer)
        self._seed = seed
        if seed is not None:
            self._env.action_space.seed(seed)
        self._observations: Any = None  # None: to be reset
        self._unstored: Transitions | None = None
        self._ended = np.zeros(self.num_envs, np.bool_)
        self._is_first = np.ones(self.num_envs, np.bool_)
        self._scores = Scores(self.num_envs)

    @property
    def num_envs(self) -> int:
        """How many environments there are, N."""
        return int(self._env.num_envs)

    @property
    def is_first(self) -> NDArray[np.bool_]:
        """Where the observation that the policy sees begins an episode, `(N,)`.

        For policies with a memory, which has to be emptied there.
        """
        return np.array(self._is_first)

    def collect(self, steps: int | float, *, truncate: bool = False) -> CollectStatistics:
        """Goes on by some steps of the environment.

        Should a `RolloutBuffer` be full, then the rows that found no room are stored first at the
        next call. Rows that a buffer refuses for what they are, are lost, and new episodes begin.

        Args:
            steps: How many steps each of the N environments takes: calls of `env.step`. (Other
                libraries count the steps of all environments together, N times as many.) In the
                mode NEXT_STEP each reset takes up a call: a `ReplayBuffer` gets a row less for it.
                A `RolloutBuffer`, whose `compute_returns` wants as many of each environment, gets
                `steps` of each. Those that wait for others then have their last row truncated,
                and what they do while they wait is not stored.
            truncate: Cut all episodes off at the end, with `truncated` in the buffer. The next
                call then begins new ones.

        Returns:
            What came of this call, and of calls before it that raised.

        Raises:
            TypeError: If `steps` is not a whole number.
            ValueError: If `steps` is less than 1, or the buffer refuses a row: what the policy
                gives has another shape than before, say.
            BufferError: If a `RolloutBuffer` is full.
        """
        steps = check_count("steps", steps, least=1)
        if self._unstored is not None:
            self._store(self._unstored)
        left = np.full(self.num_envs, steps)
        while left.any():
            rows = self._advance()
            self._scores.add(rows)
            if self._is_even:
                rows = rows.only(left > 0)
                left[rows.lanes] -= 1
            else:
                left -= 1
            self._store(rows)
            if not left.all():  # Those that have their steps wait: their episodes go on unseen.
                waiting = np.flatnonzero(left == 0)
                if truncate or len(waiting) < self.num_envs:
                    self._buffer.end_episodes(waiting)
        if truncate:
            self._observations = None
        return self._scores.take()

    def _advance(self) -> Transitions:
        """Takes one step and gives what there is to store, in memory of its own."""
        if self._observations is None:
            self._reset()
        if self._mode is AutoresetMode.DISABLED and self._ended.any():
            following, self._observations = self._observations, None
            self._observations = self._reset_where(self._ended, following)
            self._ended = np.zeros(self.num_envs, np.bool_)
        observations = self._observations
        seen = copied(observations)  # the policy may work in place, and these will be stored
        seen = only_row(seen) if self._is_single else seen
        actions, extras = act(self.policy, seen, self._env.action_space)
        if self._is_single:
            actions, extras = stacked(actions), {name: stacked(x) for name, x in extras.items()}
        # A step that fails half way leaves environments somewhere else: they begin anew then.
        self._observations = None
        *results, infos = self._env.step(for_env(actions, observations))
        self._scores.count_step()
        following, *others = copied(tuple(results))
        rows = transitions(
            observations,
            actions,
            (following, *others, infos),
            mode=self._mode,
            ended=self._ended,
            extras=extras,
        )
        over = np.zeros(self.num_envs, np.bool_)
        over[rows.lanes] = rows.ended
        self._is_first = self._ended if self._mode is AutoresetMode.NEXT_STEP else over
        self._ended = over
        self._observations = following
        return rows

    def _store(self, rows: Transitions) -> None:
        """Puts rows into the buffer. What finds no room there waits for the next call."""
        self._unstored = rows
        if len(rows) > 0:
            lanes = None if len(rows) == self.num_envs else rows.lanes
            try:
                self._buffer.extend(rows.batch, lanes=lanes)
            except BufferError:
                raise
            except Exception:
                # They will never fit. What follows is not what followed them: begin anew.
                self._unstored = self._observations = None
                raise
        self._unstored = None
        self._scores.count_stored(len(rows))

    def _reset(self) -> None:
        self._buffer.end_episodes()  # Nothing goes on with what was stored before.
        self._ended = np.zeros(self.num_envs, np.bool_)
        if self._mode is AutoresetMode.NEXT_STEP and _resets_twice(self._env):
            # A step tells which environments will: after it, those that have just ended.
            observations, _ = self._env.reset()
            actions = for_env(copied(self._env.action_space.sample()), observations)
            _, _, terminations, truncations, _ = self._env.step(actions)
            self._ended = flags(terminations) | flags(truncations)
        observations, _ = self._env.reset(seed=self._seed)
        self._seed = None  # Once: the same seed again would repeat the same episodes.
        self._observations = copied(observations)
        self._is_first = np.ones(self.num_envs, np.bool_)
        self._scores.start_over()

    def _reset_where(self, over: NDArray[np.bool_], following: Any) -> Any:
        """The observations to go on from, where some environments have to be reset first."""
        observations, _ = self._env.reset(options={"reset_mask": over.copy()})
        following = copied(following)  # The rows to be stored keep what followed the last steps.
        assign(following, over, tree.map_leaves(lambda leaf: leaf[over], observations))
        return following


def collect(
    env: AnyEnv,
    policy: Policy,
    buffer: ReplayBuffer | RolloutBuffer,
    steps: int | float,
    *,
    seed: int | None = None,
    progress: bool = False,
) -> CollectStatistics:
    """Resets an environment and stores some steps of a policy in a buffer.

    The buffer gets just `steps` transitions of each environment, whatever the autoreset mode: those
    of a plain loop over single environments that take the same actions. Where some need more calls
    of `env.step` for that, since resets take up theirs, the others' further steps are not stored.

    The last row of each environment is truncated unless its episode ended there, also after an
    error or an interrupt, so that nothing that follows in the buffer passes for its continuation.
    To go on with the episodes later use a `Collector`.

    Args:
        env: An environment, or a vector environment of N.
        policy: As for `Collector`: a callable from observations to actions, or to
            `(actions, extras)`; None or "random" draws from the action space.
        buffer: Where the transitions go; its `num_envs` is the environment's.
        steps: How many steps of each environment to store: `steps * N` transitions.
        seed: For the reset, and for the action space where it is drawn from.
        progress: Show a bar on stderr. Needs rich.

    Returns:
        What came of it.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `steps` is less than 1, `buffer.num_envs` is not the environment's, a
            vector environment does not say how it resets, or the buffer refuses a row.
        BufferError: If a `RolloutBuffer` has less room.
        ImportError: If there is to be a bar and rich is not installed.
    """
    steps = check_count("steps", steps, least=1)
    collector = Collector(env, policy, buffer, seed=seed)
    left = np.full(collector.num_envs, steps)
    with progress_bar(steps, shown=progress) as show:
        try:
            while left.any():
                rows = collector._advance().only(left > 0)
                collector._scores.add(rows)
                left[rows.lanes] -= 1
                collector._store(rows)
                show(steps - int(left.max()))
        finally:
            buffer.end_episodes()
    return collector._scores.take()


def _resets_twice(env: gym.vector.VectorEnv[Any, Any, Any]) -> bool:
    """Whether `env.reset` leaves alone that an episode had ended.

    The first step after it is then one more reset. So it is with Gymnasium, at least up to 1.4, of
    processes that share no memory.
    """
    base = env.unwrapped
    return isinstance(base, gym.vector.AsyncVectorEnv) and not base.shared_memory


def _check_lanes(buffer: Any, num_envs: int) -> None:
    lanes = getattr(buffer, "num_envs", None)
    if lanes is None:
        raise TypeError(
            f"buffer: expected a ReplayBuffer or RolloutBuffer, got {type(buffer).__name__}"
        )
    if lanes != num_envs:
        raise ValueError(
            f"buffer: expected num_envs={num_envs}, as many as the environment has, got a buffer "
            f"with num_envs={lanes}"
        )
