"""Where a buffer's batches come back."""

from __future__ import annotations

import torch

from velora import _core
from velora.utils import set_device


def check_device(device: torch.device | str | None) -> torch.device:
    """The device that was asked for, if batches can be there; None is the CPU.

    Raises:
        RuntimeError: If this machine has no such device.
        ValueError: If it has no memory, or torch does not know it.
    """
    try:
        chosen = set_device("cpu" if device is None else device)
    except RuntimeError as error:
        raise _missing_cuda(error) from None
    if chosen.type == "meta":
        raise ValueError("device: expected one with memory, got meta")
    if chosen.type == "cuda":
        _core.require_cuda(cuda_index(chosen))
    return chosen


def cuda_index(device: torch.device) -> int:
    """The number of a CUDA device, which a bare "cuda" leaves to torch."""
    return torch.cuda.current_device() if device.index is None else device.index


def _missing_cuda(error: RuntimeError) -> RuntimeError:
    """What is missing and what to do about it, where that is more than torch's error says."""
    try:
        _core.require_cuda(0)
    except RuntimeError as reason:
        return reason
    if torch.cuda.is_available():
        return error
    return RuntimeError(
        f"device: cannot use cuda: torch {torch.__version__} has no CUDA; install a build of torch "
        "with CUDA, or pass device='cpu'"
    )
