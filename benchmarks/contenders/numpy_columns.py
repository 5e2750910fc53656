"""The fastest that is easily written by hand: a numpy array for each field."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders.base import Contender, Operation
from benchmarks.workloads import Array, Contents


class NumpyColumns(Contender):
    """Index assignment in, fancy indexing and `torch.from_numpy` out. Draws with replacement."""

    name = "numpy columns"

    def setup(self, contents: Contents) -> None:
        """Copies each field into an array `(C, ...)`."""
        columns = [column.copy() for column in contents.columns()]
        self._states, self._actions, self._rewards, self._next_states, self._dones = columns
        self._capacity = contents.rows.capacity
        self._cursor = 0
        self._rng = np.random.default_rng(0)

    def push(self) -> Operation:
        """One assignment for each field, of arrays, as an environment returns them."""
        state, action, next_state = (
            column[0].copy() for column in (self._states, self._actions, self._next_states)
        )
        return partial(self._push, state, action, 0.5, next_state, False)

    def sample(self, batch_size: int) -> Operation:
        """One gather for each field."""
        return partial(self._sample, batch_size)

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


def create() -> Contender:
    """The contender of this file."""
    return NumpyColumns()
