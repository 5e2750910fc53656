"""The command line: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console

from benchmarks import contenders, output, report
from benchmarks.charts import draw_all
from benchmarks.results import Result
from benchmarks.runner import run
from benchmarks.timing import FULL, QUICK
from benchmarks.workloads import WORKLOADS, with_capacity

QUICK_CAPACITY = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Times what the arguments ask for and returns the exit code."""
    options = _parse(arguments)
    plan = replace(QUICK if options.quick else FULL, clock=options.clock)
    capacity = options.capacity or (QUICK_CAPACITY if options.quick else None)
    workloads = WORKLOADS if capacity is None else with_capacity(WORKLOADS, capacity)
    wanted = [w for w in workloads if not options.only or any(o in w.name for o in options.only)]
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not wanted:
        console.print("nothing to time: see --only and --capacity", style="red")
        return 1
    folder = output.folder(options)
    results: list[Result] = []
    for result in run(wanted, options.contenders, plan, partial(console.print, style="dim")):
        results.append(result)
        # Again after each piece of work: what ends a process leaves what came before.
        document = report.as_document(results, plan)
        output.write_json(document, folder / "results.json")
    report.print_table(results, console)
    for path in (folder / "results.json", *draw_all(document, folder)):
        console.print(f"written to {path}", style="dim", soft_wrap=True)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Time velora beside its peers."
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
        "--capacity",
        type=int,
        metavar="ROWS",
        help="rows of vectors, instead of a million; others in proportion",
    )
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu leaves out the turns of other programs: for a busy machine (default: wall)",
    )
    output.add_option(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
