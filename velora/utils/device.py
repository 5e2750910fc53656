"""Choosing the device to train on."""

from __future__ import annotations

import torch


def set_device(device: torch.device | str = "auto") -> torch.device:
    """Turns a wish into a device that this machine has.

    Args:
        device: "auto" for the current CUDA device where there is one and the CPU otherwise, or
            any device that torch knows: "cpu", "cuda", "cuda:1".

    Returns:
        The device. torch's default device is left alone.

    Raises:
        TypeError: If `device` is neither a string nor a device.
        ValueError: If torch does not know the device.
        RuntimeError: If CUDA is asked for and this machine or this torch has none.
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
