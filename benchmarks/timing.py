"""Times several operations in turns, so that what disturbs one disturbs them all."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter_ns, thread_time_ns

Operation = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """How long to look.

    Attributes:
        rounds: In each, every operation has one block.
        block_us: How long a block should last: long beside the clock's own cost, short beside
            what else the machine does.
        clock: "wall", or "cpu" for the time that this thread was running. They agree on an idle
            machine; on a busy one the second leaves out the turns of other programs.
    """

    rounds: int
    block_us: float
    clock: str = "wall"

    def now_ns(self) -> int:
        """Reads the clock."""
        return thread_time_ns() if self.clock == "cpu" else perf_counter_ns()


FULL = Plan(rounds=101, block_us=4_000)
QUICK = Plan(rounds=5, block_us=100)


@dataclass(frozen=True)
class Timing:
    """What one operation took, in microseconds a call: the mean of each block, by round."""

    calls_per_block: int
    blocks_us: tuple[float, ...]

    @property
    def median_us(self) -> float:
        """The middle of all blocks: what to compare."""
        return statistics.median(self.blocks_us)

    @property
    def quartiles_us(self) -> tuple[float, float]:
        """Half of the blocks lie between these."""
        return quartiles(self.blocks_us)

    def ratios_to(self, other: Timing) -> list[float]:
        """This over the other, round by round: what slows a whole round down cancels out."""
        return [mine / its for mine, its in zip(self.blocks_us, other.blocks_us, strict=True)]


def quartiles(values: list[float] | tuple[float, ...]) -> tuple[float, float]:
    """The first and the third."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def time_in_turns(operations: Mapping[str, Operation], plan: Plan) -> dict[str, Timing]:
    """Times each operation once a round, in another order each round.

    A fixed order can fall into step with the turns of other programs, and then they always hit
    the same operation.

    Args:
        operations: Name -> function without arguments.
        plan: At least two rounds.

    Returns:
        Name -> what it took.
    """
    calls = {name: _calls_in_block(plan, run) for name, run in operations.items()}
    blocks: dict[str, list[float]] = {name: [] for name in operations}
    order = list(operations)
    shuffle = random.Random(0).shuffle
    for _ in range(plan.rounds):
        shuffle(order)
        for name in order:
            blocks[name].append(_time_block(plan, operations[name], calls[name]))
    return {name: Timing(calls[name], tuple(blocks[name])) for name in operations}


def _calls_in_block(plan: Plan, run: Operation) -> int:
    """How many calls fill a block. Finding out warms the operation up.

    Not from a single look: a first call takes memory that later ones have, and where it alone
    filled half a block, every block would be one call, and that after others had the caches.
    """
    run()
    calls = 1
    while (call_us := _least_of_three(plan, run, calls)) * calls < plan.block_us / 2:
        calls *= 2
    return max(1, round(plan.block_us / call_us))


def _least_of_three(plan: Plan, run: Operation, calls: int) -> float:
    return min(_time_block(plan, run, calls) for _ in range(3))


def _time_block(plan: Plan, run: Operation, calls: int) -> float:
    with _no_collection():
        start = plan.now_ns()
        for _ in repeat(None, calls):
            run()
        return (plan.now_ns() - start) / calls / 1000


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the garbage collector out of a timed block; it may run between blocks."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
