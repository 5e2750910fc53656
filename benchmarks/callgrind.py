"""Runs Python under callgrind and reads what it counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

LABEL = re.compile(r"desc: Trigger: Client Request: (.+)")
# A line of costs: where in the source, then the count.
COST = re.compile(r"[0-9+\-*]\S* (\d+)")


Function = tuple[str, str]  # name, object file


@dataclass
class Counts:
    """Instructions by function.

    Attributes:
        own: In the function's own code.
        total: With those of what it calls. Means little for functions that call themselves.
    """

    own: Counter[Function] = field(default_factory=Counter)
    total: Counter[Function] = field(default_factory=Counter)

    def between(self, later: Counts) -> Counts:
        """What `later` has more than this."""
        return Counts(_difference(later.own, self.own), _difference(later.total, self.total))


def run_under_callgrind(command: list[str], folder: Path, hash_seed: int = 0) -> dict[str, Counts]:
    """Runs Python with `command` as its arguments; it starts, labels and dumps the counting itself.

    Args:
        command: Such as `["-m", "module"]`.
        folder: Where to write the dumps.
        hash_seed: Of Python. Hashes decide how dicts collide, and so how many instructions there
            are.

    Returns:
        Label of a dump -> its counts.

    Raises:
        FileNotFoundError: If valgrind is not installed.
        subprocess.CalledProcessError: If the program fails.
    """
    valgrind = [
        "valgrind",
        "-q",
        "--tool=callgrind",
        "--instr-atstart=no",
        "--compress-strings=no",
        f"--callgrind-out-file={folder}/callgrind.out",
    ]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    subprocess.run([*valgrind, sys.executable, *command], env=environment, check=True)
    # They end in numbers: .9 comes before .10.
    paths = sorted(folder.glob("callgrind.out.*"), key=lambda path: (len(path.name), path.name))
    dumps = (_parse(path) for path in paths)
    return {label: counts for label, counts in dumps if label}


def _parse(path: Path) -> tuple[str, Counts]:
    label, library, function = "", "", ("", "")
    counts = Counts()
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
            cost = int(match[1])
            counts.total[function] += cost
            if not is_call:  # else the line is what the callee took
                counts.own[function] += cost
            is_call = False
    return label, counts


def _difference(later: Counter[Function], earlier: Counter[Function]) -> Counter[Function]:
    return Counter({name: count - earlier[name] for name, count in later.items()})
