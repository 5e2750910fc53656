"""Counts instructions: `python -m benchmarks.count_instructions`. Needs valgrind.

Times shake on a busy machine, these counts do not. They say nothing of cache misses: use them for
work that is bound by instructions, such as a push, a small batch, or whatever surrounds a gather.
"""

from __future__ import annotations

import argparse
import gc
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
from benchmarks.contenders import Operation, Operations
from benchmarks.workloads import IMAGES, VECTORS

SOURCE = Path(__file__).parent / "callgrind.cpp"
CAPACITY = 100_000  # the counts do not depend on it
IMAGES_CAPACITY = 500
CALLS = 200
FEWER_CALLS = {"sample 4096": 20, "sample 32 images": 5}  # of what is long
WARM_UP = 20
NOTHING = "nothing (the loop itself)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Counts, prints, and returns the exit code."""
    options = _parse(arguments)
    if options.child:
        _count(options.contender)
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 140)
    for work, counts in count(options.contender).items():
        _print_counts(work, counts, options.top, console)
    return 0


def count(contender: str, hash_seed: int = 0) -> dict[str, Counts]:
    """Counts in a process of its own.

    Args:
        contender: Whose operations.
        hash_seed: Of that process.

    Returns:
        Work -> the instructions of `calls_of(work)` calls.
    """
    command = ["-m", "benchmarks.count_instructions", "--child", "--contender", contender]
    with tempfile.TemporaryDirectory() as folder:
        dumps = run_under_callgrind(command, Path(folder), hash_seed)
    works = dict.fromkeys(label.rpartition(" x ")[0] for label in dumps)
    return {work: _of_calls(work, dumps) for work in works}


def calls_of(work: str) -> int:
    """How many calls of it are counted."""
    return FEWER_CALLS.get(work, CALLS)


def _of_calls(work: str, dumps: Mapping[str, Counts]) -> Counts:
    calls = calls_of(work)
    return dumps[f"{work} x {calls}"].between(dumps[f"{work} x {2 * calls}"])


def _count(name: str) -> None:
    """Runs under callgrind: dumps the counts of N and of 2 N calls of each operation.

    The difference of the two is N calls and nothing else.
    """
    marks = compile_library(SOURCE)
    torch.set_num_threads(1)
    operations = _operations(name)
    gc.disable()  # what a collection costs depends on all that is in memory
    for work, run in operations.items():
        for _ in repeat(None, WARM_UP):
            run()
        marks.start()
        for calls in (calls_of(work), 2 * calls_of(work)):
            marks.zero()
            for _ in repeat(None, calls):
                run()
            marks.dump(f"{work} x {calls}".encode())
        marks.stop()


def _operations(name: str) -> dict[str, Operation]:
    vectors, images = contenders.load(name), contenders.load(name)
    vectors.setup(replace(VECTORS, capacity=CAPACITY).make_contents())
    images.setup(replace(IMAGES, capacity=IMAGES_CAPACITY).make_contents())
    operations: dict[str, Operations | None] = {
        NOTHING: bool,
        "push": vectors.push(),
        "construct and push": vectors.construct_and_push(),
        "extend 8": vectors.extend(8),
        "extend 256": vectors.extend(256),
        "sample 1": vectors.sample(1),
        "sample 32": vectors.sample(32),
        "sample 256": vectors.sample(256),
        "sample 4096": vectors.sample(4096),
        "sample 32 images": images.sample_images(32),
        "n-step 256 x 3": vectors.sample_n_step(256, 3),
        "sequences 32 x 64": vectors.sample_sequences(32, 64, "within"),
    }
    # Of several ways the contender's own.
    chosen = {w: run[""] if isinstance(run, Mapping) else run for w, run in operations.items()}
    return {work: run for work, run in chosen.items() if run is not None}


def _print_counts(work: str, counts: Counts, top: int, console: Console) -> None:
    calls = calls_of(work)
    everything = counts.own.total() / calls
    table = Table(title=f"{work}: {everything:,.0f} instructions a call", title_justify="left")
    for heading in ("own", "share", "with callees"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("function", overflow="fold")
    table.add_column("object", no_wrap=True)
    for (name, library), count in counts.own.most_common(top):
        own, total = count / calls, counts.total[name, library] / calls
        if own >= 1:
            row = (f"{own:,.0f}", f"{own / everything:.1%}", f"{max(own, total):,.0f}")
            table.add_row(*row, _without_arguments(name), library)
    console.print(table)
    shares = Counter[str]()
    for (_, library), count in counts.own.items():
        shares[library] += count
    parts = (f"{name} {count / calls:,.0f}" for name, count in shares.most_common(8))
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
