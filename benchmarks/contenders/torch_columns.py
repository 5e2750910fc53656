"""A preallocated tensor for each field, as most people write it first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.contenders.base import Operation
from benchmarks.contenders.columns import Column, ColumnsByHand
from benchmarks.rows import Array


class TorchColumns(ColumnsByHand):
    """`torch.randint` and indexing out. Draws with replacement."""

    name = "torch columns"
    library = torch

    def sample(self, batch_size: int) -> Operation:
        """One gather for each field."""
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
