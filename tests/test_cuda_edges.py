"""A buffer on a CUDA device rejects, keeps and returns the same as one on the CPU."""

from __future__ import annotations

import pytest
import torch
from cuda_helpers import assert_same, there, twins
from helpers import Meddler

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer

pytestmark = pytest.mark.cuda(emulated=True)


def columns(count: int) -> dict[str, torch.Tensor]:
    return {
        "states": torch.arange(3.0 * count).reshape(count, 3),
        "actions": torch.arange(count),
        "rewards": torch.arange(float(count)),
        "next_states": torch.arange(3.0 * count).reshape(count, 3) + 1,
        "dones": torch.zeros(count, dtype=torch.bool),
    }


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_extend_a_rollout_of_one_environment_with_device_tensors_stores_all(count: int) -> None:
    cpu, cuda = RolloutBuffer(64, "cpu"), RolloutBuffer(64, "cuda")
    cpu.extend(**columns(count))
    cuda.extend(**{name: there(column) for name, column in columns(count).items()})
    assert_same(cpu.sample(), cuda.sample())


def test_push_of_a_negated_view_on_the_device_stores_what_it_shows() -> None:
    number = torch.complex(torch.tensor([1.0]), torch.tensor([2.0]))
    cpu, cuda = twins([], 4)
    for buffer, move in ((cpu, lambda t: t), (cuda, there)):
        reward = move(number).conj().imag
        assert reward.is_neg()
        buffer.push(Experience(move(torch.zeros(3)), 0, reward, move(torch.zeros(3)), False))
    assert cpu.sample(1).rewards.item() == -2.0
    assert cuda.sample(1).rewards.item() == -2.0


def test_push_whose_device_tensor_loses_its_memory_meanwhile_is_refused() -> None:
    buffer = ReplayBuffer(5, "cuda")
    buffer.push(Experience(torch.zeros(3), 0.0, 0.0, torch.zeros(3), False))
    state = there(torch.ones(3))
    meddler = Meddler(lambda: state.untyped_storage().resize_(0))
    with pytest.raises(ValueError, match=r"^state: .* other code changed"):
        buffer.push(Experience(state, 0.0, 0.0, meddler, False))
    assert len(buffer) == 1


def test_push_whose_device_tensor_gets_other_memory_meanwhile_stores_that() -> None:
    buffer = ReplayBuffer(5, "cuda")
    buffer.push(Experience(torch.zeros(3), 0.0, 0.0, torch.zeros(3), False))
    state = there(torch.ones(3))

    def act() -> None:
        state.data = there(torch.full((3,), 2.0))

    buffer.push(Experience(state, 0.0, 0.0, Meddler(act), False))
    assert buffer[1].state.tolist() == [2.0] * 3


def test_extend_of_device_tensors_with_a_value_that_does_not_fit_is_refused() -> None:
    for buffer in twins([], 8):
        buffer.extend(**{key: there(column) for key, column in columns(2).items()})
        wrong = {"rewards": torch.tensor([1e300, 0.0], dtype=torch.float64)}
        bad = {key: there(column) for key, column in (columns(2) | wrong).items()}
        with pytest.raises(ValueError, match="expected a value that"):
            buffer.extend(**bad)
        assert len(buffer) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_flags_of_the_device_are_set_where_they_are_not_zero(dtype: torch.dtype) -> None:
    _, cuda = twins([], 8)
    flags = torch.tensor([0, 1, 2], dtype=dtype)
    cuda.extend(**{k: there(v) for k, v in (columns(3) | {"dones": flags}).items()})
    assert [bool(experience.done) for experience in cuda] == [False, True, True]


def test_sample_into_tensors_leaves_what_lies_between_them() -> None:
    _, buffer = twins([], 8, storage="cpu")
    buffer.extend(**columns(8))
    assert buffer._core is not None
    nbytes, layout = buffer._core.batch_layout(5)
    base = there(torch.full((nbytes,), 7, dtype=torch.uint8))
    covered = torch.zeros(nbytes, dtype=torch.bool)
    parts = []
    for offset, dtype_name, shape in layout:
        dtype = getattr(torch, dtype_name)
        end = offset + dtype.itemsize * int(torch.tensor(shape).prod())
        parts.append(base[offset:end].view(dtype).view(shape))
        covered[offset:end] = True
    assert not covered.all()
    buffer.sample(5, out=buffer._core.name_batch(parts))
    assert (base.cpu()[~covered] == 7).all()
