"""A buffer on a CUDA device does what one on the CPU does, and what is missing is said in words."""

from __future__ import annotations

import copy
import gc
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_helpers import MAKERS, assert_same, image, there, twins
from helpers import stack, stamped, stamps_of

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

# On a machine with a GPU


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("kind", MAKERS)
def test_sample_on_cuda_gives_the_batches_of_the_cpu(kind: str) -> None:
    cpu, cuda = twins(map(MAKERS[kind], range(90)), capacity=40)
    for batch_size in (1, 2, 31, 32, 33, 40):
        assert_same(cpu.sample(batch_size), cuda.sample(batch_size))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("n_step", [1, 2, 5])
@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
def test_sample_of_many_environments_on_cuda_gives_the_batches_of_the_cpu(
    n_step: int, even: bool
) -> None:
    cpu, cuda = twins([], 60, num_envs=4, n_step=n_step, gamma=0.9)
    for i in range(40):
        lanes = None if even else [i % 4, 0, 1, 1]
        for buffer in (cpu, cuda):
            buffer.extend(stack([stamped(4 * i + e) for e in range(4)]), lanes=lanes)
        assert_same(cpu.sample(len(cpu)), cuda.sample(len(cuda)))
    assert list(cpu) == list(cuda)


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("even", [True, False], ids=["even", "uneven"])
def test_rollout_of_many_environments_on_cuda_is_in_the_order_of_the_cpu(even: bool) -> None:
    buffers = [RolloutBuffer(60, device, num_envs=4) for device in ("cpu", "cuda")]
    for buffer in buffers:
        for i in range(5):
            buffer.extend(
                stack([stamped(4 * i + e) for e in range(4)]), lanes=None if even else [i % 4] * 4
            )
    cpu, cuda = (buffer.sample() for buffer in buffers)
    assert_same(cpu, cuda)


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_sample_between_pushes_gives_the_batches_of_the_cpu(capacity: int) -> None:
    cpu, cuda = twins([], capacity)
    for i in range(5 * capacity):
        for buffer in (cpu, cuda):
            buffer.push(stamped(i))
        assert_same(cpu.sample(len(cpu)), cuda.sample(len(cuda)))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("batch_size", [1024, 1025, 4096, 65536])
def test_large_sample_gives_the_batch_of_the_cpu(batch_size: int) -> None:
    cpu, cuda = twins([], capacity=100_000)
    rows = torch.arange(150_000.0).reshape(-1, 1)
    batch = BatchExperience(rows, rows.long(), rows, rows, rows % 2, rows % 3 == 0)
    for buffer in (cpu, cuda):
        buffer.extend(batch)
    for _ in range(2):
        assert_same(cpu.sample(batch_size), cuda.sample(batch_size))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("size", [1000, 3000])
def test_sample_of_all_gives_each_once(size: int) -> None:
    _, cuda = twins(map(stamped, range(size)), capacity=size)
    assert sorted(stamps_of(cuda.sample(size).to("cpu"))) == list(range(size))


@pytest.mark.cuda(emulated=True)
def test_many_fields_are_gathered() -> None:
    def wide(i: int) -> Experience:
        state = {str(k): torch.full((1 + k % 3,), float(i + k)) for k in range(70)}
        return Experience(state, i, 0.0, state, False)

    cpu, cuda = twins(map(wide, range(20)), capacity=15)
    assert_same(cpu.sample(9), cuda.sample(9))


@pytest.mark.cuda(emulated=True)
def test_rollout_on_cuda_comes_in_time_order_again_and_again() -> None:
    buffer = RolloutBuffer(5, "cuda")
    for start in (0, 5, 10):
        for i in range(start, start + 5):
            buffer.push(stamped(i))
        with pytest.raises(BufferError):
            buffer.push(stamped(99))
        batch = buffer.sample()
        assert stamps_of(batch.to("cpu")) == list(range(start, start + 5))
        buffer.empty()
        assert len(buffer) == 0


