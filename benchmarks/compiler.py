"""Small pieces of C++, compiled where they are used."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.contenders.base import Unavailable
from benchmarks.machine import BUILD_DIR


def compile_library(source: Path, **macros: int) -> ctypes.CDLL:
    """Compiles one file into a shared library, or finds the one made before.

    Args:
        source: The file.
        macros: Name -> number, defined for it.

    Raises:
        Unavailable: If there is no C++ compiler, or it refuses the source.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise Unavailable("no C++ compiler: neither CXX nor c++")
    flags = ["-O3", "-std=c++20", "-shared", "-fPIC", "-pthread"]
    flags += [f"-D{name}={value}" for name, value in macros.items()]
    recipe = "\0".join([compiler, *flags]).encode() + source.read_bytes()
    library = BUILD_DIR / f"{source.stem}-{hashlib.sha256(recipe).hexdigest()[:12]}.so"
    if not library.exists():
        BUILD_DIR.mkdir(parents=True, exist_ok=True)
        # Renamed in one step: another run may be about to load it.
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = [compiler, *flags, str(source), "-o", str(unfinished)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise Unavailable(made.stderr.strip())
        unfinished.replace(library)
    return ctypes.CDLL(str(library))
