"""Buffers written by hand: an array for each field, numpy's or torch's, and a cursor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor

from benchmarks.contenders.base import Contender, Operation
from benchmarks.learner import Batch, Tensors
from benchmarks.rollouts import GAMMA, LAMBDA, make_rollout
from benchmarks.rows import Array, Contents, Rows

Column = Any  # an array or a tensor


class ColumnsByHand(Contender):
    """Index assignment in. The part that numpy and torch write alike."""

    library: ModuleType

    def setup(self, contents: Contents) -> None:
        """Copies each field into a column `(C, ...)`."""
        self._rows, self._contents = contents.rows, contents
        self._columns = [self._copy(column) for column in contents.columns()]
        self._truncations = self._copy(contents.truncations)
        self._cursor = 0

    def as_tensors(self, batch: Sequence[Tensor]) -> Batch:
        """The columns, those of a dict observation under their keys."""
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
        """The textbook's loop, backwards over time."""
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


def as_batch(rows: Rows, columns: Iterable[Tensor]) -> Batch:
    """A batch of columns in the order of `Contents.columns`."""
    left = iter(columns)

    def observations() -> Tensors:
        found = {leaf.key: next(left) for leaf in rows.leaves}
        return found if rows.is_dict else found[""]

    return observations(), next(left), next(left), observations(), next(left)
