"""How many threads there are to work with."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import torch

Threads = Literal[1, "all"]


def count(threads: Threads) -> int:
    """The number, which for "all" is that of the cores that this process may use."""
    if threads == 1:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use(threads: Threads) -> None:
    """Tells torch, and whoever follows `torch.get_num_threads`."""
    torch.set_num_threads(count(threads))


def keep_jax_on_one() -> None:
    """Leaves JAX one thread; it reads this once, when it is imported."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("NPROC", "1")


def on_one(run: Callable[[], object]) -> Callable[[], object]:
    """An operation that has one thread even where others have all."""

    def run_on_one() -> None:
        use(1)
        run()
        use("all")

    return run_on_one
