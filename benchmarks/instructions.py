"""Compares instructions with the committed counts: `python -m benchmarks.instructions`.

Needs valgrind. Times shake too much to fail a build on; instructions hardly do. They say nothing of
cache misses: use them for operations that are bound by instructions, such as a push.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from benchmarks.clocks import Operation
from benchmarks.compiler import compile_library
from benchmarks.contenders.velora import Velora
from benchmarks.report import table
from benchmarks.workloads import IMAGES, VECTORS
from velora import _core

PATH = Path(__file__).with_name("instructions.json")
SOURCE = Path(__file__).with_name("callgrind.cpp")
TOLERANCE = 0.1
# Positions of objects in memory decide what collides in Python's caches. That can only cost, and
# about one process in twenty pays 600 instructions a push for it: hence the least of several.
PROCESSES = 3
CAPACITY = 100_000  # the counts do not depend on it
IMAGES_CAPACITY = 500
CALLS = 200
FEWER_CALLS = {"sample 4096": 20, "sample 32 images": 5}  # of long operations
WARM_UP = 20

LABEL = re.compile(r"desc: Trigger: Client Request: (.+)")
# A line of costs: the position in the source, then the count.
COST = re.compile(r"[0-9+\-*]\S* (\d+)")

# (function, object file) -> instructions in its own code.
Counts = Counter[tuple[str, str]]
# Operation -> "total", or "_core" for the extension's own -> instructions a call.
Instructions = dict[str, dict[str, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, writes or lists counts, and returns the exit code."""
    options = _parse(arguments)
    if options.child:
        _run_operations()
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 1
    if options.functions:
        _list_functions(options.functions)
        return 0
    if options.write:
        counted = least([_count(seed) for seed in range(PROCESSES)])
        document = {"hold_for": _describe_environment(), "instructions": counted}
        PATH.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        return 0
    return _check()


