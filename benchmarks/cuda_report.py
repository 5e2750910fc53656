"""What the CUDA kernels take on each architecture: `python -m benchmarks.cuda_report`.

Needs nvcc and binutils, and no GPU. The same sources and compiler give the same report, so its
diff says what a change of a kernel costs.
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
from typing import Any, NamedTuple

from benchmarks import output, ptxas
from benchmarks.markdown import table

_REAL = re.compile(r"sm_\d+[a-z]?")
_VIRTUAL = re.compile(r"\[compute_\d+[a-z]?[],]")
_RELEASE = re.compile(r"V(\d[\d.]*)")
# Of the command that compiled a file, what is about architectures, and about where it goes.
_LEFT_OUT = ("--generate-code", "-gencode", "-arch", "--threads")
_HEADINGS = (
    "kernel",
    "architecture",
    "registers",
    "shared bytes",
    "stack bytes",
    "spill stores",
    "spill loads",
    "code bytes",
)


class Compilation(NamedTuple):
    """How one source is compiled for one architecture."""

    command: tuple[str, ...]
    architecture: str


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
    document = {
        "nvcc": _nvcc_release(compilations[0].command[0]),
        "shared_object_bytes": _size(build),
        "architectures": list(dict.fromkeys(made.architecture for made in compilations)),
        "ptx": _VIRTUAL.search(entries[0]["command"]) is not None,
        "kernels": [kernel.as_json() for kernel in _in_order(kernels)],
    }
    output.write_json(document, options.results / "kernels.json")
    text = as_markdown(document)
    (options.results / "kernels.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {options.results}")
    return 0


def compilations_of(entry: dict[str, str]) -> list[Compilation]:
    """One for each architecture that a line of compile_commands.json makes machine code for."""
    words = shlex.split(entry["command"])
    source = entry["file"]
    # The source and the object file, with the options in front of them.
    kept = [word for word in words if not word.startswith(_LEFT_OUT)]
    for option in ("-o", "-c"):
        place = kept.index(option)
        del kept[place : place + 2]
    return [
        Compilation((*kept, source, "-cubin", f"-arch={found}", "-Xptxas=-v"), found)
        for found in dict.fromkeys(_REAL.findall(entry["command"]))
    ]


def as_markdown(document: dict[str, Any]) -> str:
    """The report for people: spills first, then a row for each kernel and architecture."""
    kernels = [ptxas.Kernel(**kernel) for kernel in document["kernels"]]
    spilling = [kernel for kernel in kernels if kernel.spills]
    size, architectures = document["shared_object_bytes"], ", ".join(document["architectures"])
    head = (
        f"Written by `make cuda-report` with nvcc {document['nvcc']}, for {architectures}"
        f"{' and PTX' if document['ptx'] else ''}. Registers and stack are a thread's; shared "
        "memory is a block's, without what a launch asks for."
    )
    lines = [
        "# CUDA kernels",
        "",
        head,
        "",
        f"`_cuda.so` has {size:,} bytes." if size is not None else "`_cuda.so` was not built.",
        "",
        f"**{len(spilling)} of {len(kernels)} spill registers:**"
        if spilling
        else "No kernel spills registers.",
        *_describe_spills(spilling),
        "",
        table(_HEADINGS, [_cells(kernel) for kernel in kernels], left=2),
    ]
    return "\n".join(lines)


def _describe_spills(kernels: Sequence[ptxas.Kernel]) -> list[str]:
    lines = [
        f"- SPILL: {kernel.name} on {kernel.architecture}: "
        f"{kernel.spill_store_bytes} bytes stored, {kernel.spill_load_bytes} loaded"
        for kernel in kernels
    ]
    return ["", *lines] if lines else []


def _cells(kernel: ptxas.Kernel) -> list[str]:
    name, architecture, *figures = kernel.as_json().values()
    return [f"`{name}`", str(architecture), *(f"{figure:,}" for figure in figures)]


def _in_order(kernels: Sequence[ptxas.Kernel]) -> list[ptxas.Kernel]:
    """By name, then by architecture as a number: sm_90 before sm_100."""
    return sorted(
        ptxas.with_plain_names(kernels),
        key=lambda kernel: (kernel.name, int(re.sub(r"\D", "", kernel.architecture))),
    )


def _cuda_entries(commands: Path) -> list[dict[str, str]]:
    if not commands.exists():
        return []
    entries: list[dict[str, str]] = json.loads(commands.read_text(encoding="utf-8"))
    return [entry for entry in entries if entry["file"].endswith(".cu")]


def _compile(compilation: Compilation) -> list[ptxas.Kernel]:
    with TemporaryDirectory() as folder:
        cubin = Path(folder, "kernels.cubin")
        log = _run(*compilation.command, "-o", str(cubin))
        sections = _run("readelf", "--section-headers", "--wide", str(cubin))
    return ptxas.with_code_sizes(ptxas.read_usage(log), ptxas.read_code_sizes(sections))


def _run(*command: str) -> str:
    """What it prints, on either stream.

    Raises:
        SystemExit: If it fails, after its own words.
    """
    run = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"{run.stdout}\n{shlex.join(command)} failed")
    return run.stdout


def _nvcc_release(nvcc: str) -> str:
    found = _RELEASE.search(_run(nvcc, "--version"))
    return found[1] if found else "of an unknown release"


def _size(build: Path) -> int | None:
    return next((path.stat().st_size for path in build.rglob("_cuda.so")), None)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cuda_report",
        description="Tell registers, memory and spills of the CUDA kernels.",
    )
    parser.add_argument("build", type=Path, help="where CMake has built the target _cuda")
    parser.add_argument(
        "--results",
        type=Path,
        default=output.DEFAULT / "cuda-kernels",
        metavar="DIR",
        help="where to write kernels.md and kernels.json",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
