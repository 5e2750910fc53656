"""Measures what transitions of stacked images take: `python -m benchmarks.memory`. Needs Linux.

Each way of storing them has a process of its own, which pushes steps as an Atari environment makes
them and looks at how much more memory is resident than before. Frames are random, so that nothing
can be saved by what they show.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.compiler import BUILD_DIR
from benchmarks.rows import Array

if TYPE_CHECKING:  # else only where it is measured: importing torch takes seconds
    from velora.buffer import Experience, ReplayBuffer

FRAME_SHAPE = (84, 84)
FRAME_STACK = 4
EPISODE_STEPS = (100, 2_000)
SCALE = 1_000_000
GIGABYTE = 1e9
STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Way:
    """One way of storing stacked frames.

    Attributes:
        options: For `ReplayBuffer`.
        share: The part of `--rows` that it gets: what is stored whole takes 56 KB a row.
        aim_gb: What `SCALE` rows may take.
    """

    options: dict[str, Any]
    share: float = 1.0
    aim_gb: float | None = None


WAYS = {
    "frame_stack=4": Way({"frame_stack": FRAME_STACK}, aim_gb=7.3),
    "compact=True": Way({"compact": True}, share=0.1),
    "compact=False": Way({"compact": False}, share=0.1),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit code."""
    options = _parse(arguments)
    if options.child:
        print(json.dumps(_measure(WAYS[options.child].options, options.rows)))
        return 0
    if not STATM.exists():
        print(f"there is no {STATM} here", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 100)
    results = {}
    for name in options.ways:
        rows = max(1, round(options.rows * WAYS[name].share))
        console.print(f"{rows:,} rows, {name} ...", style="dim")
        results[name] = {"rows": rows, **_measure_in_a_process(name, rows)}
    _print_table(results, console)
    document = {
        "date": machine.now(),
        "machine": machine.describe_machine(),
        "versions": machine.describe_versions(),
        "results": results,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.json}", style="dim", soft_wrap=True)
    return 0


def _measure_in_a_process(name: str, rows: int) -> dict[str, int]:
    command = ["-m", "benchmarks.memory", "--child", name, "--rows", str(rows)]
    run = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, check=True)
    measured: dict[str, int] = json.loads(run.stdout)
    return measured


def _measure(options: dict[str, Any], rows: int) -> dict[str, int]:
    """Bytes that become resident until the buffer is full, and when it was overwritten by half."""
    from velora.buffer import ReplayBuffer

    steps = _play()
    _fill(ReplayBuffer(10, seed=0, **options), steps, 20)  # what the first push of all needs
    before = _resident()
    buffer = ReplayBuffer(rows, seed=0, **options)
    _fill(buffer, steps, rows)
    full = _resident() - before
    _fill(buffer, steps, rows // 2)
    return {"full": full, "overwritten": _resident() - before}


def _fill(buffer: ReplayBuffer, steps: Iterator[Experience], count: int) -> None:
    for _ in range(count):
        buffer.push(next(steps))


def _play() -> Iterator[Experience]:
    """Endless steps: stacks that begin with copies of the first frame, then move on by a frame."""
    from velora.buffer import Experience

    rng = np.random.default_rng(0)
    while True:
        stack = np.stack([_frame(rng)] * FRAME_STACK)
        last = int(rng.integers(*EPISODE_STEPS, endpoint=True)) - 1
        for step in range(last + 1):
            following = np.concatenate([stack[1:], _frame(rng)[None]])
            action = int(rng.integers(18))
            yield Experience(stack, action, 0.0, following, step == last)
            stack = following


def _frame(rng: np.random.Generator) -> Array:
    return np.frombuffer(rng.bytes(int(np.prod(FRAME_SHAPE))), np.uint8).reshape(FRAME_SHAPE)


def _resident() -> int:
    gc.collect()
    pages = int(STATM.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _print_table(results: dict[str, dict[str, int]], console: Console) -> None:
    shape = "x".join(map(str, (FRAME_STACK, *FRAME_SHAPE)))
    table = Table(title=f"Resident memory of {shape} uint8 transitions")
    table.add_column("stored", no_wrap=True)
    for heading in ("rows", "bytes a row", f"GB for {SCALE:,}", "overwritten by half"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in results.items():
        rows = result["rows"]
        scaled = (_scaled_gb(result[key], rows) for key in ("full", "overwritten"))
        figures = (f"{gigabytes:.2f}" for gigabytes in scaled)
        table.add_row(name, f"{rows:,}", f"{result['full'] / rows:,.0f}", *figures)
    console.print(table)
    frames = np.prod(FRAME_SHAPE) * SCALE / GIGABYTE
    console.print(f"The frames themselves: {frames:.2f} GB for {SCALE:,} rows.")
    for name, result in results.items():
        aim = WAYS[name].aim_gb
        if aim is not None:
            most = max(_scaled_gb(result[key], result["rows"]) for key in ("full", "overwritten"))
            mark = "[green]met[/]" if most <= aim else "[red]missed[/]"
            console.print(f"{name} at most {aim:g} GB: {most:.2f}, {mark}")


def _scaled_gb(nbytes: int, rows: int) -> float:
    return nbytes / rows * SCALE / GIGABYTE


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description="Measure the resident memory of stacked images, each way of storing them.",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=100_000,
        help="transitions with frame_stack; the other ways get a tenth (default: 100,000)",
    )
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=list(WAYS),
        default=list(WAYS),
        metavar="WAY",
        help=f"only these of {', '.join(WAYS)}",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=BUILD_DIR / "memory.json",
        metavar="PATH",
        help="where to write the results (default: build/benchmarks/memory.json)",
    )
    parser.add_argument("--child", choices=list(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
