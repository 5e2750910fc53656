"""Workloads: the operations that are timed, the rows they work on, and the aims."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

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
    clocks: tuple[str, ...] = ("wall",)
    contenders: tuple[str, ...] = ON_CPU
    ceiling: str = ""
    traffic: float = 0
    keeps: int = 0
    check: Literal["", "rows", "advantages"] = ""

    @property
    def least_rows(self) -> int:
        """Rows that it needs: those of a batch, with all steps of a sequence."""
        if self.operation == "gae":
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


def _slower(times: float, *names: str) -> tuple[Aim, ...]:
    """Each of them takes at least so many times as long as velora."""
    return tuple(Aim(name, at_least=times, times="velora") for name in names)


def _close(times: float, other: str = "floor") -> Aim:
    """Velora takes at most so many times as long as another."""
    return Aim("velora", at_most=times, times=other)


AIMS: dict[str, tuple[Aim, ...]] = {
    "sample 256": (_close(1.7), *_slower(8, *PEERS)),
    "sample 4096": (_close(1.5),),
    "sample 65536, all threads": (_close(1.0, "velora, one thread"), *_slower(1, *PEERS)),
    "n-step 256 x 3": (_close(2, "velora, one step"), *_slower(15, "stable-baselines3")),
    "sequences 32 x 64 within": _slower(20, *TORCHRL_SLICES),
    "sequences 32 x 64 pad": _slower(20, *TORCHRL_SLICES),
    "sequences 32 x 64 cross": (
        Aim("velora, episodes of 10", at_most=1.1, times="velora, episodes of 10,000"),
    ),
    "advantages of 2048 x 64": _slower(180, "stable-baselines3"),
    "push": _slower(6, *PEERS),
    "extend 256": (_close(1, "numpy columns"), *_slower(4, "stable-baselines3")),
    "extend 4096": (_close(3),),
    "sample 32 images": _slower(1.4, *PEERS),
    "sample 256 images": (_close(1.15),),
    "sample 256, 10 x the rows": (_close(1.6, "velora, a tenth of the rows"),),
}


def _work(
    name: str,
    operation: str,
    *arguments: int | str,
    rows: Rows = VECTORS,
    charts: tuple[Chart, ...] = (),
    threads: Threads = 1,
) -> Workload:
    aims = AIMS.get(name, ())
    return Workload(name, rows, operation, arguments, aims=aims, charts=charts, threads=threads)


def _of_width(width: int) -> Rows:
    return replace(TENTH, name=f"{width}+6 float32", leaves=(Leaf((width,), "float32"),))


HUNDREDTH = replace(VECTORS, capacity=10_000)
BARS: tuple[Chart, ...] = ("bars",)

WORKLOADS = (
    _work("sample 32", "sample", 32, charts=("batch",)),
    _work("sample 256", "sample", 256, charts=("bars", "batch", "capacity")),
    _work("sample 4096", "sample", 4096, charts=("bars", "batch")),
    _work("sample 65536", "sample", 65_536, charts=("batch",)),
    _work(
        *("sample 65536, all threads", "sample_on_all_threads", 65_536), threads="all", charts=BARS
    ),
    _work("sample 256 and train", "update", 256, charts=BARS),
    _work("n-step 256 x 3", "sample_n_step", 256, 3, charts=BARS),
    _work("sequences 32 x 64 within", "sample_sequences", 32, 64, "within", charts=BARS),
    _work("sequences 32 x 64 pad", "sample_sequences", 32, 64, "pad"),
    _work("sequences 32 x 64 cross", "sample_of_episodes", 32, 64, "cross"),
    _work("sequences 32 x 8 within", "sample_of_episodes", 32, 8, "within"),
    _work("advantages of 2048 x 64", "gae", 2048, 64, charts=BARS),
    # Of the same rows, writing comes last: it overwrites the ends of episodes.
    _work("push", "push", charts=BARS),
    _work("construct and push", "construct_and_push"),
    _work("extend 8", "extend", 8),
    _work("extend 256", "extend", 256, charts=BARS),
    _work("extend 4096", "extend", 4096),
    _work("sample 256 dicts", "sample", 256, rows=DICTS, charts=BARS),
    _work("push dicts", "push", rows=DICTS),
    _work("sample 32 images", "sample_images", 32, rows=IMAGES, charts=BARS),
    _work("sample 256 images", "sample_images", 256, rows=IMAGES),
    _work("sample 256, 1/100 of the rows", "sample", 256, rows=HUNDREDTH, charts=("capacity",)),
    _work("sample 256, 1/10 of the rows", "sample", 256, rows=TENTH, charts=("capacity", "row")),
    _work("sample 256, 4+6 wide", "sample", 256, rows=_of_width(4), charts=("row",)),
    _work("sample 256, 64+6 wide", "sample", 256, rows=_of_width(64), charts=("row",)),
    _work("sample 256, 256+6 wide", "sample", 256, rows=_of_width(256), charts=("row",)),
    _work(
        *("sample 256, 10 x the rows", "sample_beside_tenth", 256),
        rows=MORE_VECTORS,
        charts=("capacity",),
    ),
    _work("sample 4096, 10 x the rows", "sample", 4096, rows=MORE_VECTORS),
    _work("sample 65536, 10 x the rows", "sample", 65_536, rows=MORE_VECTORS),
)


def cuda_workloads(quick: bool) -> tuple[Workload, ...]:
    """Those of a GPU; `quick` ones are so small that the code can be tried on a CPU."""
    rows, batch, medium, large, lanes = (
        (2_000, 32, 128, 512, 64) if quick else (1_000_000, 256, 4_096, 65_536, 4_096)
    )
    image_rows, images, steps, envs, long = (
        (200, 16, 32, 16, 500) if quick else (20_000, 256, 2_048, 4_096, 1_000_000)
    )
    vectors, stacks = replace(VECTORS, capacity=rows), replace(IMAGES, capacity=image_rows)
    one_launch, in_15_us = Aim("velora", "kernels", at_most=1), Aim("velora", "host", at_most=15)
    by_hand = ("velora", "torch_columns")

    def work(
        name: str, operation: str, *arguments: int, aims: tuple[Aim, ...] = (), **options: Any
    ) -> Workload:
        defaults: dict[str, Any] = {"rows": vectors, "threads": "all", "clocks": ("host", "device")}
        return Workload(
            name, operation=operation, arguments=arguments, aims=aims, **{**defaults, **options}
        )

    def share(least: float) -> Aim:
        return Aim("velora", "share", at_least=least)

    beside_peer: dict[str, Any] = {"contenders": (*by_hand, "torchrl")}
    drawn: dict[str, Any] = {"contenders": by_hand, "check": "rows"}
    pinned: dict[str, Any] = {"ceiling": "copy, pinned", "traffic": 1, "check": "rows"}
    in_memory: dict[str, Any] = {"ceiling": "copy, device", "contenders": (*by_hand, "copies")}
    on_wall: dict[str, Any] = {"clocks": ("wall",)}
    return (
        work(
            *(f"sample {batch}", "sample_on_device", batch),
            aims=(one_launch, in_15_us, Aim("torchrl", "host", at_least=10, times="velora")),
            **{**drawn, **beside_peer},
        ),
        work(
            *(f"sample {large}", "sample_large", large),
            aims=(share(0.6), one_launch),
            **{**drawn, **in_memory, "traffic": 2, "keeps": 8},
        ),
        work(
            *(f"replay of a captured sample {batch}", "sample_captured", batch),
            aims=(Aim("velora", "host", at_most=5),),
            **drawn,
        ),
        *(
            work(
                *(f"sample {size} of pinned rows", "sample_pinned", size),
                **pinned,
                contenders=("velora", "copies"),
            )
            for size in (batch, medium)
        ),
        work(
            *(f"advantages of {steps} x {envs}", "gae", steps, envs),
            aims=(share(0.5),),
            # Three inputs, two results, and flags of one byte.
            **{**in_memory, "traffic": 5.25, "check": "advantages"},
        ),
        work(
            *(f"advantages of {long} x 1", "gae_beside_cpu", long, 1),
            aims=(Aim("velora, CPU", at_least=100, times="velora"),),
            **{**on_wall, "contenders": ("velora",), "check": "advantages"},
        ),
        work(
            *(f"extend {lanes} lanes", "extend", lanes), aims=(one_launch, in_15_us), **beside_peer
        ),
        work(
            *(f"{images} images from the host", "sample_from_host", images),
            aims=(share(0.8),),
            **{**pinned, **on_wall, "rows": stacks, "contenders": (*by_hand, "copies")},
        ),
    )


def with_capacity(workloads: tuple[Workload, ...], capacity: int) -> tuple[Workload, ...]:
    """The same workloads with so many vectors instead of a million, and other rows in proportion.

    Workloads that need more rows than that are left out.
    """

    def resize(rows: Rows) -> Rows:
        return replace(rows, capacity=max(1, rows.capacity * capacity // VECTORS.capacity))

    resized = (replace(workload, rows=resize(workload.rows)) for workload in workloads)
    return tuple(w for w in resized if w.least_rows <= w.rows.capacity)
