"""The rows that memories are full of, and whether a batch is made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.rows import MEAN_EPISODE

STATE, ACTION = 17, 6
IMAGE = (4, 84, 84)
_ID_BYTES = 4


@dataclass(frozen=True)
class Columns:
    """A tensor for each field, `(R, ...)`; the number of a row can be read off its state.

    Attributes:
        states: Float32 `(R, 17)`, or uint8 `(R, 4, 84, 84)`.
        actions: Float32 `(R, 6)`, or int64 `(R, 1)`.
        rewards: Float32 `(R,)`.
        next_states: Like `states`.
        dones: Bool `(R,)`.
        truncations: Bool `(R,)`.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    dones: Tensor
    truncations: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def by_name(self) -> dict[str, Any]:
        """As `extend` takes them."""
        return dict(self.__dict__)

    @property
    def row_nbytes(self) -> int:
        """Bytes of the values of one row."""
        return sum(column[0].nbytes for column in self.by_name().values())

    def first(self, rows: int) -> Columns:
        """Copies of the first rows."""
        return Columns(*(column[:rows].clone() for column in self.by_name().values()))

    def check(self, batch: Any, distinct: bool = True) -> Tensor:
        """The numbers of the rows in a batch, which must be whole ones.

        Args:
            batch: With the fields of this class, or some of them; `(B, 1)` for `(R,)` is fine.
            distinct: Whether no row may be there twice.

        Raises:
            AssertionError: If a row is none of these, or twice there.
        """
        rows = row_numbers(batch.states)
        assert int(rows.min()) >= 0, "a row that nobody wrote"
        assert int(rows.max()) < len(self), "a row that nobody wrote"
        for name, column in self.by_name().items():
            found = getattr(batch, name, None)
            if found is None:
                continue
            expected = column[rows.to(column.device)].to(found.device, found.dtype)
            assert torch.equal(found, expected.reshape(found.shape)), f"{name} of other rows"
        assert not distinct or len(set(rows.tolist())) == len(rows), "a row twice"
        return rows


@lru_cache(maxsize=1)
def make_vectors(rows: int, device: torch.device) -> Columns:
    """Random vectors on a device; the first element of a state is the row's number."""
    made = torch.Generator(device).manual_seed(0)
    states, next_states = (
        torch.randn(rows, STATE, generator=made, device=device) for _ in range(2)
    )
    states[:, 0] = torch.arange(rows, device=device)
    ends = torch.rand(rows, generator=made, device=device) < 1 / MEAN_EPISODE
    truncations = ends & (torch.rand(rows, generator=made, device=device) < 0.5)
    return Columns(
        states=states,
        actions=torch.randn(rows, ACTION, generator=made, device=device),
        rewards=torch.randn(rows, generator=made, device=device),
        next_states=next_states,
        dones=ends & ~truncations,
        truncations=truncations,
    )


@lru_cache(maxsize=1)
def make_images(rows: int) -> Columns:
    """Random images in host memory, one episode; a state's first bytes are the row's number."""
    made = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (rows + 1, *IMAGE), dtype=torch.uint8, generator=made)
    numbers = torch.arange(rows + 1, dtype=torch.int32)
    frames[:, 0, 0, :_ID_BYTES] = numbers.view(torch.uint8).reshape(rows + 1, _ID_BYTES)
    flags = torch.zeros(rows, dtype=torch.bool)
    return Columns(
        states=frames[:-1],
        actions=torch.randint(0, 18, (rows, 1), generator=made),
        rewards=torch.randn(rows, generator=made),
        next_states=frames[1:],
        dones=flags,
        truncations=flags.clone(),
    )


def row_numbers(states: Tensor) -> Tensor:
    """Of which rows these are the states."""
    if states.dtype == torch.uint8:
        number = states[:, 0, 0, :_ID_BYTES].contiguous().view(torch.int32)
        return number.reshape(-1).long()
    assert not bool(states[:, 0].isnan().any()), "a row that nobody wrote"
    return states[:, 0].long()


def tensors_of(batch: Any) -> list[Tensor]:
    """The tensors of a batch."""
    return [value for value in batch.__dict__.values() if isinstance(value, Tensor)]


def nbytes_of(batch: Any) -> int:
    """Bytes of all tensors of a batch."""
    return sum(tensor.nbytes for tensor in tensors_of(batch))


def poison(device: torch.device) -> None:
    """Fills memory that torch hands out next with NaN: so an element that is not written shows.

    Large tensors and small ones come from different places.
    """
    for count, nbytes in ((2, 2**26), (64, 2**18)):
        made = [torch.empty(nbytes, dtype=torch.uint8, device=device) for _ in range(count)]
        for tensor in made:
            tensor.fill_(255)


def overwrite(batch: Any) -> None:
    """The same for the tensors of a batch."""
    for tensor in tensors_of(batch):
        tensor.reshape(-1).view(torch.uint8).fill_(255)


def check_batches(
    columns: Columns, run: Callable[[], Any], device: torch.device, distinct: bool = True
) -> None:
    """Two batches of what is there, which are not the same.

    Raises:
        AssertionError: If they are not so.
    """
    poison(device)
    first = columns.check(run(), distinct).clone()
    second = columns.check(run(), distinct)
    assert not torch.equal(first, second), "the same rows again"
