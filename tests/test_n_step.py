"""Sums over several steps: where they stop, what follows, and how they round."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from helpers import stack, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_time import LanesModel
from streams import (
    COPIES,
    Environment,
    Model,
    assert_flat,
    assert_same_bits,
    ids_of,
    mixed_frame,
    numbered,
    pattern,
    policy_step,
    record,
)

from velora.buffer import BatchExperience, Experience, ReplayBuffer

GAMMAS = [0.0, 0.5, 0.98, 0.99, 1.0]


def ones(count: int, end: int | None = None, kind: str = "done") -> list[Experience]:
    """State i, reward 1; the episode ends at step `end`."""
    return [
        Experience(
            torch.full((2,), float(i)),
            i,
            1.0,
            torch.full((2,), float(i + 1)),
            kind == "done" and i == end,
            truncated=kind == "truncated" and i == end,
        )
        for i in range(count)
    ]


def by_start(
    experiences: list[Experience], capacity: int = 10, **options: Any
) -> dict[int, BatchExperience]:
    """The n-step transition from each start, by the start's action."""
    buffer = ReplayBuffer(capacity, **options)
    for experience in experiences:
        buffer.push(experience)
    batch = buffer.sample(len(buffer))
    return {int(batch.actions[i]): batch[i] for i in range(len(batch))}


def float32(value: float) -> float:
    return float(np.float32(value))


# Known answers


@pytest.mark.parametrize(("end", "expected"), [(0, 1.0), (1, 1.98), (2, 2.9404)])
def test_sample_three_steps_from_the_first_stops_at_done(end: int, expected: float) -> None:
    first = by_start(ones(10, end), n_step=3, gamma=0.98)[0]
    assert first.rewards.item() == float32(expected)
    assert first.dones.item() == 1
    assert first.discounts.item() == 0
    assert first.next_states.tolist() == [[end + 1.0] * 2]


@pytest.mark.parametrize("end", [1, 2])
def test_sample_three_steps_after_done_sums_all(end: int) -> None:
    after = by_start(ones(10, end), n_step=3, gamma=0.98)[end + 1]
    assert after.rewards.item() == float32(1 + 0.98 + 0.98 * 0.98)
    assert after.dones.item() == 0
    assert after.discounts.item() == float32(0.98 * 0.98 * 0.98)
    assert after.next_states.tolist() == [[end + 4.0] * 2]


@pytest.mark.parametrize(("end", "rewards", "steps"), [(1, 1.99, 2), (2, 2.9701, 3)])
def test_sample_three_steps_from_the_first_stops_at_truncated_and_bootstraps(
    end: int, rewards: float, steps: int
) -> None:
    first = by_start(ones(10, end, "truncated"), n_step=3, gamma=0.99)[0]
    assert first.rewards.item() == float32(rewards)
    assert first.dones.item() == 0
    assert first.truncations.item() == 1
    assert first.discounts.item() == float32(math.prod([0.99] * steps))


def test_sample_three_steps_to_an_end_that_is_both_does_not_bootstrap() -> None:
    first = by_start(pattern(".b....."), n_step=3, gamma=0.5)[0]
    assert first.dones.item() == first.truncations.item() == 1
    assert first.discounts.item() == 0


def test_sample_three_steps_without_an_end_discounts_by_gamma_cubed() -> None:
    transitions = by_start(ones(10), n_step=3, gamma=0.98)
    for start in range(8):
        assert transitions[start].discounts.item() == float32(0.98 * 0.98 * 0.98)


@pytest.mark.parametrize(("start", "steps"), [(8, 3), (9, 3), (10, 2), (11, 1)])
def test_sample_three_steps_near_the_head_of_a_full_ring_stops_there(
    start: int, steps: int
) -> None:
    transition = by_start(ones(12), n_step=3, gamma=0.98)[start]
    assert transition.rewards.item() == float32(sum([1, 0.98, 0.98 * 0.98][:steps]))
    assert transition.discounts.item() == float32(math.prod([0.98] * steps))
    assert transition.next_states.tolist() == [[start + steps + 0.0] * 2]
    assert transition.dones.item() == 0


def test_sample_three_steps_in_a_full_ring_starts_at_what_is_alive() -> None:
    assert sorted(by_start(ones(12), n_step=3)) == list(range(2, 12))


def test_sample_n_steps_in_a_ring_of_one_row_is_one_step() -> None:
    (transition,) = by_start(ones(3), capacity=1, n_step=5, gamma=0.5).values()
    assert transition.rewards.item() == 1
    assert transition.discounts.item() == 0.5


