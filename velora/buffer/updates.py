"""Changes of experiences that are in a buffer already."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from velora.buffer import tree
from velora.buffer.core_owner import CoreOwner
from velora.buffer.experience import BatchExperience


class Updates(CoreOwner):
    """The calls of a `ReplayBuffer` that change experiences that are in it already."""

    def update_priorities(
        self,
        indices: Tensor | BatchExperience,
        priorities: Tensor,
        *,
        mask: Tensor | None = None,
        eta: float = 0.9,
    ) -> Tensor:
        """Sets the priorities of experiences, in a buffer with a `Prioritized` sampler.

        Experiences that have been overwritten since they were drawn are skipped. All arguments are
        checked before the first priority changes.

        Args:
            indices: A batch, or its `indices`: `(B,)`, or `(B, L)` for sequences. If an experience
                occurs several times, its last priority counts.
            priorities: One for each index, such as absolute TD errors: finite numbers of at least
                0, `(B,)` or `(B, 1)`; `(B, L)` or `(B, L, 1)` for sequences. A sequence gets one
                priority, `eta * max + (1 - eta) * mean` over its trained steps (Kapturowski et al.
                2019). It is stored at the first of these steps.
            mask: Nonzero for the trained steps of sequences, `(B, L)` or `(B, L, 1)`. By default
                that of the batch; for indices alone, all steps except padding.
            eta: Weight of the largest priority of a sequence, 0 to 1.

        Returns:
            A bool tensor `(B,)` on the CPU: True where the experience was still in the buffer.

        Raises:
            ValueError: If the sampler keeps no priorities, a shape is wrong, indices are not ints,
                a priority is negative, NaN or infinite, or `eta` is out of range.
        """
        if self._core is None:
            raise ValueError("indices: expected those of a batch, got some before the first push")
        rows, values = indices, priorities
        is_plain = isinstance(rows, Tensor) and rows.ndim == 1 and isinstance(values, Tensor)
        if not is_plain or mask is not None or not 0.0 <= eta <= 1.0:
            rows, values = priorities_of_rows(indices, priorities, mask, eta)
        return cast("Tensor", self._core.update_priorities(rows, values))

    def update(self, indices: Tensor | BatchExperience, **fields: Any) -> Tensor:
        """Writes extra fields and rewards of experiences that are in the buffer already.

        For recurrent states that a learner computes anew, labels, relabelled rewards or latents.
        Experiences that have been overwritten since are skipped. All arguments are checked before
        anything is written.

        Args:
            indices: A batch, or its `indices`: `(B,)`, or `(B, L)` for sequences, whose padding is
                skipped. Where an experience is named twice, its last values stay.
            **fields: New values of extra fields by name, `(B, ...)` or `(B, L, ...)`, and of
                `rewards`, `(B,)` or `(B, 1)`, or `(B, L)` or `(B, L, 1)`. Dtypes as in `push`.

        Returns:
            A bool tensor with the shape of the indices, on the CPU: which experiences were still
            there.

        Raises:
            TypeError: If no field is given.
            ValueError: If a field is unknown or cannot be updated, values do not fit its shape or
                dtype, or indices are not ints. The buffer is then unchanged.
            RuntimeError: If captured in a CUDA graph.
        """
        if self._core is None or self._schema is None:
            raise ValueError("indices: expected those of a batch, got some before the first push")
        rows, columns = rows_to_update(indices, fields, self._schema.extra_names)
        mask = cast("Tensor", self._core.update(rows.reshape(-1), columns))
        return mask.reshape(rows.shape)


def priorities_of_rows(indices: Any, priorities: Any, mask: Any, eta: float) -> tuple[Any, Any]:
    """Returns the indices `(B,)` of the rows to update, and their new priorities `(B,)`.

    A sequence is reduced to its first trained step. The priority is `eta` times the largest plus
    `1 - eta` times the mean priority of all trained steps. A sequence without any has index -1.

    Args:
        indices: A batch, or its indices: ints `(B,)`, or `(B, L)` for sequences.
        priorities: One for each index: the shape of the indices, or that with a final 1.
        mask: Nonzero for the trained steps of sequences, of the same shape. None: the mask of the
            batch; for indices alone, all steps except padding.
        eta: Weight of the largest priority of a sequence, 0 to 1.

    Raises:
        TypeError: If `indices` is neither a tensor nor a batch.
        ValueError: If a shape is wrong, `eta` is out of range, or a batch has no indices.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta: expected a number from 0 to 1, got {eta}")
    if isinstance(indices, BatchExperience) and mask is None:
        mask = indices.mask
    indices = _indices_of(indices)
    priorities = _like("priorities", indices, priorities)
    if indices.ndim == 1:
        if mask is not None:
            raise ValueError("mask: expected None for single steps, got a mask")
        return indices, priorities
    trained = indices >= 0
    if mask is not None:
        trained &= _like("mask", indices, mask).to(indices.device) != 0
    return _of_sequences(indices, priorities.to(indices.device), trained, eta)


