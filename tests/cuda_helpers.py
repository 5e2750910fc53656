"""Helpers shared by the tests of buffers on a CUDA device."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from helpers import PARTS, PolicyExperience, map_nest, stamped

from velora.buffer import BatchExperience, Experience, ReplayBuffer


def image(i: int) -> Experience:
    frames = torch.arange(3 * 20 * 20).add(i).to(torch.uint8).reshape(3, 20, 20)
    return Experience(frames, i, i / 2, frames + 1, i % 4 == 0)


def nested(i: int) -> Experience:
    observation = {
        "half": torch.full((3,), i, dtype=torch.float16),
        "brain": torch.full((2, 5), i, dtype=torch.bfloat16),
        "counts": (torch.arange(i, i + 7, dtype=torch.int32), torch.tensor([i % 2 == 0])),
        "wide": torch.arange(i, i + 8, dtype=torch.float32),
    }
    return Experience(
        observation, torch.tensor([i, -i]), i, observation, False, truncated=i % 3 == 0
    )


def policy(i: int) -> Experience:
    return PolicyExperience(*stamped(i), i / 4, torch.full((2,), float(i)))


MAKERS = {"plain": stamped, "image": image, "nested": nested, "subclass": policy}


def twins(
    experiences: Iterable[Experience], capacity: int, **options: Any
) -> tuple[ReplayBuffer, ReplayBuffer]:
    """A buffer on the CPU and one on the device, that were given the same."""
    buffers = tuple(ReplayBuffer(capacity, device, seed=7, **options) for device in ("cpu", "cuda"))
    for experience in experiences:
        for buffer in buffers:
            buffer.push(experience)
    return buffers


def assert_same(cpu: BatchExperience, cuda: BatchExperience) -> None:
    def check(left: torch.Tensor, right: torch.Tensor) -> None:
        assert right.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
        assert left.dtype == right.dtype
        assert torch.equal(left, right.cpu())

    for name in (*PARTS, "mask", "is_first", "steps"):
        if getattr(cpu, name) is not None:
            map_nest(check, getattr(cpu, name), getattr(cuda, name))
    assert cpu.extras.keys() == cuda.extras.keys()
    map_nest(check, cpu.extras, cuda.extras)


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """While it is open, an operation of torch that makes the host wait for the device raises."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            # Torch says once in a process, when the mode is set, that it is a prototype.
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def there(value: torch.Tensor) -> torch.Tensor:
    """The tensor on the device; for the emulation each tensor is."""
    return value.cuda() if torch.cuda.is_available() else value.clone()
