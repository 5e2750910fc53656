"""From an environment and a policy into a buffer."""

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
    """Where a collection stands between two steps. Replaced as a whole, never changed."""

    observations: Any  # for the next actions, (N, ...); None: to be reset first
    ended: Mask  # where the newest step ended an episode, (N,)
    is_first: Mask  # where the observations begin an episode, (N,)
    scores: Scores
    pushed: int = 0  # rows that the buffer was ever given, as far as this collection knows
    seed: int | None = None  # of the next reset
    is_cut: bool = False  # whether a call to the environments was not finished

    def lost(self, *, is_cut: bool) -> _State:
        """With environments to be reset before the next step."""
        none = np.zeros_like(self.ended)
        return self._replace(observations=None, ended=none, is_first=~none, is_cut=is_cut)


@dataclass
class _Step:
    """A step of the environments that is not in the buffer yet."""

    state: _State  # the one before
    actions: Any
    extras: dict[str, Any]
    wanted: Mask  # whose rows are to be stored, (N,)
    only_stored: bool  # whether these steps alone count
    results: list[Any] = field(default_factory=list)  # of `env.step`, once it has returned
    outcome: tuple[Transitions, _State] | None = None  # the rows to store, and the state after it


class Collector:
    """Steps an environment with a policy and stores every transition in a buffer.

    Takes single environments and vector environments with any autoreset mode. What is stored are
    the steps that the environments took, each with the state that followed: no reset is stored as
    a step, and no last observation is lost to one.

    A collector carries its episodes on from call to call. So it should be all that writes to its
    buffer: rows from elsewhere would come between the steps of an episode, which is cut off there.
    To change the policy set `collector.policy`; before another collector takes over, end with
    `truncate=True`. The first `collect` truncates what the buffer holds already, as an episode that
    was loaded with it: the environment's new episodes do not continue that.

    An error or Ctrl-C at any point leaves buffer and collector in order. A step that the
    environment had returned is stored, once, by then or by the next `collect`. One that it had not
    returned is not: the episodes under way are truncated and new ones begin.

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
        # An interrupt can come between any two bytecodes. What is true before and after it is in
        # these two, each assigned at once.
        self._state = _State(None, none, ~none, scores, seed=seed)
        self._step: _Step | None = None

    @property
    def num_envs(self) -> int:
        """How many environments there are, N."""
        return self._env.num_envs

    @property
    def is_first(self) -> Mask:
        """Where the observation that the policy sees begins an episode, `(N,)`.

        For policies with a memory, which has to be emptied there.
        """
        return np.array(self._state.is_first)

    def __repr__(self) -> str:
        policy = getattr(self.policy, "__qualname__", None) or repr(self.policy or "random")
        return f"Collector(env={self._env.env}, policy={policy}, buffer={self._buffer!r})"

    def collect(self, steps: int | float, *, truncate: bool = False) -> CollectStatistics:
        """Goes on by some steps of the environment.

        Should a `RolloutBuffer` be full, then the rows that found no room are stored first at the
        next call, and count among its `steps`. Rows that a buffer refuses for what they are, are
        lost, and new episodes begin.

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
            TypeError: If `steps` is not a whole number, or the environment gives a reward or a flag
                that is no number.
            ValueError: If `steps` is less than 1, the environment or the policy gives something of
                another form than theirs is, or the buffer refuses a row.
            BufferError: If a `RolloutBuffer` is full.
            RuntimeError: If processes of the environment do not answer after an interrupt.
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
        """As `collect`.

        Args:
            steps: How many there are.
            is_exact: Whether they are rows of each environment, or else calls of `env.step`.
            truncate: Whether to cut all episodes off at the end.
            only_stored: Whether an environment that waits for others has no episodes to report.
            show: Is told how many steps are done.
        """
        left = np.full(self.num_envs, steps)
        try:
            waiting = self._resume()
            if is_exact and waiting is not None:  # They have the room of rows of this call.
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
            # What is wrong with a step was said where it came up, or will be at the next call.
            with suppress(Exception):
                self._resume()
            if self._state.observations is None:  # Nothing goes on with what is stored.
                self._buffer.end_episodes()
            raise
        statistics = self._state.scores.statistics()
        self._state = self._state._replace(scores=self._state.scores.reported())
        return statistics

    def _resume(self) -> Transitions | None:
        """Completes what an interrupt left: a step is stored, or begins new episodes.

        Returns:
            The rows that waited for it.
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
        """Takes one step and stores the rows of the environments in a mask."""
        state = self._ready()
        if not wanted.all():  # The episodes of these go on unseen.
            self._buffer.end_episodes(np.flatnonzero(~wanted))
        env = self._env
        # In memory of its own: the policy may work in place, and observations will be stored.
        seen = env.seen(copied(state.observations, "observations"))
        action, extras = act(self.policy, seen, env.action_space)
        actions = env.batched(action)
        extras = {name: env.batched(part) for name, part in extras.items()}
        given = env.given(for_env(actions, state.observations))
        step = _Step(state, actions, extras, wanted, only_stored)
        self._step = step
        # In one call of C, without a bytecode between the return of `env.step` and the list that
        # holds its results: an interrupt loses no step that was returned.
        step.results.extend(map(env.step, (given,)))
        if not step.results:  # a StopIteration, which ends the loop as if it were that of `map`
            raise RuntimeError("env.step: expected 5 results, got StopIteration")
        return self._complete(step)

    def _ready(self) -> _State:
        """Resets what has to be before the next step."""
        state, env = self._state, self._env
        if state.observations is None:
            self._buffer.end_episodes()  # Nothing goes on with what was stored before.
            self._state = state._replace(is_cut=True)
            observations, ended = env.begin(state.seed, state.is_cut)
            state = _State(
                observations,
                ended,
                is_first=np.ones(self.num_envs, np.bool_),
                scores=state.scores.started_over(),
                pushed=self._buffer._count_pushed(),
            )  # without the seed: again it would repeat the same episodes
            self._state = state
        if env.mode is AutoresetMode.DISABLED and state.ended.any():
            self._state = state.lost(is_cut=True)
            observations = env.restart(state.ended, state.observations)
            state = state._replace(observations=observations, ended=np.zeros_like(state.ended))
            self._state = state
        return state

    def _complete(self, step: _Step) -> Transitions:
        """Sorts out, stores and counts a step that has results, or begins new episodes.

        Done again after an interrupt it goes on where it was.
        """
        try:
            return self._store(step)
        except BufferError:  # It is full: the rows wait for the next call.
            raise
        except Exception:
            # Of the rows, or of a signal's handler? Rows that are wrong raise again.
            try:
                self._store(step)
            except Exception:
                self._lose(is_cut=False)
            raise

    def _lose(self, *, is_cut: bool) -> None:
        """Gives the step up: what follows is not what followed it."""
        self._state = self._state.lost(is_cut=is_cut)
        self._step = None

    def _store(self, step: _Step) -> Transitions:
        if step.outcome is None:
            step.outcome = self._sort_out(step)
        rows, after = step.outcome
        missing = after.pushed - self._buffer._count_pushed()
        if missing not in (0, len(rows)):
            # Rows came from elsewhere: these here may be among them or not.
            self._lose(is_cut=False)
            return rows
        if missing > 0:
            lanes = None if len(rows) == self.num_envs else rows.lanes
            self._buffer.extend(rows.batch, lanes=lanes)
        self._state = after
        self._step = None
        return rows

    def _sort_out(self, step: _Step) -> tuple[Transitions, _State]:
        """The rows to store of a step, in memory of their own, and the state after it."""
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
        TypeError: If an argument is of the wrong type, or a reward or a flag is no number.
        ValueError: If `steps` is less than 1, `buffer.num_envs` is not the environment's, a
            vector environment does not say how it resets, or as in `Collector.collect`.
        BufferError: If a `RolloutBuffer` has less room.
        ImportError: If there is to be a bar and rich is not installed.
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
