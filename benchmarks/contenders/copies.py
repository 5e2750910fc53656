"""Plain copies, the ceiling of what this machine can do."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from benchmarks.contenders.base import Contender, Operation, require_cuda
from benchmarks.rows import Contents

# More than any cache holds; without a GPU the figures mean nothing.
COPIED_NBYTES = {"cuda": 2**30, "cpu": 2**16}


class Copies(Contender):
    """Copies within the device's memory, and from pinned host memory to the device."""

    name = "copy"
    is_ceiling = True

    def setup(self, contents: Contents) -> None:
        self._row_nbytes = contents.rows.nbytes

    def sample_large(self, batch_size: int) -> Mapping[str, Operation]:
        """A large copy on the device, whatever the size of the batch."""
        del batch_size
        source = torch.zeros(COPIED_NBYTES[self.device.type], dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)

        def run() -> tuple[torch.Tensor, torch.Tensor]:
            return source, target.copy_(source)

        return {"device": run}

    def gae(self, num_steps: int, num_envs: int) -> Mapping[str, Operation]:
        return self.sample_large(num_steps * num_envs)

    def sample_pinned(self, batch_size: int) -> Mapping[str, Operation]:
        """As many bytes as a batch has, in one piece."""
        require_cuda(self.device)
        nbytes = batch_size * self._row_nbytes
        source = torch.zeros(nbytes, dtype=torch.uint8).pin_memory()
        target = torch.empty_like(source, device=self.device)
        return {"pinned": lambda: target.copy_(source, non_blocking=True)}

    def sample_from_host(self, batch_size: int) -> Mapping[str, Operation]:
        return self.sample_pinned(batch_size)
