"""Three clocks, and contenders that are timed with them in turns.

Work for a GPU is given to it and done later, so "how long does a call take" has three answers:

host    What the calling thread spends until it may go on: launches, checks, Python. A block
        begins on an idle device and gives it no more than its queue holds, or the calls would be
        waiting for room in it. It ends before the device is waited for.
device  What the device spends, between two events in its stream. A kernel that only waits runs
        first, while the host queues up the whole block, so that the device has no gaps in which
        it waits for the host.
wall    What passes until all results are there: a block ends with waiting for the device.

Without a GPU all three are the wall clock.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from benchmarks.cuda.work import Clock
from benchmarks.timing import Timing

Operation = Callable[[], object]

_cuda: Any = torch.cuda  # not all of it is typed
# A stream takes about a thousand entries before the next one waits. What a trace counts are kernels
# and copies; a call may add two records of events to each.
QUEUE = 200
MOST_CALLS = 1_000
SLEEP_CYCLES_PER_US = 2_000
MOST_SLEEP_US = 50_000
# What was prepared before a block begins is to be little of it.
WALL_BLOCKS = 5
_LOOKS: tuple[Clock, Clock] = ("host", "wall")


@dataclass(frozen=True)
class Plan:
    """How long to look.

    Attributes:
        rounds: At most so many; in each, every contender has one block by each clock.
        block_us: How long a block should last.
        seconds: How long all rounds may take together.
        least_rounds: But so many in any case.
    """

    rounds: int
    block_us: float
    seconds: float
    least_rounds: int


FULL = Plan(rounds=41, block_us=20_000, seconds=15, least_rounds=7)
QUICK = Plan(rounds=3, block_us=200, seconds=1, least_rounds=2)


@dataclass(frozen=True)
class Block:
    """A number of calls of one operation, timed together.

    Attributes:
        run: The operation.
        clock: What with.
        calls: How many.
        host_us: What one of them takes the host, about.
    """

    run: Operation
    clock: Clock
    calls: int
    host_us: float

    def time(self, on_cuda: bool) -> float:
        """Microseconds a call."""
        gc.disable()
        try:
            if on_cuda and self.clock == "device":
                return self._by_events()
            return self._by_host(waits=on_cuda and self.clock == "wall", on_cuda=on_cuda)
        finally:
            gc.enable()

    def _by_host(self, waits: bool, on_cuda: bool) -> float:
        run = self.run
        if on_cuda:
            torch.cuda.synchronize()
        start = perf_counter()
        for _ in range(self.calls):
            run()
        if waits:
            torch.cuda.synchronize()
        return (perf_counter() - start) / self.calls * 1e6

    def _by_events(self) -> float:
        run = self.run
        start, end = (_cuda.Event(enable_timing=True) for _ in range(2))
        queueing_us = min(MOST_SLEEP_US, 100 + 2 * self.calls * self.host_us)
        torch.cuda.synchronize()
        _cuda._sleep(int(queueing_us * SLEEP_CYCLES_PER_US))
        start.record()
        for _ in range(self.calls):
            run()
        end.record()
        end.synchronize()
        milliseconds: float = start.elapsed_time(end)
        return milliseconds / self.calls * 1e3


def plan_block(run: Operation, clock: Clock, plan: Plan, launches: float, on_cuda: bool) -> Block:
    """How many calls make a block: as long as the plan says, and no more than the queue holds.

    Args:
        run: What has been called before.
        clock: What it is to be timed with.
        plan: How long a block should last.
        launches: What one call adds to the queue; 0 without a GPU.
        on_cuda: Whether there is one.
    """
    host_us, wall_us = (min(Block(run, at, 3, 0).time(on_cuda) for _ in range(3)) for at in _LOOKS)
    block_us = plan.block_us * (WALL_BLOCKS if clock == "wall" else 1)
    calls = min(MOST_CALLS, int(block_us / max(wall_us, 0.1)))
    if launches and clock != "wall":
        calls = min(calls, int(QUEUE / launches))
    return Block(run, clock, max(1, calls), host_us)


def time_in_turns(
    blocks: Mapping[tuple[str, Clock], Block], plan: Plan, on_cuda: bool
) -> dict[tuple[str, Clock], Timing]:
    """Times each block once a round, in another order each round: what slows one slows all.

    Raises:
        Exception: Whatever an operation raises.
    """
    times: dict[tuple[str, Clock], list[float]] = {key: [] for key in blocks}
    shuffle = random.Random(0).shuffle
    start = perf_counter()
    for done in range(plan.rounds):
        if done >= plan.least_rounds and perf_counter() - start > plan.seconds:
            break
        order = list(blocks)
        shuffle(order)
        for key in order:
            times[key].append(blocks[key].time(on_cuda))
    return {key: Timing(blocks[key].calls, tuple(us)) for key, us in times.items()}