def rows_to_update(
    indices: Any, fields: dict[str, Any], extras: list[str]
) -> tuple[Tensor, dict[str, Any]]:
    """Returns the indices of rows and, for each field, a value for each index, flat.

    Args:
        indices: A batch, or its indices: ints `(B,)`, or `(B, L)` for sequences.
        fields: Name -> values `(B, ...)`, or `(B, L, ...)`.
        extras: Names of the extra fields of the buffer.

    Raises:
        TypeError: If no field is given.
        ValueError: If a field is unknown, or has other dimensions than the indices.
    """
    known = ("rewards", *extras)
    if not fields:
        raise TypeError(f"update: expected values of {' or '.join(known)}, got none")
    for name in fields:
        if name not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got another field")
    indices = _indices_of(indices)
    if indices.ndim == 1:
        return indices, fields
    return indices, {
        name: tree.map_named_leaves(partial(_flatten, indices.shape), nest, name)
        for name, nest in fields.items()
    }


def _flatten(shape: torch.Size, name: str, values: Any) -> Tensor:
    tensor = torch.as_tensor(values)
    if tensor.shape[:2] != shape:
        raise ValueError(
            f"{name}: expected shape ({shape[0]}, {shape[1]}, ...), a value for each index, got "
            f"{tuple(tensor.shape)}"
        )
    return tensor.flatten(0, 1)


def _indices_of(indices: Any) -> Tensor:
    if isinstance(indices, BatchExperience):
        indices = indices.indices
        if indices is None:
            raise ValueError("batch: expected one that was sampled from a buffer, got no indices")
    tensor: Tensor = torch.as_tensor(indices)
    if tensor.ndim not in (1, 2):
        raise ValueError(f"indices: expected shape (B,) or (B, L), got {tuple(tensor.shape)}")
    if tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"indices: expected ints, got {tensor.dtype}")
    return tensor.to(torch.int64)


def _of_sequences(
    indices: Tensor, priorities: Tensor, trained: Tensor, eta: float
) -> tuple[Tensor, Tensor]:
    if priorities.is_complex():
        raise ValueError(f"priorities: expected real numbers, got {priorities.dtype}")
    if indices.numel() == 0:
        return indices.new_full(indices.shape[:1], -1), torch.zeros(len(indices))
    priorities = torch.where(trained, priorities.to(torch.float64), 0.0)  # sums need the precision
    check_priorities(priorities)
    counts = trained.sum(dim=1)
    mean = priorities.sum(dim=1) / counts.clamp(min=1)
    first = trained.to(torch.uint8).argmax(dim=1, keepdim=True)
    rows = torch.where(counts > 0, indices.gather(1, first).squeeze(1), -1)
    return rows, (eta * priorities.amax(dim=1) + (1 - eta) * mean).to(torch.float32)


def check_priorities(priorities: Tensor) -> None:
    """Checks that experiences can have these priorities.

    Raises:
        ValueError: If one is negative, NaN or beyond float32.
    """
    if not bool(((priorities >= 0) & (priorities <= torch.finfo(torch.float32).max)).all()):
        raise ValueError("priorities: expected finite numbers of at least 0, got another")


def _like(name: str, indices: Tensor, values: Any) -> Tensor:
    tensor: Tensor = torch.as_tensor(values).detach()
    if tensor.shape not in (indices.shape, (*indices.shape, 1)):
        raise ValueError(
            f"{name}: expected shape {tuple(indices.shape)}, one for each index, got "
            f"{tuple(tensor.shape)}"
        )
    return tensor.reshape(indices.shape)
