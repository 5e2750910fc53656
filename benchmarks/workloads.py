"""What is timed, on which rows, and what it is to take."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

from benchmarks.rows import Leaf, Rows
from benchmarks.threads import Threads

Chart = Literal["bars", "capacity", "batch", "row"]


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
        threads: How many threads may work on it.
        charts: Where it is drawn: as bars, or as a point of a curve over the capacity, the batch
            size or the bytes of a row.
        reads_rows: Whether it needs the rows that the memory is full of.
    """

    name: str
    rows: Rows
    operation: str
    arguments: tuple[int | str, ...] = ()
    _: KW_ONLY
    aims: tuple[Aim, ...] = ()
    threads: Threads = 1
    charts: tuple[Chart, ...] = ()
    reads_rows: bool = True

    @property
    def least_rows(self) -> int:
        """How many rows there must be for it: those of a batch, with all steps of a sequence."""
        if not self.reads_rows:
            return 0
        return math.prod(value for value in self.arguments if isinstance(value, int))


VECTORS = Rows(
    name="17+6 float32",
    leaves=(Leaf((17,), "float32"),),
    action=Leaf((6,), "float32"),
    capacity=1_000_000,
)
MORE_VECTORS = replace(VECTORS, capacity=10_000_000)
DICTS = Rows(
    name="dicts of 24, +6",
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

PEERS = ("stable-baselines3", "cpprb", "torchrl", "tianshou", "flashbax")
TORCHRL_SLICES = tuple(
    f"torchrl, {way}"
    for way in ("end key", "trajectory ids", "end key, cached", "trajectory ids, cached")
)


def _slower(times: float, *names: str) -> tuple[Aim, ...]:
    """Each of them takes at least so many times as long as velora."""
    return tuple(Aim(name, at_least=times, times="velora") for name in names)


def _close(times: float, other: str = "floor") -> Aim:
    """Velora takes at most so many times as long as another."""
    return Aim("velora", at_most=times, times=other)


# Of the same rows, what writes comes last: it overwrites the ends of episodes.
ON_VECTORS = (
    Workload("sample 32", VECTORS, "sample", (32,), charts=("batch",)),
    Workload(
        "sample 256",
        VECTORS,
        "sample",
        (256,),
        aims=(_close(1.7), *_slower(8, *PEERS)),
        charts=("bars", "batch", "capacity"),
    ),
    Workload(
        "sample 4096", VECTORS, "sample", (4096,), aims=(_close(1.5),), charts=("bars", "batch")
    ),
    Workload("sample 65536", VECTORS, "sample", (65_536,), charts=("batch",)),
    Workload(
        "sample 65536, all threads",
        VECTORS,
        "sample_on_all_threads",
        (65_536,),
        aims=(_close(1.0, "velora, one thread"), *_slower(1, *PEERS)),
        threads="all",
        charts=("bars",),
    ),
    Workload("sample 256 and train", VECTORS, "update", (256,), charts=("bars",)),
    Workload(
        "n-step 256 x 3",
        VECTORS,
        "sample_n_step",
        (256, 3),
        aims=(_close(2, "velora, one step"), *_slower(15, "stable-baselines3")),
        charts=("bars",),
    ),
    Workload(
        "sequences 32 x 64 within",
        VECTORS,
        "sample_sequences",
        (32, 64, "within"),
        aims=_slower(20, *TORCHRL_SLICES),
        charts=("bars",),
    ),
    Workload(
        "sequences 32 x 64 pad",
        VECTORS,
        "sample_sequences",
        (32, 64, "pad"),
        aims=_slower(20, *TORCHRL_SLICES),
    ),
    Workload(
        "sequences 32 x 64 cross",
        VECTORS,
        "sample_of_episodes",
        (32, 64, "cross"),
        aims=(Aim("velora, episodes of 10", at_most=1.1, times="velora, episodes of 10,000"),),
    ),
    Workload("sequences 32 x 8 within", VECTORS, "sample_of_episodes", (32, 8, "within")),
    Workload(
        "advantages of 2048 x 64",
        VECTORS,
        "gae",
        (2048, 64),
        aims=_slower(180, "stable-baselines3"),
        charts=("bars",),
        reads_rows=False,
    ),
    Workload("push", VECTORS, "push", aims=_slower(6, *PEERS), charts=("bars",)),
    Workload("construct and push", VECTORS, "construct_and_push"),
    Workload("extend 8", VECTORS, "extend", (8,)),
    Workload(
        "extend 256",
        VECTORS,
        "extend",
        (256,),
        aims=(_close(1, "numpy columns"), *_slower(4, "stable-baselines3")),
        charts=("bars",),
    ),
    Workload("extend 4096", VECTORS, "extend", (4096,), aims=(_close(3),)),
)
ON_DICTS = (
    Workload("sample 256 dicts", DICTS, "sample", (256,), charts=("bars",)),
    Workload("push dicts", DICTS, "push"),
)
ON_IMAGES = (
    Workload(
        "sample 32 images",
        IMAGES,
        "sample_images",
        (32,),
        aims=_slower(1.4, *PEERS),
        charts=("bars",),
    ),
    Workload(
        "sample 256 images",
        IMAGES,
        "sample_images",
        (256,),
        aims=(_close(1.15),),
    ),
)
FEWER = tuple(
    Workload(
        f"sample 256, 1/{times} of the rows",
        replace(VECTORS, capacity=VECTORS.capacity // times),
        "sample",
        (256,),
        charts=("capacity", "row") if times == 10 else ("capacity",),
    )
    for times in (100, 10)
)
OTHER_WIDTHS = tuple(
    Workload(
        f"sample 256, {features}+6 wide",
        replace(
            VECTORS,
            name=f"{features}+6 float32",
            leaves=(Leaf((features,), "float32"),),
            capacity=VECTORS.capacity // 10,
        ),
        "sample",
        (256,),
        charts=("row",),
    )
    for features in (4, 64, 256)
)
ON_MORE_VECTORS = (
    Workload(
        "sample 256, 10 x the rows",
        MORE_VECTORS,
        "sample_beside_tenth",
        (256,),
        aims=(_close(1.6, "velora, a tenth of the rows"),),
        charts=("capacity",),
    ),
    Workload("sample 4096, 10 x the rows", MORE_VECTORS, "sample", (4096,)),
    Workload("sample 65536, 10 x the rows", MORE_VECTORS, "sample", (65_536,)),
)
WORKLOADS = (*ON_VECTORS, *ON_DICTS, *ON_IMAGES, *FEWER, *OTHER_WIDTHS, *ON_MORE_VECTORS)


def with_capacity(workloads: tuple[Workload, ...], capacity: int) -> tuple[Workload, ...]:
    """The same work with so many rows of vectors instead of a million, and others in proportion.

    Work that wants more than there are rows is left out.
    """
    resized = (replace(w, rows=_scaled(w.rows, capacity)) for w in workloads)
    return tuple(w for w in resized if w.least_rows <= w.rows.capacity)


def _scaled(rows: Rows, capacity: int) -> Rows:
    return replace(rows, capacity=max(1, rows.capacity * capacity // VECTORS.capacity))
