"""The on-policy memory of several environments: each has its own steps and returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from helpers import stack, unchanged
from streams import (
    COPIES,
    actions,
    episode,
    ids_of,
    numbered,
    pattern,
    steps,
)

from velora.buffer import RolloutBuffer


def rollout(steps_each: int, num_envs: int, capacity: int, text: str = "") -> RolloutBuffer:
    """Evenly filled lanes, ends as `text` says, time-major."""
    buffer = RolloutBuffer(capacity, num_envs=num_envs)
    count = steps_each * num_envs
    buffer.extend(stack(pattern(text or "." * count)))
    return buffer


def test_sample_rollout_of_environments_is_time_major() -> None:
    buffer = rollout(4, 3, 12)
    batch = buffer.sample()
    assert batch.actions.flatten().tolist() == list(range(12))
    assert batch.states.reshape(4, 3, 3)[2, 1].tolist() == [7.0] * 3
    assert ids_of(batch) == [(lane, step) for step in range(4) for lane in range(3)]


def test_sample_partly_filled_rollout_of_environments_is_time_major() -> None:
    assert rollout(2, 3, 12).sample().actions.flatten().tolist() == list(range(6))


def test_sample_rollout_of_unequal_lanes_goes_by_rank_then_lane() -> None:
    buffer = RolloutBuffer(12, num_envs=3)
    for i, lane in enumerate([2, 2, 0, 2]):
        buffer.push(numbered(i), lane=lane)
    assert buffer.sample().actions.flatten().tolist() == [2, 0, 1, 3]
    assert actions(buffer) == [2, 0, 1, 3]


def test_push_to_full_lane_of_rollout_raises_though_others_have_room() -> None:
    buffer = RolloutBuffer(6, num_envs=2)
    for i in range(3):
        buffer.push(numbered(i), lane=1)
    with unchanged(buffer), pytest.raises(BufferError, match=r"sample\(\).*empty\(\)"):
        buffer.push(numbered(3), lane=1)
    buffer.push(numbered(3), lane=0)
    assert len(buffer) == 4


@pytest.mark.parametrize("before", [0, 2, 3])
def test_extend_rollout_by_more_than_room_stores_nothing(before: int) -> None:
    buffer = RolloutBuffer(6, num_envs=2)
    for i in range(before):
        buffer.push(numbered(i), lane=1)
    rows = 2 * (3 - before) + 2
    with unchanged(buffer), pytest.raises(BufferError, match=r"empty\(\)"):
        buffer.extend(stack(steps(*range(rows))))
    with unchanged(buffer), pytest.raises(BufferError, match=r"empty\(\)"):
        buffer.extend(stack(steps(*range(4 - before))), lanes=[1] * (4 - before))


def test_extend_full_rollout_then_empty_it_makes_it_usable_again() -> None:
    buffer = RolloutBuffer(6, num_envs=2)
    for start in (0, 10, 20):
        buffer.extend(stack(steps(*range(start, start + 6))))
        with pytest.raises(BufferError):
            buffer.extend(stack(steps(0, 1)))
        assert buffer.sample().actions.flatten().tolist() == list(range(start, start + 6))
        buffer.empty()
        assert len(buffer) == 0
        assert list(buffer) == []


def test_empty_rollout_of_unequal_lanes_takes_all_out() -> None:
    buffer = RolloutBuffer(6, num_envs=2)
    buffer.push(numbered(0), lane=1)
    buffer.empty()
    with pytest.raises(BufferError, match="empty"):
        buffer.sample()
    for i, lane in enumerate([0, 1, 1, 0, 1, 0]):
        buffer.push(numbered(i), lane=lane)
    assert actions(buffer) == [0, 1, 3, 2, 5, 4]


@pytest.mark.parametrize("shape", ["column", "flat"])
@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_compute_returns_of_environments_equals_each_alone(lam: float, shape: str) -> None:
    text = "..d." + "...." + "t..." + ".bd." + "...t" + "...." + "d..."
    time, envs = len(text) // 4, 4
    buffer = rollout(time, envs, 40, text)
    generator = torch.Generator().manual_seed(5)
    values, next_values = torch.randn(2, time * envs, 1, dtype=torch.float64, generator=generator)
    given = (values, next_values) if shape == "column" else (values[:, 0], next_values[:, 0])
    advantages, targets = buffer.compute_returns(*given, gamma=0.9, lam=lam)
    batch = buffer.sample()

    def grid(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
        return tensor.reshape(time, envs).double().numpy()

    expected, expected_targets = reference.gae(
        grid(batch.rewards),
        grid(values),
        grid(next_values),
        grid(batch.dones),
        grid(batch.truncations),
        gamma=0.9,
        lam=lam,
    )
    assert advantages.shape == targets.shape == (time * envs, 1)
    np.testing.assert_allclose(grid(advantages), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(grid(targets), expected_targets, rtol=1e-9, atol=1e-9)


def test_compute_returns_leaks_nothing_from_one_environment_to_the_next() -> None:
    together = RolloutBuffer(8, num_envs=2)
    together.extend(stack([step for i in range(4) for step in (numbered(i), numbered(100 + i))]))
    alone = RolloutBuffer(4)
    alone.extend(stack(episode(0, 4, "open")))
    values = torch.arange(8.0) ** 2
    advantages, _ = together.compute_returns(values, values)
    expected, _ = alone.compute_returns(values[::2], values[::2])
    assert torch.equal(advantages[::2], expected)


def test_compute_returns_of_unequal_lanes_says_so() -> None:
    buffer = RolloutBuffer(8, num_envs=2)
    for lane in (0, 1, 1):
        buffer.push(numbered(lane), lane=lane)
    with unchanged(buffer), pytest.raises(BufferError, match=r"compute_returns: .*3.*2"):
        buffer.compute_returns(torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_copy_rollout_of_environments_goes_on_with_each_lane(copied: Callable[[Any], Any]) -> None:
    buffer = RolloutBuffer(6, num_envs=2)
    buffer.extend(stack(steps(0, 1, 2, 3)))
    buffer.empty()
    buffer.push(numbered(4), lane=1)
    again = copied(buffer)
    assert (again.num_envs, actions(again)) == (2, [4])
    for lane in (0, 1, 1, 0, 0):
        again.push(numbered(5), lane=lane)
    with pytest.raises(BufferError):
        again.push(numbered(6), lane=1)
    assert actions(buffer) == [4]


def test_minibatches_of_environments_hold_each_step_once() -> None:
    buffer = rollout(5, 3, 15)
    batches = list(buffer.minibatches(4, epochs=2, advantages=torch.arange(15.0)))
    seen = [int(i) for batch in batches for i in batch.actions.flatten().tolist()]
    assert sorted(seen) == sorted([*range(15)] * 2)
    for batch in batches:
        assert torch.equal(batch.extras["advantages"], batch.actions.flatten().float())
