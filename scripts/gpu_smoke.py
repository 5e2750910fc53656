"""Small programs that show whether velora works on a GPU at all, each run in a separate process.

    python scripts/gpu_smoke.py first_use|samples|capture|advantages|profile

With VELORA_GPU_REHEARSAL=1 they run on the emulation of the tests, as far as it goes. The exit code
is 77 for what is left out there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from velora.buffer import BatchExperience, ReplayBuffer
from velora.returns import gae

REHEARSAL = os.environ.get("VELORA_GPU_REHEARSAL") == "1"
LEFT_OUT = 77
ROWS = 100_000


@contextmanager
def device() -> Iterator[None]:
    """The GPU or, in a rehearsal, the emulation."""
    if not REHEARSAL:
        yield
        return
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import pytest
    from emulation import emulated_cuda

    with pytest.MonkeyPatch.context() as patch, emulated_cuda(patch):
        yield


def rows(count: int) -> dict[str, torch.Tensor]:
    """Rows whose numbers are in every field."""
    numbers = torch.arange(float(count)).reshape(-1, 1)
    return {
        "states": numbers + torch.arange(17.0),
        "actions": numbers.expand(-1, 6),
        "rewards": numbers / 7,
        "next_states": numbers - torch.arange(17.0),
        "dones": numbers % 5 == 0,
        "truncations": numbers % 11 == 0,
    }


def twins(count: int, **options: Any) -> tuple[ReplayBuffer, ReplayBuffer]:
    """A buffer on the CPU and one on the device with the same rows."""
    cpu = ReplayBuffer(count, seed=3, **options)
    cuda = ReplayBuffer(count, "cuda", storage="cuda", seed=3, **options)
    for buffer in (cpu, cuda):
        buffer.extend(**rows(count))
    return cpu, cuda


def compare(cpu: BatchExperience, cuda: BatchExperience) -> None:
    """Bit for bit."""
    for name, expected in vars(cpu).items():
        if isinstance(expected, torch.Tensor):
            found = getattr(cuda, name).cpu()
            assert torch.equal(expected, found), f"{name} of {len(cpu)} rows differ"


def first_use() -> None:
    """A buffer is the first in the process to use CUDA, and it allocates there."""
    buffer = ReplayBuffer(64, "cuda", storage="cuda", seed=3)
    buffer.extend(**rows(64))
    cpu = ReplayBuffer(64, seed=3)
    cpu.extend(**rows(64))
    compare(cpu.sample(16), buffer.sample(16))


def samples() -> None:
    """By blocks on their own, and by a whole grid."""
    for n_step in (1, 3):
        cpu, cuda = twins(ROWS, n_step=n_step)
        for batch_size in (64, 2_000, 65_536):
            for _ in range(2):
                compare(cpu.sample(batch_size), cuda.sample(batch_size))
                print(f"{batch_size} rows of {n_step} steps: as on the CPU", flush=True)


def capture() -> None:
    """A graph that draws is replayed, with pushes between and on another stream."""
    for batch_size in (64, 2_000):
        cpu, cuda = twins(5_000)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            batch = cuda.sample(batch_size)
        side = torch.cuda.Stream()
        for replay in range(50):
            with torch.cuda.stream(side if replay % 2 else torch.cuda.current_stream()):
                graph.replay()
            torch.cuda.synchronize()
            compare(cpu.sample(batch_size), batch)
            for buffer in (cpu, cuda):
                buffer.extend(**rows(10))
        print(f"50 replays of {batch_size} rows: as on the CPU", flush=True)


def advantages() -> None:
    """Of one tile, of many tiles in time, and of many in both directions."""
    for shape in ((8, 3), (128, 64), (1_000_000, 1), (2_048, 4_096)):
        torch.manual_seed(0)
        reals = [torch.randn(shape) for _ in range(3)]
        flags = [torch.rand(shape) < 0.01 for _ in range(2)]
        expected = gae(*(real.double() for real in reals), *flags)
        found = gae(*(tensor.cuda() for tensor in (*reals, *flags)))
        for left, right in zip(expected, found, strict=True):
            torch.testing.assert_close(right.cpu().double(), left, rtol=1e-4, atol=1e-3)
        print(f"{shape}: as on the CPU", flush=True)


def profile() -> None:
    """Runs the work for a profiler: a sample by the grid, and advantages, twice each."""
    buffer = ReplayBuffer(1_000_000, "cuda", storage="cuda", seed=3)
    buffer.extend(**rows(1_000_000))
    reals = [torch.randn(2_048, 4_096, device="cuda") for _ in range(3)]
    flags = [torch.rand(2_048, 4_096, device="cuda") < 0.01 for _ in range(2)]
    for _ in range(2):
        buffer.sample(65_536)
        gae(*reals, *flags)
    torch.cuda.synchronize()


PROGRAMS: dict[str, Callable[[], None]] = {
    program.__name__: program for program in (first_use, samples, capture, advantages, profile)
}

# The emulation has no CUDA graphs, and takes no CUDA tensors.
NEED_A_GPU = {capture, advantages, profile}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PROGRAMS:
        sys.exit(f"expected one of {', '.join(PROGRAMS)}")
    if REHEARSAL and PROGRAMS[sys.argv[1]] in NEED_A_GPU:
        print("left out: needs a GPU")
        sys.exit(LEFT_OUT)
    with device():
        PROGRAMS[sys.argv[1]]()
