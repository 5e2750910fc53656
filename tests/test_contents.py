"""What a buffer says of its contents, and how they are removed."""

from __future__ import annotations

import copy
import pickle
from random import Random
from typing import Any

import pytest
import torch
from cuda_helpers import assert_same
from helpers import filled, stamped, stamps_of
from streams import assert_flat, record

from velora.buffer import Prioritized, ReplayBuffer, RolloutBuffer

KINDS = [ReplayBuffer, RolloutBuffer]


@pytest.mark.parametrize("kind", KINDS)
def test_clear_removes_everything_and_the_buffer_goes_on(kind: Any) -> None:
    buffer = filled(kind, range(8), 8)
    nbytes = buffer.nbytes
    buffer.clear()
    assert (len(buffer), list(buffer), buffer.nbytes) == (0, [], nbytes)
    for i in range(20, 25):
        buffer.push(stamped(i))
    batch = buffer.sample(5) if kind is ReplayBuffer else buffer.sample()
    assert sorted(stamps_of(batch)) == list(range(20, 25))
    assert sorted(batch.indices.tolist()) == list(range(8, 13))


@pytest.mark.parametrize("kind", KINDS)
def test_clear_before_the_first_push_does_nothing(kind: Any) -> None:
    buffer = kind(5)
    buffer.clear()
    assert (len(buffer), buffer.nbytes) == (0, 0)


@pytest.mark.parametrize("options", [{}, {"compact": True}, {"n_step": 3}])
def test_clear_between_pushes_leaves_batches_of_what_came_after(options: dict[str, Any]) -> None:
    recording, random = record(24, 3, seed=2, **options), Random(3)
    (buffer,) = recording.buffers
    for number in range(12):
        recording.play(random, 8)
        if number % 3 == 1:
            buffer.clear()
            recording.model.clear()
            recording.play(random, 2)
        assert_flat(buffer.sample(len(buffer)), recording.model, n_step=buffer.n_step)
        buffer = copy.deepcopy(buffer) if number % 4 == 2 else buffer
        recording.buffers[0] = buffer


@pytest.mark.cuda(emulated=True)
def test_clear_on_a_device_leaves_the_batches_of_the_cpu() -> None:
    variants = [{"device": "cpu"}, {"device": "cuda"}]
    recording, random = record(24, 3, seed=2, variants=variants), Random(3)
    cpu, cuda = recording.buffers
    for _ in range(4):
        recording.play(random, 30)
        assert cuda.lane_lengths() == cpu.lane_lengths()
        assert_same(cpu.sample(5), cuda.sample(5))
        for buffer in recording.buffers:
            buffer.clear()
        assert cuda.lane_lengths() == [0, 0, 0]


def test_clear_of_a_prioritized_buffer_forgets_its_priorities() -> None:
    buffer = filled(ReplayBuffer, range(8), 8, sampler=Prioritized(), seed=1)
    batch = buffer.sample(8)
    buffer.update_priorities(batch, torch.full((8,), 100.0))
    buffer.clear()
    assert not buffer.update_priorities(batch, torch.ones(8)).any()
    for i in range(4):
        buffer.push(stamped(i))
    assert set(stamps_of(buffer.sample(50))) == set(range(4))


def test_clear_then_pickle_keeps_serials() -> None:
    buffer = filled(ReplayBuffer, range(8), 8)
    buffer.clear()
    again = pickle.loads(pickle.dumps(buffer))
    again.push(stamped(1))
    assert again.sample(1).indices.tolist() == [8]


@pytest.mark.parametrize("kind", KINDS)
def test_full_is_true_when_all_lanes_are(kind: Any) -> None:
    buffer = kind(7, num_envs=2)  # three each
    for lane in (0, 0, 0, 1, 1, 1):
        assert not buffer.full
        buffer.push(stamped(0), lane=lane)
    assert buffer.full
    buffer.clear()
    assert not buffer.full


def test_full_stays_true_while_a_buffer_overwrites() -> None:
    buffer = filled(ReplayBuffer, range(9), 5)
    assert buffer.full


@pytest.mark.parametrize("kind", KINDS)
def test_lane_lengths_are_those_of_each_environment(kind: Any) -> None:
    buffer = kind(15, num_envs=3)
    assert buffer.lane_lengths() == [0, 0, 0]
    for lane in (2, 0, 2, 2, 2, 2):
        buffer.push(stamped(0), lane=lane)
    assert buffer.lane_lengths() == [1, 0, 5]


def test_lane_lengths_of_lanes_that_overwrite_are_their_capacity() -> None:
    buffer = ReplayBuffer(8, num_envs=2)
    for lane in [0] * 9 + [1]:
        buffer.push(stamped(0), lane=lane)
    assert buffer.lane_lengths() == [4, 1]
    assert all(type(length) is int for length in buffer.lane_lengths())
