"""The fastest that is easily written by hand: a numpy array for each field."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders.base import Contender, Operation
from benchmarks.rows import Array, Contents

GAMMA = 0.99


class NumpyColumns(Contender):
    """Index assignment in, fancy indexing and `torch.from_numpy` out. Draws with replacement."""

    name = "numpy columns"

    def setup(self, contents: Contents) -> None:
        """Copies each field into an array `(C, ...)`."""
        columns = [column.copy() for column in contents.columns()]
        self._states, self._actions, self._rewards, self._next_states, self._dones = columns
        self._truncations = contents.truncations.copy()
        self._capacity = contents.rows.capacity
        self._cursor = 0
        self._rng = np.random.default_rng(0)

    def push(self) -> Operation:
        """One assignment for each field, of arrays, as an environment returns them."""
        state, action, next_state = (
            column[0].copy() for column in (self._states, self._actions, self._next_states)
        )
        return partial(self._push, state, action, 0.5, next_state, False)

    def extend(self, num_envs: int) -> Operation:
        """One assignment for each field, into arrays `(C // E, E, ...)` for E environments."""
        steps = self._capacity // num_envs
        columns = (
            self._states,
            self._actions,
            self._rewards,
            self._next_states,
            self._dones,
            self._truncations,
        )
        blocks = [c[: steps * num_envs].reshape(steps, num_envs, *c.shape[1:]) for c in columns]
        values = [block[0].copy() for block in blocks]
        self._step = 0

        def run() -> None:
            for block, value in zip(blocks, values, strict=True):
                block[self._step] = value
            self._step = (self._step + 1) % steps

        return run

    def sample(self, batch_size: int) -> Operation:
        """One gather for each field."""
        return partial(self._sample, batch_size)

    def sample_n_step(self, batch_size: int, n_step: int) -> Operation:
        """A gather of `(B, n)` rewards and flags, and what follows from the flags."""
        return partial(self._sample_n_step, batch_size, n_step)

    def _push(
        self, state: Array, action: Array, reward: float, next_state: Array, done: bool
    ) -> None:
        i = self._cursor
        self._states[i] = state
        self._actions[i] = action
        self._rewards[i] = reward
        self._next_states[i] = next_state
        self._dones[i] = done
        self._cursor = (i + 1) % self._capacity

    def _sample(self, batch_size: int) -> tuple[Tensor, ...]:
        i = self._rng.integers(self._capacity, size=batch_size)
        return (
            torch.from_numpy(self._states[i]),
            torch.from_numpy(self._actions[i]),
            torch.from_numpy(self._rewards[i]),
            torch.from_numpy(self._next_states[i]),
            torch.from_numpy(self._dones[i]),
        )

    def _sample_n_step(self, batch_size: int, n_step: int) -> tuple[Tensor, ...]:
        steps = np.arange(n_step)
        from_oldest = self._rng.integers(self._capacity - n_step + 1, size=batch_size)
        i = (self._cursor + from_oldest) % self._capacity
        ahead = (i[:, None] + steps) % self._capacity
        ends = self._dones[ahead, 0] + self._truncations[ahead, 0] > 0
        ended_before = np.cumsum(ends, axis=1) - ends
        rewards = self._rewards[ahead, 0] * (ended_before == 0) * np.float32(GAMMA) ** steps
        count = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, n_step)
        last = ahead[np.arange(batch_size), count - 1]
        discounts = np.float32(GAMMA) ** count[:, None] * (1 - self._dones[last])
        return (
            torch.from_numpy(self._states[i]),
            torch.from_numpy(self._actions[i]),
            torch.from_numpy(rewards.sum(axis=1, keepdims=True, dtype=np.float32)),
            torch.from_numpy(self._next_states[last]),
            torch.from_numpy(self._dones[last]),
            torch.from_numpy(discounts),
        )


def create() -> Contender:
    """The contender of this file."""
    return NumpyColumns()
