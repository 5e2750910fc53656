"""Buffers written by hand: an array for each field, numpy's or torch's, and a cursor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders.base import Contender, Operation
from benchmarks.learner import Batch, Tensors
from benchmarks.rows import GAMMA, LAMBDA, Array, Contents, Rows, make_rollout

Column = Any  # an array or a tensor


class ColumnsByHand(Contender):
    """Index assignment in. The part that numpy and torch write alike."""

    library: ModuleType

    def setup(self, contents: Contents) -> None:
        self._rows, self._contents = contents.rows, contents
        self._columns = [self._copy(column) for column in contents.columns()]
        self._truncations = self._copy(contents.truncations)
        self._cursor = 0

    def as_tensors(self, batch: Sequence[Tensor]) -> Batch:
        return as_batch(self._rows, batch)

    def push(self) -> Operation:
        """One assignment for each field, of values as an environment returns them."""
        columns, capacity = self._columns, self._rows.capacity
        values = [self._copy(column[0]) for column in columns]
        values[len(self._rows.leaves) + 1] = 0.5  # the reward
        values[-1] = False

        def run() -> None:
            i = self._cursor
            for column, value in zip(columns, values, strict=True):
                column[i] = value
            self._cursor = (i + 1) % capacity

        return run

    def extend(self, num_envs: int) -> Operation:
        """One assignment for each field, into columns `(C // E, E, ...)` for E environments."""
        steps = self._rows.capacity // num_envs
        columns = [*self._columns, self._truncations]
        blocks = [c[: steps * num_envs].reshape(steps, num_envs, *c.shape[1:]) for c in columns]
        values = [self._copy(block[0]) for block in blocks]
        step = 0

        def run() -> None:
            nonlocal step
            for block, value in zip(blocks, values, strict=True):
                block[step] = value
            step = (step + 1) % steps

        return run

    def gae(self, num_steps: int, num_envs: int) -> Operation:
        rollout = make_rollout(num_steps, num_envs)
        rewards, values, next_values, dones = map(self._copy, rollout.arrays())

        def run() -> Column:
            advantages = self.library.empty_like(rewards)
            advantage = 0.0
            for t in reversed(range(num_steps)):
                goes_on = 1 - dones[t]
                delta = rewards[t] + GAMMA * goes_on * next_values[t] - values[t]
                advantage = delta + GAMMA * LAMBDA * goes_on * advantage
                advantages[t] = advantage
            return advantages

        return run

    def _copy(self, column: Array | Column) -> Column:
        return self.library.asarray(column, copy=True)


class NumpyColumns(ColumnsByHand):
    """Fancy indexing and `torch.from_numpy` out. Draws with replacement."""

    name = "numpy columns"
    library = np

    def setup(self, contents: Contents) -> None:
        super().setup(contents)
        self._rng = np.random.default_rng(0)

    def sample(self, batch_size: int) -> Operation:
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


class TorchColumns(ColumnsByHand):
    """`torch.randint` and indexing out. Draws with replacement."""

    name = "torch columns"
    library = torch

    def sample(self, batch_size: int) -> Operation:
        return self._gather(self._columns, self.device, batch_size)

    def sample_from_host(self, batch_size: int) -> Operation:
        """One gather for each field from host memory, and `to`."""
        columns = [torch.from_numpy(column) for column in self._contents.columns()]
        gather = self._gather(columns, torch.device("cpu"), batch_size)
        return lambda: tuple([column.to(self.device) for column in gather()])

    def _gather(
        self, columns: list[Tensor], device: torch.device, batch_size: int
    ) -> Callable[[], tuple[Tensor, ...]]:
        capacity = self._rows.capacity

        def run() -> tuple[Tensor, ...]:
            i = torch.randint(capacity, (batch_size,), device=device)
            return tuple([column[i] for column in columns])

        return run

    def _copy(self, column: Array | Column) -> Column:
        return torch.asarray(column, copy=True, device=self.device)


def as_batch(rows: Rows, columns: Iterable[Tensor]) -> Batch:
    """A batch of columns in the order of `Contents.columns`."""
    left = iter(columns)

    def observations() -> Tensors:
        found = {leaf.key: next(left) for leaf in rows.leaves}
        return found if rows.is_dict else found[""]

    return observations(), next(left), next(left), observations(), next(left)
