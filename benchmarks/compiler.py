"""Small pieces of C++, compiled where they are used."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

BUILD_DIR = Path(__file__).parent.parent / "build" / "benchmarks"


class NoCompiler(Exception):  # noqa: N818  # a state of this machine, not a fault
    """Raised where there is no C++ compiler, or it refuses the source."""


def compile_library(source: Path, **macros: int) -> ctypes.CDLL:
    """Compiles one file into a shared library, or finds the one made before.

    Args:
        source: The file.
        macros: Name -> number, defined for it.

    Raises:
        NoCompiler: If that cannot be done here.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise NoCompiler("no C++ compiler: neither CXX nor c++")
    flags = [
        "-O3",
        "-std=c++20",
        "-shared",
        "-fPIC",
        "-pthread",
        *(f"-D{k}={v}" for k, v in macros.items()),
    ]
    recipe = "\0".join([compiler, *flags]).encode() + source.read_bytes()
    library = BUILD_DIR / f"{source.stem}-{hashlib.sha256(recipe).hexdigest()[:12]}.so"
    if not library.exists():
        BUILD_DIR.mkdir(parents=True, exist_ok=True)
        # Into place in one step: another run may be about to load it.
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = [compiler, *flags, str(source), "-o", str(unfinished)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise NoCompiler(made.stderr.strip())
        unfinished.replace(library)
    return ctypes.CDLL(str(library))
