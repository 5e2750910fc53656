"""Priorities that come with `push` and `extend`."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from helpers import stack, step

from velora.buffer import Prioritized, ReplayBuffer, RolloutBuffer


def prioritized(capacity: int = 8, **options: Any) -> ReplayBuffer:
    sampler = Prioritized(alpha=1.0, beta=1.0, eps=0.0, normalise="none")
    return ReplayBuffer(capacity, sampler=sampler, seed=1, **options)


def shares(buffer: ReplayBuffer, count: int = 20_000) -> list[float]:
    """The share of draws of each row, oldest first, by exact weights: 1 / (N P)."""
    batch = buffer.sample(count)
    order = {int(row): k for k, row in enumerate(sorted(set(batch.indices.tolist())))}
    found = [0.0] * len(order)
    for row, weight in zip(batch.indices.tolist(), batch.weights[:, 0].tolist(), strict=True):
        found[order[row]] = 1 / (weight * len(buffer))
    return found


def test_push_with_priorities_draws_by_them() -> None:
    buffer = prioritized()
    for i, priority in enumerate([1.0, 2, torch.tensor(3.0), np.float64(4.0)]):
        buffer.push(step(action=i), priority=priority)
    assert shares(buffer) == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=1e-5)


def test_extend_with_priorities_draws_by_them() -> None:
    buffer = prioritized()
    buffer.extend(stack([step() for _ in range(4)]), priorities=torch.tensor([[1], [2], [3], [4]]))
    assert shares(buffer) == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=1e-5)


def test_extend_of_lanes_with_priorities_gives_each_row_its_own() -> None:
    buffer = prioritized(num_envs=2)
    lanes = np.array([1, 0, 1, 1])
    buffer.extend(stack([step() for _ in range(4)]), lanes=lanes, priorities=np.arange(1.0, 5.0))
    # lane 0 has the second row, lane 1 the others in their order
    assert shares(buffer) == pytest.approx([0.2, 0.1, 0.3, 0.4], rel=1e-5)


def test_extend_of_more_than_fits_keeps_the_priorities_of_the_newest() -> None:
    buffer = prioritized(3)
    buffer.extend(stack([step() for _ in range(7)]), priorities=torch.arange(7.0))
    assert shares(buffer) == pytest.approx([4 / 15, 5 / 15, 6 / 15], rel=1e-5)


def test_push_without_a_priority_gets_the_largest_given_since() -> None:
    buffer = prioritized()
    buffer.push(step())
    buffer.push(step(), priority=3.0)
    buffer.push(step(), priority=0.5)
    buffer.push(step())
    # 3, 3, 0.5, 3: given priorities count for all that were pushed since the last draw
    assert shares(buffer) == pytest.approx([3 / 9.5, 3 / 9.5, 0.5 / 9.5, 3 / 9.5], rel=1e-5)


def test_push_with_a_priority_into_a_slot_that_had_one_leaves_no_trace() -> None:
    buffer = prioritized(2)
    buffer.push(step(), priority=9.0)
    buffer.push(step(), priority=1.0)
    buffer.push(step())  # the row with 9 is gone before anything is settled
    assert shares(buffer) == pytest.approx([0.5, 0.5], rel=1e-5)


def test_push_of_many_laps_with_priorities_keeps_no_more_than_the_newest() -> None:
    buffer = prioritized(4)
    for i in range(10_000):
        buffer.push(step(), priority=float(i % 7 + 1))
    newest = torch.tensor([float(i % 7 + 1) for i in range(9_996, 10_000)])
    assert shares(buffer) == pytest.approx((newest / newest.sum()).tolist(), rel=1e-5)
    assert len(pickle.dumps(buffer)) < 10_000


def test_save_between_pushes_with_priorities_settles_nothing() -> None:
    buffer = prioritized()
    buffer.push(step(), priority=2.0)
    buffer.sample(1)
    buffer.push(step())
    buffer.push(step(), priority=5.0)
    copy = pickle.loads(pickle.dumps(buffer))
    for each in (buffer, copy):
        each.push(step())
        each.push(step(), priority=1.0)
    first, second = buffer.sample(64), copy.sample(64)
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.weights, second.weights)
    assert shares(copy) == pytest.approx([2 / 18, 5 / 18, 5 / 18, 5 / 18, 1 / 18], rel=1e-5)


@pytest.mark.parametrize("priority", [-1.0, float("nan"), float("inf"), 1e39])
def test_push_with_an_impossible_priority_changes_nothing(priority: float) -> None:
    buffer = prioritized()
    for _ in range(2):  # before the first push, and after it
        length = len(buffer)
        with pytest.raises(ValueError, match="priorities: expected finite numbers of at least 0"):
            buffer.push(step(), priority=priority)
        with pytest.raises(ValueError, match="priorities: expected finite numbers of at least 0"):
            buffer.extend(stack([step()]), priorities=torch.tensor([priority]))
        assert len(buffer) == length
        buffer.push(step())


@pytest.mark.parametrize("priority", ["1", True, [1.0]])
def test_push_with_a_priority_that_is_no_number_says_so(priority: Any) -> None:
    buffer = prioritized()
    with pytest.raises(TypeError, match="priority: expected a number"):
        buffer.push(step(), priority=priority)


@pytest.mark.parametrize("priorities", [torch.zeros(3), torch.zeros(2, 2), torch.zeros(())])
def test_extend_with_another_number_of_priorities_says_so(priorities: torch.Tensor) -> None:
    buffer = prioritized()
    with pytest.raises(ValueError, match=r"priorities: expected shape \(2,\) or \(2, 1\)"):
        buffer.extend(stack([step(), step()]), priorities=priorities)
    assert len(buffer) == 0


@pytest.mark.parametrize("buffer", [ReplayBuffer(4), RolloutBuffer(4)], ids=["replay", "rollout"])
def test_push_with_a_priority_that_no_sampler_keeps_is_refused(buffer: Any) -> None:
    for _ in range(2):
        length = len(buffer)
        with pytest.raises(ValueError, match="priorities: expected none"):
            buffer.push(step(), priority=1.0)
        with pytest.raises(ValueError, match="priorities: expected none"):
            buffer.extend(stack([step()]), priorities=torch.ones(1))
        assert len(buffer) == length
        buffer.push(step())


def test_extend_by_a_buffer_with_priorities_is_refused() -> None:
    buffer, other = prioritized(), prioritized()
    other.push(step())
    with pytest.raises(ValueError, match="priorities: expected None with a buffer"):
        buffer.extend(other, priorities=torch.ones(1))
