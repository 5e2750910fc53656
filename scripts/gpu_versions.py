"""Prints the versions on a machine with a GPU in a few lines, and names missing parts."""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess

PACKAGES = ("torch", "numpy", "pybind11", "scikit_build_core", "pytest", "hypothesis")
PEERS = ("gymnasium", "torchrl", "tensordict")
PROGRAMS = {
    "nvidia-smi": ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
    "nvcc": ["--version"],
    "cmake": ["--version"],
    "ninja": ["--version"],
    "c++": ["--version"],
}


def version_of(package: str) -> str:
    """Its version, or the error of importing it."""
    try:
        return str(importlib.import_module(package).__version__)
    except Exception as error:
        return type(error).__name__


def first_line(program: str, *arguments: str) -> str:
    """The line of its output that says most."""
    if shutil.which(program) is None:
        return "not on the PATH"
    run = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.strip()]
    wanted = [line for line in lines if "release" in line] or lines or [run.stderr.strip()]
    return wanted[0][:90]


print("Python", platform.python_version(), *(f"{name} {version_of(name)}" for name in PACKAGES))
print(*(f"{name} {version_of(name)}" for name in PEERS))
for program, arguments in PROGRAMS.items():
    print(f"{program}: {first_line(program, *arguments)}")
