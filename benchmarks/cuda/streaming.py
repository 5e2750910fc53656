"""Batches of images whose rows are in host memory: bytes that must cross to the device."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.contenders.base import Unavailable
from benchmarks.cuda import copies
from benchmarks.cuda.columns import Columns, check_batches, make_images, nbytes_of
from benchmarks.cuda.sampling import storage_options
from benchmarks.cuda.work import Aim, Case, Setting, Sizes, Work
from velora.buffer import ReplayBuffer

PREFETCH = 2


def works(sizes: Sizes) -> list[Work]:
    """All of this file."""
    return [
        Work(
            f"{sizes.image_batch} images from the host",
            {
                "velora": _load,
                "velora, sample": _sample,
                "torch columns": _gather,
                copies.PINNED: _copy_batch,
            },
            ("wall",),
            ceiling=copies.PINNED,
            aims=(Aim("share", at_least=0.8),),
        )
    ]


def _filled(setting: Setting) -> tuple[Columns, ReplayBuffer]:
    columns = make_images(setting.sizes.image_rows)
    options = storage_options(setting, "cpu")
    buffer = ReplayBuffer(len(columns), setting.device, seed=0, **options)
    buffer.extend(**columns.by_name())
    return columns, buffer


def _load(setting: Setting) -> Case:
    """The next batch of a loader; what is ready when a block begins is little of the block."""
    if not hasattr(ReplayBuffer, "loader"):
        raise Unavailable("this velora has no loader")
    columns, filled = _filled(setting)
    buffer: Any = filled
    loader = buffer.loader(setting.sizes.image_batch, prefetch=PREFETCH)
    run = partial(next, iter(loader))
    check = partial(check_batches, columns, run, setting.device)
    return Case(run, check, nbytes=nbytes_of(run()), close=loader.close)


def _sample(setting: Setting) -> Case:
    """`sample`, which gathers and copies while the caller waits."""
    columns, buffer = _filled(setting)
    run = partial(buffer.sample, setting.sizes.image_batch)
    check = partial(check_batches, columns, run, setting.device)
    return Case(run, check, nbytes=nbytes_of(run()))


def _gather(setting: Setting) -> Case:
    """What one writes: one gather for each field, and `to`."""
    columns = make_images(setting.sizes.image_rows)
    names = [name for name in columns.by_name() if name != "truncations"]

    def run() -> Any:
        chosen = torch.randint(len(columns), (setting.sizes.image_batch,))
        return SimpleNamespace(
            **{name: getattr(columns, name)[chosen].to(setting.device) for name in names}
        )

    check = partial(check_batches, columns, run, setting.device, distinct=False)
    return Case(run, check, nbytes=nbytes_of(run()))


def _copy_batch(setting: Setting) -> Case:
    """As many bytes as a batch has, in one piece."""
    columns = make_images(setting.sizes.image_rows)
    return copies.from_pinned(setting.sizes.image_batch * columns.row_nbytes, setting)
