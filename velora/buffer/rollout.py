"""The on-policy buffer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from velora import _core, returns
from velora.buffer.base import Buffer
from velora.buffer.checks import check_int
from velora.buffer.experience import BatchExperience
from velora.buffer.state import check_options

# Seed of a buffer that is not a copy in another process: the order comes from torch alone.
_UNMIXED = 0

_PARTS = {item.name for item in dataclasses.fields(BatchExperience)}
_FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class RolloutBuffer(Buffer):
    """Collects up to `capacity` experiences and returns all of them in time order.

    Never overwrites: when it is full, `sample` it and then `clear` it.

    Args:
        capacity: Maximum number of experiences, 1 to 2**40; `capacity // num_envs` per environment.
            A whole number; `1e6` is accepted.
        device: Device of the batches; None is the CPU.
        num_envs: Number of parallel environments, 1 to 65,536.

    Raises:
        TypeError: If `capacity` is not a whole number, or `num_envs` is not an int.
        ValueError: If either is out of range.
        RuntimeError: If the device is not available.
    """

    def __init__(
        self, capacity: int | float, device: torch.device | str | None = None, *, num_envs: int = 1
    ) -> None:
        super().__init__(
            capacity, device, num_envs=num_envs, overwrite=False, seed=_core.DrawSeed(_UNMIXED)
        )

    def _init(self, options: dict[str, Any], seed: _core.DrawSeed) -> None:
        check_options(options, ("capacity", "device", "num_envs"))
        RolloutBuffer.__init__(self, **options)
        self._seed = seed

    def sample(self) -> BatchExperience:
        """Returns all experiences, oldest first, as one batch on the buffer's device.

        The batch has `indices`. With several environments it is time-major: T steps of N
        environments are T * N rows, and `reshape(T, N, ...)` separates them.

        Raises:
            BufferError: If the buffer is empty.
        """
        if self._core is None or len(self._core) == 0:
            raise BufferError("the buffer is empty: push() experiences before sample()")
        return self._deliver(self._core.take(0, len(self._core)))

    def compute_returns(
        self,
        values: Tensor,
        next_values: Tensor,
        *,
        gamma: float = 0.99,
        lam: float = 0.95,
    ) -> tuple[Tensor, Tensor]:
        """Computes generalised advantage estimates for the rows of `sample`.

        These are T * N rows, for T steps of N environments.

        Args:
            values: The critic's values of `sample().states`, `(T * N, 1)` or `(T * N,)`: float32,
                float64, or float16 or bfloat16, which are computed in float32.
            next_values: The critic's values of `sample().next_states`; shape and dtype as `values`.
            gamma: Discount factor in [0, 1].
            lam: Decay of the estimator in [0, 1].

        Returns:
            `(advantages, returns)`, each `(T * N, 1)`, with the device and dtype of `values` and
            without gradients.

        Raises:
            BufferError: If the buffer is empty, or environments have different numbers of steps.
            TypeError: If values are not tensors, or `gamma` or `lam` is not a number.
            ValueError: If a shape or dtype is wrong, or a number is out of range.

        Paper:
            Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
            Estimation, https://arxiv.org/abs/1506.02438.
        """
        _check_values("values", values, _FLOAT_DTYPES)
        _check_values("next_values", next_values, (values.dtype,))
        steps = self.sample()
        if steps.rewards.device.type != "cuda":  # the estimator runs on the CPU and on CUDA
            steps = steps.to("cpu")
        device = steps.rewards.device
        # Sums of rewards need more precision than a 16-bit critic has.
        dtype = torch.promote_types(values.dtype, torch.float32)
        columns = (
            steps.rewards.to(dtype),
            _column("values", values, len(steps)).to(device, dtype),
            _column("next_values", next_values, len(steps)).to(device, dtype),
            steps.dones,
            steps.truncations,
        )
        assert self._core is not None
        if not self._core.is_even():
            raise BufferError(
                "compute_returns: expected as many steps of each environment, got "
                f"{len(steps)} steps that are spread unevenly over {self._num_envs}"
            )
        by_time = [column.reshape(-1, self._num_envs) for column in columns]
        both = returns.gae(*by_time, gamma=gamma, lam=lam)
        advantages, targets = (part.reshape(-1, 1).to(values) for part in both)
        return advantages, targets

    def minibatches(
        self, batch_size: int, epochs: int = 1, *, drop_last: bool = False, **columns: Tensor
    ) -> Iterator[BatchExperience]:
        """Iterates over all experiences in shuffled minibatches, each once per epoch.

        The call checks its arguments and copies the contents of the buffer; later changes of the
        buffer, `clear` included, do not affect the minibatches. The order of an epoch is drawn from
        torch's global generator with its first minibatch, so `torch.manual_seed` reproduces it. A
        copy of the buffer in another process gets a different order, like draws of a
        `ReplayBuffer`.

        Args:
            batch_size: Number of steps per minibatch. The last of an epoch may be smaller.
            epochs: Number of passes over all steps.
            drop_last: Skip a smaller last minibatch.
            **columns: Additional tensors with one row per row of `sample()`, added to
                `minibatch.extras` by name: `advantages=advantages`.

        Yields:
            Minibatches on the buffer's device.

        Raises:
            BufferError: If the buffer is empty.
            TypeError: If `batch_size` or `epochs` is not an int, or a column is not a tensor.
            ValueError: If either is less than 1, or a column has a different number of rows than
                `sample()` or the name of another field.
        """
        check_int("batch_size", batch_size, 1)
        check_int("epochs", epochs, 1)
        steps = self.sample()
        for name, column in columns.items():
            if not isinstance(column, Tensor):
                raise TypeError(f"{name}: expected a tensor, got {type(column).__name__}")
            if column.shape[:1] != (len(steps),):
                got = len(column) if column.ndim > 0 else "a single number"
                raise ValueError(f"{name}: expected {len(steps)} rows, got {got}")
            if name in steps.extras or name in _PARTS:
                raise ValueError(f"{name}: expected a new name, got that of a field")
        here = {name: column.to(self._device) for name, column in columns.items()}
        steps = dataclasses.replace(steps, extras=steps.extras | here)
        return _shuffled(steps, batch_size, epochs, drop_last, self._seed)

    def empty(self) -> None:
        """Removes all experiences: the same as `clear`."""
        self.clear()


def _shuffled(
    steps: BatchExperience, batch_size: int, epochs: int, drop_last: bool, seed: _core.DrawSeed
) -> Iterator[BatchExperience]:
    for _ in range(epochs):
        order = _order(len(steps), seed.value).to(steps.rewards.device)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            if len(rows) == batch_size or not drop_last:
                yield steps[rows]


def _order(length: int, seed: int) -> Tensor:
    """Draws a permutation from torch's global generator, mixed with the seed of a copy."""
    if seed == _UNMIXED:
        return torch.randperm(length, device="cpu")
    number = int(torch.randint(2**63 - 1, (), device="cpu").item())
    generator = torch.Generator().manual_seed(number ^ seed)
    return torch.randperm(length, generator=generator, device="cpu")


def _check_values(name: str, values: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(values).__name__}")
    if values.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise ValueError(f"{name}: expected {expected}, got {values.dtype}")


def _column(name: str, values: Tensor, length: int) -> Tensor:
    if values.shape not in ((length,), (length, 1)):
        raise ValueError(
            f"{name}: expected shape ({length}, 1) or ({length},), got {tuple(values.shape)}"
        )
    return values.reshape(length, 1)
