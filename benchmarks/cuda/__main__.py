"""The command line: `python -m benchmarks.cuda`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks import output
from benchmarks.cuda import clocks, report, runner, work
from benchmarks.cuda.results import Result
from benchmarks.cuda.work import Setting

OURS = "velora"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what the arguments ask for and returns the exit code.

    That is not about aims: it is 1 where velora was wrong, or could not do something.
    """
    options = _parse(arguments)
    setting = Setting(torch.device(options.device), work.SMALL if options.small else work.FULL)
    if setting.on_cuda and not torch.cuda.is_available():
        print("there is no CUDA device here; --device cpu --small tries the code", file=sys.stderr)
        return 1
    wanted = [
        found
        for found in runner.works(setting.sizes)
        if not options.only or any(text in found.name for text in options.only)
    ]
    if not wanted:
        print("nothing to measure: see --only", file=sys.stderr)
        return 1
    plan = clocks.QUICK if options.small else clocks.FULL
    folder = options.results / report.slug(setting)
    results: list[Result] = []
    for result in runner.run(wanted, setting, plan, _say):
        results.append(result)
        # Again after each piece of work: what ends a process leaves what came before.
        text = report.as_markdown(results, setting)
        output.write_json(report.as_document(results, setting, plan), folder / "cuda.json")
        (folder / "cuda.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {folder}")
    return int(any(_has_fault(result) for result in results))


def _has_fault(result: Result) -> bool:
    return any(why.is_fault for name, why in result.left_out.items() if name.startswith(OURS))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda", description="Time velora on a GPU."
    )
    parser.add_argument("--device", default="cuda", help="which one (default: cuda)")
    parser.add_argument(
        "--small", action="store_true", help="small and rough: to see that everything runs"
    )
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="only work with TEXT in its name"
    )
    output.add_option(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
