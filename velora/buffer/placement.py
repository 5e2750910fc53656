"""Where a buffer's batches come back, and where its rows are."""

from __future__ import annotations

from typing import Literal

import torch

from velora import _core
from velora.utils import set_device

Storage = Literal["auto", "cpu", "cuda", "pinned"]

# Rows may take so much of a device's free memory: networks and batches need some, too.
ROWS_SHARE = 0.75


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
        chosen = torch.device("cuda", cuda_index(chosen))
        _core.require_cuda(cuda_index(chosen))
    return chosen


def check_storage(storage: Storage, device: torch.device) -> Storage:
    """Where rows may be, for batches on `device`.

    Raises:
        ValueError: If it is none of these, or needs a CUDA device.
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
    """On the device where so many bytes of rows leave room there, else in memory that it reads."""
    free, _ = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return "cuda" if nbytes <= ROWS_SHARE * (free + idle) else "pinned"


def cuda_index(device: torch.device) -> int:
    """The number of a CUDA device, which a bare "cuda" leaves to torch."""
    return torch.cuda.current_device() if device.index is None else device.index


def _missing_cuda(error: RuntimeError) -> RuntimeError:
    """What is missing and what to do about it, where that is more than torch's error says."""
    if torch.cuda.is_available():
        return error  # to look at cuda:0 would make a context there
    try:
        _core.require_cuda(0)
    except RuntimeError as reason:
        return reason
    return RuntimeError(
        f"device: cannot use cuda: torch {torch.__version__} has no CUDA; install a build of torch "
        "with CUDA, or pass device='cpu'"
    )
