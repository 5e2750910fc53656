"""Preparation of the arguments of `update_priorities`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from velora.buffer.experience import BatchExperience


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
    if isinstance(indices, BatchExperience):
        mask = indices.mask if mask is None else mask
        indices = indices.indices
        if indices is None:
            raise ValueError("batch: expected one that was sampled from a buffer, got no indices")
    indices = torch.as_tensor(indices)
    priorities = _like("priorities", indices, priorities)
    if indices.ndim == 1:
        if mask is not None:
            raise ValueError("mask: expected None for single steps, got a mask")
        return indices, priorities
    if indices.ndim != 2:
        raise ValueError(f"indices: expected shape (B,) or (B, L), got {tuple(indices.shape)}")
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta: expected a number from 0 to 1, got {eta}")
    trained = indices >= 0
    if mask is not None:
        trained &= _like("mask", indices, mask).to(indices.device) != 0
    return _of_sequences(indices, priorities.to(indices.device), trained, eta)


def _of_sequences(
    indices: Tensor, priorities: Tensor, trained: Tensor, eta: float
) -> tuple[Tensor, Tensor]:
    counts = trained.sum(dim=1)
    largest = torch.where(trained, priorities, -torch.inf).amax(dim=1)
    mean = torch.where(trained, priorities, 0).sum(dim=1) / counts
    first = trained.to(torch.uint8).argmax(dim=1, keepdim=True)
    rows = torch.where(counts > 0, indices.gather(1, first).squeeze(1), -1)
    return rows, torch.where(counts > 0, eta * largest + (1 - eta) * mean, 0)


def _like(name: str, indices: Tensor, values: Any) -> Tensor:
    tensor: Tensor = torch.as_tensor(values).detach()
    if tensor.shape not in (indices.shape, (*indices.shape, 1)):
        raise ValueError(
            f"{name}: expected shape {tuple(indices.shape)}, one for each index, got "
            f"{tuple(tensor.shape)}"
        )
    return tensor.reshape(indices.shape)
