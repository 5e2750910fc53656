"""Wherever rows are kept for batches on a CUDA device, the batches are those of the CPU."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cuda_helpers import MAKERS, assert_same, image, there, twins
from helpers import stack, stamped

from velora.buffer import Experience, ReplayBuffer
from velora.buffer.experience import BatchExperience

STORAGES = ["cpu", "cuda", "pinned"]


def pair(storage: str, capacity: int, **options: Any) -> tuple[ReplayBuffer, ReplayBuffer]:
    cpu = ReplayBuffer(capacity, "cpu", seed=7, **options)
    return cpu, ReplayBuffer(capacity, "cuda", seed=7, storage=storage, **options)  # type: ignore[arg-type]


def push_both(buffers: tuple[ReplayBuffer, ReplayBuffer], kind: str, count: int) -> None:
    for i in range(count):
        for buffer in buffers:
            buffer.push(MAKERS[kind](i))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", MAKERS)
def test_sample_gives_the_batches_of_the_cpu(storage: str, kind: str) -> None:
    buffers = cpu, cuda = pair(storage, 40)
    push_both(buffers, kind, 90)
    assert cuda.storage == storage
    for batch_size in (1, 31, 40):
        assert_same(cpu.sample(batch_size), cuda.sample(batch_size))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("boundary", ["pad", "within", "cross"])
def test_sample_sequences_gives_the_batches_of_the_cpu(storage: str, boundary: Any) -> None:
    buffers = cpu, cuda = pair(storage, 60)
    for i in range(100):
        experience = MAKERS["subclass"](i)
        experience.done, experience.truncated = i % 29 == 0, i % 13 == 0
        for buffer in buffers:
            buffer.push(experience)
    for burn_in in (0, 3):
        assert_same(
            cpu.sample_sequences(9, 5, burn_in, boundary=boundary, first_only=("hidden",)),
            cuda.sample_sequences(9, 5, burn_in, boundary=boundary, first_only=("hidden",)),
        )
    assert_same(cpu.sample(20), cuda.sample(20))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", STORAGES)
def test_sample_into_the_last_batch_writes_its_tensors_again(storage: str) -> None:
    buffers = cpu, cuda = pair(storage, 40)
    push_both(buffers, "nested", 50)
    cpu.sample(8)
    batch = cuda.sample(8)
    again = cuda.sample(8, out=batch)
    assert again is batch
    assert_same(cpu.sample(8), batch)


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", STORAGES)
def test_sample_into_a_batch_that_does_not_fit_draws_nothing(storage: str) -> None:
    buffers = cpu, cuda = pair(storage, 40)
    push_both(buffers, "plain", 50)
    batch = cuda.sample(8)
    cpu.sample(8)
    with pytest.raises(ValueError, match=r"^out\.states: expected a contiguous float32 tensor"):
        cuda.sample(9, out=batch)
    assert_same(cpu.sample(9), cuda.sample(9))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", STORAGES)
def test_sample_into_one_piece_of_memory_gives_the_batch_of_the_cpu(storage: str) -> None:
    buffers = cpu, cuda = pair(storage, 40)
    push_both(buffers, "nested", 50)
    core = cuda._core
    assert core is not None
    nbytes, layout = core.batch_layout(8)
    base = there(torch.empty(nbytes, dtype=torch.uint8))
    core.sample_into(base, 8)
    tensors = []
    for offset, dtype_name, shape in layout:
        dtype = getattr(torch, dtype_name)
        size = dtype.itemsize * int(torch.tensor(shape).prod())
        tensors.append(base[offset : offset + size].view(dtype).view(shape))
    assert_same(cpu.sample(8), core.name_batch(tensors))


@pytest.mark.cuda(emulated=True)
def test_large_batches_of_host_rows_come_by_way_of_pinned_memory() -> None:
    buffers = cpu, cuda = pair("cpu", 300)
    batch = stack([image(i) for i in range(300)])
    for buffer in buffers:
        buffer.extend(batch)
    batches = [(cpu.sample(256), cuda.sample(256)) for _ in range(7)]
    for left, right in batches:
        assert_same(left, right)


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("option", [{"compact": True}, {"frame_stack": 4}], ids=str)
def test_observations_stored_once_give_the_batches_of_the_cpu(
    option: dict[str, Any], storage: str
) -> None:
    buffers = cpu, cuda = pair(storage, 30, **option)
    frames = [torch.full((4, 6, 6), i, dtype=torch.uint8) for i in range(60)]
    for i in range(50):
        batch = BatchExperience(
            frames[i][None],
            torch.tensor([i]),
            torch.tensor([1.0]),
            frames[i + 1][None],
            torch.tensor([i % 9 == 0]),
        )
        for buffer in buffers:
            buffer.extend(batch)
    assert (cuda.storage, cuda.compact) == (storage, True)
    assert_same(cpu.sample(20), cuda.sample(20))
    again = pickle.loads(pickle.dumps(cuda))
    assert_same(cpu.sample(20), again.sample(20))
    assert_same(cpu.sample_sequences(5, 3, 2), again.sample_sequences(5, 3, 2))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize(
    ("nbytes", "kind", "expected"),
    [(1, "plain", "pinned"), (10**12, "plain", "cuda"), (1, "image", "pinned")],
)
def test_storage_auto_asks_how_much_memory_is_free(
    monkeypatch: pytest.MonkeyPatch, nbytes: int, kind: str, expected: str
) -> None:
    from velora.buffer import base, placement

    monkeypatch.setattr(base, "choose_storage", placement.choose_storage)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (nbytes, 10**12))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    buffer = ReplayBuffer(30, "cuda")
    assert buffer.storage == "auto"
    buffer.push(MAKERS[kind](0))
    assert buffer.storage == expected


def large(i: int, move: Callable[[torch.Tensor], Any]) -> Experience:
    frames = torch.arange(i, i + 8000).to(torch.uint8)
    return Experience(move(frames), i, 0.0, move(frames + 1), False)


@pytest.mark.cuda(emulated=True)
def test_large_observations_of_the_host_are_stored_once() -> None:
    cpu, cuda = twins([large(i, torch.Tensor.numpy) for i in range(9)], 6)
    assert cuda.compact is True
    assert_same(cpu.sample(6), cuda.sample(6))


@pytest.mark.cuda
def test_large_observations_of_the_device_are_stored_whole() -> None:
    cpu, _ = twins([large(i, torch.Tensor.cpu) for i in range(9)], 6)
    _, cuda = twins([large(i, torch.Tensor.cuda) for i in range(9)], 6)
    assert cuda.compact is False
    assert_same(cpu.sample(6), cuda.sample(6))


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", STORAGES)
def test_from_env_sets_the_rows_aside_where_they_belong(storage: Any) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("CartPole-v1")
    buffer = ReplayBuffer.from_env(env, 50, "cuda", storage=storage)
    assert buffer.storage == storage
    assert buffer.nbytes > 0


@pytest.mark.parametrize("storage", ["cuda", "pinned"])
def test_storage_of_a_device_for_batches_on_the_cpu_is_a_value_error(storage: Any) -> None:
    with pytest.raises(ValueError, match=r"^storage: expected 'auto' or 'cpu' .* got '"):
        ReplayBuffer(9, "cpu", storage=storage)


def test_storage_that_is_none_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"^storage: expected 'auto', 'cpu', .* got 'gpu'$"):
        ReplayBuffer(9, storage="gpu")  # type: ignore[arg-type]


@pytest.mark.cuda(emulated=True)
def test_capacity_beyond_all_memory_is_a_memory_error_and_the_device_stays_usable() -> None:
    buffer = ReplayBuffer(2**40, "cuda", storage="cuda")
    with pytest.raises(MemoryError, match=r"^capacity 1099511627776 at .*: torch refused"):
        buffer.push(stamped(0))
    cpu, cuda = twins(map(stamped, range(10)), capacity=10)
    assert_same(cpu.sample(5), cuda.sample(5))
