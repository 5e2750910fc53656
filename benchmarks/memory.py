"""Measures the memory of transitions: `python -m benchmarks.memory`. Needs Linux.

Each way of storing them has a separate process, which pushes steps as an environment makes them
and compares the resident memory with that before. Vectors and frames are random, so that their
contents save nothing.
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
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.report import table
from benchmarks.rows import Array
from velora.buffer import Experience, ReplayBuffer

FRAME_SHAPE = (84, 84)
FRAME_STACK = 4
EPISODE_STEPS = (100, 2_000)
VECTOR_SIZE, ACTION_SIZE = 17, 6
# 17 + 6 + 1 + 17 numbers of four bytes, flags, and the rest of the third cache line.
VECTOR_ROW_BYTES = 192
SCALE = 1_000_000
GIGABYTE = 1e9
STATM = Path("/proc/self/statm")


def _play_vectors() -> Iterator[Experience]:
    """Endless steps of a vector environment."""
    rng = np.random.default_rng(0)
    state = rng.standard_normal(VECTOR_SIZE, np.float32)
    while True:
        action = rng.standard_normal(ACTION_SIZE, np.float32)
        following = rng.standard_normal(VECTOR_SIZE, np.float32)
        yield Experience(state, action, 0.0, following, False)
        state = following


def _play_images() -> Iterator[Experience]:
    """Endless steps: stacks that begin with copies of the first frame, then move on by a frame."""
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
    """One way of storing transitions."""

    play: Callable[[], Iterator[Experience]]
    options: dict[str, Any]  # of `ReplayBuffer`
    share: float = 1.0  # rows in units of `--rows`: an image that is stored whole needs 56 KB
    aim_gb: float | None = None  # upper limit for `SCALE` rows


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
    results = {}
    for name in options.ways:
        rows = max(1, round(options.rows * WAYS[name].share))
        print(f"{rows:,} rows, {name} ...", file=sys.stderr)
        results[name] = {"rows": rows, **_measure_in_a_process(name, rows)}
    _print_table(results)
    path = machine.folder(options.results, machine.name()) / "memory.json"
    machine.write_json({**machine.describe(), "results": results}, path)
    print(f"written to {path}")
    return 0


def _measure_in_a_process(name: str, rows: int) -> dict[str, int]:
    command = ["-m", "benchmarks.memory", "--child", name, "--rows", str(rows)]
    run = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, check=True)
    measured: dict[str, int] = json.loads(run.stdout)
    return measured


def _measure(way: Way, rows: int) -> dict[str, int]:
    """Bytes that become resident until the buffer is full, and until half of it is overwritten."""
    steps = way.play()
    _fill(ReplayBuffer(10, seed=0, **way.options), steps, 20)  # loads code and libraries
    before = _resident()
    buffer = ReplayBuffer(rows, seed=0, **way.options)
    _fill(buffer, steps, rows)
    full = _resident() - before
    _fill(buffer, steps, rows // 2)
    return {"full": full, "overwritten": _resident() - before}


def _fill(buffer: ReplayBuffer, steps: Iterator[Experience], count: int) -> None:
    for experience in islice(steps, count):
        buffer.push(experience)


def _resident() -> int:
    gc.collect()
    pages = int(STATM.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _print_table(results: dict[str, dict[str, int]]) -> None:
    headings = ("stored", "rows", "bytes a row", f"GB for {SCALE:,}", "overwritten by half", "aim")
    rows = []
    for name, result in results.items():
        count, aim = result["rows"], WAYS[name].aim_gb
        sizes = [result[key] / count * SCALE / GIGABYTE for key in ("full", "overwritten")]
        verdict = "met" if aim is None or max(sizes) <= aim else "MISSED"
        limit = "" if aim is None else f"at most {aim:.4g} GB: {verdict}"
        figures = (f"{count:,}", f"{result['full'] / count:,.0f}", *(f"{s:.3f}" for s in sizes))
        rows.append((name, *figures, limit))
    print(table(headings, rows))
    frames = np.prod(FRAME_SHAPE) * SCALE / GIGABYTE
    print(f"The frames themselves: {frames:.2f} GB for {SCALE:,} rows.")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description="Measure the resident memory of transitions, for each way of storing them.",
    )
    add = parser.add_argument
    add("--rows", type=int, default=100_000, help="rows with frame_stack (default: 100,000)")
    add("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="only these")
    add("--results", type=Path, default=machine.RESULTS, metavar="DIR", help="see benchmarks")
    add("--child", choices=list(WAYS), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