def mismatches(hold_for: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Reasons why figures do not hold here, a line each."""
    return [
        f"{key} is {here.get(key, 'unknown')}, the figures hold for {hold_for.get(key, 'unknown')}"
        for key in {**hold_for, **here}
        if hold_for.get(key) != here.get(key)
    ]


def compare(expected: Instructions, counted: Instructions) -> tuple[list[str], list[str]]:
    """Failures and gains, a line each.

    A failure costs more than `TOLERANCE` allows, or only one side has it. A gain costs so much less
    that the old figure would hide a loss.
    """
    failures: list[str] = []
    gains: list[str] = []
    before, now = _flat(expected), _flat(counted)
    for name in {**before, **now}:
        if name not in now:
            failures.append(f"{name}: {before[name]:,} instructions a call expected, not counted")
        elif name not in before:
            failures.append(f"{name}: {now[name]:,} instructions a call, no figure to compare with")
        else:
            change = now[name] / before[name] - 1
            figures = f"{now[name]:,} instructions a call, {before[name]:,} expected"
            if abs(now[name] - before[name]) > before[name] * TOLERANCE:
                (failures if change > 0 else gains).append(f"{name}: {figures}: {change:+.1%}")
    return failures, gains


def least(counted: Sequence[Instructions]) -> Instructions:
    """The least of each count in any process."""
    return {
        work: {
            where: min(found[work][where] for found in counted if where in found.get(work, {}))
            for where in parts
        }
        for work, parts in counted[0].items()
    }


def a_call(counts: Counts, calls: int) -> dict[str, int]:
    """Instructions of one call. Without "_core" where nothing was counted in it."""
    core = sum(number for (_, library), number in counts.items() if "_core." in library)
    parts = {"total": counts.total(), "_core": core}
    return {where: round(number / calls) for where, number in parts.items() if number > 0}


def _check() -> int:
    committed = json.loads(PATH.read_text(encoding="utf-8"))
    expected: Instructions = committed["instructions"]
    failures = mismatches(committed["hold_for"], _describe_environment())
    gains: list[str] = []
    if not failures:
        counted: list[Instructions] = []
        while len(counted) < PROCESSES:
            counted.append(_count(hash_seed=len(counted)))
            failures, gains = compare(expected, least(counted))
            if not failures:
                break
    if gains:
        print(*gains, "If velora has become cheaper, `make counts` keeps it so.", sep="\n")
    if failures:
        hint = f"If that is meant, `make counts` writes benchmarks/{PATH.name} anew: commit it."
        print(*failures, hint, sep="\n", file=sys.stderr)
        return 1
    print(f"{len(expected)} operations take no more instructions than they may.")
    return 0


def _list_functions(top: int) -> None:
    for work, counts in _count_functions(hash_seed=0).items():
        calls, total = _calls_of(work), counts.total()
        print(f"{work}: {total / calls:,.0f} instructions a call\n")
        rows = [
            (name.partition("(")[0], library, f"{count / calls:,.0f}", f"{count / total:.1%}")
            for (name, library), count in counts.most_common(top)
        ]
        print(table(("function", "object", "own", "share"), rows, left=2))


def _count(hash_seed: int) -> Instructions:
    counted = _count_functions(hash_seed)
    return {work: a_call(counts, _calls_of(work)) for work, counts in counted.items()}


def _count_functions(hash_seed: int) -> dict[str, Counts]:
    """Counts of `_calls_of` calls of each operation, in a separate process.

    The child dumps counts of N and of 2 N calls: the difference is N calls and nothing else. The
    seed of hashes decides how Python's dicts collide, which costs instructions.
    """
    command = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no"]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command += [f"--callgrind-out-file={folder}/callgrind.out", sys.executable]
        command += ["-m", "benchmarks.instructions", "--child"]
        subprocess.run(command, env=environment, check=True)
        paths = sorted(Path(folder).glob("callgrind.out.*"), key=lambda p: int(p.suffix[1:]))
        dumps = [(label, counts) for label, counts in map(_parse_dump, paths) if label]
    return {
        label.rpartition(" x ")[0]: Counter({name: n - once[name] for name, n in twice.items()})
        for (label, once), (_, twice) in zip(dumps[::2], dumps[1::2], strict=True)
    }


def _parse_dump(path: Path) -> tuple[str, Counts]:
    label, library, function = "", "", ("", "")
    counts: Counts = Counter()
    is_call = False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := LABEL.match(line):
            label = match[1]
        elif line.startswith("ob="):
            library = Path(line[3:]).name
        elif line.startswith("fn="):
            function = (line[3:], library)
        elif line.startswith("calls="):
            is_call = True
        elif match := COST.match(line):
            if not is_call:  # otherwise it is the cost of the callee
                counts[function] += int(match[1])
            is_call = False
    return label, counts


def _run_operations() -> None:
    """Runs under callgrind."""
    marks = compile_library(SOURCE)
    torch.set_num_threads(1)
    operations = _operations()
    gc.disable()  # the cost of a collection depends on all that is in memory
    for work, run in operations.items():
        for _ in repeat(None, WARM_UP):
            run()
        marks.start()
        for calls in (_calls_of(work), 2 * _calls_of(work)):
            marks.zero()
            for _ in repeat(None, calls):
                run()
            marks.dump(f"{work} x {calls}".encode())
        marks.stop()


def _calls_of(work: str) -> int:
    return FEWER_CALLS.get(work, CALLS)


def _operations() -> dict[str, Operation]:
    vectors, images = Velora(), Velora()
    vectors.setup(replace(VECTORS, capacity=CAPACITY).make_contents())
    images.setup(replace(IMAGES, capacity=IMAGES_CAPACITY).make_contents())
    operations: dict[str, Any] = {
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
    # Of several ways velora's own.
    return {work: run[""] if isinstance(run, Mapping) else run for work, run in operations.items()}


def _describe_environment() -> dict[str, str]:
    # Valgrind emulates the same processor wherever there is AVX2, and never one that has more.
    avx2 = " with AVX2" if torch.backends.cpu.get_cpu_capability().startswith("AVX") else ""
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True)
    return {
        "machine": platform.machine() + avx2,
        "libc": " ".join(platform.libc_ver()),
        "compiler": _compiler_of(Path(_core.__file__).read_bytes()),
        "valgrind": valgrind.stdout.strip().removeprefix("valgrind-"),
        # No closer: builds of one version differ as much as patches do, and "_core" in neither.
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": version("torch").partition("+")[0],  # whichever of its builds
        "numpy": version("numpy"),
    }


def _compiler_of(library: bytes) -> str:
    """Compilers leave their names in their output."""
    found = re.findall(rb"(GCC|clang)(?:: \([^)]*\)| version) ([\d.]+)", library)
    names = sorted({f"{name.decode()} {number.decode()}" for name, number in found})
    return ", ".join(names) or "unknown"


def _flat(instructions: Instructions) -> dict[str, int]:
    return {
        f"{work}, {where}": number
        for work, parts in instructions.items()
        for where, number in parts.items()
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description="Compare the instructions of velora's operations with those committed.",
    )
    add = parser.add_argument
    add("--write", action="store_true", help="write the file that is committed")
    add("--functions", type=int, metavar="N", help="list the N most expensive functions of each")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
