"""Selection of the device to train on."""

from __future__ import annotations

import torch


def set_device(device: torch.device | str = "auto") -> torch.device:
    """Returns a device after checking that it is available.

    Args:
        device: "auto" for the current CUDA device if available and the CPU otherwise, or any
            device that torch knows: "cpu", "cuda", "cuda:1".

    Returns:
        The device. torch's default device is not changed.

    Raises:
        TypeError: If `device` is neither a string nor a device.
        ValueError: If torch does not know the device.
        RuntimeError: If a CUDA device is not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except TypeError:
        raise TypeError(
            f"device: expected 'auto' or a torch device, got {type(device).__name__}"
        ) from None
    except RuntimeError:
        raise ValueError(f"device: expected 'auto' or a torch device, got {device!r}") from None
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise RuntimeError(
                f"device: expected one of the {count} CUDA devices that torch sees, got {chosen}; "
                "pass 'auto' or 'cpu' to go on without"
            )
    return chosen
