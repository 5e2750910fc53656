"""The command line: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import clocks, contenders, machine, report
from benchmarks.results import Result
from benchmarks.runner import run
from benchmarks.workloads import WORKLOADS, Workload, cuda_workloads, with_capacity

QUICK_CAPACITY = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Times what the arguments ask for and returns the exit code.

    It is 1 where velora was wrong or failed. An aim that is missed changes no exit code.
    """
    options = _parse(arguments)
    on_cuda = options.suite == "cuda" and torch.cuda.is_available()
    if options.suite == "cuda" and not on_cuda and not options.quick:
        print("there is no CUDA device here; --quick tries the code without", file=sys.stderr)
        return 1
    device = torch.device("cuda" if on_cuda else "cpu")
    plan = clocks.FULL_CUDA if options.suite == "cuda" else clocks.FULL
    plan = clocks.QUICK if options.quick else plan
    wanted = _select(options)
    if not wanted:
        print("nothing to time: see --only and --capacity", file=sys.stderr)
        return 1
    stem = "cuda" if options.suite == "cuda" else "results"
    folder = machine.folder(options.results, machine.name_of(device))
    results: list[Result] = []
    for result in run(wanted, options.contenders, plan, device, _say):
        results.append(result)
        # After each workload: if the process ends early, earlier results remain.
        document = report.as_document(results, plan, device)
        machine.write_json(document, folder / f"{stem}.json")
        text = report.as_markdown(results, device, options.suite == "cuda" and not on_cuda)
        (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {folder}")
    if options.suite == "cpu":
        from benchmarks.charts import draw_all  # a machine with a GPU needs no matplotlib

        draw_all(document, folder)
    return int(any(result.has_fault for result in results))


def _select(options: argparse.Namespace) -> list[Workload]:
    if options.suite == "cuda":
        workloads = cuda_workloads(options.quick)
    else:
        workloads = WORKLOADS
        if capacity := options.capacity or (QUICK_CAPACITY if options.quick else None):
            workloads = with_capacity(workloads, capacity)
        # The clock of the process would count threads that work side by side one after another.
        if options.clock == "cpu":
            workloads = tuple(
                replace(w, clocks=("cpu",)) if w.threads == 1 else w for w in workloads
            )
    return [
        w for w in workloads if not options.only or any(text in w.name for text in options.only)
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Time velora beside its peers."
    )
    add = parser.add_argument
    names = list(contenders.NAMES)
    add("--suite", choices=("cpu", "cuda"), default="cpu", help="cuda is for a GPU (default: cpu)")
    add("--quick", action="store_true", help="small and rough, to see that everything runs")
    add("--only", action="append", metavar="TEXT", help="only workloads with TEXT in their name")
    add("--contenders", nargs="+", choices=names, default=names, metavar="NAME", help=f"{names}")
    add("--capacity", type=int, metavar="ROWS", help="vectors instead of a million, on the CPU")
    add(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu leaves other programs out, for a busy machine (default: wall)",
    )
    add(
        "--results",
        type=Path,
        default=machine.RESULTS,
        metavar="DIR",
        help="where to make a folder for this machine (default: build/benchmarks/results)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
