"""Workloads: the operations that are timed, the rows they work on, and the aims."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

from benchmarks.contenders import NAMES
from benchmarks.machine import Threads
from benchmarks.rows import Leaf, Rows

Chart = Literal["bars", "capacity", "batch", "row"]
ON_CPU = tuple(name for name in NAMES if name != "copies")
Figure = Literal["", "host", "device", "wall", "kernels", "share"]


@dataclass(frozen=True)
class Aim:
    """A limit for a figure of a contender.

    Attributes:
        contender: The one whose figure it is.
        figure: A clock, "kernels" for launches a call, or "share" for the rate of its bytes in
            units of the ceiling's. Empty: the workload's last clock.
        at_most: Upper limit.
        at_least: Lower limit.
        times: The contender whose figure is the unit; None for microseconds and launches.
    """

    contender: str
    figure: Figure = ""
    _: KW_ONLY
    at_most: float | None = None
    at_least: float | None = None
    times: str | None = None


@dataclass(frozen=True)
class Workload:
    """One operation, repeated on a full memory.

    Attributes:
        name: `--only` searches it.
        rows: Contents of the memory.
        operation: The method of a contender that prepares the operation.
        arguments: Arguments of that method, the batch size or the number of environments first.
        aims: Limits for the contenders' figures.
        threads: Number of threads that may work on it.
        charts: Charts that show it: bars, or a curve over the capacity, the batch size or the bytes
            of a row.
        reads_rows: Whether it needs the rows of the memory.
        clocks: Clocks that it is timed with. Ratios and rates are of the last one.
        contenders: Those that are timed, by the names of their files.
        ceiling: The contender that moves bytes as fast as this machine can.
        traffic: Bytes that a call has to move, in units of its result's.
        keeps: Number of results that are kept, so that caches do not hold the memory of the next.
        check: Whether results must be rows of the memory, or advantages of the rollout.
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
    clocks: tuple[str, ...] = ("wall",)
    contenders: tuple[str, ...] = ON_CPU
    ceiling: str = ""
    traffic: float = 0
    keeps: int = 0
    check: Literal["", "rows", "advantages"] = ""

    @property
    def least_rows(self) -> int:
        """Rows that it needs: those of a batch, with all steps of a sequence."""
        if not self.reads_rows:
            return 0
        return math.prod(value for value in self.arguments if isinstance(value, int))


FLOATS = Leaf((6,), "float32")
VECTORS = Rows("17+6 float32", (Leaf((17,), "float32"),), FLOATS, capacity=1_000_000)
TENTH = replace(VECTORS, capacity=100_000)
MORE_VECTORS = replace(VECTORS, capacity=10_000_000)
DICTS = Rows(
    "dicts of 24, +6",
    (Leaf((17,), "float32", "joints"), Leaf((3,), "float32", "goal"), Leaf((4,), "uint8", "touch")),
    FLOATS,
    capacity=100_000,
)
IMAGES = Rows(
    "4x84x84 uint8",
    (Leaf((4, 84, 84), "uint8"),),
    Leaf((1,), "int64"),
    capacity=10_000,
    frame_stack=4,
)

PEERS = ("stable-baselines3", "cpprb", "torchrl", "tianshou", "flashbax")
KEYS = ("end key", "trajectory ids")
TORCHRL_SLICES = tuple(f"torchrl, {key}{cached}" for cached in ("", ", cached") for key in KEYS)
BARS: tuple[Chart, ...] = ("bars",)


def _slower(times: float, *names: str) -> tuple[Aim, ...]:
    """Each of them takes at least so many times as long as velora."""
    return tuple(Aim(name, at_least=times, times="velora") for name in names)


def _close(times: float, other: str = "floor") -> Aim:
    """Velora takes at most so many times as long as another."""
    return Aim("velora", at_most=times, times=other)


def _sample(batch_size: int, *aims: Aim, charts: tuple[Chart, ...] = ("batch",)) -> Workload:
    name = f"sample {batch_size}"
    return Workload(name, VECTORS, "sample", (batch_size,), aims=aims, charts=charts)


