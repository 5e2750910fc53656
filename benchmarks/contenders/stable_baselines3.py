"""Stable-Baselines3's ReplayBuffer. Installed by `make bench`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import (
    DictReplayBuffer,
    NStepReplayBuffer,
    ReplayBuffer,
    RolloutBuffer,
)

from benchmarks.contenders.base import Contender, Operation
from benchmarks.learner import Batch
from benchmarks.rows import (
    GAMMA,
    LAMBDA,
    Array,
    Contents,
    Leaf,
    Observations,
    Rows,
    make_rollout,
    map_observations,
)

FIELDS = ("observations", "actions", "rewards", "next_observations", "dones", "timeouts")


class StableBaselines3(Contender):
    """Columns in NumPy arrays `(C, E, ...)` that come back as tensors. Draws with replacement.

    With `optimize_memory_usage`, the next state of an episode's last step is the first state of the
    next episode.
    """

    name = "stable-baselines3"

    def setup(self, contents: Contents) -> None:
        """Writes each field into the arrays of a buffer: `add` takes one step at a time."""
        self._contents = contents
        self._space = _observation_space(contents.rows)
        kind = DictReplayBuffer if contents.rows.is_dict else ReplayBuffer
        capacity = contents.rows.capacity
        action_space = _action_space(contents.rows)
        self._buffer = kind(capacity, self._space, action_space, device="cpu")
        _write(self._buffer.observations, contents.states)
        _write(self._buffer.next_observations, contents.next_states)
        _write(self._buffer.actions, contents.actions)
        self._buffer.rewards[:] = contents.rewards
        self._buffer.dones[:] = contents.dones + contents.truncations
        self._buffer.timeouts[:] = contents.truncations
        self._buffer.full = True

    def as_tensors(self, batch: Any) -> Batch:
        """Returns the batch, which holds tensors already; those of a dict are sorted by key."""
        states, next_states = batch.observations, batch.next_observations
        if self._contents.rows.is_dict:
            keys = [leaf.key for leaf in self._contents.rows.leaves]
            states, next_states = (
                {key: tensors[key] for key in keys} for tensors in (states, next_states)
            )
        return states, batch.actions, batch.rewards, next_states, batch.dones

    def push(self) -> Operation:
        """`add` of what a vector environment of one returns."""
        return partial(self._buffer.add, *self._steps(1))

    def extend(self, num_envs: int) -> Mapping[str, Operation]:
        """`add` of what a vector environment returns, with and without a look at its infos."""
        kept = self._around(type(self._buffer), num_envs)
        dropped = self._around(type(self._buffer), num_envs, handle_timeout_termination=False)
        steps = self._steps(num_envs)
        return {"": partial(kept.add, *steps), "no timeouts": partial(dropped.add, *steps)}

    def sample_images(self, batch_size: int) -> Mapping[str, Operation]:
        """Stored whole, and each observation once."""
        once = self._around(
            ReplayBuffer, optimize_memory_usage=True, handle_timeout_termination=False
        )
        # Its sampling leaves out the row at `pos`, whose next state is not there any more.
        once.pos = once.buffer_size - 1
        return {
            "": self.sample(batch_size),
            "optimize_memory_usage": partial(once.sample, batch_size),
        }

    def sample_n_step(self, batch_size: int, n_step: int) -> Operation:
        buffer = self._around(NStepReplayBuffer, n_steps=n_step, gamma=GAMMA)
        return partial(buffer.sample, batch_size)

    def gae(self, num_steps: int, num_envs: int) -> Operation:
        """`compute_returns_and_advantage` of a RolloutBuffer, which computes returns as well."""
        rollout = make_rollout(num_steps, num_envs)
        space = spaces.Box(-1, 1, (1,))
        buffer = RolloutBuffer(
            num_steps, space, space, device="cpu", gae_lambda=LAMBDA, gamma=GAMMA, n_envs=num_envs
        )
        buffer.rewards[:] = rollout.rewards
        buffer.values[:] = rollout.values
        buffer.episode_starts[1:] = rollout.dones[:-1]
        last_values, last_dones = torch.from_numpy(rollout.last_values), rollout.dones[-1]

        def run() -> Array:
            buffer.compute_returns_and_advantage(last_values, last_dones)
            advantages: Array = buffer.advantages
            return advantages

        return run

    def _around(self, kind: type[ReplayBuffer], num_envs: int = 1, **options: Any) -> ReplayBuffer:
        """A full buffer around the same memory, as `(C // E, E, ...)` for E environments."""
        steps = self._contents.rows.capacity // num_envs
        action_space = self._buffer.action_space
        buffer = kind(
            steps * num_envs, self._space, action_space, device="cpu", n_envs=num_envs, **options
        )

        def rings(memory: Array) -> Array:
            return memory[: steps * num_envs].reshape(steps, num_envs, *memory.shape[2:])

        for field in FIELDS:
            setattr(buffer, field, map_observations(rings, getattr(self._buffer, field)))
        buffer.full = True
        return buffer

    def _steps(self, num_envs: int) -> tuple[Any, ...]:
        """The arguments of `add`: a step of each environment."""
        contents = self._contents

        def first(column: Array) -> Array:
            taken: Array = column[:num_envs].copy()
            return taken

        truncations = contents.truncations[:num_envs, 0] > 0
        return (
            map_observations(first, contents.states),
            map_observations(first, contents.next_states),
            first(contents.actions),
            first(contents.rewards[:, 0]),
            (contents.dones[:num_envs, 0] > 0) | truncations,
            [{"TimeLimit.truncated": bool(truncated)} for truncated in truncations],
        )


def _write(memory: Observations, column: Observations) -> None:
    """Copies `(C, ...)` into `(C, 1, ...)`."""
    if isinstance(memory, dict) and isinstance(column, dict):
        for key, array in column.items():
            memory[key][:, 0] = array
    elif not isinstance(memory, dict):
        memory[:, 0] = column


def _observation_space(rows: Rows) -> spaces.Space[Any]:
    if rows.is_dict:
        return spaces.Dict({leaf.key: _box(leaf) for leaf in rows.leaves})
    return _box(rows.state)


def _action_space(rows: Rows) -> spaces.Space[Any]:
    """A Discrete space takes its actions as `(1,)`."""
    return spaces.Discrete(256) if rows.action.dtype == "int64" else _box(rows.action)


def _box(leaf: Leaf) -> spaces.Box:
    low, high = (0, 255) if leaf.dtype == "uint8" else (-np.inf, np.inf)
    return spaces.Box(low, high, leaf.shape, np.dtype(leaf.dtype).type)
