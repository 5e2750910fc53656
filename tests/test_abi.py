"""The shared objects rely on nothing that a new torch may change: no torch C++ symbol.

Reads them with nm and readelf, which come with the compiler that built them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")

# Anywhere in a demangled name: as a namespace, in a template argument, in "typeinfo for ...".
TORCH_CPP = re.compile(r"(?<![\w:])(?:at|c10|caffe2|torch)::")
TORCH_LIBRARY = re.compile(r"^lib(?:torch|c10)")


def run_binutil(name: str, *arguments: str) -> list[str]:
    tool = shutil.which(name)
    if tool is None:
        pytest.fail(f"{name} is not installed; it is part of binutils, as the linker is")
    return subprocess.run(
        [tool, *arguments], check=True, capture_output=True, text=True
    ).stdout.splitlines()


def undefined_symbols(path: Path) -> list[str]:
    lines = run_binutil("nm", "--dynamic", "--undefined-only", "--demangle", str(path))
    return [line.split(maxsplit=1)[1] for line in lines]


def torch_cpp_symbols(path: Path) -> list[str]:
    return [symbol for symbol in undefined_symbols(path) if TORCH_CPP.search(symbol)]


def needed_libraries(path: Path) -> list[str]:
    lines = run_binutil("readelf", "--dynamic", "--wide", str(path))
    return re.findall(r"\(NEEDED\).*\[(.+?)\]", "\n".join(lines))


def library_path(name: str) -> Path:
    """Where the import system finds it: an editable install keeps it apart from the sources."""
    spec = find_spec(f"velora.{name}")
    assert spec is not None, f"velora.{name} is not installed"
    assert spec.origin is not None
    return Path(spec.origin)


def installed_libraries() -> list[Path]:
    directories = {library_path("_core").parent, library_path("_ops").parent}
    return sorted(path for directory in directories for path in directory.glob("*.so"))


def test_installed_libraries_include_both_modules() -> None:
    names = {path.name.partition(".")[0] for path in installed_libraries()}
    assert {"_core", "_ops"} <= names


def test_libraries_refer_to_no_torch_cpp_symbol() -> None:
    found = {path.name: torch_cpp_symbols(path) for path in installed_libraries()}
    assert not any(found.values()), found


def test_libraries_refer_to_symbols_at_all() -> None:
    # Or the test above would pass on files that nm reads nothing from.
    assert all(undefined_symbols(path) for path in installed_libraries())


def test_core_needs_no_torch_library() -> None:
    assert not list(filter(TORCH_LIBRARY.match, needed_libraries(library_path("_core"))))


def test_ops_names_the_library_of_the_c_shims() -> None:
    assert "libtorch_cpu.so" in needed_libraries(library_path("_ops"))


def test_libraries_search_no_path_of_the_building_machine() -> None:
    for path in installed_libraries():
        lines = run_binutil("readelf", "--dynamic", "--wide", str(path))
        assert not [line for line in lines if "RPATH" in line or "RUNPATH" in line], path.name


# x86-64 and 64-bit Arm.
FUSED = re.compile(r"\s(?:vfn?m(?:add|sub)\w*|fn?m(?:add|sub)|fml[as])\s")


def test_libraries_fuse_no_multiplication_with_an_addition() -> None:
    # The last bits of a sum would differ from one architecture, and from a GPU, to another.
    for path in installed_libraries():
        lines = run_binutil("objdump", "--disassemble", "--no-show-raw-insn", str(path))
        assert len(lines) > 1000
        assert not list(filter(FUSED.search, lines)), path.name


@pytest.mark.parametrize(
    ("line", "is_fused"),
    [
        ("  1f0:  vfmadd231ss %xmm1,%xmm2,%xmm0", True),
        ("  1f0:  vfnmsub132pd %ymm1,%ymm2,%ymm0", True),
        ("  1f0:  vmulss %xmm1,%xmm2,%xmm0", False),
        ("  1f0:  fmadd s0, s1, s2, s3", True),
        ("  1f0:  fmla v0.4s, v1.4s, v2.4s", True),
        ("  1f0:  fmul s0, s1, s2", False),
    ],
)
def test_scan_for_fused_instructions_knows_them(line: str, is_fused: bool) -> None:
    assert bool(FUSED.search(line)) == is_fused


def test_scan_finds_the_torch_cpp_symbols_of_torch_itself() -> None:
    # The scan above proves something only if it can fail.
    python_binding = next(Path(torch.__file__).parent.glob("lib/libtorch_python.so"))
    assert any("c10::" in symbol for symbol in torch_cpp_symbols(python_binding))
    assert list(filter(TORCH_LIBRARY.match, needed_libraries(python_binding)))


@pytest.mark.parametrize(
    "symbol",
    [
        "at::_ops::add_Tensor::call(at::Tensor const&)",
        "typeinfo for c10::Error",
        "std::vector<at::Tensor, std::allocator<at::Tensor> >::~vector()",
        "void f<torch::jit::Module>()",
    ],
)
def test_pattern_matches_torch_cpp_symbols(symbol: str) -> None:
    assert TORCH_CPP.search(symbol)


@pytest.mark.parametrize(
    "symbol",
    ["aoti_torch_get_dtype", "torch_call_dispatcher", "std::vector<int>::at(unsigned long)"],
)
def test_pattern_passes_c_shims_and_the_standard_library(symbol: str) -> None:
    assert not TORCH_CPP.search(symbol)
