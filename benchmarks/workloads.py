"""What is timed, on which rows, and what it is to take."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace

from benchmarks.rows import Leaf, Rows


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
    leaves=(Leaf((17,), "float32"),),
    action=Leaf((6,), "float32"),
    capacity=1_000_000,
)
DICTS = Rows(
    name="dicts, 24 values+6",
    leaves=(
        Leaf((17,), "float32", "joints"),
        Leaf((3,), "float32", "goal"),
        Leaf((4,), "uint8", "touch"),
    ),
    action=Leaf((6,), "float32"),
    capacity=100_000,
)
IMAGES = Rows(
    name="4x84x84 uint8",
    leaves=(Leaf((4, 84, 84), "uint8"),),
    action=Leaf((1,), "int64"),
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
