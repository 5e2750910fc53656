"""The command line: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import contenders, report
from benchmarks.compiler import BUILD_DIR
from benchmarks.contenders import Contender, Operation, Operations, Unavailable
from benchmarks.rows import Contents
from benchmarks.timing import FULL, QUICK, Plan, time_in_turns
from benchmarks.workloads import WORKLOADS, Workload, with_capacity

QUICK_CAPACITY = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Times what the arguments ask for and returns the exit code."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    plan = replace(QUICK if options.quick else FULL, clock=options.clock)
    capacity = options.capacity or (QUICK_CAPACITY if options.quick else None)
    workloads = WORKLOADS if capacity is None else with_capacity(WORKLOADS, capacity)
    wanted = [w for w in workloads if not options.only or any(o in w.name for o in options.only)]
    console = Console(width=None if sys.stdout.isatty() else 140)
    results: list[report.Result] = []
    left_out: dict[str, str] = {}
    for rows, group in groupby(wanted, key=lambda workload: workload.rows):
        console.print(f"{rows.capacity:,} rows of {rows.name} ...", style="dim")
        ready = _set_up(options.contenders, rows.make_contents(), left_out)
        results += _run_group(list(group), ready, plan)
        del ready  # before the next rows are made
    if not results:
        console.print("nothing to time: see --only and --capacity", style="red")
        return 1
    report.print_table(results, plan, console)
    for name, reason in left_out.items():
        console.print(f"{name} is left out: {reason}", style="yellow")
    report.write_json(results, left_out, plan, options.json)
    console.print(f"written to {options.json}", style="dim", soft_wrap=True)
    return 0


def _run_group(
    workloads: list[Workload], ready: list[Contender], plan: Plan
) -> list[report.Result]:
    """Times workloads on the same rows, with memories that are filled once."""
    results = []
    for workload in workloads:
        operations: dict[str, Operation] = {}
        for contender in ready:
            operations |= _prepare(contender, workload)
        gc.collect()
        results.append(report.Result(workload, time_in_turns(operations, plan)))
    return results


def _set_up(names: list[str], contents: Contents, left_out: dict[str, str]) -> list[Contender]:
    """Those contenders that can run here; why the others cannot goes into `left_out`."""
    outcomes = {name: _set_up_one(name, contents) for name in names}
    left_out |= {name: str(o) for name, o in outcomes.items() if isinstance(o, Unavailable)}
    return [outcome for outcome in outcomes.values() if isinstance(outcome, Contender)]


def _set_up_one(name: str, contents: Contents) -> Contender | Unavailable:
    try:
        contender = contenders.load(name)
        contender.setup(contents)
    except Unavailable as error:
        return error
    return contender


def _prepare(contender: Contender, workload: Workload) -> dict[str, Operation]:
    """By name what the contender does for a piece of work: nothing, one thing or several."""
    operations: Operations | None = getattr(contender, workload.operation)(*workload.arguments)
    if operations is None:
        return {}
    if not isinstance(operations, Mapping):
        operations = {"": operations}
    return {
        f"{contender.name}, {way}" if way else contender.name: run
        for way, run in operations.items()
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Time velora beside its peers, on one thread."
    )
    parser.add_argument(
        "--quick", action="store_true", help="small and rough: to see that everything runs"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="TEXT",
        help="only work with TEXT in its name",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=contenders.NAMES,
        default=list(contenders.NAMES),
        metavar="NAME",
        help=f"only these of {', '.join(contenders.NAMES)}",
    )
    parser.add_argument(
        "--capacity", type=int, metavar="ROWS", help="rows of vectors; images get a hundredth"
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu leaves out the turns of other programs: for a busy machine (default: wall)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=BUILD_DIR / "latest.json",
        metavar="PATH",
        help="where to write the results (default: build/benchmarks/latest.json)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
