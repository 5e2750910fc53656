"""The device of a buffer's batches, and the storage of its rows."""

from __future__ import annotations

from typing import Literal

import torch

from velora import _core
from velora.utils import set_device

Storage = Literal["auto", "cpu", "cuda", "pinned"]

# Fraction of a device's free memory that rows may use; networks and batches need some, too.
ROWS_SHARE = 0.75


def check_device(device: torch.device | str | None) -> torch.device:
    """Resolves the device of batches; None is the CPU.

    Raises:
        RuntimeError: If the device is not available.
        ValueError: If it is "meta", which has no memory, or unknown to torch.
    """
    try:
        chosen = set_device("cpu" if device is None else device)
    except RuntimeError as error:
        raise _missing_cuda(error) from None
    if chosen.type == "meta":
        raise ValueError("device: expected one with memory, got meta")
    if chosen.type == "cuda":
        chosen = torch.device("cuda", cuda_index(chosen))
        _core.require_cuda(cuda_index(chosen))
    return chosen


def check_storage(storage: Storage, device: torch.device) -> Storage:
    """Checks a storage for batches on `device`.

    Raises:
        ValueError: If it is unknown, or needs a CUDA device.
    """
    if storage not in ("auto", "cpu", "cuda", "pinned"):
        raise ValueError(f"storage: expected 'auto', 'cpu', 'cuda' or 'pinned', got {storage!r}")
    if storage in ("cuda", "pinned") and device.type != "cuda":
        raise ValueError(
            f"storage: expected 'auto' or 'cpu' for batches on {device}, got {storage!r}; "
            "pass device='cuda'"
        )
    return storage


def choose_storage(device: torch.device, nbytes: int) -> Literal["cuda", "pinned"]:
    """Chooses device memory if `nbytes` of rows leave enough of it free, else pinned memory."""
    free, _ = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return "cuda" if nbytes <= ROWS_SHARE * (free + idle) else "pinned"


def cuda_index(device: torch.device) -> int:
    """Returns the index of a CUDA device; a bare "cuda" is torch's current device."""
    return torch.cuda.current_device() if device.index is None else device.index


def _missing_cuda(error: RuntimeError) -> RuntimeError:
    """Returns an error that says what is missing and what to do, or torch's own error."""
    if torch.cuda.is_available():
        return error  # querying cuda:0 would create a context there
    try:
        _core.require_cuda(0)
    except RuntimeError as reason:
        return reason
    return RuntimeError(
        f"device: cannot use cuda: torch {torch.__version__} has no CUDA; install a build of torch "
        "with CUDA, or pass device='cpu'"
    )
