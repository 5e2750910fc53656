"""An emulated CUDA device: buffers for "cuda" do all that they do, but the launch, on the CPU."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from velora import _core
from velora.buffer import base

# No machine has so many: what is emulated is never taken for a device.
DEVICE = torch.device("cuda", 99)


@functools.cache
def build_library() -> Path:
    """Compiles the emulation, once in a process."""
    root = Path(__file__).parents[1]
    folder = Path(tempfile.mkdtemp(prefix="velora-emulation-"))
    library = folder / "emulated_cuda.so"
    compiler = os.environ.get("CXX", "c++")
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"]
    includes = [f"-I{root / 'csrc'}", f"-I{root / 'tests' / 'cpp'}"]
    source = str(root / "tests" / "cpp" / "emulated_cuda.cpp")
    subprocess.run([compiler, *options, *includes, source, "-o", str(library)], check=True)
    return library


@contextmanager
def emulated_cuda(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """While it is open, "cuda" is the emulation, whose memory is the CPU's."""
    real = base.check_device

    def check_device(device: torch.device | str | None) -> torch.device:
        if device is not None and torch.device(device).type == "cuda":
            return DEVICE
        return real(device)

    patch.setattr(base, "check_device", check_device)
    patch.setattr(base, "choose_storage", lambda device, nbytes: "cuda")
    _core.use_cuda_library(str(build_library()))
    try:
        _core.require_cuda(DEVICE.index)
        yield
    finally:
        _core.use_cuda_library("")
