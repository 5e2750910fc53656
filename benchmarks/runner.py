"""Sets contenders up and times them; one that fails does not keep the others from it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from benchmarks import contenders, threads
from benchmarks.contenders import Contender, Operation, Operations, Unavailable
from benchmarks.results import Result
from benchmarks.room import lack_of_room
from benchmarks.rows import Contents
from benchmarks.timing import Plan, time_in_turns
from benchmarks.workloads import Workload


def run(
    workloads: Sequence[Workload], names: Sequence[str], plan: Plan, say: Callable[[str], None]
) -> Iterator[Result]:
    """Times pieces of work; those on the same rows with memories that are filled once.

    Args:
        workloads: Those on the same rows next to each other.
        names: Of contenders, those first that memory is given to first.
        plan: How long to look.
        say: Takes a line about what goes on.
    """
    threads.keep_jax_on_one()
    for rows, group in groupby(workloads, key=lambda workload: workload.rows):
        say(f"{rows.capacity:,} rows of {rows.name}")
        threads.use(1)
        ready, left_out = _set_up(names, rows.make_contents())
        for workload in group:
            say(f"  {workload.name}")
            yield _time(workload, ready, left_out, plan)
        # Before the next rows are made.
        del ready
        gc.collect()


def _time(
    workload: Workload, ready: Sequence[Contender], left_out: Mapping[str, str], plan: Plan
) -> Result:
    # The clock of the process would count threads that work side by side one after another.
    clock = plan.clock if workload.threads == 1 else "wall"
    threads.use(workload.threads)
    operations: dict[str, Operation] = {}
    reasons = dict(left_out)
    for contender in ready:
        prepared = _prepare(contender, workload)
        if isinstance(prepared, str):
            reasons[contender.name] = prepared
        else:
            operations |= prepared
    gc.collect()
    timings, failures = time_in_turns(operations, replace(plan, clock=clock))
    reasons |= {name: _reason(error) for name, error in failures.items()}
    return Result(workload, clock, timings, reasons)


def _set_up(names: Sequence[str], contents: Contents) -> tuple[list[Contender], dict[str, str]]:
    """Those contenders that can run here, and why the others cannot."""
    ready, left_out = [], {}
    for name in names:
        contender = _load(name)
        if isinstance(contender, str):
            left_out[name] = contender
            continue
        reason = _fill(contender, contents)
        if reason is None:
            ready.append(contender)
        else:
            left_out[contender.name] = reason
    return ready, left_out


def _load(name: str) -> Contender | str:
    """A contender, or why there is none."""
    try:
        return contenders.load(name)
    except Unavailable as error:
        return str(error)


def _fill(contender: Contender, contents: Contents) -> str | None:
    """Why it could not be filled; None where it was."""
    reason = lack_of_room(contents.nbytes)
    if reason is None:
        try:
            contender.setup(contents)
        except Exception as error:
            reason = _reason(error)
    return reason


def _prepare(contender: Contender, workload: Workload) -> dict[str, Operation] | str:
    """By name what the contender does for it: nothing, one thing or several; or why it cannot."""
    try:
        operations: Operations | None = getattr(contender, workload.operation)(*workload.arguments)
    except Exception as error:
        return _reason(error)
    if operations is None:
        return {}
    if not isinstance(operations, Mapping):
        operations = {"": operations}
    return {
        f"{contender.name}, {way}" if way else contender.name: operation
        for way, operation in operations.items()
    }


def _reason(error: Exception) -> str:
    """One line: an `Unavailable` speaks for itself, of any other the type says what happened."""
    text = " ".join(str(error).split())
    return text if isinstance(error, Unavailable) else f"{type(error).__name__}: {text}"
