"""The fastest buffer that is easily written by hand: a numpy array for each field."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders.base import Operation
from benchmarks.contenders.columns import ColumnsByHand
from benchmarks.rollouts import GAMMA
from benchmarks.rows import Contents


class NumpyColumns(ColumnsByHand):
    """Fancy indexing and `torch.from_numpy` out. Draws with replacement."""

    name = "numpy columns"
    library = np

    def setup(self, contents: Contents) -> None:
        """Makes the columns and a random generator."""
        super().setup(contents)
        self._rng = np.random.default_rng(0)

    def sample(self, batch_size: int) -> Operation:
        """One gather for each field."""
        columns, capacity, rng = self._columns, self._rows.capacity, self._rng

        def run() -> tuple[Tensor, ...]:
            i = rng.integers(capacity, size=batch_size)
            return tuple([torch.from_numpy(column[i]) for column in columns])

        return run

    def sample_n_step(self, batch_size: int, n_step: int) -> Operation:
        """A gather of `(B, n)` rewards and flags, and what follows from the flags."""
        states, actions, all_rewards, next_states, dones = self._columns
        truncations, capacity, rng = self._truncations, self._rows.capacity, self._rng
        steps = np.arange(n_step)

        def run() -> tuple[Tensor, ...]:
            from_oldest = rng.integers(capacity - n_step + 1, size=batch_size)
            i = (self._cursor + from_oldest) % capacity
            ahead = (i[:, None] + steps) % capacity
            ends = dones[ahead, 0] + truncations[ahead, 0] > 0
            ended_before = np.cumsum(ends, axis=1) - ends
            rewards = all_rewards[ahead, 0] * (ended_before == 0) * np.float32(GAMMA) ** steps
            count = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, n_step)
            last = ahead[np.arange(batch_size), count - 1]
            discounts = np.float32(GAMMA) ** count[:, None] * (1 - dones[last])
            return (
                torch.from_numpy(states[i]),
                torch.from_numpy(actions[i]),
                torch.from_numpy(rewards.sum(axis=1, keepdims=True, dtype=np.float32)),
                torch.from_numpy(next_states[last]),
                torch.from_numpy(dones[last]),
                torch.from_numpy(discounts),
            )

        return run
