"""The on-policy memory."""

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

# The seed of a buffer that was not copied into another process: its order is all torch's.
_UNMIXED = 0

_PARTS = {item.name for item in dataclasses.fields(BatchExperience)}
_FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class RolloutBuffer(Buffer):
    """Collects up to `capacity` experiences and hands all of them back in time order.

    It never overwrites: when it is full, `sample` it and then `empty` it.

    Args:
        capacity: How many experiences to hold, 1 to 2**40, `capacity // num_envs` for each
            environment. A whole number, which may be written `1e6`.
        device: Where batches come back; None is the CPU.
        num_envs: How many environments step side by side, 1 to 65,536.

    Raises:
        TypeError: If `capacity` is not a whole number, or `num_envs` not an int.
        ValueError: If either is out of range.
        RuntimeError: If this machine has no such device.
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
        """All experiences, oldest first, as one batch on the buffer's device, with `indices`.

        With several environments, all of them at one step come before any at the next: T steps
        of N environments are T * N rows, and `reshape(T, N, ...)` takes them apart.

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
        """Generalised advantage estimates for what `sample` gives.

        That is T * N rows, for T steps of N environments.

        Args:
            values: The critic's values of `sample().states`, `(T * N, 1)` or `(T * N,)`; float32 or
                float64, or float16 or bfloat16, for which all is computed in float32.
            next_values: Its values of `sample().next_states`, of the same shape and dtype.
            gamma: Discount, in [0, 1].
            lam: Decay of the estimator, in [0, 1].

        Returns:
            `(advantages, returns)`, `(T * N, 1)` each, with the device and dtype of `values`. No
            gradient flows through them.

        Raises:
            BufferError: If the buffer is empty, or environments have different numbers of steps.
            TypeError: If values are not tensors, or `gamma` or `lam` not a number.
            ValueError: If a shape, dtype or number does not fit.

        Paper:
            Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage
            Estimation, https://arxiv.org/abs/1506.02438.
        """
        _check_values("values", values, _FLOAT_DTYPES)
        _check_values("next_values", next_values, (values.dtype,))
        steps = self.sample()
        if steps.rewards.device.type != "cuda":  # the estimator runs on the CPU and on CUDA
            steps = steps.to("cpu")
        place = steps.rewards.device
        # Rewards have more bits than a critic of 16, and sums of them need them.
        dtype = torch.promote_types(values.dtype, torch.float32)
        columns = (
            steps.rewards.to(dtype),
            _column("values", values, len(steps)).to(place, dtype),
            _column("next_values", next_values, len(steps)).to(place, dtype),
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
        """Goes through all experiences in shuffled minibatches, each once per epoch.

        All minibatches are made of what the buffer holds at this call, which checks its arguments;
        what happens to the buffer later, `empty` included, does not matter to them. The order of
        an epoch comes from torch's global generator when its first minibatch is asked for, so
        `torch.manual_seed` repeats it. In another process that has a copy of the buffer it is
        another one, as draws of a `ReplayBuffer` are.

        Args:
            batch_size: How many steps to a minibatch. The last of an epoch may be shorter.
            epochs: How often to go through all steps.
            drop_last: Leave a shorter last minibatch out.
            **columns: More tensors, with a row for each of `sample()`, to be found in
                `minibatch.extras` by their names: `advantages=advantages`.

        Yields:
            Minibatches on the buffer's device.

        Raises:
            BufferError: If the buffer is empty.
            TypeError: If `batch_size` or `epochs` is not an int, or a column not a tensor.
            ValueError: If either is less than 1, or a column has another number of rows than
                `sample()`, or the name of a part of a batch or of an extra field.
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
        """Takes out all experiences. The schema and the memory stay."""
        if self._core is not None:
            self._core.clear()


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
    """A random order by torch's global generator, and by what tells this copy from others."""
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
