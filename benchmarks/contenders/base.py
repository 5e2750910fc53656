"""The interface between the runner and contenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch

from benchmarks.learner import Batch, Learner
from benchmarks.rows import Contents

Operation = Callable[[], object]
# One way to do it, or several by name; "" is the contender's own.
Operations = Operation | Mapping[str, Operation]

CPU = torch.device("cpu")


class Unavailable(Exception):  # noqa: N818  # a state of this machine, not a fault
    """Raised by a contender that cannot do something here; the message says why."""


class Contender:
    """One way to remember experiences.

    A subclass has a method for each operation of `workloads.py` that it can do. It takes the
    workload's arguments and returns a function without arguments, or several by name: what happens
    inside these is timed. It raises `Unavailable` for what cannot be done on this machine.

    Attributes:
        name: Name in the report.
        is_ceiling: Whether it only copies bytes, all of which are in its results.
        device: The device of its batches.
    """

    name: ClassVar[str]
    _buffer: Any  # of a library, whose `sample` needs nothing around it
    is_ceiling: ClassVar[bool] = False

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device

    def setup(self, contents: Contents) -> None:
        """Fills a memory of `contents.rows.capacity` rows, or raises `Unavailable`."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what the operations of a workload started."""

    def as_tensors(self, batch: Any) -> Batch:
        """The rows in a result of `sample`, which later operations may overwrite."""
        del batch
        raise Unavailable("its batches are no torch tensors")

    def sample(self, batch_size: int) -> Operation:
        """Draws a batch of torch tensors, `(B, ...)` for each field."""
        return partial(self._buffer.sample, batch_size)

    def sample_captured(self, batch_size: int) -> Operation:
        """Replays a CUDA graph that draws a batch."""
        return captured(self.sample(batch_size), self.device)

    def update(self, batch_size: int) -> Operation:
        """Draws a batch and trains a small network on it."""
        sample, as_tensors = self.sample(batch_size), self.as_tensors
        learner = Learner(as_tensors(sample()))
        return lambda: learner.update(as_tensors(sample()))


def captured(draw: Operation, device: torch.device) -> Operation:
    """A replay of a captured draw, which writes into the same batch each time."""
    require_cuda(device)
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

    def replay(keep: Operation = draw) -> object:  # a graph does not keep the rows that it reads
        del keep
        graph.replay()
        return batch

    return replay


def require_cuda(device: torch.device) -> None:
    """Raises `Unavailable` if there is no GPU."""
    if device.type != "cuda":
        raise Unavailable("needs a GPU")
