"""Counts instructions: `python -m benchmarks.count_instructions`. Needs valgrind.

Times shake on a busy machine, these counts do not. They say nothing of cache misses: use them for
work that is bound by instructions, such as a push, a small batch, or whatever surrounds a gather.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import contenders
from benchmarks.callgrind import Counts, run_under_callgrind
from benchmarks.compiler import compile_library
from benchmarks.contenders import Contender, Operation, Operations
from benchmarks.workloads import VECTORS

SOURCE = Path(__file__).parent / "callgrind.cpp"
CAPACITY = 100_000  # the counts do not depend on it
CALLS = 200
WARM_UP = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Counts, prints, and returns the exit code."""
    options = _parse(arguments)
    if options.child:
        _count(options.contender)
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 1
    command = ["-m", "benchmarks.count_instructions", "--child", "--contender", options.contender]
    with tempfile.TemporaryDirectory() as folder:
        dumps = run_under_callgrind(command, Path(folder))
    console = Console(width=None if sys.stdout.isatty() else 140)
    for work in dict.fromkeys(label.rpartition(" x ")[0] for label in dumps):
        counts = dumps[f"{work} x {CALLS}"].between(dumps[f"{work} x {2 * CALLS}"])
        _print_counts(work, counts, options.top, console)
    return 0


def _count(name: str) -> None:
    """Runs under callgrind: dumps the counts of N and of 2 N calls of each operation.

    The difference of the two is N calls and nothing else.
    """
    marks = compile_library(SOURCE)
    torch.set_num_threads(1)
    contender = contenders.load(name)
    contender.setup(replace(VECTORS, capacity=CAPACITY).make_contents())
    for work, run in _operations(contender).items():
        for _ in repeat(None, WARM_UP):
            run()
        marks.start()
        for calls in (CALLS, 2 * CALLS):
            marks.zero()
            for _ in repeat(None, calls):
                run()
            marks.dump(f"{work} x {calls}".encode())
        marks.stop()


def _operations(contender: Contender) -> dict[str, Operation]:
    operations: dict[str, Operations | None] = {
        "nothing (the loop itself)": bool,
        "push": contender.push(),
        "construct and push": contender.construct_and_push(),
        "extend 256": contender.extend(256),
        "sample 1": contender.sample(1),
        "sample 256": contender.sample(256),
        "n-step 256 x 3": contender.sample_n_step(256, 3),
        "sequences 32 x 64": contender.sample_sequences(32, 64, "within"),
    }
    # Of several ways the contender's own.
    chosen = {w: run[""] if isinstance(run, Mapping) else run for w, run in operations.items()}
    return {work: run for work, run in chosen.items() if run is not None}


def _print_counts(work: str, counts: Counts, top: int, console: Console) -> None:
    everything = counts.own.total() / CALLS
    table = Table(title=f"{work}: {everything:,.0f} instructions a call", title_justify="left")
    for heading in ("own", "share", "with callees"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("function", overflow="fold")
    table.add_column("object", no_wrap=True)
    for (name, library), count in counts.own.most_common(top):
        own, total = count / CALLS, counts.total[name, library] / CALLS
        if own >= 1:
            row = (f"{own:,.0f}", f"{own / everything:.1%}", f"{max(own, total):,.0f}")
            table.add_row(*row, _without_arguments(name), library)
    console.print(table)
    shares = Counter[str]()
    for (_, library), count in counts.own.items():
        shares[library] += count
    parts = (f"{name} {count / CALLS:,.0f}" for name, count in shares.most_common(8))
    console.print("By object: " + ", ".join(parts) + "\n")


def _without_arguments(name: str) -> str:
    return name.replace("(anonymous namespace)::", "").partition("(")[0]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.count_instructions",
        description="Count the instructions of pushes and samples under callgrind.",
    )
    parser.add_argument("--contender", choices=contenders.NAMES, default="velora")
    parser.add_argument("--top", type=int, default=20, help="how many functions to list")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
