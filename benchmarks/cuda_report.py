"""Resources of the CUDA kernels on each architecture: `python -m benchmarks.cuda_report`.

Needs nvcc and binutils, and no GPU. The same sources and compiler give the same report, so its diff
shows the cost of a change to a kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import machine
from benchmarks.report import table

ENTRY = re.compile(r"Compiling entry function '([^']+)' for '([^']+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.* (\d+) bytes smem)?")
SECTION = re.compile(r"\]\s+\.text\.(\S+)\s+PROGBITS\s+\S+\s+\S+\s+([0-9a-f]+)")
REAL = re.compile(r"sm_\d+[a-z]?")
VIRTUAL = re.compile(r"\[compute_\d+[a-z]?[],]")
# The options of a compilation that are about architectures.
LEFT_OUT = ("--generate-code", "-gencode", "-arch", "--threads")


# Registers, stack and spills are of a thread; shared memory is of a block, without the part
# that a launch asks for.
FIGURES = (
    *("registers", "shared_bytes", "stack_bytes"),
    *("spill_store_bytes", "spill_load_bytes", "code_bytes"),
)
Kernel = dict[str, Any]  # "name", "architecture", and the figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles, writes, prints, and returns the exit code."""
    options = _parse(arguments)
    build: Path = options.build
    entries = _cuda_entries(build / "compile_commands.json")
    if not entries:
        print(f"{build} has no CUDA sources: configure it where nvcc is", file=sys.stderr)
        return 1
    compilations = [made for entry in entries for made in compilations_of(entry)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kernels = [kernel for found in pool.map(_compile, compilations) for kernel in found]
    release = re.search(r"V(\d[\d.]*)", _run(compilations[0][0], "--version"))
    architectures = (entry for command in compilations for entry in REAL.findall(command[-2]))
    document = {
        "nvcc": release[1] if release else "of an unknown release",
        "shared_object_bytes": next((p.stat().st_size for p in build.rglob("_cuda.so")), None),
        "architectures": list(dict.fromkeys(architectures)),
        "ptx": VIRTUAL.search(entries[0]["command"]) is not None,
        "kernels": _in_order(kernels),
    }
    machine.write_json(document, options.results / "kernels.json")
    text = as_markdown(document)
    (options.results / "kernels.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {options.results}")
    return 0


def compilations_of(entry: dict[str, str]) -> list[list[str]]:
    """Commands of a line of compile_commands.json, one for each architecture with machine code."""
    words = [word for word in shlex.split(entry["command"]) if not word.startswith(LEFT_OUT)]
    for option in ("-o", "-c"):
        position = words.index(option)
        del words[position : position + 2]
    return [
        [*words, entry["file"], "-cubin", f"-arch={architecture}", "-Xptxas=-v"]
        for architecture in dict.fromkeys(REAL.findall(entry["command"]))
    ]


def read_kernels(log: str, sections: str) -> list[Kernel]:
    """The kernels in a log of `ptxas -v`, with sizes from `readelf --section-headers --wide`.

    A function that is called and not inlined is compiled with each kernel and has its own stack and
    spills: they count as the kernel's.
    """
    sizes = {name: int(size, 16) for name, size in SECTION.findall(sections)}
    kernels: list[Kernel] = []
    for line in log.splitlines():
        if entry := ENTRY.search(line):
            kernels.append(
                {"name": entry[1], "architecture": entry[2], **dict.fromkeys(FIGURES, 0)}
            )
            kernels[-1]["code_bytes"] = sizes.get(entry[1], 0)
        elif frame := FRAME.search(line):
            for figure, number in zip(FIGURES[2:5], frame.groups(), strict=True):
                kernels[-1][figure] += int(number)
        elif used := USED.search(line):
            kernels[-1] |= {"registers": int(used[1]), "shared_bytes": int(used[2] or 0)}
    return kernels


def as_markdown(document: dict[str, Any]) -> str:
    """The report: spills first, then a row for each kernel and architecture."""
    kernels: list[Kernel] = document["kernels"]
    spills = [
        f"- SPILL: {kernel['name']} on {kernel['architecture']}: "
        f"{kernel['spill_store_bytes']} bytes stored, {kernel['spill_load_bytes']} loaded"
        for kernel in kernels
        if kernel["spill_store_bytes"] + kernel["spill_load_bytes"]
    ]
    size, architectures = document["shared_object_bytes"], ", ".join(document["architectures"])
    ptx = " and PTX" if document["ptx"] else ""
    head = (
        f"Written by `make cuda-report` with nvcc {document['nvcc']}, for {architectures}{ptx}. "
        "Registers and stack are a thread's; shared memory is a block's, without what a launch asks"
        " for."
    )
    built = f"has {size:,} bytes." if size is not None else "was not built."
    some = f"**{len(spills)} of {len(kernels)} spill registers:**"
    lines = ["# CUDA kernels", "", head, "", f"`_cuda.so` {built}", ""]
    lines += [some, "", *spills, ""] if spills else ["No kernel spills registers.", ""]
    headings = ["kernel", "architecture", "registers", "shared bytes", "stack bytes"]
    headings += ["spill stores", "spill loads", "code bytes"]
    rows = []
    for kernel in kernels:
        name, architecture, *figures = kernel.values()
        rows.append([f"`{name}`", architecture, *(f"{figure:,}" for figure in figures)])
    return "\n".join([*lines, table(headings, rows, left=2)])


def _in_order(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Under plain names; by name, then by architecture as a number: sm_90 before sm_100."""
    names = _run("c++filt", "--no-params", *(kernel["name"] for kernel in kernels)).splitlines()
    for kernel, name in zip(kernels, names, strict=True):
        kernel["name"] = name.replace("velora::cuda::", "").replace("(anonymous namespace)::", "")
    return sorted(kernels, key=lambda k: (k["name"], int(re.sub(r"\D", "", k["architecture"]))))


def _cuda_entries(commands: Path) -> list[dict[str, str]]:
    if not commands.exists():
        return []
    entries: list[dict[str, str]] = json.loads(commands.read_text(encoding="utf-8"))
    return [entry for entry in entries if entry["file"].endswith(".cu")]


def _compile(command: Sequence[str]) -> list[Kernel]:
    with TemporaryDirectory() as folder:
        cubin = str(Path(folder, "kernels.cubin"))
        log = _run(*command, "-o", cubin)
        return read_kernels(log, _run("readelf", "--section-headers", "--wide", cubin))


def _run(*command: str) -> str:
    """Output of a command, of both streams.

    Raises:
        SystemExit: If it fails, with its output.
    """
    run = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"{run.stdout}\n{shlex.join(command)} failed")
    return run.stdout


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda_report",
        description="Report registers, memory and spills of the CUDA kernels.",
    )
    parser.add_argument("build", type=Path, help="where CMake has built the target _cuda")
    parser.add_argument(
        "--results",
        type=Path,
        default=machine.RESULTS / "cuda-kernels",
        metavar="DIR",
        help="where to write kernels.md and kernels.json",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
