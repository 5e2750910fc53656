"""Batches of vectors: what a call costs, and how fast its bytes move."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.contenders.base import Unavailable
from benchmarks.cuda import copies, peers
from benchmarks.cuda.columns import (
    Columns,
    check_batches,
    make_vectors,
    nbytes_of,
    overwrite,
    poison,
)
from benchmarks.cuda.work import Aim, Case, Setting, Sizes, Work
from velora.buffer import ReplayBuffer

# So many batches are kept that the next one is not written to memory that caches still hold.
KEPT = 8


def works(sizes: Sizes) -> list[Work]:
    """All of this file."""
    return [
        _small_batches(sizes.batch),
        _large_batches(sizes.large),
        _replays(sizes.batch),
        *(_pinned_rows(batch_size) for batch_size in (sizes.batch, sizes.medium)),
    ]


def _small_batches(batch_size: int) -> Work:
    return Work(
        f"sample {batch_size}",
        {
            "velora": partial(_sample, batch_size),
            "velora, out=": partial(_sample_into, batch_size),
            "torchrl": partial(peers.sample, batch_size),
            "torch columns": partial(_gather, batch_size),
        },
        ("host", "device"),
        aims=(
            Aim("kernels", at_most=1),
            Aim("host", at_most=15),
            Aim("host", at_least=10, contender="torchrl", times="velora"),
        ),
    )


def _large_batches(batch_size: int) -> Work:
    return Work(
        f"sample {batch_size}",
        {
            "velora": partial(_sample, batch_size, kept=KEPT),
            "torch columns": partial(_gather, batch_size, kept=KEPT),
            copies.DEVICE: copies.on_device,
        },
        ("host", "device"),
        ceiling=copies.DEVICE,
        aims=(Aim("share", at_least=0.6), Aim("kernels", at_most=1)),
    )


def _replays(batch_size: int) -> Work:
    return Work(
        f"replay of a captured sample {batch_size}",
        {
            "velora": partial(_replay_sample, batch_size),
            "torch columns": partial(_replay_gather, batch_size),
        },
        ("host", "device"),
        aims=(Aim("host", at_most=5),),
    )


def _pinned_rows(batch_size: int) -> Work:
    return Work(
        f"sample {batch_size} of pinned rows",
        {
            "velora": partial(_sample_pinned, batch_size),
            "velora, rows on the device": partial(_sample_beside, batch_size),
            copies.PINNED: partial(_copy_rows, batch_size),
        },
        ("host", "device"),
        ceiling=copies.PINNED,
    )


def storage_options(setting: Setting, storage: str) -> dict[str, Any]:
    """What `ReplayBuffer` takes for rows in such memory.

    Raises:
        Unavailable: If that needs a GPU.
    """
    if setting.on_cuda:
        return {} if storage == "auto" else {"storage": storage}
    if storage == "pinned":
        raise Unavailable("needs a GPU")
    return {}


def _filled(setting: Setting, columns: Columns, storage: str = "auto") -> ReplayBuffer:
    options = storage_options(setting, storage)
    buffer = ReplayBuffer(len(columns), setting.device, seed=0, **options)
    buffer.extend(**columns.by_name())
    return buffer


def _sample(batch_size: int, setting: Setting, kept: int = 1, storage: str = "auto") -> Case:
    columns = make_vectors(setting.sizes.rows, setting.device)
    buffer = _filled(setting, columns, storage)
    keep = deque[Any](maxlen=kept)
    sample, add = buffer.sample, keep.append

    def run() -> None:
        add(sample(batch_size))

    check = partial(check_batches, columns, partial(sample, batch_size), setting.device)
    nbytes = columns.row_nbytes * batch_size + nbytes_of(sample(batch_size))
    return Case(run, check, nbytes=nbytes, close=keep.clear)


def _sample_pinned(batch_size: int, setting: Setting) -> Case:
    """Counts the bytes that come from the host."""
    case = _sample(batch_size, setting, storage="pinned")
    return replace(case, nbytes=_rows_nbytes(batch_size, setting))


def _sample_beside(batch_size: int, setting: Setting) -> Case:
    """Brings nothing from the host."""
    return replace(_sample(batch_size, setting), nbytes=0)


def _copy_rows(batch_size: int, setting: Setting) -> Case:
    return copies.from_pinned(_rows_nbytes(batch_size, setting), setting)


def _rows_nbytes(batch_size: int, setting: Setting) -> int:
    return batch_size * make_vectors(setting.sizes.rows, setting.device).row_nbytes


def _sample_into(batch_size: int, setting: Setting) -> Case:
    columns = make_vectors(setting.sizes.rows, setting.device)
    buffer = _filled(setting, columns)
    batch = buffer.sample(batch_size)
    run = partial(buffer.sample, batch_size, out=batch)

    def poisoned() -> object:
        overwrite(batch)
        return run()

    check = partial(check_batches, columns, poisoned, setting.device)
    return Case(run, check, nbytes=2 * nbytes_of(batch))


def _gather_of(batch_size: int, setting: Setting) -> tuple[Columns, Callable[[], Any]]:
    """What one writes: random numbers, and one gather for each of five fields."""
    columns = make_vectors(setting.sizes.rows, setting.device)
    names = [name for name in columns.by_name() if name != "truncations"]
    tensors = [getattr(columns, name) for name in names]
    device, rows = setting.device, len(columns)

    def run() -> Any:
        chosen = torch.randint(rows, (batch_size,), device=device)
        return SimpleNamespace(
            **{name: tensor[chosen] for name, tensor in zip(names, tensors, strict=True)}
        )

    return columns, run


def _gather(batch_size: int, setting: Setting, kept: int = 1) -> Case:
    columns, gather = _gather_of(batch_size, setting)
    keep = deque[Any](maxlen=kept)

    def run() -> None:
        keep.append(gather())

    check = partial(check_batches, columns, gather, setting.device, distinct=False)
    return Case(run, check, nbytes=2 * nbytes_of(gather()), close=keep.clear)


def _replay_sample(batch_size: int, setting: Setting) -> Case:
    columns = make_vectors(setting.sizes.rows, setting.device)
    buffer = _filled(setting, columns)
    return _replay(setting, columns, partial(buffer.sample, batch_size), distinct=True)


def _replay_gather(batch_size: int, setting: Setting) -> Case:
    columns, gather = _gather_of(batch_size, setting)
    return _replay(setting, columns, gather, distinct=False)


def _replay(setting: Setting, columns: Columns, draw: Callable[[], Any], distinct: bool) -> Case:
    """Captures a draw; each replay must write other rows into the same batch."""
    if not setting.on_cuda:
        raise Unavailable("needs a GPU")
    cuda: Any = torch.cuda  # not all of it is typed
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for _ in range(3):
            draw()
    cuda.current_stream().wait_stream(side)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        batch = draw()

    def poisoned() -> Any:
        overwrite(batch)
        graph.replay()
        return batch

    poison(setting.device)
    check = partial(check_batches, columns, poisoned, setting.device, distinct)
    # A graph does not keep the rows that it reads.
    return Case(graph.replay, check, nbytes=2 * nbytes_of(batch), keeps=draw)