@pytest.mark.cuda(emulated=True)
def test_sequence_on_cuda_gives_experiences_oldest_first() -> None:
    _, cuda = twins(map(stamped, range(9)), capacity=4)
    assert [experience.action for experience in cuda] == [5, 6, 7, 8]
    assert cuda[-1].state.tolist() == stamped(8).state.tolist()


@pytest.mark.cuda(emulated=True)
def test_push_of_cuda_tensors_stores_their_values() -> None:
    here = [stamped(i) for i in range(6)]
    moved = [
        Experience(there(e.state), e.action, e.reward, there(e.next_state), e.done) for e in here
    ]
    cpu, _ = twins([Experience(*e) for e in here], capacity=6)
    _, cuda = twins(moved, capacity=6)
    assert_same(cpu.sample(4), cuda.sample(4))


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda buffer: pickle.loads(pickle.dumps(buffer)),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("how", COPIES)
def test_copy_on_cuda_goes_on_as_the_cpu_does(how: str) -> None:
    cpu, cuda = twins(map(stamped, range(30)), capacity=12)
    assert_same(cpu.sample(5), cuda.sample(5))
    again = COPIES[how](cuda)
    assert again.device == cuda.device
    for i in range(30, 40):
        cpu.push(stamped(i))
        again.push(stamped(i))
    assert_same(cpu.sample(9), again.sample(9))


@pytest.mark.cuda(emulated=True)
def test_extend_beyond_the_write_buffer_and_the_capacity_keeps_the_newest() -> None:
    cpu, cuda = twins([], capacity=200)
    batch = stack([image(i) for i in range(300)])
    for buffer in (cpu, cuda):
        buffer.extend(batch)
    assert_same(cpu.sample(200), cuda.sample(200))


@pytest.mark.cuda
def test_sample_runs_on_the_current_stream() -> None:
    cpu, cuda = twins(map(stamped, range(50)), capacity=40)
    streams = [torch.cuda.Stream() for _ in range(3)]
    for i in range(60):
        for buffer in (cpu, cuda):
            with torch.cuda.stream(streams[i % 2]):
                buffer.push(stamped(50 + i))
        stream = streams[i % 3]
        with torch.cuda.stream(stream):
            batch = cuda.sample(17)
            doubled = batch.states * 2  # ordered after the gather, on the same stream
        stream.synchronize()
        expected = cpu.sample(17)
        assert_same(expected, batch)
        assert torch.equal(doubled.cpu(), expected.states * 2)


@pytest.mark.cuda
@pytest.mark.undisturbed
def test_push_and_sample_wait_for_nothing() -> None:
    cpu, cuda = twins(map(stamped, range(3000)), capacity=3000)
    for batch_size in (64, 2000):  # what is made once is made now
        assert_same(cpu.sample(batch_size), cuda.sample(batch_size))
    torch.cuda.synchronize()
    busy = torch.cuda.Event()
    torch.cuda._sleep(2_000_000_000)  # about a second
    busy.record()
    batches = []
    for i in range(50):
        cuda.push(stamped(i))
        batches += [cuda.sample(64), cuda.sample(2000)]
    assert not busy.query(), "a push or a sample waited for the device"
    for i in range(50):
        cpu.push(stamped(i))
        for batch in batches[2 * i : 2 * i + 2]:
            assert_same(cpu.sample(len(batch)), batch)


@pytest.mark.cuda
@pytest.mark.undisturbed
def test_batch_outlives_its_buffer_and_gives_its_memory_back() -> None:
    gc.collect()  # buffers of other tests that are not freed yet
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    _, cuda = twins(map(stamped, range(100)), capacity=100)
    with_rows = torch.cuda.memory_allocated()
    batch = cuda.sample(100)
    assert torch.cuda.memory_allocated() > with_rows > before
    states = batch.states
    expected = batch.actions.float().expand(-1, 4).clone()
    del batch, cuda
    assert torch.equal(states, expected)
    del states, expected
    assert torch.cuda.memory_allocated() == before