def test_sample_more_steps_than_rows_sums_what_there_is() -> None:
    transitions = by_start(ones(4), capacity=4, n_step=1000, gamma=0.5)
    assert [transitions[start].rewards.item() for start in range(4)] == [1.875, 1.75, 1.5, 1.0]


def test_sample_n_steps_keeps_what_belongs_to_the_start() -> None:
    buffer = ReplayBuffer(10, n_step=3)
    for i in range(10):
        buffer.push(policy_step(numbered(i), torch.full((2,), float(i))))
    batch = buffer.sample(10)
    starts = batch.indices.float().reshape(10, 1)
    assert torch.equal(batch.states, starts.expand(10, 3))
    assert torch.equal(batch.actions.float(), starts)
    assert torch.equal(batch.extras["log_prob"], starts / 4)
    assert torch.equal(batch.extras["hidden"], starts.expand(10, 2))


def test_sample_n_steps_does_not_walk_into_the_next_lane() -> None:
    buffer = ReplayBuffer(6, num_envs=3, n_step=4, gamma=0.5)
    buffer.extend(stack(ones(6)))
    batch = buffer.sample(6)
    by_action = dict(zip(batch.actions.flatten().tolist(), batch.rewards.tolist(), strict=True))
    assert by_action == {0: [1.5], 1: [1.5], 2: [1.5], 3: [1.0], 4: [1.0], 5: [1.0]}


def test_sample_n_steps_from_evicted_rows_never_happens_at_the_seam() -> None:
    # Slots 0 and 1 hold 4 and 5, slot 2 holds 2: the row after 5 is not the one in the next slot.
    transitions = by_start(ones(6), capacity=4, n_step=3, gamma=1.0)
    assert [transitions[start].rewards.item() for start in (2, 3, 4, 5)] == [3, 3, 2, 1]


def test_sample_n_steps_after_more_pushes_reaches_further() -> None:
    buffer = ReplayBuffer(10, n_step=3, gamma=1.0)
    buffer.push(ones(4)[0])
    assert buffer.sample(1).rewards.item() == 1
    buffer.push(ones(4)[1])
    batch = buffer.sample(2)
    assert sorted(batch.rewards.flatten().tolist()) == [1, 2]


def test_sample_n_steps_sums_in_the_order_of_time() -> None:
    # In float64 the sum depends on the order: (1e16 + 1) + -1e16 is 0, 1e16 + -1e16 + 1 is 1.
    rewards = [2.0**100, 1.0, -(2.0**100), 1.0]
    steps = [replace(step, reward=r) for step, r in zip(ones(4), rewards, strict=True)]
    assert by_start(steps, n_step=4, gamma=1.0)[0].rewards.item() == 1.0
    assert by_start(steps, n_step=3, gamma=1.0)[0].rewards.item() == 0.0


def test_sample_n_steps_sums_in_double_precision() -> None:
    rewards = [2.0**24, 1.0, 1.0]
    steps = [replace(step, reward=r) for step, r in zip(ones(3), rewards, strict=True)]
    assert by_start(steps, n_step=3, gamma=1.0)[0].rewards.item() == 2.0**24 + 2


# Against the slow sums


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("n", range(1, 9))
def test_sample_n_steps_of_lanes_equals_the_slow_sums(n: int, gamma: float) -> None:
    recording = record(37, 4, n_step=n, gamma=gamma, seed=n)
    (buffer,) = recording.buffers
    random = Random(n)
    for rows in (3, 10, 30, 60):
        recording.play(random, rows)
        ids = assert_flat(buffer.sample(len(buffer)), recording.model, n_step=n, gamma=gamma)
        assert len(ids) == len(recording.model.alive())


@settings(max_examples=60)
@given(
    text=st.text("....dtb", min_size=1, max_size=40),
    capacity=st.integers(1, 20),
    n=st.integers(1, 8),
    gamma=st.sampled_from(GAMMAS),
    by_extend=st.booleans(),
)
def test_sample_n_steps_of_any_pattern_equals_the_slow_sums(
    text: str, capacity: int, n: int, gamma: float, by_extend: bool
) -> None:
    buffer = ReplayBuffer(capacity, n_step=n, gamma=gamma, seed=1)
    model: Model = LanesModel(capacity, 1)
    model.extend(pattern(text))
    if by_extend:
        buffer.extend(stack(pattern(text)))
    else:
        for step in pattern(text):
            buffer.push(step)
    assert_flat(buffer.sample(len(buffer)), model, n_step=n, gamma=gamma)


