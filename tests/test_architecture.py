"""Dependencies point one way: velora -> bindings -> {core, cuda}, cuda -> core, core -> std."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import velora

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
PACKAGE = Path(velora.__file__).parent  # the installed one, which may lie elsewhere

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"][^>"]+[>"])', re.MULTILINE)
SOURCE_SUFFIXES = {".h", ".hpp", ".cpp", ".cu", ".cuh"}

# Standard C++ headers are the ones without a suffix. The core may ask the system for memory, files,
# threads and vector instructions.
STD = re.compile(r"<[a-z_0-9]+>")
SYSTEM = re.compile(
    r"<(?:(?:sys|linux|mach)/[\w/]+|unistd|fcntl|pthread|sched|windows|cpuid|\w+intrin)\.h>"
)
CORE = re.compile(r'"core/[\w/]+\.h"')
CUDA = re.compile(r'"cuda/[\w/]+\.c?u?h"')
CUDA_RUNTIME = re.compile(
    r"<(?:(?:cuda|cub|cooperative_groups)/[\w/.]+|cuda\w*\.h|cooperative\w+\.h)>"
)
TORCH = re.compile(r"<(?:torch|ATen|c10|caffe2)/.*>")

ALLOWED = {"core": (STD, SYSTEM, CORE), "cuda": (STD, CORE, CUDA, CUDA_RUNTIME)}

# The rooms of the core, from the ground up: each includes itself and those before it. One is a
# single header, core/storage.h.
ROOMS = (
    *("values", "memory", "threads", "random", "rows", "samplers", "batch", "storage", "host"),
    *("kernels", "returns", "device"),
)
ROOM = re.compile(r'"core/(\w+)(?:/\w+)?\.h"')


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (CSRC / folder).rglob("*") if path.suffix in SOURCE_SUFFIXES)


def includes(text: str) -> list[str]:
    return INCLUDE.findall(text)


def forbidden_includes(text: str, folder: str) -> list[str]:
    return [
        include
        for include in includes(text)
        if not any(allowed.fullmatch(include) for allowed in ALLOWED[folder])
    ]


def room_sources(room: str) -> list[Path]:
    header = CSRC / "core" / f"{room}.h"
    return [header] if header.exists() else sources(f"core/{room}")


def higher_includes(text: str, room: str) -> list[str]:
    """The includes of a file in a room of the core that are of no room, or of a higher one."""
    here = ROOMS.index(room)
    allowed = ROOMS[: here + 1]
    return [
        include
        for include in includes(text)
        if include.startswith('"core/')
        and not ((found := ROOM.fullmatch(include)) and found[1] in allowed)
    ]


def imported_modules(text: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Yields the absolute names that a module's source imports, at any depth of its code."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            # `from velora import cli` imports velora.cli.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


# Top-level packages, each with the packages that may import it.
COMMAND_LINE = ("velora.cli", "velora.__main__")
LEAVES = {
    "velora.integrations": ("velora.integrations", *COMMAND_LINE),
    "velora.cli": COMMAND_LINE,
}


def leaves_imported_by(text: str, module: str, *, is_package: bool) -> list[str]:
    return [
        name
        for name in imported_modules(text, module, is_package=is_package)
        for leaf, importers in LEAVES.items()
        if is_within(name, leaf) and not is_within(module, *importers)
    ]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("folder", ["core", "cuda"])
def test_cpp_layer_includes_only_the_layers_below_it(folder: str) -> None:
    found = {
        str(path.relative_to(ROOT)): forbidden
        for path in sources(folder)
        if (forbidden := forbidden_includes(path.read_text(encoding="utf-8"), folder))
    }
    assert not found


@pytest.mark.parametrize("room", ROOMS)
def test_room_of_the_core_includes_no_higher_one(room: str) -> None:
    found = {
        str(path.relative_to(ROOT)): higher
        for path in room_sources(room)
        if (higher := higher_includes(path.read_text(encoding="utf-8"), room))
    }
    assert not found


def test_rooms_are_all_the_folders_of_the_core() -> None:
    assert sorted(path for room in ROOMS for path in room_sources(room)) == sources("core")


def test_core_and_bindings_have_sources() -> None:
    assert sources("core")
    assert sources("bindings")


def test_bindings_share_no_source_between_dlpack_and_the_stable_abi() -> None:
    for path in sources("bindings"):
        torch = [i for i in includes(path.read_text(encoding="utf-8")) if TORCH.fullmatch(i)]
        if path.stem.startswith("ops"):
            assert all(i.startswith(("<torch/csrc/stable/", "<torch/headeronly/")) for i in torch)
        else:
            assert set(torch) <= {"<ATen/dlpack.h>"}, path.name


def test_package_imports_no_integration_and_no_command_line() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert modules
    found = {
        module_name(path): leaves
        for path in modules
        if (
            leaves := leaves_imported_by(
                path.read_text(encoding="utf-8"),
                module_name(path),
                is_package=path.name == "__init__.py",
            )
        )
    }
    assert not found


# The checks above prove something only if they can fail.


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("core", "#include <Python.h>"),
        ("core", "#include <torch/csrc/stable/library.h>"),
        ("core", "#include <ATen/dlpack.h>"),
        ("core", "#include <pybind11/pybind11.h>"),
        ("core", "  #  include <cuda_runtime.h>"),
        ("core", "#include <cuda/std/atomic>"),
        ("core", '#include "bindings/tensor_view.h"'),
        ("core", '#include "cuda/launch.h"'),
        ("core", '#include "../bindings/tensor_view.h"'),
        ("cuda", "#include <torch/csrc/stable/library.h>"),
        ("cuda", "#include <c10/cuda/CUDAStream.h>"),
        ("cuda", "#include <Python.h>"),
        ("cuda", '#include "bindings/tensor_view.h"'),
    ],
)
def test_forbidden_include_is_found(folder: str, line: str) -> None:
    assert len(forbidden_includes(f"#pragma once\n{line}\n", folder)) == 1


@pytest.mark.parametrize(
    "line", ['#include "core/device/store.h"', '#include "core/storage.h"', '#include "core/x/y.h"']
)
def test_higher_include_is_found(line: str) -> None:
    assert len(higher_includes(line, "rows")) == 1


@pytest.mark.parametrize("line", ['#include "core/host/gather.h"', '#include "core/storage.h"'])
def test_include_of_the_same_or_a_lower_room_passes(line: str) -> None:
    assert higher_includes(line, "host") == []


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("core", "#include <vector>"),
        ("core", "#include <sys/mman.h>"),
        ("core", "#include <unistd.h>"),
        ("core", "#include <emmintrin.h>"),
        ("core", '#include "core/values/macros.h"'),
        ("core", "// #include <Python.h>"),
        ("cuda", "#include <cuda_runtime.h>"),
        ("cuda", "#include <cub/block/block_scan.cuh>"),
        ("cuda", '#include "core/returns/gae.h"'),
        ("cuda", '#include "cuda/launch.cuh"'),
        ("cuda", '#include "cuda/launch.h"'),
    ],
)
def test_allowed_include_passes(folder: str, line: str) -> None:
    assert forbidden_includes(line, folder) == []


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("import velora.cli", "velora.buffer.replay"),
        ("import velora.integrations.sb3 as sb3", "velora.gym"),
        ("from velora.cli import main", "velora"),
        ("from velora import integrations", "velora.buffer.replay"),
        ("from .. import cli", "velora.buffer.replay"),
        ("from ..integrations.sb3 import adapt", "velora.buffer.replay"),
        ("def f():\n    from velora import cli", "velora.utils"),
        ("from velora.cli import main", "velora.integrations.sb3"),
    ],
)
def test_forbidden_import_is_found(line: str, module: str) -> None:
    assert len(leaves_imported_by(line, module, is_package=False)) == 1


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("from velora.buffer import ReplayBuffer", "velora.integrations.sb3"),
        ("from velora.cli.demo import run", "velora.cli.main"),
        ("from velora.integrations import sb3", "velora.cli.main"),
        ("from velora.cli import main", "velora.__main__"),
        ("from . import sb3", "velora.integrations.other"),
        ("import velora.clients", "velora.utils"),
    ],
)
def test_allowed_import_passes(line: str, module: str) -> None:
    assert leaves_imported_by(line, module, is_package=False) == []


def test_relative_import_in_a_package_starts_at_the_package() -> None:
    names = list(imported_modules("from . import cli", "velora", is_package=True))
    assert names == ["velora.cli"]
