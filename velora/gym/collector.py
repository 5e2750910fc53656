"""Collecting transitions from an environment into a buffer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from velora.buffer import ReplayBuffer, RolloutBuffer
from velora.buffer.checks import check_count
from velora.gym.acting import Policy, act, for_env
from velora.gym.nests import copied
from velora.gym.progress import progress_bar
from velora.gym.single import SingleAdapter
from velora.gym.statistics import CollectStatistics, Scores
from velora.gym.vector import VectorAdapter
from velora.gym.vector_step import Transitions, transitions

AnyEnv = gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]
Mask = NDArray[np.bool_]


class _State(NamedTuple):
    """State of a collection between two steps. Replaced as a whole, never modified."""

    observations: Any  # for the next actions, (N, ...); None if a reset comes first
    ended: Mask  # where the newest step ended an episode, (N,)
    is_first: Mask  # where the observations begin an episode, (N,)
    scores: Scores
    pushed: int = 0  # rows ever stored in the buffer, as far as this collection knows
    seed: int | None = None  # of the next reset
    is_cut: bool = False  # whether a call to the environments did not finish

    def lost(self, *, is_cut: bool) -> _State:
        """Returns a state that resets the environments before the next step."""
        none = np.zeros_like(self.ended)
        return self._replace(observations=None, ended=none, is_first=~none, is_cut=is_cut)


@dataclass
class _Step:
    """A step of the environments that is not in the buffer yet."""

    state: _State  # before the step
    actions: Any
    extras: dict[str, Any]
    wanted: Mask  # environments whose rows are stored, (N,)
    only_stored: bool  # whether statistics count only stored rows
    results: list[Any] = field(default_factory=list)  # of `env.step`, once it has returned
    outcome: tuple[Transitions, _State] | None = None  # rows to store, and the state after the step


class Collector:
    """Steps an environment with a policy and stores every transition in a buffer.

    Supports single environments, and vector environments with any autoreset mode. It stores the
    steps that the environments really took, each with its true next state: resets are never stored
    as steps, and final observations are never lost.

    A collector continues its episodes from call to call, so nothing else should write to its
    buffer: rows from elsewhere cut the episodes off. To change the policy, set `collector.policy`.
    Before another collector uses the buffer, finish with `truncate=True`. The first `collect`
    truncates unfinished episodes already in the buffer, since the environment is reset.

    After an error or Ctrl-C at any point, buffer and collector are consistent. A step that
    `env.step` returned is stored exactly once, immediately or by the next `collect`. A step that it
    did not return is lost: the unfinished episodes are truncated and new ones begin.

    Args:
        env: An environment, or a vector environment of N. It is reset at the first `collect`.
        policy: A callable from observations to actions, both `(N, ...)`, or `(...)` for a single
            environment. It runs without gradients. It may return `(actions, extras)` with a dict
            of additional fields to store, `{"log_prob": ...}`. Tensors are converted to numpy
            arrays if the observations are arrays. None or "random" samples the action space.
        buffer: The buffer to fill; its `num_envs` must equal the environment's.
        seed: Seed of the first reset and of the action space.

    Raises:
        TypeError: If `env` is not a Gymnasium environment, or `buffer` is not a buffer.
        ValueError: If `buffer.num_envs` differs from the environment's, or a vector environment
            does not declare its autoreset mode.
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
        self._env: SingleAdapter | VectorAdapter
        if isinstance(env, gym.Env):
            self._env = SingleAdapter(env)
        elif isinstance(env, gym.vector.VectorEnv):
            self._env = VectorAdapter(env)
        else:
            raise TypeError(f"env: expected a Gymnasium Env or VectorEnv, got {type(env).__name__}")
        _check_lanes(buffer, self._env.num_envs)
        self._buffer = buffer
        self._is_even = isinstance(buffer, RolloutBuffer)
        if seed is not None:
            self._env.action_space.seed(seed)
        none, scores = np.zeros(self.num_envs, np.bool_), Scores.of(self.num_envs)
        # An interrupt can come between any two bytecodes, so all state is in these two
        # attributes, each replaced by one assignment.
        self._state = _State(None, none, ~none, scores, seed=seed)
        self._step: _Step | None = None

    @property
    def num_envs(self) -> int:
        """Number of environments, N."""
        return self._env.num_envs

    @property
    def is_first(self) -> Mask:
        """Mask of environments whose current observation begins an episode, `(N,)`.

        Recurrent policies reset their state there.
        """
        return np.array(self._state.is_first)

    def __repr__(self) -> str:
        policy = getattr(self.policy, "__qualname__", None) or repr(self.policy or "random")
        return f"Collector(env={self._env.env}, policy={policy}, buffer={self._buffer!r})"

    def collect(self, steps: int | float, *, truncate: bool = False) -> CollectStatistics:
        """Collects some more steps.

        If a `RolloutBuffer` is full, the rows that did not fit are stored first by the next call
        and count towards its `steps`. Invalid rows that a buffer rejects are lost, and new
        episodes begin.

        Args:
            steps: Number of steps of each of the N environments, which is the number of calls of
                `env.step`. (Other libraries count the steps of all environments, N times as many.)
                In mode NEXT_STEP a reset uses up a call, so a `ReplayBuffer` gets one row less. A
                `RolloutBuffer` always gets `steps` rows of each environment, as `compute_returns`
                needs: environments that are done early have their last row truncated, and what
                they do while waiting is not stored.
            truncate: Truncate all unfinished episodes at the end. The next call then begins new
                ones.

        Returns:
            Statistics of this call, and of preceding calls that raised.

        Raises:
            TypeError: If `steps` is not a whole number, or a reward or flag of the environment is
                not a number.
            ValueError: If `steps` is less than 1, the environment or the policy returns values of
                an unexpected form, or the buffer rejects a row.
            BufferError: If a `RolloutBuffer` is full.
            RuntimeError: If worker processes of the environment do not answer after an interrupt.
        """
        steps = check_count("steps", steps, least=1)
        return self._collect(steps, is_exact=self._is_even, truncate=truncate)

    def _collect(
        self,
        steps: int,
        *,
        is_exact: bool,
        truncate: bool,
        only_stored: bool = False,
        show: Callable[[int], None] | None = None,
    ) -> CollectStatistics:
        """Implements `collect`.

        Args:
            steps: Number of steps.
            is_exact: Whether `steps` counts rows of each environment rather than `env.step` calls.
            truncate: Whether to truncate all unfinished episodes at the end.
            only_stored: Whether statistics ignore steps that are not stored.
            show: Called with the number of steps done.
        """
        left = np.full(self.num_envs, steps)
        try:
            waiting = self._resume()
            if is_exact and waiting is not None:  # They count towards the rows of this call.
                left[waiting.lanes] -= 1
            while left.any():
                rows = self._advance(left > 0, only_stored)
                if is_exact:
                    left[rows.lanes] -= 1
                else:
                    left -= 1
                if show is not None:
                    show(steps - int(left.max()))
            if truncate:
                self._state = self._state.lost(is_cut=False)
                self._buffer.end_episodes()
        except BaseException:
            # The error of a step was already raised, or will be by the next call.
            with suppress(Exception):
                self._resume()
            if self._state.observations is None:  # Nothing continues the stored episodes.
                self._buffer.end_episodes()
            raise
        statistics = self._state.scores.statistics()
        self._state = self._state._replace(scores=self._state.scores.reported())
        return statistics

    def _resume(self) -> Transitions | None:
        """Completes an interrupted step: stores it, or marks the environments for a reset.

        Returns:
            The rows of the step, if any.
        """
        step = self._step
        if step is not None and step.results:
            return self._complete(step)
        if step is not None:
            self._lose(is_cut=True)
        elif self._state.observations is not None:
            pushed = self._buffer._count_pushed()
            if pushed != self._state.pushed:  # Rows from elsewhere do not belong to the episodes.
                self._buffer.end_episodes()
                self._state = self._state._replace(pushed=pushed)
        return None

    def _advance(self, wanted: Mask, only_stored: bool) -> Transitions:
        """Steps the environments once and stores the rows of those in the mask `wanted`."""
        state = self._ready()
        if not wanted.all():  # The other environments continue without being stored.
            self._buffer.end_episodes(np.flatnonzero(~wanted))
        env = self._env
        # A copy: the policy may modify it in place, and the observations are still to be stored.
        seen = env.seen(copied(state.observations, "observations"))
        action, extras = act(self.policy, seen, env.action_space)
        actions = env.batched(action)
        extras = {name: env.batched(part) for name, part in extras.items()}
        given = env.given(for_env(actions, state.observations))
        step = _Step(state, actions, extras, wanted, only_stored)
        self._step = step
        # One C call, with no bytecode between the return of `env.step` and the list that holds its
        # results, so an interrupt cannot lose a step that was returned.
        step.results.extend(map(env.step, (given,)))
        if not step.results:  # `env.step` raised StopIteration, which `extend` takes for the end
            raise RuntimeError("env.step: expected 5 results, got StopIteration")
        return self._complete(step)

    def _ready(self) -> _State:
        """Resets environments where necessary and returns the state for the next step."""
        state, env = self._state, self._env
        if state.observations is None:
            self._buffer.end_episodes()  # Nothing continues the stored episodes.
            self._state = state._replace(is_cut=True)
            observations, ended = env.begin(state.seed, state.is_cut)
            state = _State(
                observations,
                ended,
                is_first=np.ones(self.num_envs, np.bool_),
                scores=state.scores.started_over(),
                pushed=self._buffer._count_pushed(),
            )  # without the seed, which would repeat the same episodes
            self._state = state
        if env.mode is AutoresetMode.DISABLED and state.ended.any():
            self._state = state.lost(is_cut=True)
            observations = env.restart(state.ended, state.observations)
            state = state._replace(observations=observations, ended=np.zeros_like(state.ended))
            self._state = state
        return state

    def _complete(self, step: _Step) -> Transitions:
        """Stores and counts a step that has results; if it is invalid, begins new episodes.

        Can be repeated after an interrupt.
        """
        try:
            return self._store(step)
        except BufferError:  # The buffer is full: the next call stores the rows.
            raise
        except Exception:
            # The error may come from a signal handler. Invalid rows raise again.
            try:
                self._store(step)
            except Exception:
                self._lose(is_cut=False)
            raise

    def _lose(self, *, is_cut: bool) -> None:
        """Drops the current step and marks the environments for a reset."""
        self._state = self._state.lost(is_cut=is_cut)
        self._step = None

    def _store(self, step: _Step) -> Transitions:
        if step.outcome is None:
            step.outcome = self._sort_out(step)
        rows, after = step.outcome
        missing = after.pushed - self._buffer._count_pushed()
        if missing not in (0, len(rows)):
            # Other rows were stored meanwhile, so it is unknown whether these were.
            self._lose(is_cut=False)
            return rows
        if missing > 0:
            lanes = None if len(rows) == self.num_envs else rows.lanes
            self._buffer.extend(rows.batch, lanes=lanes)
        self._state = after
        self._step = None
        return rows

    def _sort_out(self, step: _Step) -> tuple[Transitions, _State]:
        """Returns copies of the rows of a step to store, and the state after it."""
        before, mode = step.state, self._env.mode
        following, rewards, terminations, truncations, infos = self._env.results(step.results[0])
        following = copied(following, "observations")
        rewards = copied(rewards, "rewards")
        ends = copied(terminations, "terminations"), copied(truncations, "truncations")
        rows = transitions(
            before.observations,
            step.actions,
            (following, rewards, *ends, infos),
            mode=mode,
            ended=before.ended,
            extras=step.extras,
        )
        over = np.zeros(self.num_envs, np.bool_)
        over[rows.lanes] = rows.ended
        stored = rows.only(step.wanted)
        return stored, _State(
            following,
            ended=over,
            is_first=before.ended if mode is AutoresetMode.NEXT_STEP else over,
            scores=before.scores.after_step(stored if step.only_stored else rows, len(stored)),
            pushed=self._buffer._count_pushed() + len(stored),
        )


