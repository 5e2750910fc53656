"""What `update_priorities` takes, skips and refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import filled, stamped
from test_prioritized import close, prioritized, set_priorities, shares

from velora.buffer import ReplayBuffer

HALVES = torch.tensor([[60000.0, 60000.0]], dtype=torch.float16)


@pytest.mark.parametrize(
    "priorities",
    [
        torch.tensor([1.0, 3.0], dtype=torch.float64),
        torch.tensor([1.0, 3.0], dtype=torch.float16),
        torch.tensor([1.0, 3.0], dtype=torch.bfloat16),
        torch.tensor([1, 3]),
        torch.tensor([1, 3], dtype=torch.uint8),
        torch.tensor([[1.0], [3.0]]),
        torch.tensor([1.0, 0.0, 3.0, 0.0])[::2],
        torch.tensor([1.0, 3.0], requires_grad=True),
        np.array([1.0, 3.0]),
        [1.0, 3.0],
    ],
)
def test_update_with_any_numbers_takes_them(priorities: Any) -> None:
    buffer = prioritized(2)
    assert buffer.update_priorities(torch.arange(2), priorities).tolist() == [True, True]
    assert shares(buffer) == close({0: 0.25, 1: 0.75})


def test_update_with_bools_takes_0_and_1() -> None:
    buffer = prioritized(2)
    buffer.update_priorities(torch.arange(2), torch.tensor([False, True]))
    assert shares(buffer) == {1: 1.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -1.0, -1e-45, 1e39])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_update_with_bad_priority_changes_nothing(bad: float, dtype: torch.dtype) -> None:
    buffer = prioritized(2)
    set_priorities(buffer, 1.0, 3.0)
    with pytest.raises(ValueError, match="priorities"):
        buffer.update_priorities(torch.arange(2), torch.tensor([9.0, bad], dtype=dtype))
    assert shares(buffer) == close({0: 0.25, 1: 0.75})


def test_update_with_negative_zero_is_zero() -> None:
    buffer = prioritized(2)
    set_priorities(buffer, -0.0, 1.0)
    assert shares(buffer) == {1: 1.0}


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2), (), (1, 2), (2, 1, 1)])
def test_update_with_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="priorities: expected shape"):
        prioritized(2).update_priorities(torch.arange(2), torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool])
def test_update_with_indices_that_are_no_ints_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="indices: expected ints"):
        prioritized(2).update_priorities(torch.zeros(2, dtype=dtype), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.uint64])
def test_update_with_indices_of_other_ints_takes_them(dtype: torch.dtype) -> None:
    indices = torch.tensor([1, 0], dtype=dtype)
    assert prioritized(2).update_priorities(indices, torch.ones(2)).all()


@pytest.mark.parametrize("index", [-1, -(2**63), 2**63 - 1, 2**62, 2**47, 2**46, 2**32, 4])
def test_update_of_no_row_is_skipped(index: int) -> None:
    buffer = prioritized()
    assert not buffer.update_priorities(torch.tensor([index]), torch.tensor([9.0])).any()
    assert shares(buffer) == close(dict.fromkeys(range(4), 0.25))


def test_update_with_no_indices_changes_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert prioritized().update_priorities(none, torch.zeros(0)).shape == (0,)


def test_update_with_duplicates_counts_last() -> None:
    buffer = prioritized(2, maximum="all_time")
    buffer.update_priorities(torch.tensor([0, 1, 0]), torch.tensor([50.0, 3.0, 1.0]))
    assert shares(buffer) == close({0: 0.25, 1: 0.75})
    buffer.push(stamped(2))
    assert shares(buffer) == close({0: 1 / 7, 1: 3 / 7, 2: 3 / 7})


def test_update_of_overwritten_row_leaves_new_one_and_maximum() -> None:
    buffer = prioritized(2, 2)
    set_priorities(buffer, 1.0, 3.0)
    buffer.push(stamped(2))
    updated = buffer.update_priorities(torch.tensor([0, 1]), torch.tensor([99.0, 1.0]))
    assert updated.tolist() == [False, True]
    buffer.push(stamped(3))
    assert shares(buffer) == close({2: 0.5, 3: 0.5})


def test_update_after_clear_skips_old_rows() -> None:
    buffer = prioritized()
    buffer.sample(4)
    buffer._core.clear()  # type: ignore[union-attr]
    buffer.push(stamped(9))
    assert not buffer.update_priorities(torch.arange(4), torch.ones(4)).any()


@pytest.mark.parametrize("capacity", [1, 2, 7, 15, 16, 17, 255, 256, 257, 1023, 1024, 1025])
def test_update_in_one_call_equals_one_by_one(capacity: int) -> None:
    generator = torch.Generator().manual_seed(capacity)
    indices = torch.randint(capacity, (3 * capacity,), generator=generator)
    priorities = torch.rand(3 * capacity, generator=generator)
    left, right = prioritized(capacity, capacity), prioritized(capacity, capacity)
    left.update_priorities(indices, priorities)
    for index, priority in zip(indices, priorities, strict=True):
        right.update_priorities(index[None], priority[None])
    drawn = left.sample(512), right.sample(512)
    assert torch.equal(drawn[0].indices, drawn[1].indices)  # type: ignore[arg-type]
    assert torch.equal(drawn[0].weights, drawn[1].weights)


def test_update_of_capacity_1_follows_ring() -> None:
    buffer = prioritized(5, 1)
    updated = buffer.update_priorities(torch.tensor([3, 4]), torch.tensor([9.0, 2.0]))
    assert updated.tolist() == [False, True]
    assert buffer.sample(3).indices.tolist() == [4, 4, 4]  # type: ignore[union-attr]


def test_update_of_uniform_buffer_is_refused() -> None:
    buffer = filled(ReplayBuffer, range(2), 2)
    with pytest.raises(ValueError, match="keeps priorities"):
        buffer.update_priorities(torch.arange(2), torch.ones(2))


def test_update_before_first_push_is_refused() -> None:
    with pytest.raises(ValueError, match="before the first push"):
        prioritized(0).update_priorities(torch.arange(2), torch.ones(2))


# Sequences


def test_update_of_sequences_mixes_largest_and_mean() -> None:
    buffer = prioritized()
    set_priorities(buffer, 0.0, 0.0, 0.0, 1.4)
    buffer.update_priorities(torch.tensor([[0, 1, -1]]), torch.tensor([[1.0, 2.0, 99.0]]), eta=0.8)
    # 0.8 * 2 + 0.2 * 1.5 = 1.9
    assert shares(buffer) == close({0: 1.9 / 3.3, 3: 1.4 / 3.3})


def test_update_of_batch_leaves_out_burn_in() -> None:
    buffer = prioritized()
    set_priorities(buffer, 0.0, 0.0, 1.0, 0.0)
    batch = buffer.sample_sequences(1, 1, burn_in=2)
    assert batch.indices is not None
    assert batch.mask is not None
    given = torch.where(batch.mask[..., 0] > 0, 3.0, float("nan"))
    buffer.update_priorities(batch, given)
    set_priorities(buffer, 1.0)
    first = batch.indices[batch.mask[..., 0] > 0].item()
    assert shares(buffer)[int(first)] == pytest.approx(0.75, abs=1e-3)


def test_update_of_sequence_without_trained_steps_is_skipped() -> None:
    buffer = prioritized()
    mask = torch.zeros(1, 2)
    updated = buffer.update_priorities(torch.tensor([[0, 1]]), torch.ones(1, 2), mask=mask)
    assert updated.tolist() == [False]


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_update_with_bad_eta_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match="eta"):
        prioritized().update_priorities(torch.tensor([[0, 1]]), torch.ones(1, 2), eta=eta)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_update_of_sequence_with_bad_priority_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="priorities"):
        prioritized().update_priorities(torch.tensor([[0, 1]]), torch.tensor([[1.0, bad]]))


def test_update_of_sequence_with_negative_priority_is_refused() -> None:
    with pytest.raises(ValueError, match="priorities"):
        prioritized().update_priorities(torch.tensor([[0, 1]]), torch.tensor([[-1.0, 5.0]]))


@pytest.mark.parametrize("priorities", [HALVES, torch.full((1, 2), 3e38)])
def test_update_of_sequence_with_large_priorities_takes_them(priorities: torch.Tensor) -> None:
    prioritized().update_priorities(torch.tensor([[0, 1]]), priorities)


def test_update_of_sequence_with_bool_indices_is_refused() -> None:
    with pytest.raises(ValueError, match="indices: expected ints"):
        prioritized().update_priorities(torch.tensor([[True, False]]), torch.ones(1, 2))


def test_update_of_untrained_sequence_with_uint8_indices_is_skipped() -> None:
    indices = torch.tensor([[0, 1]], dtype=torch.uint8)
    updated = prioritized(300, 300).update_priorities(
        indices, torch.ones(1, 2), mask=torch.zeros(1, 2)
    )
    assert updated.tolist() == [False]


def test_update_of_sequence_with_uint64_indices_takes_them() -> None:
    indices = torch.tensor([[0, 1]], dtype=torch.uint64)
    assert prioritized().update_priorities(indices, torch.ones(1, 2)).all()


def test_update_of_sequences_without_steps_is_skipped_or_refused() -> None:
    indices = torch.zeros(2, 0, dtype=torch.int64)
    assert not prioritized().update_priorities(indices, torch.zeros(2, 0)).any()
