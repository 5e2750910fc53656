"""What both buffers hold, and how it is read."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, cast, overload

import torch
from torch import Tensor

from velora.buffer.columns import int_array
from velora.buffer.core_owner import CoreOwner
from velora.buffer.experience import BatchExperience
from velora.buffer.placement import Storage


class Contents(CoreOwner, Sequence[Any]):
    """The experiences of a buffer: how many there are, and each of them by position or index."""

    _num_envs: int
    _lane_capacity: int
    _device: torch.device
    _comes_by_copy: bool
    _storage: Storage

    @property
    def capacity(self) -> int:
        """Maximum number of experiences: the given capacity, rounded down to `num_envs` lanes."""
        return self._lane_capacity * self._num_envs

    @property
    def nbytes(self) -> int:
        """Bytes reserved for experiences; the system provides pages as they are written."""
        return 0 if self._core is None else self._core.nbytes

    @property
    def num_envs(self) -> int:
        """Number of environments, each with its own lane."""
        return self._num_envs

    @property
    def storage(self) -> Storage:
        """Where experiences are stored; "auto" until the first one decides it."""
        return self._storage if self._core is None else cast("Storage", self._core.storage)

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self._device

    @property
    def full(self) -> bool:
        """Whether the buffer holds `capacity` experiences, so that each environment's lane is full.

        A full `ReplayBuffer` overwrites its oldest experiences, a `RolloutBuffer` refuses others.
        """
        return len(self) == self.capacity

    def lane_lengths(self) -> list[int]:
        """Returns how many experiences each environment has in the buffer, `num_envs` numbers."""
        core = self._core
        return [0] * self._num_envs if core is None else core.lane_lengths()

    def clear(self) -> None:
        """Removes all experiences. The schema and the memory are kept.

        Draws and serial numbers go on, so `batch.indices` of removed experiences never name others.
        """
        core = self._core
        if core is not None:
            core.clear()

    def gather(self, indices: Any) -> tuple[BatchExperience, Tensor]:
        """Returns experiences by the `indices` of earlier batches.

            batch, mask = buffer.gather(indices)
            batch[mask]  # those that are still there

        Reads the experiences as they are now, so an n-step row may sum up more steps than before.

        Args:
            indices: Permanent IDs from `batch.indices`, ints `(B,)`, or `(B, L)` as in sequences,
                in any order and with repetitions. -1, or any other ID of no experience, is one that
                is gone. For experiences on a GPU, int64 CUDA tensors are read there without waiting
                for it, and a CUDA graph reads them anew in each replay; other tensors are copied to
                the host first, which waits for CUDA tensors.

        Returns:
            `(batch, mask)`. The batch has a row for each index, in their order and on the buffer's
            device, like those of `sample` but without `weights`: states `(B, F)`, or `(B, L, F)`.
            `mask` is bool with the shape of `indices`, on the same device: which experiences were
            still there. Rows of those that are gone are padding: zeros, with index -1.

        Raises:
            ValueError: If `indices` are not ints, have another shape, or come before the first
                experience fixed the schema.
            RuntimeError: If captured in a CUDA graph with rows in host memory.
        """
        indices = int_array("indices", "(B,) or (B, L)", indices)
        core = self._core
        if core is None:
            raise ValueError("indices: expected those of a batch, got some before the first push")
        batch = self._deliver(cast("BatchExperience", core.gather(indices)))
        return batch, cast("Tensor", batch.indices >= 0)

    def __len__(self) -> int:
        core = self._core
        return 0 if core is None else len(core)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Returns the experience at an index, oldest first, in the form in which it was pushed.

        Raises:
            IndexError: If the index is out of range.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = operator.index(index)
        if position < 0:
            position += len(self)
        if not 0 <= position < len(self):
            raise IndexError(f"index: expected one of {len(self)} experiences, got {index}")
        assert self._core is not None
        assert self._schema is not None
        return self._schema.experience(self._core.take(position, 1), 0)

    def _deliver(self, batch: BatchExperience) -> BatchExperience:
        return batch.to(self._device) if self._comes_by_copy else batch
