"""Draws from several lanes: any row as likely as any other, in threads and in copies too."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from helpers import assert_rows, assert_same_future, stack, unchanged
from streams import (
    COPIES,
    actions,
    assert_flat,
    assert_same_bits,
    assert_uniform,
    numbered,
    pack,
    record,
    steps,
    unequal,
)

from velora.buffer import BatchExperience, Experience, ReplayBuffer

# Draws


def test_sample_everything_from_unequal_lanes_gives_each_row_once() -> None:
    buffer, model = unequal()
    ids = assert_flat(buffer.sample(24), model)
    assert sorted(ids) == sorted(model.alive())
    assert Counter(lane for lane, _ in ids) == {0: 10, 1: 3, 3: 1, 4: 10}


@pytest.mark.parametrize("num_envs", [2, 15, 16, 17, 255, 256, 257])
def test_sample_everything_from_any_number_of_lanes_gives_each_row_once(num_envs: int) -> None:
    recording = record(3 * num_envs, num_envs)
    lanes = [lane for lane in range(num_envs) for _ in range(lane * lane % 5)]
    recording.extend_lanes(lanes)
    (buffer,) = recording.buffers
    ids = assert_flat(buffer.sample(len(buffer)), recording.model)
    assert sorted(ids) == sorted(recording.model.alive())
    assert actions(buffer) == [row.action for row in recording.model.rows()]


def test_sample_indices_are_lane_and_serial() -> None:
    buffer, _ = unequal()
    batch = buffer.sample(24)
    assert batch.indices.dtype == torch.int64
    by_action = dict(zip(batch.actions.flatten().tolist(), batch.indices.tolist(), strict=True))
    assert by_action[13] == pack((0, 13))
    assert by_action[24] == pack((1, 1))
    assert by_action[26] == pack((3, 0))
    assert by_action[36] == pack((4, 9))


@pytest.mark.parametrize("count", [1, 2, 23, 24])
def test_sample_from_unequal_lanes_each_row_is_equally_likely_at_each_place(count: int) -> None:
    buffer, _ = unequal(seed=21)
    batches = [buffer.sample(count).indices.tolist() for _ in range(12_000)]
    for position in {0, count // 2, count - 1}:
        assert_uniform((batch[position] for batch in batches), 24)


def test_sample_from_unequal_lanes_each_pair_is_equally_likely() -> None:
    buffer, _ = unequal(seed=22)
    assert_uniform((tuple(buffer.sample(2).indices.tolist()) for _ in range(60_000)), 24 * 23)


def test_sample_from_one_filled_lane_among_many_gives_its_rows() -> None:
    buffer = ReplayBuffer(1000, num_envs=100, seed=23)
    for i in range(7):
        buffer.push(numbered(i), lane=57)
    assert_uniform((buffer.sample(1).actions.item() for _ in range(10_000)), 7)


def test_sample_from_lanes_of_one_row_each_row_is_equally_likely() -> None:
    buffer = ReplayBuffer(60, num_envs=60, seed=24)
    for lane in range(60):
        buffer.push(numbered(lane), lane=lane)
    assert_uniform((buffer.sample(1).actions.item() for _ in range(30_000)), 60)


def test_sample_from_evenly_filled_lanes_each_row_is_equally_likely() -> None:
    buffer = ReplayBuffer(60, num_envs=4, seed=25)
    buffer.extend(stack(steps(*range(80))))
    assert_uniform((buffer.sample(1).indices.item() for _ in range(30_000)), 60)


def test_sample_while_lanes_fill_stays_uniform_over_what_is_there() -> None:
    # Each state of filling gets its own buffer, so that the draws of one do not hide the other's.
    for filled in range(2, 12):
        buffer = ReplayBuffer(12, num_envs=3, seed=26)
        for i in range(filled):
            buffer.push(numbered(i), lane=(i * i) % 3)
        live = len(buffer)
        assert_uniform((buffer.sample(1).indices.item() for _ in range(3_000)), live)


@pytest.mark.parametrize("excess", [1, 26, 1000])
def test_sample_more_than_all_lanes_hold_is_refused(excess: int) -> None:
    buffer, _ = unequal()
    with unchanged(buffer), pytest.raises(ValueError, match=rf"batch_size: .*24.*{24 + excess}"):
        buffer.sample(24 + excess)


def test_sample_with_equal_seeds_draws_equally_however_rows_came() -> None:
    pushed, extended = (ReplayBuffer(12, num_envs=3, seed=27) for _ in range(2))
    lanes = [2, 0, 0, 2, 1, 2, 2, 2]
    for i, lane in enumerate(lanes):
        pushed.push(numbered(i), lane=lane)
    extended.extend(stack(steps(*range(8))), lanes=lanes)
    for _ in range(5):
        assert_same_bits(pushed.sample(4), extended.sample(4))


def test_sample_one_environment_draws_as_without_lanes() -> None:
    buffer = ReplayBuffer(10, num_envs=1, seed=28)
    for i in range(17):
        buffer.push(numbered(i), lane=0)
    for number in range(5):
        positions = reference.draw_distinct(28, number, 6, 10)
        assert buffer.sample(6).indices.tolist() == [7 + position for position in positions]


# Many lanes


def many_steps(count: int, start: int = 0) -> BatchExperience:
    numbers = torch.arange(start, start + count)
    column = torch.zeros(count)
    return BatchExperience(numbers.float(), numbers, column, numbers + 0.5, column)


def test_extend_the_most_lanes_there_can_be_stores_a_row_in_each() -> None:
    buffer = ReplayBuffer(2 * 65_536, num_envs=65_536, seed=31)
    for call in range(3):
        buffer.extend(many_steps(65_536, call * 65_536))
    assert len(buffer) == buffer.capacity == 2 * 65_536
    batch = buffer.sample(len(buffer))
    lanes, serials = batch.indices >> 47, batch.indices & 2**47 - 1
    assert torch.equal(batch.actions.flatten(), serials * 65_536 + lanes)
    assert sorted(batch.actions.flatten().tolist()) == list(range(65_536, 3 * 65_536))
    assert (batch.indices >= 0).all()
    assert buffer[-1].action == 3 * 65_536 - 1


def test_push_to_the_last_of_the_most_lanes_gives_an_index_of_63_bits() -> None:
    buffer = ReplayBuffer(2 * 65_536, num_envs=65_536, seed=32)
    buffer.push(numbered(0), lane=65_535)
    assert buffer.sample(1).indices.tolist() == [65_535 << 47]


def test_sample_from_many_unequal_lanes_each_row_is_equally_likely() -> None:
    buffer = ReplayBuffer(4 * 1024, num_envs=1024, seed=33)
    counts = [lane % 6 for lane in range(1024)]
    lanes = np.repeat(np.arange(1024), counts)
    buffer.extend(many_steps(len(lanes)), lanes=lanes)
    live = sum(min(count, 4) for count in counts)
    assert len(buffer) == live
    # A batch of all rows is no use for chi-square: small ones, many times.
    drawn = itertools.chain.from_iterable(
        buffer.sample(32).indices.tolist() for _ in range(5 * live // 32)
    )
    assert_uniform(drawn, live)


# Threads


def test_push_from_a_thread_for_each_lane_keeps_rows_whole() -> None:
    buffer = ReplayBuffer(300, num_envs=3, n_step=3, gamma=1.0, seed=34)

    def write(lane: int) -> None:
        for i in range(2_000):
            value = float(1000 * lane + i % 1000)
            state = torch.full((5,), value)
            buffer.push(Experience(state, value, value, state, i % 1000 == 999), lane=lane)

    for lane in range(3):
        buffer.push(Experience(torch.zeros(5), 0.0, 0.0, torch.zeros(5), True), lane=lane)
    threads = [threading.Thread(target=write, args=(lane,)) for lane in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        batch = buffer.sample(min(len(buffer), 64))
        assert torch.equal(batch.states, batch.actions.expand(-1, 5))
        assert torch.equal(batch.next_states, batch.next_states[:, :1].expand(-1, 5))
        sequences = buffer.sample_sequences(3, 4, 1)
        assert torch.equal(sequences.states, sequences.actions.expand(-1, -1, 5))
    for thread in threads:
        thread.join()
    assert len(buffer) == 300


# Copies


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
@pytest.mark.parametrize("rows", [0, 1, 13, 60])
def test_copy_lanes_continues_identically(copied: Callable[[Any], Any], rows: int) -> None:
    recording = record(22, 4, gamma=0.5)
    random = recording.environments[0].random
    recording.play(random, rows)
    (buffer,) = recording.buffers
    again = copied(buffer)
    assert (again.capacity, again.num_envs) == (20, 4)
    assert_same_future(buffer, again)
    recording.buffers.append(again)
    for _ in range(4):
        recording.play(random, 9)
        assert_same_bits(buffer.sample(len(buffer)), again.sample(len(again)))
    assert_rows(stack(list(again)), recording.model.rows())


def test_copy_lanes_shares_nothing() -> None:
    buffer, _ = unequal()
    again = COPIES["pickle"](buffer)
    with unchanged(buffer):
        again.push(numbered(99), lane=2)
        again.sample(3)
    with unchanged(again):
        buffer.push(numbered(98), lane=2)
        buffer.sample(3)


def test_copy_many_empty_lanes_is_about_as_long_as_their_rows() -> None:
    buffer = ReplayBuffer(1_000_000, num_envs=100)
    buffer.push(numbered(1), lane=3)
    assert len(pickle.dumps(buffer)) < 20_000
