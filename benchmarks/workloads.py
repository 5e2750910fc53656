"""What is timed: the rows that a memory is full of, and the work done on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rows:
    """The rows of one memory; C is the capacity.

    Attributes:
        name: For the report.
        state_shape: Of one observation: `(F,)` or `(C, H, W)`.
        state_dtype: By numpy's name, which is also torch's.
        action_shape: Of one action.
        action_dtype: As `state_dtype`.
        capacity: How many rows there are, all of them in use.
    """

    name: str
    state_shape: tuple[int, ...]
    state_dtype: str
    action_shape: tuple[int, ...]
    action_dtype: str
    capacity: int

    @property
    def state_nbytes(self) -> int:
        """Bytes of one observation."""
        return int(np.prod(self.state_shape)) * np.dtype(self.state_dtype).itemsize

    @property
    def action_nbytes(self) -> int:
        """Bytes of one action."""
        return int(np.prod(self.action_shape)) * np.dtype(self.action_dtype).itemsize

    def make_contents(self, seed: int = 0) -> Contents:
        """Random rows, the same for every contender."""
        rng = np.random.default_rng(seed)
        return Contents(
            rows=self,
            states=_random(rng, (self.capacity, *self.state_shape), self.state_dtype),
            actions=_random(rng, (self.capacity, *self.action_shape), self.action_dtype),
            rewards=_random(rng, (self.capacity, 1), "float32"),
            next_states=_random(rng, (self.capacity, *self.state_shape), self.state_dtype),
            dones=(rng.random((self.capacity, 1)) < 0.01).astype(np.float32),
        )


@dataclass(frozen=True)
class Contents:
    """One array for each field, `(C, ...)`. Contenders copy from it and never write to it."""

    rows: Rows
    states: Array
    actions: Array
    rewards: Array
    next_states: Array
    dones: Array

    def columns(self) -> tuple[Array, Array, Array, Array, Array]:
        """The fields in the order of an experience."""
        return self.states, self.actions, self.rewards, self.next_states, self.dones


@dataclass(frozen=True)
class Workload:
    """One piece of work, done again and again on a full memory.

    Attributes:
        name: What `--only` looks in.
        rows: What the memory is full of.
        operation: The method of a contender that prepares it.
        batch_size: B, for what makes a batch; 0 otherwise.
        aim_us: What velora may take at most.
        aim_ratios: Contender -> how many times as long as velora it should take at least.
    """

    name: str
    rows: Rows
    operation: str
    batch_size: int = 0
    aim_us: float | None = None
    aim_ratios: Mapping[str, float] = field(default_factory=dict)


VECTORS = Rows(
    name="17+6 float32",
    state_shape=(17,),
    state_dtype="float32",
    action_shape=(6,),
    action_dtype="float32",
    capacity=1_000_000,
)
IMAGES = Rows(
    name="4x84x84 uint8",
    state_shape=(4, 84, 84),
    state_dtype="uint8",
    action_shape=(1,),
    action_dtype="int64",
    capacity=10_000,
)

WORKLOADS = (
    Workload("push", VECTORS, "push", aim_us=1.0),
    Workload("construct and push", VECTORS, "construct_and_push"),
    Workload("sample 32", VECTORS, "sample", 32),
    Workload(
        "sample 256",
        VECTORS,
        "sample",
        256,
        aim_us=25.0,
        aim_ratios={"torch columns": 8.0, "numpy columns": 3.0},
    ),
    Workload("sample 4096", VECTORS, "sample", 4096),
    Workload("sample 32 images", IMAGES, "sample", 32),
)


def with_capacity(workloads: tuple[Workload, ...], capacity: int) -> tuple[Workload, ...]:
    """The same work on smaller or larger memories: images get a hundredth of `capacity`.

    Work that wants a larger batch than there are rows is left out.
    """
    sizes = {VECTORS: capacity, IMAGES: max(1, capacity // 100)}
    resized = (replace(w, rows=replace(w.rows, capacity=sizes[w.rows])) for w in workloads)
    return tuple(w for w in resized if w.batch_size <= w.rows.capacity)


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    if dtype == "float32":
        return rng.standard_normal(shape, dtype=np.float32)
    return rng.integers(0, 128, shape, dtype=np.dtype(dtype).type)
