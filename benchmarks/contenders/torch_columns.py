"""What one writes first: a preallocated tensor for each field."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.contenders.base import Contender, Operation
from benchmarks.contenders.columns import ColumnsByHand


class TorchColumns(ColumnsByHand):
    """`torch.randint` and indexing out. Draws with replacement."""

    name = "torch columns"
    library = torch

    def sample(self, batch_size: int) -> Operation:
        """One gather for each field."""
        columns, capacity = self._columns, self._rows.capacity

        def run() -> tuple[Tensor, ...]:
            i = torch.randint(capacity, (batch_size,))
            return tuple([column[i] for column in columns])

        return run


def create() -> Contender:
    """The contender of this file."""
    return TorchColumns()
