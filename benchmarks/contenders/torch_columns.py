"""What one writes first: a preallocated tensor for each field."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.contenders.base import Contender, Operation
from benchmarks.rows import Contents


class TorchColumns(Contender):
    """Index assignment in, `torch.randint` and indexing out. Draws with replacement."""

    name = "torch columns"

    def setup(self, contents: Contents) -> None:
        """Copies each field into a tensor `(C, ...)`."""
        columns = [torch.from_numpy(column).clone() for column in contents.columns()]
        self._states, self._actions, self._rewards, self._next_states, self._dones = columns
        self._truncations = torch.from_numpy(contents.truncations).clone()
        self._capacity = contents.rows.capacity
        self._cursor = 0

    def push(self) -> Operation:
        """One assignment for each field."""
        state, action, next_state = (
            column[0].clone() for column in (self._states, self._actions, self._next_states)
        )
        return partial(self._push, state, action, 0.5, next_state, False)

    def extend(self, num_envs: int) -> Operation:
        """One assignment for each field, into tensors `(C // E, E, ...)` for E environments."""
        steps = self._capacity // num_envs
        columns = (
            self._states,
            self._actions,
            self._rewards,
            self._next_states,
            self._dones,
            self._truncations,
        )
        blocks = [c[: steps * num_envs].view(steps, num_envs, *c.shape[1:]) for c in columns]
        values = [block[0].clone() for block in blocks]
        self._step = 0

        def run() -> None:
            for block, value in zip(blocks, values, strict=True):
                block[self._step] = value
            self._step = (self._step + 1) % steps

        return run

    def sample(self, batch_size: int) -> Operation:
        """One gather for each field."""
        return partial(self._sample, batch_size)

    def _push(
        self, state: Tensor, action: Tensor, reward: float, next_state: Tensor, done: bool
    ) -> None:
        i = self._cursor
        self._states[i] = state
        self._actions[i] = action
        self._rewards[i] = reward
        self._next_states[i] = next_state
        self._dones[i] = done
        self._cursor = (i + 1) % self._capacity

    def _sample(self, batch_size: int) -> tuple[Tensor, ...]:
        i = torch.randint(self._capacity, (batch_size,))
        return (
            self._states[i],
            self._actions[i],
            self._rewards[i],
            self._next_states[i],
            self._dones[i],
        )


def create() -> Contender:
    """The contender of this file."""
    return TorchColumns()
