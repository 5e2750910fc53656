"""Steps of many environments that are on the device already."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.cuda import peers
from benchmarks.cuda.columns import make_vectors
from benchmarks.cuda.work import Aim, Case, Setting, Sizes, Work
from velora.buffer import ReplayBuffer


def works(sizes: Sizes) -> list[Work]:
    """All of this file."""
    contenders: dict[str, Callable[[Setting], Case]] = {
        "velora": _extend,
        "torchrl": lambda setting: peers.extend(setting.sizes.lanes, setting),
        "torch columns": _assign,
    }
    return [
        Work(
            f"extend {sizes.lanes} lanes",
            contenders,
            ("host", "device"),
            aims=(Aim("kernels", at_most=1), Aim("host", at_most=15)),
        )
    ]


def _extend(setting: Setting) -> Case:
    """`extend` by one step of each environment."""
    sizes = setting.sizes
    columns = make_vectors(sizes.rows, setting.device)
    step = columns.first(sizes.lanes)
    buffer = ReplayBuffer(sizes.rows, setting.device, num_envs=sizes.lanes, seed=0)
    run = partial(buffer.extend, **step.by_name())

    def check() -> None:
        run()
        assert len(buffer) == sizes.lanes, "not one row for each lane"
        rows = columns.check(buffer.sample(sizes.lanes))
        assert int(rows.max()) == sizes.lanes - 1, "other rows"

    return Case(run, check)


def _assign(setting: Setting) -> Case:
    """What one writes: an assignment for each field, the next step of every lane at once."""
    lanes = setting.sizes.lanes
    columns = make_vectors(setting.sizes.rows, setting.device)
    steps = len(columns) // lanes
    step = list(columns.first(lanes).by_name().values())
    rings = [
        torch.empty((steps, *value.shape), dtype=value.dtype, device=value.device) for value in step
    ]
    head = 0

    def run() -> None:
        nonlocal head
        for ring, value in zip(rings, step, strict=True):
            ring[head] = value
        head = (head + 1) % steps

    def check() -> None:
        run()
        for ring, value in zip(rings, step, strict=True):
            assert torch.equal(ring[0], value), "other rows"

    return Case(run, check)
