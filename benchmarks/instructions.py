"""Fails when velora takes more instructions than committed: `python -m benchmarks.instructions`.

Needs valgrind. Times shake too much to fail a build on; instructions hardly do.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.callgrind import Counts
from benchmarks.count_instructions import NOTHING, calls_of, count
from velora import _core

PATH = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.1
# Where objects come to lie decides what collides in Python's caches. That can only cost, and about
# one process in twenty pays 600 instructions a push for it: hence the least of several.
PROCESSES = 3

# Operation -> where -> instructions a call; where is "total", or "_core" for the extension's own.
Instructions = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Figures:
    """What is committed.

    Attributes:
        hold_for: What the counts depend on besides velora.
        instructions: The counts.
    """

    hold_for: dict[str, str]
    instructions: Instructions

    @classmethod
    def read(cls, path: Path) -> Figures:
        """Those of a file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Replaces a file."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Findings:
    """What a comparison found, a line each.

    Attributes:
        failures: Costs more, or cannot be compared.
        gains: Costs so much less that the old figure would hide a loss.
    """

    failures: list[str]
    gains: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares or writes, and returns the exit code."""
    options = _parse(arguments)
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 1
    if options.write:
        counted = [_count(seed) for seed in range(PROCESSES)]
        Figures(_describe_environment(), least(counted)).write(PATH)
        return 0
    return _check()


def mismatches(hold_for: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """What makes figures worthless here, a line each."""
    return [
        f"{key} is {here.get(key, 'unknown')}, the figures hold for {hold_for.get(key, 'unknown')}"
        for key in {**hold_for, **here}
        if hold_for.get(key) != here.get(key)
    ]


def compare(expected: Instructions, counted: Instructions) -> Findings:
    """Looks for what is more than `TOLERANCE` away, and for what only one of the two has."""
    failures, gains = [], []
    before, now = _flat(expected), _flat(counted)
    for name in {**before, **now}:
        if name not in now:
            failures.append(f"{name}: {before[name]:,} instructions a call expected, not counted")
        elif name not in before:
            failures.append(f"{name}: {now[name]:,} instructions a call, no figure to compare with")
        else:
            change = now[name] / before[name] - 1
            line = (
                f"{name}: {now[name]:,} instructions a call, {before[name]:,} expected: "
                f"{change:+.1%}"
            )
            if now[name] > before[name] * (1 + TOLERANCE):
                failures.append(line)
            elif now[name] < before[name] * (1 - TOLERANCE):
                gains.append(line)
    return Findings(failures, gains)


def least(counted: Sequence[Instructions]) -> Instructions:
    """The least of each count that any process made."""
    merged: Instructions = {}
    for instructions in counted:
        for work, parts in instructions.items():
            known = merged.setdefault(work, {})
            for where, number in parts.items():
                known[where] = min(number, known.get(where, number))
    return merged


def a_call(counts: Counts, calls: int) -> dict[str, int]:
    """Instructions of one call. Without "_core" where nothing was counted in it."""
    core = sum(number for (_, library), number in counts.own.items() if "_core." in library)
    parts = {"total": counts.own.total(), "_core": core}
    return {where: round(number / calls) for where, number in parts.items() if number > 0}


def _check() -> int:
    expected = Figures.read(PATH)
    if reasons := mismatches(expected.hold_for, _describe_environment()):
        return _fail(reasons)
    counted: list[Instructions] = []
    while len(counted) < PROCESSES:
        counted.append(_count(hash_seed=len(counted)))
        findings = compare(expected.instructions, least(counted))
        if not findings.failures:
            break
    for line in findings.gains:
        print(line)
    if findings.gains:
        print("If velora has become cheaper, `make counts` keeps it so.")
    if findings.failures:
        return _fail(findings.failures)
    print(f"{len(expected.instructions)} operations take no more instructions than they may.")
    return 0


def _fail(reasons: Sequence[str]) -> int:
    print(*reasons, sep="\n", file=sys.stderr)
    print(
        f"If that is meant to be, `make counts` writes benchmarks/{PATH.name} anew: commit it.",
        file=sys.stderr,
    )
    return 1


def _count(hash_seed: int) -> Instructions:
    counted = count("velora", hash_seed)
    return {work: a_call(c, calls_of(work)) for work, c in counted.items() if work != NOTHING}


def _describe_environment() -> dict[str, str]:
    # The processor that valgrind emulates is the same wherever there is AVX2, and never has more.
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
    """What compilers write into what they compile."""
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
    parser.add_argument("--write", action="store_true", help="write what is to be committed")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
