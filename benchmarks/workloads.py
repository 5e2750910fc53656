"""What is timed: the rows that a memory is full of, and the work done on it."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Boundary = Literal["within", "pad", "cross"]

MEAN_EPISODE = 500
TRUNCATED = 0.5  # of the ends of episodes


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
        frame_stack: Images are stacks of so many frames along their first dimension, each the one
            before it moved on by a frame, but for the first of an episode.
    """

    name: str
    state_shape: tuple[int, ...]
    state_dtype: str
    action_shape: tuple[int, ...]
    action_dtype: str
    capacity: int
    frame_stack: int = 1

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
        ends = rng.random((self.capacity, 1)) < 1 / MEAN_EPISODE
        truncations = ends & (rng.random((self.capacity, 1)) < TRUNCATED)
        if self.frame_stack > 1:
            states, next_states = self._make_stacks(rng, ends)
        else:
            shape = (self.capacity, *self.state_shape)
            states = random_array(rng, shape, self.state_dtype)
            next_states = random_array(rng, shape, self.state_dtype)
        return Contents(
            rows=self,
            states=states,
            actions=random_array(rng, (self.capacity, *self.action_shape), self.action_dtype),
            rewards=random_array(rng, (self.capacity, 1), "float32"),
            next_states=next_states,
            dones=(ends & ~truncations).astype(np.float32),
            truncations=truncations.astype(np.float32),
        )

    def _make_stacks(self, rng: np.random.Generator, ends: Array) -> tuple[Array, Array]:
        """States and next states, from one new frame a row and one more at each episode's start."""
        states = np.empty((self.capacity, *self.state_shape), np.dtype(self.state_dtype))
        next_states = np.empty_like(states)
        channels = self.state_shape[0] // self.frame_stack
        frame_shape = (channels, *self.state_shape[1:])
        stops = [*(np.flatnonzero(ends) + 1), self.capacity]
        for start, stop in zip([0, *stops], stops, strict=False):
            steps = stop - start
            frames = random_array(rng, (steps + 1, *frame_shape), self.state_dtype)
            frames = np.concatenate([frames[:1]] * (self.frame_stack - 1) + [frames])
            for i in range(self.frame_stack):
                place = slice(i * channels, (i + 1) * channels)
                states[start:stop, place] = frames[i : i + steps]
                next_states[start:stop, place] = frames[i + 1 : i + 1 + steps]
        return states, next_states


@dataclass(frozen=True)
class Contents:
    """One array for each field, `(C, ...)`. Contenders copy from it and never write to it."""

    rows: Rows
    states: Array
    actions: Array
    rewards: Array
    next_states: Array
    dones: Array
    truncations: Array

    def columns(self) -> tuple[Array, Array, Array, Array, Array]:
        """The fields in the order of an experience, without `truncations`."""
        return self.states, self.actions, self.rewards, self.next_states, self.dones


@dataclass(frozen=True)
class Aim:
    """What a contender is to take.

    Attributes:
        contender: Whose time it is about.
        at_most: How much it may take.
        at_least: How much it should take.
        times: The contender whose time is the unit; None for microseconds.
    """

    contender: str
    _: KW_ONLY
    at_most: float | None = None
    at_least: float | None = None
    times: str | None = None


@dataclass(frozen=True)
class Workload:
    """One piece of work, done again and again on a full memory.

    Attributes:
        name: What `--only` looks in.
        rows: What the memory is full of.
        operation: The method of a contender that prepares it.
        arguments: What that method takes, the batch size or the number of environments first.
        aims: What the contenders are to take.
    """

    name: str
    rows: Rows
    operation: str
    arguments: tuple[int | str, ...] = ()
    aims: tuple[Aim, ...] = ()

    @property
    def least_rows(self) -> int:
        """How many rows there must be for it: those of a batch, with all steps of a sequence."""
        return math.prod(value for value in self.arguments if isinstance(value, int))


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
    frame_stack=4,
)

FASTER_THAN_TORCHRL = tuple(
    Aim(name, at_least=20.0, times="velora")
    for name in (
        "torchrl, end key",
        "torchrl, trajectory ids",
        "torchrl, end key, cached",
        "torchrl, trajectory ids, cached",
    )
)
WHATEVER_EPISODES = (
    Aim("velora, episodes of 10", at_most=1.1, times="velora, episodes of 10,000"),
)

# Of the same rows, what writes comes last: it overwrites the ends of episodes.
WORKLOADS = (
    Workload("sample 32", VECTORS, "sample", (32,)),
    Workload(
        "sample 256",
        VECTORS,
        "sample",
        (256,),
        (
            Aim("velora", at_most=25.0),
            Aim("torch columns", at_least=8.0, times="velora"),
            Aim("numpy columns", at_least=3.0, times="velora"),
        ),
    ),
    Workload("sample 4096", VECTORS, "sample", (4096,)),
    Workload(
        "n-step 256 x 3",
        VECTORS,
        "sample_n_step",
        (256, 3),
        (Aim("velora", at_most=2.0, times="velora, one step"),),
    ),
    Workload(
        "sequences 32 x 64 within",
        VECTORS,
        "sample_sequences",
        (32, 64, "within"),
        FASTER_THAN_TORCHRL,
    ),
    Workload(
        "sequences 32 x 64 pad", VECTORS, "sample_sequences", (32, 64, "pad"), FASTER_THAN_TORCHRL
    ),
    Workload(
        "sequences 32 x 64 cross",
        VECTORS,
        "sample_of_episodes",
        (32, 64, "cross"),
        WHATEVER_EPISODES,
    ),
    Workload("sequences 32 x 8 within", VECTORS, "sample_of_episodes", (32, 8, "within")),
    Workload("push", VECTORS, "push", aims=(Aim("velora", at_most=1.0),)),
    Workload("construct and push", VECTORS, "construct_and_push"),
    Workload(
        "extend 256",
        VECTORS,
        "extend",
        (256,),
        (Aim("velora", at_most=1.0, times="numpy columns"),),
    ),
    Workload(
        "extend 4096",
        VECTORS,
        "extend",
        (4096,),
        (Aim("velora", at_most=3.0, times="floor"),),
    ),
    Workload("sample 32 images", IMAGES, "sample_images", (32,)),
)


def with_capacity(workloads: tuple[Workload, ...], capacity: int) -> tuple[Workload, ...]:
    """The same work on smaller or larger memories: images get a hundredth of `capacity`.

    Work that wants more than there are rows is left out.
    """
    sizes = {VECTORS: capacity, IMAGES: max(1, capacity // 100)}
    resized = (replace(w, rows=replace(w.rows, capacity=sizes[w.rows])) for w in workloads)
    return tuple(w for w in resized if w.least_rows <= w.rows.capacity)


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Random numbers of a dtype that numpy names so."""
    if dtype == "float32":
        return rng.standard_normal(shape, dtype=np.float32)
    return rng.integers(0, 128, shape, dtype=np.dtype(dtype).type)
