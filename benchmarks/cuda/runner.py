"""Makes contenders ready, checks them, and times them in turns."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.contenders.base import Unavailable
from benchmarks.cuda import advantages, pushing, sampling, streaming, trace
from benchmarks.cuda.clocks import Block, Plan, plan_block, time_in_turns
from benchmarks.cuda.results import LeftOut, Result
from benchmarks.cuda.trace import Counts
from benchmarks.cuda.work import Case, Clock, Setting, Sizes, Work

WARM_UP = 5
PROFILED = 5
# A call that takes longer may launch thousands of kernels: one of them is enough to profile.
LONG_US = 20_000


def works(sizes: Sizes) -> list[Work]:
    """All there is."""
    return [
        work
        for module in (sampling, pushing, streaming, advantages)
        for work in module.works(sizes)
    ]


def run(
    wanted: Sequence[Work], setting: Setting, plan: Plan, say: Callable[[str], None]
) -> Iterator[Result]:
    """Measures pieces of work, one after another.

    Args:
        wanted: What to measure.
        setting: Where, and on how much.
        plan: How long to look.
        say: Takes a line about what goes on.
    """
    for work in wanted:
        say(f"{work.name} ...")
        yield _measure(work, setting, plan)
        gc.collect()


@dataclass
class _Ready:
    """A contender that is warm, and has shown that it does the right thing."""

    case: Case
    counts: Counts | None = None
    blocks: dict[Clock, Block] = field(default_factory=dict)


def _measure(work: Work, setting: Setting, plan: Plan) -> Result:
    found = {name: _make_ready(name, work, setting, plan) for name in work.contenders}
    ready = {name: made for name, made in found.items() if isinstance(made, _Ready)}
    left_out = {name: why for name, why in found.items() if isinstance(why, LeftOut)}
    blocks = {
        (name, clock): block for name, made in ready.items() for clock, block in made.blocks.items()
    }
    try:
        timings = time_in_turns(blocks, plan, setting.on_cuda)
    except Exception as error:
        timings = {}
        left_out |= dict.fromkeys(ready, _reason(error))
    finally:
        for made in ready.values():
            made.case.close()
    return Result(
        work,
        timings,
        {name: made.counts for name, made in ready.items() if made.counts is not None},
        {name: made.case.nbytes for name, made in ready.items()},
        left_out,
    )


def _make_ready(name: str, work: Work, setting: Setting, plan: Plan) -> _Ready | LeftOut:
    made = None
    try:
        made = _Ready(work.contenders[name](setting))
        made.case.check()
        _look_at(made, work, setting, plan)
    except Exception as error:
        if made is not None:
            made.case.close()
        return _reason(error)
    return made


def _look_at(made: _Ready, work: Work, setting: Setting, plan: Plan) -> None:
    """Warms it up, and finds what it launches and how many calls make a block."""
    run = made.case.run
    for _ in range(WARM_UP):
        run()
    launches = 0.0
    if setting.on_cuda:
        is_long = Block(run, "wall", 1, 0).time(on_cuda=True) > LONG_US
        made.counts = trace.count(run, 1 if is_long else PROFILED)
        launches = made.counts.kernels + made.counts.copies
    for clock in work.clocks:
        made.blocks[clock] = plan_block(run, clock, plan, launches, setting.on_cuda)
    if setting.on_cuda:
        torch.cuda.synchronize()


def _reason(error: Exception) -> LeftOut:
    """One line: an `Unavailable` speaks for itself, of any other the type says what happened."""
    text = " ".join(str(error).split())
    if isinstance(error, Unavailable):
        return LeftOut(text, is_fault=False)
    return LeftOut(f"{type(error).__name__}: {text}", is_fault=True)