def test_sample_n_steps_of_nested_observations_equals_the_slow_sums() -> None:
    recording = record(24, 2, n_step=3, make=lambda random: Environment(random, mixed_frame))
    for rows in (3, 40):
        recording.play(Random(4), rows)
        (buffer,) = recording.buffers
        assert_flat(buffer.sample(len(buffer)), recording.model, n_step=3)


def test_sample_large_batches_of_n_steps_equals_the_slow_sums() -> None:
    recording = record(3000, 7, n_step=5)
    recording.extend(500)
    (buffer,) = recording.buffers
    assert_flat(buffer.sample(2048), recording.model, n_step=5)


# One step


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_sample_one_step_equals_the_plain_buffer_bit_for_bit(num_envs: int, gamma: float) -> None:
    recording = record(20, num_envs, gamma=gamma, variants=[{}, {"n_step": 1}], seed=5)
    for _ in range(5):
        recording.play(Random(6), 13)
        plain, one_step = (buffer.sample(3) for buffer in recording.buffers)
        assert_same_bits(plain, one_step)


@pytest.mark.parametrize("reward", [-0.0, math.inf, -math.inf, math.nan, 2.0**-149, -(2.0**127)])
def test_sample_one_step_keeps_odd_rewards(reward: float) -> None:
    buffer = ReplayBuffer(4, n_step=1)
    for step in ones(4):
        buffer.push(replace(step, reward=reward))
    assert_same_bits(buffer.sample(4).rewards, torch.full((4, 1), reward))


def test_sample_n_steps_draws_the_rows_of_the_plain_buffer() -> None:
    recording = record(20, 3, variants=[{}, {"n_step": 4}], seed=7)
    for _ in range(5):
        recording.play(Random(8), 13)
        plain, steps = (buffer.sample(3) for buffer in recording.buffers)
        assert ids_of(plain) == ids_of(steps)


@pytest.mark.parametrize("name", ["n_step", "gamma"])
def test_construct_with_horizon_says_which(name: str) -> None:
    options: dict[str, Any] = {"n_step": 3, "gamma": 0.25}
    assert getattr(ReplayBuffer(4, **options), name) == options[name]


def test_construct_without_horizon_has_one_step() -> None:
    assert (ReplayBuffer(4).n_step, ReplayBuffer(4).gamma) == (1, 0.99)


@pytest.mark.parametrize("n_step", [0, -1, 2**31, 2**70])
def test_construct_with_impossible_horizon_is_refused(n_step: int) -> None:
    with pytest.raises(ValueError, match=rf"n_step: .*{n_step}"):
        ReplayBuffer(4, n_step=n_step)


@pytest.mark.parametrize("n_step", [True, 1.0, "2", None])
def test_construct_with_horizon_that_is_no_int_is_a_type_error(n_step: Any) -> None:
    with pytest.raises(TypeError, match="n_step"):
        ReplayBuffer(4, n_step=n_step)


def test_index_buffer_of_n_steps_gives_single_steps() -> None:
    buffer = ReplayBuffer(6, n_step=3, gamma=0.5)
    steps = pattern("..d...t.")
    for step in steps:
        buffer.push(step)
    for got, expected in zip(buffer, steps[2:], strict=True):
        assert got.reward == expected.reward
        assert (got.done, got.truncated) == (expected.done, expected.truncated)
        assert torch.equal(got.next_state, expected.next_state)


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_copy_in_mid_episode_keeps_the_horizon(copied: Callable[[Any], Any]) -> None:
    recording = record(20, 2, n_step=3, gamma=0.5)
    recording.play(Random(9), 31)
    recording.push(0, "open")
    recording.buffers.append(copied(recording.buffers[0]))
    recording.push(0, "open")
    for _ in range(4):
        left, right = (buffer.sample(20) for buffer in recording.buffers)
        assert_same_bits(left, right)
        assert_flat(right, recording.model, n_step=3, gamma=0.5)
        recording.play(Random(10), 5)


def test_sample_n_steps_after_an_error_is_as_before() -> None:
    buffer = ReplayBuffer(6, n_step=3)
    for step in pattern("...d."):
        buffer.push(step)
    with unchanged(buffer), pytest.raises(ValueError, match="done"):
        buffer.push(replace(numbered(5), done=0.5))
    model: Model = LanesModel(6, 1)
    model.extend(pattern("...d."))
    assert_flat(buffer.sample(5), model, n_step=3)
