"""Steps that are on the device already are stored there as the CPU stores them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_helpers import assert_same, there, twins
from torch import Tensor

from velora.buffer import BatchExperience, ReplayBuffer, RolloutBuffer

pytestmark = pytest.mark.cuda(emulated=True)


def steps(count: int, seed: int = 0) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "states": torch.randn(count, 5, generator=random),
        "actions": torch.randint(9, (count,), generator=random),
        "rewards": torch.randn(count, generator=random),
        "next_states": torch.randn(count, 5, generator=random),
        "dones": torch.rand(count, generator=random) < 0.2,
        "truncations": torch.rand(count, generator=random) < 0.1,
    }


def extend_both(buffers: tuple[Any, Any], arrays: dict[str, Tensor]) -> None:
    cpu, cuda = buffers
    cpu.extend(**{name: array.clone() for name, array in arrays.items()})
    cuda.extend(**{name: there(array) for name, array in arrays.items()})


@pytest.mark.parametrize("num_envs", [1, 3, 40])
@pytest.mark.parametrize("n_step", [1, 3])
def test_extend_of_device_tensors_stores_what_the_cpu_stores(num_envs: int, n_step: int) -> None:
    buffers = cpu, cuda = twins([], 5 * num_envs, num_envs=num_envs, n_step=n_step)
    for number in range(9):
        extend_both(buffers, steps(num_envs * (1 + number % 7), number))
        assert len(cpu) == len(cuda)
        assert_same(cpu.sample(len(cpu)), cuda.sample(len(cuda)))
    assert [e.done for e in cpu] == [e.done for e in cuda]


def test_extend_of_device_tensors_with_some_arrays_of_the_host_stores_all() -> None:
    cpu, cuda = twins([], 60, num_envs=4, n_step=2)
    for number in range(8):
        arrays = steps(8, number)
        cpu.extend(**arrays)
        mixed = {
            name: there(array) if (number >> position) & 1 else array.numpy()
            for position, (name, array) in enumerate(arrays.items())
        }
        cuda.extend(**mixed)
        assert_same(cpu.sample(len(cpu)), cuda.sample(len(cuda)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8, torch.float32])
def test_extend_of_device_tensors_of_other_dtypes_converts_them(dtype: torch.dtype) -> None:
    buffers = cpu, cuda = twins([], 20, num_envs=2)
    extend_both(buffers, steps(4))
    arrays = steps(4, 1)
    arrays["rewards"] = (arrays["rewards"] * 4).abs().to(dtype)
    arrays["dones"] = arrays["dones"].to(dtype)
    arrays["states"] = arrays["states"].abs().to(dtype)
    extend_both(buffers, arrays)
    assert_same(cpu.sample(8), cuda.sample(8))


def test_extend_of_device_tensors_that_are_views_copies_what_they_show() -> None:
    cpu, cuda = twins([], 20, num_envs=2)
    arrays = steps(8)
    views = {name: array[::2] for name, array in arrays.items()}
    views["states"] = arrays["states"][:4].t().contiguous().t()
    cpu.extend(**{name: array.contiguous() for name, array in views.items()})
    cuda.extend(**{name: there(array) for name, array in views.items()})
    assert_same(cpu.sample(4), cuda.sample(4))


def test_extend_of_device_tensors_by_lanes_goes_by_way_of_the_host() -> None:
    cpu, cuda = twins([], 60, num_envs=3)
    arrays = steps(7)
    lanes = [0, 2, 2, 1, 0, 2, 2]
    cpu.extend(**arrays, lanes=lanes)
    cuda.extend(**{name: there(array) for name, array in arrays.items()}, lanes=lanes)
    assert_same(cpu.sample(7), cuda.sample(7))


def test_extend_from_both_sides_keeps_episodes_apart() -> None:
    cpu, cuda = twins([], 90, num_envs=3, n_step=4)
    for number in range(12):
        arrays = steps(6, number)
        cpu.extend(**arrays)
        if number % 3:
            cuda.extend(**{name: there(array) for name, array in arrays.items()})
        else:
            cuda.extend(**{name: array.numpy() for name, array in arrays.items()})
        if number % 4 == 3:
            cpu.end_episodes([1])
            cuda.end_episodes([1])
        assert_same(cpu.sample(len(cpu)), cuda.sample(len(cuda)))
    assert_same(
        cpu.sample_sequences(9, 4, 2, boundary="within"),
        cuda.sample_sequences(9, 4, 2, boundary="within"),
    )


def test_extend_of_device_tensors_as_first_fixes_the_schema() -> None:
    cpu, cuda = twins([], 9)
    arrays = steps(5)
    cpu.extend(BatchExperience(**arrays))
    cuda.extend(BatchExperience(**{name: there(array) for name, array in arrays.items()}))
    assert_same(cpu.sample(5), cuda.sample(5))


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("states", torch.zeros(4, 6), r"^states: expected rows of shape \(5,\)"),
        ("rewards", torch.zeros(5), r"^rewards: expected 4 rows"),
        ("actions", torch.full((4,), 0.5), r"^actions: expected a value that int64 holds"),
    ],
)
def test_extend_of_device_tensors_that_do_not_fit_changes_nothing(
    name: str, wrong: Tensor, words: str
) -> None:
    buffers = cpu, cuda = twins([], 20, num_envs=2)
    extend_both(buffers, steps(4))
    arrays = {part: there(array) for part, array in steps(4, 1).items()}
    with pytest.raises(ValueError, match=words):
        cuda.extend(**{**arrays, name: there(wrong)})
    assert_same(cpu.sample(4), cuda.sample(4))


def test_rollout_of_device_tensors_is_refused_when_full_and_begins_anew_when_empty() -> None:
    buffers = RolloutBuffer(12, "cpu", num_envs=3), RolloutBuffer(12, "cuda", num_envs=3)
    for number in range(3):
        extend_both(buffers, steps(6, 2 * number))
        extend_both(buffers, steps(6, 2 * number + 1))
        with pytest.raises(BufferError, match="is full"):
            buffers[1].extend(**{name: there(array) for name, array in steps(3).items()})
        assert_same(buffers[0].sample(), buffers[1].sample())
        for buffer in buffers:
            buffer.empty()
        assert len(buffers[1]) == 0


def test_copy_of_a_buffer_with_device_tensors_goes_on_as_the_cpu_does() -> None:
    import pickle

    buffers = cpu, cuda = twins([], 30, num_envs=3, n_step=2)
    for number in range(7):
        extend_both(buffers, steps(6, number))
    assert_same(cpu.sample(5), cuda.sample(5))
    again: ReplayBuffer = pickle.loads(pickle.dumps(cuda))
    extend_both((cpu, again), steps(3, 8))
    assert_same(cpu.sample(20), again.sample(20))