def _sequences(
    batch_size: int, length: int, boundary: str, *aims: Aim, charts: tuple[Chart, ...] = ()
) -> Workload:
    # Those with other lengths of episodes beside them have an operation of their own.
    episodes = boundary == "cross" or length == 8
    return Workload(
        f"sequences {batch_size} x {length} {boundary}",
        VECTORS,
        "sample_of_episodes" if episodes else "sample_sequences",
        (batch_size, length, boundary),
        aims=aims,
        charts=charts,
    )


# Of the same rows, writing comes last: it overwrites the ends of episodes.
ON_VECTORS = (
    _sample(32),
    _sample(256, _close(1.7), *_slower(8, *PEERS), charts=("bars", "batch", "capacity")),
    _sample(4096, _close(1.5), charts=("bars", "batch")),
    _sample(65_536),
    Workload(
        "sample 65536, all threads",
        VECTORS,
        "sample_on_all_threads",
        (65_536,),
        aims=(_close(1.0, "velora, one thread"), *_slower(1, *PEERS)),
        threads="all",
        charts=BARS,
    ),
    Workload("sample 256 and train", VECTORS, "update", (256,), charts=BARS),
    Workload(
        "n-step 256 x 3",
        VECTORS,
        "sample_n_step",
        (256, 3),
        aims=(_close(2, "velora, one step"), *_slower(15, "stable-baselines3")),
        charts=BARS,
    ),
    _sequences(32, 64, "within", *_slower(20, *TORCHRL_SLICES), charts=BARS),
    _sequences(32, 64, "pad", *_slower(20, *TORCHRL_SLICES)),
    _sequences(
        32,
        64,
        "cross",
        Aim("velora, episodes of 10", at_most=1.1, times="velora, episodes of 10,000"),
    ),
    _sequences(32, 8, "within"),
    Workload(
        "advantages of 2048 x 64",
        VECTORS,
        "gae",
        (2048, 64),
        aims=_slower(180, "stable-baselines3"),
        charts=BARS,
        reads_rows=False,
    ),
    Workload("push", VECTORS, "push", aims=_slower(6, *PEERS), charts=BARS),
    Workload("construct and push", VECTORS, "construct_and_push"),
    Workload("extend 8", VECTORS, "extend", (8,)),
    Workload(
        "extend 256",
        VECTORS,
        "extend",
        (256,),
        aims=(_close(1, "numpy columns"), *_slower(4, "stable-baselines3")),
        charts=BARS,
    ),
    Workload("extend 4096", VECTORS, "extend", (4096,), aims=(_close(3),)),
)
ON_OTHER_ROWS = (
    Workload("sample 256 dicts", DICTS, "sample", (256,), charts=BARS),
    Workload("push dicts", DICTS, "push"),
    Workload(
        "sample 32 images", IMAGES, "sample_images", (32,), aims=_slower(1.4, *PEERS), charts=BARS
    ),
    Workload("sample 256 images", IMAGES, "sample_images", (256,), aims=(_close(1.15),)),
    Workload(
        "sample 256, 1/100 of the rows",
        replace(VECTORS, capacity=10_000),
        "sample",
        (256,),
        charts=("capacity",),
    ),
    Workload("sample 256, 1/10 of the rows", TENTH, "sample", (256,), charts=("capacity", "row")),
    *(
        Workload(
            f"sample 256, {width}+6 wide",
            replace(TENTH, name=f"{width}+6 float32", leaves=(Leaf((width,), "float32"),)),
            "sample",
            (256,),
            charts=("row",),
        )
        for width in (4, 64, 256)
    ),
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
WORKLOADS = (*ON_VECTORS, *ON_OTHER_ROWS)

# On a GPU: the host's part of a call, and the device's. Others need a GPU or take minutes there.
QUEUED = ("host", "device")
ONE_LAUNCH = Aim("velora", "kernels", at_most=1)
DEVICE_COPY, PINNED_COPY = "copy, device", "copy, pinned"


def cuda_workloads(quick: bool) -> tuple[Workload, ...]:
    """Those of a GPU; `quick` ones are so small that the code can be tried on a CPU."""
    rows, batch, medium, large, lanes = (
        (2_000, 32, 128, 512, 64) if quick else (1_000_000, 256, 4_096, 65_536, 4_096)
    )
    image_rows, images, steps, envs, long = (
        (200, 16, 32, 16, 500) if quick else (20_000, 256, 2_048, 4_096, 1_000_000)
    )
    vectors = replace(VECTORS, capacity=rows)
    in_15_us = Aim("velora", "host", at_most=15)
    workloads = (
        Workload(
            f"sample {batch}",
            vectors,
            "sample_on_device",
            (batch,),
            aims=(ONE_LAUNCH, in_15_us, Aim("torchrl", "host", at_least=10, times="velora")),
            clocks=QUEUED,
            contenders=("velora", "torchrl", "torch_columns"),
            check="rows",
        ),
        Workload(
            f"sample {large}",
            vectors,
            "sample_large",
            (large,),
            aims=(Aim("velora", "share", at_least=0.6), ONE_LAUNCH),
            clocks=QUEUED,
            contenders=("velora", "torch_columns", "copies"),
            ceiling=DEVICE_COPY,
            traffic=2,
            keeps=8,
            check="rows",
        ),
        Workload(
            f"replay of a captured sample {batch}",
            vectors,
            "sample_captured",
            (batch,),
            aims=(Aim("velora", "host", at_most=5),),
            clocks=QUEUED,
            contenders=("velora", "torch_columns"),
            check="rows",
        ),
        *(
            Workload(
                f"sample {size} of pinned rows",
                vectors,
                "sample_pinned",
                (size,),
                clocks=QUEUED,
                contenders=("velora", "copies"),
                ceiling=PINNED_COPY,
                traffic=1,
                check="rows",
            )
            for size in (batch, medium)
        ),
        Workload(
            f"advantages of {steps} x {envs}",
            vectors,
            "gae",
            (steps, envs),
            aims=(Aim("velora", "share", at_least=0.5),),
            clocks=QUEUED,
            contenders=("velora", "torch_columns", "copies"),
            ceiling=DEVICE_COPY,
            traffic=5.25,  # three inputs, two results, and flags of one byte
            check="advantages",
        ),
        Workload(
            f"advantages of {long} x 1",
            vectors,
            "gae_beside_cpu",
            (long, 1),
            aims=(Aim("velora, CPU", at_least=100, times="velora"),),
            contenders=("velora",),
            check="advantages",
        ),
        Workload(
            f"extend {lanes} lanes",
            vectors,
            "extend",
            (lanes,),
            aims=(ONE_LAUNCH, in_15_us),
            clocks=QUEUED,
            contenders=("velora", "torchrl", "torch_columns"),
        ),
        Workload(
            f"{images} images from the host",
            replace(IMAGES, capacity=image_rows),
            "sample_from_host",
            (images,),
            aims=(Aim("velora", "share", at_least=0.8),),
            contenders=("velora", "torch_columns", "copies"),
            ceiling=PINNED_COPY,
            traffic=1,
            check="rows",
        ),
    )
    return tuple(replace(workload, threads="all") for workload in workloads)


def with_capacity(workloads: tuple[Workload, ...], capacity: int) -> tuple[Workload, ...]:
    """The same workloads with so many vectors instead of a million, and other rows in proportion.

    Workloads that need more rows than that are left out.
    """

    def resize(rows: Rows) -> Rows:
        return replace(rows, capacity=max(1, rows.capacity * capacity // VECTORS.capacity))

    resized = (replace(workload, rows=resize(workload.rows)) for workload in workloads)
    return tuple(w for w in resized if w.least_rows <= w.rows.capacity)
