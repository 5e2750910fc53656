"""Clocks, and operations that are timed alternately, so that a disturbance slows all of them.

Without a GPU there are "wall" and "cpu": the second counts the time that the process was running,
all its threads together, and so leaves out other programs. On a GPU a call returns before its work
is done, so "how long does it take" has three answers:

host    Time of the calling thread: launches, checks, Python. A block begins on an idle device and
        launches no more than its queue holds; otherwise the calls would wait for the device.
device  Time of the device between two events. A kernel that only sleeps runs first, while the host
        queues the whole block, so that the device never waits for the host.
wall    Time until all results are there: a block ends by waiting for the device.
"""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter, perf_counter_ns, process_time_ns
from typing import Any, TypeVar

import torch

Operation = Callable[[], object]
Key = tuple[str, str]  # contender, clock
T = TypeVar("T")

# A stream takes about a thousand entries before the host waits. A trace counts kernels and copies;
# a call may record two events with each.
QUEUE = 200
SLEEP_CYCLES_PER_US = 2_000
MAX_SLEEP_US = 50_000


@dataclass(frozen=True)
class Clock:
    """One way to time a block of calls.

    Attributes:
        time: (operation, calls) -> microseconds a call.
        is_queued: Whether a block may hold no more launches than the queue of the device.
        scale: Length of its blocks in units of the plan's. Batches that were prepared before a
            block begins should be a small part of it.
    """

    time: Callable[[Operation, int], float]
    is_queued: bool = False
    scale: float = 1


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: Maximum number of rounds; in each, every operation has one block for each clock.
        block_us: Length of a block. It should be long compared with reading the clock and short
            compared with other programs' time slices. A longer call is a separate block.
        seconds: Time for all rounds together, after which no new one begins.
        least_rounds: Number of rounds that run in any case.
    """

    rounds: int
    block_us: float
    seconds: float
    least_rounds: int


FULL = Plan(rounds=101, block_us=4_000, seconds=8, least_rounds=11)
FULL_CUDA = Plan(rounds=41, block_us=20_000, seconds=15, least_rounds=7)
QUICK = Plan(rounds=5, block_us=100, seconds=1, least_rounds=3)


@dataclass(frozen=True)
class Timing:
    """Microseconds a call: the mean of each block, by round."""

    calls_per_block: int
    blocks_us: tuple[float, ...]

    @property
    def median_us(self) -> float:
        """The figure to compare."""
        return statistics.median(self.blocks_us)

    def ratios_to(self, other: Timing) -> tuple[float, ...]:
        """This over the other, round by round: what slows a whole round cancels out."""
        return tuple(a / b for a, b in zip(self.blocks_us, other.blocks_us, strict=True))


def quartiles(values: tuple[float, ...]) -> tuple[float, float]:
    """The first and the third."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def clocks_of(device: torch.device) -> dict[str, Clock]:
    """All clocks by name. Without a GPU, those of a GPU are the wall clock."""
    wall = Clock(_by_host(perf_counter_ns))
    if device.type != "cuda":
        cpu = Clock(_by_host(process_time_ns))
        return {"wall": wall, "cpu": cpu, "host": wall, "device": wall}
    wait = torch.cuda.synchronize
    return {
        "host": Clock(_by_host(perf_counter_ns, before=wait), is_queued=True),
        "device": Clock(_by_events, is_queued=True),
        "wall": Clock(_by_host(perf_counter_ns, before=wait, after=wait), scale=5),
    }


def _by_host(
    now_ns: Callable[[], int], before: Operation = lambda: None, after: Operation = lambda: None
) -> Callable[[Operation, int], float]:
    def time(run: Operation, calls: int) -> float:
        before()
        start = now_ns()
        for _ in repeat(None, calls):
            run()
        after()
        return (now_ns() - start) / calls / 1000

    return time


def _by_events(run: Operation, calls: int) -> float:
    cuda: Any = torch.cuda  # not all of it is typed
    looks = min(calls, 3)
    host_us = _by_host(perf_counter_ns, before=cuda.synchronize)(run, looks)
    start, end = (cuda.Event(enable_timing=True) for _ in range(2))
    cuda.synchronize()
    cuda._sleep(int(min(MAX_SLEEP_US, 100 + 2 * calls * host_us) * SLEEP_CYCLES_PER_US))
    start.record()
    for _ in repeat(None, calls):
        run()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds / calls * 1000


@dataclass(frozen=True)
class Block:
    """A number of calls of one operation that are timed together."""

    run: Operation
    clock: Clock
    calls: int

    def time(self) -> float:
        """Microseconds a call. The garbage collector waits."""
        gc.disable()
        try:
            return self.clock.time(self.run, self.calls)
        finally:
            gc.enable()


def plan_block(run: Operation, clock: Clock, plan: Plan, launches: float = 0) -> Block:
    """Finds how many calls fill a block, which warms the operation up.

    One look does not suffice: a first call allocates memory that later calls reuse, and if it alone
    filled half a block, every block would be one call with the caches of other operations. A call
    adds `launches` kernels and copies to the queue of the device.
    """
    most = max(1, int(QUEUE / launches)) if clock.is_queued and launches else None
    block_us = plan.block_us * clock.scale
    run()
    calls = 1
    while True:
        call_us = min(Block(run, clock, calls).time() for _ in range(3))
        if call_us * calls >= block_us / 2 or (most and calls >= most):
            break
        calls *= 2
    calls = max(1, round(block_us / call_us)) if call_us else calls
    return Block(run, clock, min(calls, most) if most else calls)


def attempt(run: Callable[[], T], name: str, failures: dict[str, Exception]) -> T | None:
    """The result; None where it raises, and then the error is among the failures."""
    try:
        return run()
    except Exception as error:
        failures[name] = error
        return None


def time_in_turns(
    blocks: Mapping[Key, Block], plan: Plan
) -> tuple[dict[Key, Timing], dict[str, Exception]]:
    """Times each block once a round, in another order each round.

    A fixed order can fall into step with other programs, which would always hit the same operation.
    Returns timings, and the errors of contenders; the others go on without them.
    """
    failures: dict[str, Exception] = {}
    times: dict[Key, list[float]] = {key: [] for key in blocks}
    shuffle = random.Random(0).shuffle
    start = perf_counter()
    for done in range(plan.rounds):
        if done >= plan.least_rounds and perf_counter() - start > plan.seconds:
            break
        order = [key for key in blocks if key[0] not in failures]
        shuffle(order)
        for key in order:
            call_us = attempt(blocks[key].time, key[0], failures)
            if call_us is not None:
                times[key].append(call_us)
    timings = {
        key: Timing(blocks[key].calls, tuple(us))
        for key, us in times.items()
        if key[0] not in failures
    }
    return timings, failures
