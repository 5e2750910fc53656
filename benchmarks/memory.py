"""Measures what transitions take: `python -m benchmarks.memory`. Needs Linux.

Each way of storing them has a process of its own, which pushes steps as an environment makes them
and looks at how much more memory is resident than before. Vectors and frames are random, so that
nothing can be saved by what they show.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import machine, output
from benchmarks.rows import Array

if TYPE_CHECKING:  # else only where it is measured: importing torch takes seconds
    from velora.buffer import Experience, ReplayBuffer

FRAME_SHAPE = (84, 84)
FRAME_STACK = 4
EPISODE_STEPS = (100, 2_000)
VECTOR_SIZE, ACTION_SIZE = 17, 6
# 17 + 6 + 1 + 17 numbers of four bytes, flags, and what is left of the third cache line.
VECTOR_ROW_BYTES = 192
SCALE = 1_000_000
GIGABYTE = 1e9
STATM = Path("/proc/self/statm")


def _play_vectors() -> Iterator[Experience]:
    """Endless steps of a vector environment."""
    from velora.buffer import Experience

    rng = np.random.default_rng(0)
    state = rng.standard_normal(VECTOR_SIZE, np.float32)
    while True:
        action = rng.standard_normal(ACTION_SIZE, np.float32)
        following = rng.standard_normal(VECTOR_SIZE, np.float32)
        yield Experience(state, action, 0.0, following, False)
        state = following


def _play_images() -> Iterator[Experience]:
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


@dataclass(frozen=True)
class Way:
    """One way of storing transitions.

    Attributes:
        play: Makes them.
        options: For `ReplayBuffer`.
        share: How many times `--rows` it gets: what is stored whole takes 56 KB a row.
        aim_gb: What `SCALE` rows may take.
    """

    play: Callable[[], Iterator[Experience]]
    options: dict[str, Any]
    share: float = 1.0
    aim_gb: float | None = None


WAYS = {
    "vectors": Way(_play_vectors, {}, share=10, aim_gb=1.01 * VECTOR_ROW_BYTES * SCALE / GIGABYTE),
    "frame_stack=4": Way(_play_images, {"frame_stack": FRAME_STACK}, aim_gb=7.3),
    "compact=True": Way(_play_images, {"compact": True}, share=0.1),
    "compact=False": Way(_play_images, {"compact": False}, share=0.1),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and returns the exit code."""
    options = _parse(arguments)
    if options.child:
        print(json.dumps(_measure(WAYS[options.child], options.rows)))
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
    path = output.folder(options) / "memory.json"
    output.write_json(document, path)
    console.print(f"written to {path}", style="dim", soft_wrap=True)
    return 0


def _measure_in_a_process(name: str, rows: int) -> dict[str, int]:
    command = ["-m", "benchmarks.memory", "--child", name, "--rows", str(rows)]
    run = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, check=True)
    measured: dict[str, int] = json.loads(run.stdout)
    return measured


def _measure(way: Way, rows: int) -> dict[str, int]:
    """Bytes that become resident until the buffer is full, and when it was overwritten by half."""
    from velora.buffer import ReplayBuffer

    steps = way.play()
    _fill(ReplayBuffer(10, seed=0, **way.options), steps, 20)  # what the first push of all needs
    before = _resident()
    buffer = ReplayBuffer(rows, seed=0, **way.options)
    _fill(buffer, steps, rows)
    full = _resident() - before
    _fill(buffer, steps, rows // 2)
    return {"full": full, "overwritten": _resident() - before}


def _fill(buffer: ReplayBuffer, steps: Iterator[Experience], count: int) -> None:
    for _ in range(count):
        buffer.push(next(steps))


def _resident() -> int:
    gc.collect()
    pages = int(STATM.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _print_table(results: dict[str, dict[str, int]], console: Console) -> None:
    shape = "x".join(map(str, (FRAME_STACK, *FRAME_SHAPE)))
    vectors = f"{VECTOR_SIZE}+{ACTION_SIZE} float32"
    table = Table(title=f"Resident memory: vectors of {vectors}, else stacks of {shape} uint8")
    table.add_column("stored", no_wrap=True)
    for heading in ("rows", "bytes a row", f"GB for {SCALE:,}", "overwritten by half"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in results.items():
        rows = result["rows"]
        scaled = (_scaled_gb(result[key], rows) for key in ("full", "overwritten"))
        figures = (f"{gigabytes:.3f}" for gigabytes in scaled)
        table.add_row(name, f"{rows:,}", f"{result['full'] / rows:,.0f}", *figures)
    console.print(table)
    frames = np.prod(FRAME_SHAPE) * SCALE / GIGABYTE
    console.print(f"The frames themselves: {frames:.2f} GB for {SCALE:,} rows.")
    for name, result in results.items():
        aim = WAYS[name].aim_gb
        if aim is not None:
            most = max(_scaled_gb(result[key], result["rows"]) for key in ("full", "overwritten"))
            mark = "[green]met[/]" if most <= aim else "[red]missed[/]"
            console.print(f"{name} at most {aim:.4g} GB: {most:.4g}, {mark}")


def _scaled_gb(nbytes: int, rows: int) -> float:
    return nbytes / rows * SCALE / GIGABYTE


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description="Measure the resident memory of transitions, each way of storing them.",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=100_000,
        help="transitions with frame_stack; vectors get ten times as many, the other ways a tenth "
        "(default: 100,000)",
    )
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=list(WAYS),
        default=list(WAYS),
        metavar="WAY",
        help=f"only these of {', '.join(WAYS)}",
    )
    output.add_option(parser)
    parser.add_argument("--child", choices=list(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
