"""Times several operations in turns, so that what disturbs one disturbs them all."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from time import perf_counter_ns, process_time_ns
from typing import NamedTuple, TypeVar

Operation = Callable[[], object]
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How long to look.

    Attributes:
        rounds: At most so many; in each, every operation has one block.
        block_us: How long a block should last: long beside the clock's own cost, short beside
            what else the machine does. A call that takes longer is a block of its own.
        seconds: How long all rounds may take together; there are fewer where blocks are long.
        least_rounds: But so many in any case.
        clock: "wall", or "cpu" for the time that the process was running, all its threads together.
            They agree for one thread on an idle machine; on a busy one the second leaves out the
            turns of other programs.
    """

    rounds: int
    block_us: float
    seconds: float
    least_rounds: int
    clock: str = "wall"

    def now_ns(self) -> int:
        """Reads the clock."""
        return process_time_ns() if self.clock == "cpu" else perf_counter_ns()

    def rounds_of(self, round_us: float) -> int:
        """How many rounds there is time for."""
        affordable = int(self.seconds * 1e6 / round_us) if round_us > 0 else self.rounds
        return max(self.least_rounds, min(self.rounds, affordable))


FULL = Plan(rounds=101, block_us=4_000, seconds=8, least_rounds=11)
QUICK = Plan(rounds=5, block_us=100, seconds=1, least_rounds=3)


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


def time_in_turns(
    operations: Mapping[str, Operation], plan: Plan
) -> tuple[dict[str, Timing], dict[str, Exception]]:
    """Times each operation once a round, in another order each round.

    A fixed order can fall into step with the turns of other programs, and then they always hit
    the same operation.

    Args:
        operations: Name -> function without arguments.
        plan: At least two rounds.

    Returns:
        Name -> what it took, and name -> what it raised; the others go on without it.
    """
    failures: dict[str, Exception] = {}
    plans = {
        name: _attempt(partial(_plan_block, plan, run), name, failures)
        for name, run in operations.items()
    }
    blocks = {name: block for name, block in plans.items() if block is not None}
    timed: dict[str, list[float]] = {name: [] for name in blocks}
    shuffle = random.Random(0).shuffle
    for _ in range(plan.rounds_of(sum(block.expected_us for block in blocks.values()))):
        order = [name for name in timed if name not in failures]
        shuffle(order)
        for name in order:
            run = partial(_time_block, plan, operations[name], blocks[name].calls)
            call_us = _attempt(run, name, failures)
            if call_us is not None:
                timed[name].append(call_us)
    timings = {
        name: Timing(blocks[name].calls, tuple(calls_us))
        for name, calls_us in timed.items()
        if name not in failures
    }
    return timings, failures


def _attempt(run: Callable[[], T], name: str, failures: dict[str, Exception]) -> T | None:
    """What it returns; None where it raises, and then why, among the failures."""
    try:
        return run()
    except Exception as error:
        failures[name] = error
        return None


class _Block(NamedTuple):
    calls: int
    expected_us: float


def _plan_block(plan: Plan, run: Operation) -> _Block:
    """How many calls fill a block. Finding out warms the operation up.

    Not from a single look: a first call takes memory that later ones have, and where it alone
    filled half a block, every block would be one call, and that after others had the caches.
    """
    run()
    calls = 1
    while (call_us := _least_of_three(plan, run, calls)) * calls < plan.block_us / 2:
        calls *= 2
    calls = max(1, round(plan.block_us / call_us))
    return _Block(calls, calls * call_us)


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
