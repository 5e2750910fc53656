"""What the CUDA compiler says about kernels, read into numbers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

_ENTRY = re.compile(r"Compiling entry function '(?P<name>[^']+)' for '(?P<architecture>[^']+)'")
_FRAME = re.compile(
    r"(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)
_USED = re.compile(r"Used (?P<registers>\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_SECTION = re.compile(r"\]\s+\.text\.(?P<name>\S+)\s+PROGBITS\s+\S+\s+\S+\s+(?P<size>[0-9a-f]+)")
_NAMESPACES = ("velora::cuda::", "(anonymous namespace)::")


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes on one architecture.

    Attributes:
        name: Mangled as the compiler gives it, or for people, see `with_plain_names`.
        architecture: For example "sm_90".
        registers: Of a thread.
        shared_bytes: Of a block; what a launch asks for is not in it.
        stack_bytes: Of a thread: local arrays, and room for spills.
        spill_store_bytes: Registers that did not suffice, written to the stack.
        spill_load_bytes: The same, read again.
        code_bytes: The size of its instructions.
    """

    name: str
    architecture: str
    registers: int = 0
    shared_bytes: int = 0
    stack_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0
    code_bytes: int = 0

    @property
    def spills(self) -> bool:
        """Whether registers go through memory."""
        return self.spill_store_bytes + self.spill_load_bytes > 0

    def as_json(self) -> dict[str, object]:
        """All of it, in what JSON knows."""
        return asdict(self)


def read_usage(log: str) -> list[Kernel]:
    """The kernels in what `ptxas -v` printed.

    A function that is called and not inlined is compiled with each kernel and has a stack and
    spills of its own: they count as the kernel's.
    """
    kernels: list[Kernel] = []
    for line in log.splitlines():
        entry = _ENTRY.search(line)
        if entry:
            kernels.append(Kernel(entry["name"], entry["architecture"]))
        elif kernels:
            kernels[-1] = _add_line(kernels[-1], line)
    return kernels


def _add_line(kernel: Kernel, line: str) -> Kernel:
    if frame := _FRAME.search(line):
        return replace(
            kernel,
            stack_bytes=kernel.stack_bytes + int(frame["stack"]),
            spill_store_bytes=kernel.spill_store_bytes + int(frame["stores"]),
            spill_load_bytes=kernel.spill_load_bytes + int(frame["loads"]),
        )
    if used := _USED.search(line):
        shared = _SHARED.search(line)
        return replace(
            kernel,
            registers=int(used["registers"]),
            shared_bytes=int(shared[1]) if shared else 0,
        )
    return kernel


def read_code_sizes(sections: str) -> dict[str, int]:
    """Bytes of instructions by kernel, from `readelf --section-headers --wide` of a cubin."""
    return {found["name"]: int(found["size"], 16) for found in _SECTION.finditer(sections)}


def with_code_sizes(kernels: Sequence[Kernel], sizes: Mapping[str, int]) -> list[Kernel]:
    """The same kernels with the sizes of their code."""
    return [replace(kernel, code_bytes=sizes.get(kernel.name, 0)) for kernel in kernels]


def with_plain_names(kernels: Sequence[Kernel]) -> list[Kernel]:
    """The same kernels with the names of their sources, without parameters.

    Raises:
        OSError: If binutils' `c++filt` is not installed.
    """
    names = [kernel.name for kernel in kernels]
    text = "\n".join(names)
    demangled = subprocess.run(
        ["c++filt", "--no-params"], input=text, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    pairs = zip(kernels, demangled, strict=True)
    return [replace(kernel, name=_shorten(name)) for kernel, name in pairs]


def _shorten(name: str) -> str:
    for namespace in _NAMESPACES:
        name = name.replace(namespace, "")
    return name