def collect(
    env: AnyEnv,
    policy: Policy,
    buffer: ReplayBuffer | RolloutBuffer,
    steps: int | float,
    *,
    seed: int | None = None,
    progress: bool = False,
) -> CollectStatistics:
    """Resets an environment and stores a number of steps of a policy in a buffer.

    The buffer gets exactly `steps` transitions of each environment in every autoreset mode, the
    same as a plain loop over single environments with the same actions. If resets make some
    environments need more calls of `env.step`, further steps of the others are not stored.

    The last row of each environment is truncated unless its episode ended there, also after an
    error or an interrupt, so that later rows never look like its continuation. To continue
    episodes later, use a `Collector`.

    Args:
        env: An environment, or a vector environment of N.
        policy: As for `Collector`: a callable from observations to actions or to
            `(actions, extras)`; None or "random" samples the action space.
        buffer: The buffer to fill; its `num_envs` must equal the environment's.
        steps: Number of steps of each environment to store: `steps * N` transitions.
        seed: Seed of the reset and of the action space.
        progress: Show a progress bar on stderr. Needs rich.

    Returns:
        Statistics of the collected steps.

    Raises:
        TypeError: If an argument has the wrong type, or a reward or a flag is not a number.
        ValueError: If `steps` is less than 1, `buffer.num_envs` differs from the environment's, a
            vector environment does not declare its autoreset mode, or as in `Collector.collect`.
        BufferError: If the rows do not fit into a `RolloutBuffer`.
        ImportError: If `progress` is set and rich is not installed.
    """
    steps = check_count("steps", steps, least=1)
    collector = Collector(env, policy, buffer, seed=seed)
    with progress_bar(steps, shown=progress) as show:
        try:
            return collector._collect(
                steps, is_exact=True, truncate=True, only_stored=True, show=show
            )
        except BaseException:
            buffer.end_episodes()
            raise


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