@pytest.mark.cuda
def test_capacity_beyond_the_device_is_a_memory_error_and_the_device_stays_usable() -> None:
    buffer = ReplayBuffer(2**40, "cuda", storage="cuda")
    with pytest.raises(MemoryError, match=r"^capacity 1099511627776 at .*: torch refused"):
        buffer.push(stamped(0))
    cpu, cuda = twins(map(stamped, range(10)), capacity=10)
    assert_same(cpu.sample(5), cuda.sample(5))


@pytest.mark.cuda(emulated=True)
def test_sample_of_more_than_there_is_is_a_value_error_with_both_numbers() -> None:
    cpu, cuda = twins(map(stamped, range(10)), capacity=10)
    with pytest.raises(ValueError, match=r"at most 10, .*got 11"):
        cuda.sample(11)
    assert_same(cpu.sample(10), cuda.sample(10))


@pytest.mark.cuda
def test_device_that_is_not_there_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"^device: expected .* CUDA devices .*cuda:99$"):
        ReplayBuffer(1, "cuda:99")


# On a machine without one

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
WHAT_TO_DO = r", or pass device='cpu'$"


def core_path() -> Path:
    spec = find_spec("velora._core")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def has_kernels() -> bool:
    return (core_path().parent / "_cuda.so").exists()


@without_cuda
@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda")], ids=str)
def test_construct_without_cuda_raises_one_error_that_says_what_to_do(
    kind: type[Any], device: Any
) -> None:
    with pytest.raises(RuntimeError, match=r"^device: cannot use cuda: .*" + WHAT_TO_DO):
        kind(10, device)


@without_cuda
@pytest.mark.skipif(not has_kernels(), reason="built without CUDA kernels")
def test_construct_without_a_driver_says_so_each_time() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"no NVIDIA driver was found; install driver "):
            ReplayBuffer(10, "cuda")


def test_construct_on_a_device_that_torch_does_not_see_looks_at_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[int] = []
    monkeypatch.setattr("velora._core.require_cuda", looked_at.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(
        RuntimeError, match=r"one of the 4 CUDA devices that torch sees, got cuda:9"
    ):
        ReplayBuffer(10, "cuda:9")
    assert not looked_at


def test_construct_with_a_torch_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("velora._core.require_cuda", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        RuntimeError, match=r"^device: cannot use cuda: torch .* has no CUDA; .*" + WHAT_TO_DO
    ):
        ReplayBuffer(10, "cuda")


def require_cuda_of_a_copy(folder: Path) -> str:
    """Returns the output of the native module when it is in `folder`, not in its installation."""
    copied = shutil.copy(core_path(), folder)
    code = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("velora._core", {copied!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
try:
    module.require_cuda(0)
except RuntimeError as error:
    print(error)
"""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_module_without_kernels_beside_it_says_how_to_build_them(tmp_path: Path) -> None:
    message = require_cuda_of_a_copy(tmp_path)
    assert message.startswith("device: cannot use cuda: this velora was built without its CUDA")
    assert "nvcc" in message
    assert "VELORA_CUDA=on" in message
    assert message.endswith("or pass device='cpu'")


def test_module_with_kernels_that_do_not_load_says_so(tmp_path: Path) -> None:
    (tmp_path / "_cuda.so").write_text("not a shared object")
    message = require_cuda_of_a_copy(tmp_path)
    assert message.startswith("device: cannot use cuda: ")
    assert "reinstall velora" in message


def test_module_with_another_library_in_the_place_of_its_kernels_says_so(tmp_path: Path) -> None:
    shutil.copy(core_path(), tmp_path / "_cuda.so")
    assert "is of another build; reinstall velora" in require_cuda_of_a_copy(tmp_path)
