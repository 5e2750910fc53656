"""The off-policy memory."""

from __future__ import annotations

from numbers import Real

import torch

from velora.buffer.base import Buffer, check_int
from velora.buffer.experience import BatchExperience


class ReplayBuffer(Buffer):
    """Keeps the newest `capacity` experiences and draws uniform batches from them.

    Draws are without replacement and repeatable: the same seed, pushes and draws give the same
    batches on every device.

    Args:
        capacity: How many experiences to hold, 1 to 2**40. When full, the oldest go first.
        device: Where batches come back; None is the CPU.
        gamma: The discount factor in [0, 1] behind `batch.discounts`.
        seed: Seed of the draws, 0 to 2**64 - 1. None takes one from torch's global generator, so
            that `torch.manual_seed` makes a run repeatable.

    Raises:
        TypeError: If `capacity` or `seed` is not an int, or `gamma` not a number.
        RuntimeError: If this machine has no such device.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device | str | None = None,
        *,
        gamma: float = 0.99,
        seed: int | None = None,
    ) -> None:
        if not isinstance(gamma, Real):
            raise TypeError(f"gamma: expected a number, got {type(gamma).__name__}")
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma: expected a number from 0 to 1, got {gamma}")
        super().__init__(
            capacity, device, seed=_check_seed(seed), gamma=float(gamma), overwrite=True
        )

    def sample(self, batch_size: int) -> BatchExperience:
        """Draws distinct experiences, each set of them equally likely.

        Args:
            batch_size: How many, at most `len(self)`.

        Returns:
            A batch of `batch_size` steps on the buffer's device, with `truncations`, `indices`
            and `discounts`.

        Raises:
            TypeError: If `batch_size` is not an int.
            ValueError: If it is less than 1 or more than there is.
        """
        if self._core is None:
            if (number := check_int("batch_size", batch_size)) < 1:
                raise ValueError(f"batch_size: expected at least 1, got {number}")
            raise ValueError(
                "batch_size: expected at most 0, the number of experiences in the buffer, got "
                f"{number}"
            )
        return self._deliver(self._core.sample(batch_size))


def _check_seed(seed: int | None) -> int:
    if seed is None:
        return int(torch.randint(2**63 - 1, (), device="cpu").item())
    number = check_int("seed", seed)
    if not 0 <= number < 2**64:
        raise ValueError(f"seed: expected 0 to 2**64 - 1, got {number}")
    return number
