"""Errors when CUDA does not start, and the context that a call leaves behind."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers import stamped
from test_cuda import has_kernels

from velora.buffer import Experience, ReplayBuffer

FOLDER = Path(__file__).parent

REQUIRE = """
from velora import _core
try:
    _core.require_cuda(0)
except RuntimeError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 that does as the environment says."""
    folder = tmp_path_factory.mktemp("driver")
    compiler = os.environ.get("CC", "cc")
    source, library = FOLDER / "fake_driver.c", folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return folder


@pytest.mark.skipif(not has_kernels(), reason="built without CUDA kernels")
@pytest.mark.parametrize(
    ("version", "status", "message"),
    [
        (0, 100, "no NVIDIA driver was found; install driver {least} or newer"),
        (11040, 0, "the NVIDIA driver is for CUDA 11.4, and this velora was built with CUDA "),
        (99000, 100, "the NVIDIA driver finds no GPU; look at nvidia-smi and at CUDA_VISIBLE_"),
        (99000, 3, "CUDA does not start (initialization error): a process that was forked from"),
        (99000, 803, "CUDA does not start: system has unsupported display driver"),
    ],
    ids=["none", "old", "no GPU", "forked", "other"],
)
def test_require_cuda_without_a_device_says_which_of_all_is_missing(
    fake_driver: Path, version: int, status: int, message: str
) -> None:
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(fake_driver),
        "FAKE_DRIVER_VERSION": str(version),
        "FAKE_DRIVER_STATUS": str(status),
    }
    run = subprocess.run(
        [sys.executable, "-c", REQUIRE], env=environment, capture_output=True, text=True, check=True
    )
    messages = [message.format(least=least) for least in (525, 580)]
    starts = tuple(f"device: cannot use cuda: {each}" for each in messages)
    assert run.stdout.startswith(starts), run.stdout + run.stderr
    assert run.stdout.endswith(", or pass device='cpu'\n")


# On a machine with a GPU


@pytest.mark.cuda
def test_calls_in_a_thread_without_a_context_leave_it_without() -> None:
    driver = ctypes.CDLL("libcuda.so.1")
    buffer = ReplayBuffer(8, "cuda", storage="cuda")
    first = stamped(0)
    moved = Experience(first.state.cuda(), 0, 0.0, first.next_state.cuda(), False)
    buffer.push(first)
    contexts: list[int | None] = []

    def push() -> None:
        for _ in range(20):
            buffer.push(stamped(1))  # waits on the host
            buffer.push(moved)  # is launched, after what waits
        context = ctypes.c_void_p()
        assert driver.cuCtxGetCurrent(ctypes.byref(context)) == 0
        contexts.append(context.value)

    thread = threading.Thread(target=push)
    thread.start()
    thread.join()
    assert contexts == [None]
    assert len(buffer.sample(8)) == 8


@pytest.mark.cuda
@pytest.mark.undisturbed
def test_construct_in_a_fork_of_a_process_that_used_cuda_says_to_spawn() -> None:
    program = f"""
import os
from velora import _core
_core.require_cuda(0)
child = os.fork()
if child == 0:
    exec({REQUIRE!r}, {{}})
    os._exit(0)
os.waitpid(child, 0)
"""
    run = subprocess.run(
        [sys.executable, "-u", "-c", program],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert run.stdout.startswith("device: cannot use cuda: CUDA does not start"), run.stderr
    assert "'spawn'" in run.stdout
    assert torch.cuda.is_available()
