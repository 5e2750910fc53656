"""The on-policy memory."""

from __future__ import annotations

import torch

from velora.buffer.base import Buffer
from velora.buffer.experience import BatchExperience


class RolloutBuffer(Buffer):
    """Collects up to `capacity` experiences and hands all of them back in time order.

    It never overwrites: when it is full, `sample` it and then `empty` it.

    Args:
        capacity: How many experiences to hold, 1 to 2**40.
        device: Where batches come back; None is the CPU.

    Raises:
        TypeError: If `capacity` is not an int.
        ValueError: If `capacity` is out of range.
    """

    def __init__(self, capacity: int, device: torch.device | str | None = None) -> None:
        super().__init__(capacity, device, seed=0, gamma=None, overwrite=False)

    def sample(self) -> BatchExperience:
        """All experiences, oldest first, as one batch on the buffer's device.

        Raises:
            BufferError: If the buffer is empty.
        """
        if self._core is None or len(self._core) == 0:
            raise BufferError("the buffer is empty: push() experiences before sample()")
        return self._deliver(self._core.take(0, len(self._core)))

    def empty(self) -> None:
        """Takes out all experiences. The schema and the memory stay."""
        if self._core is not None:
            self._core.clear()
