"""Plain copies: what the machine can do at most."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.contenders.base import Unavailable
from benchmarks.cuda.work import Case, Setting

DEVICE = "device copy"
PINNED = "pinned copy"


def on_device(setting: Setting) -> Case:
    """From the device's memory to itself, of more than its caches hold."""
    source = torch.randint(
        0, 256, (setting.sizes.copied,), dtype=torch.uint8, device=setting.device
    )
    return _copy(source, torch.empty_like(source), nbytes=2 * source.nbytes)


def from_pinned(nbytes: int, setting: Setting) -> Case:
    """So many bytes from pinned host memory to the device.

    Raises:
        Unavailable: If there is no GPU.
    """
    if not setting.on_cuda:
        raise Unavailable("needs a GPU")
    source = torch.randint(0, 256, (nbytes,), dtype=torch.uint8).pin_memory()
    return _copy(source, torch.empty_like(source, device=setting.device), nbytes=nbytes)


def _copy(source: Tensor, target: Tensor, nbytes: int) -> Case:
    run = partial(target.copy_, source, non_blocking=True)

    def check() -> None:
        target.zero_()
        run()
        assert torch.equal(target, source.to(target.device)), "other bytes"

    return Case(run, check, nbytes=nbytes)
