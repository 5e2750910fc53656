"""Sequences as the oracle has them: all there are, each as likely, while rows come and go."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from helpers import stack
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_time import BOUNDARIES, Boundary, LanesModel
from streams import (
    COPIES,
    Environment,
    Model,
    assert_same_bits,
    assert_sequences,
    assert_uniform,
    buffer_of,
    colour_frame,
    mixed_frame,
    pattern,
    record,
)

from velora.buffer import BatchExperience, ReplayBuffer

# Against the slow sequences


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("length", "burn_in"), [(1, 0), (2, 1), (3, 0), (4, 7), (5, 2)])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_sample_all_sequences_of_lanes_equals_the_slow_ones(
    boundary: Boundary, length: int, burn_in: int, num_envs: int
) -> None:
    recording = record(11 * num_envs, num_envs, gamma=0.5)
    (buffer,) = recording.buffers
    random = Random(length)
    for rows in (9, 10, 30, 70):
        recording.play(random, rows)
        starts = recording.model.starts(length, boundary)
        if starts:
            batch = buffer.sample_sequences(len(starts), length, burn_in, boundary=boundary)
            found = assert_sequences(batch, recording.model, length, burn_in, boundary, gamma=0.5)
            assert sorted(found) == sorted(starts)


@settings(max_examples=80)
@given(
    texts=st.lists(st.text("....dtb", max_size=25), min_size=1, max_size=4),
    capacity=st.integers(1, 12),
    data=st.data(),
)
def test_sample_all_sequences_of_any_pattern_equals_the_slow_ones(
    texts: list[str], capacity: int, data: st.DataObject
) -> None:
    buffer = ReplayBuffer(capacity * len(texts), num_envs=len(texts), seed=1)
    model: Model = LanesModel(capacity * len(texts), len(texts))
    for lane, text in enumerate(texts):
        for step in pattern(text, 100 * lane):
            buffer.push(step, lane=lane)
            model.push(step, lane)
    length = data.draw(st.integers(1, capacity))
    burn_in = data.draw(st.integers(0, capacity))
    for boundary in BOUNDARIES:
        starts = model.starts(length, boundary)
        if starts:
            batch = buffer.sample_sequences(len(starts), length, burn_in, boundary=boundary)
            found = assert_sequences(batch, model, length, burn_in, boundary)
            assert sorted(found) == sorted(starts)
        with pytest.raises(ValueError, match="batch_size"):
            buffer.sample_sequences(len(starts) + 1, length, burn_in, boundary=boundary)


@pytest.mark.parametrize("frame", [mixed_frame, colour_frame], ids=["nest", "image"])
def test_sample_sequences_of_any_observations_equals_the_slow_ones(
    frame: Callable[[Random], Any],
) -> None:
    recording = record(30, 3, make=lambda random: Environment(random, frame))
    (buffer,) = recording.buffers
    for rows in (12, 40):
        recording.play(Random(3), rows)
        for boundary in BOUNDARIES:
            count = len(recording.model.starts(2, boundary))
            batch = buffer.sample_sequences(count, 2, 2, boundary=boundary)
            assert_sequences(batch, recording.model, 2, 2, boundary)


def test_sample_long_sequences_of_many_lanes_equals_the_slow_ones() -> None:
    recording = record(50 * 200, 50)
    recording.extend(230)
    (buffer,) = recording.buffers
    for boundary in BOUNDARIES:
        batch = buffer.sample_sequences(32, 12, 8, boundary=boundary)
        assert_sequences(batch, recording.model, 12, 8, boundary)


def test_sample_sequences_as_long_as_the_lane_is_the_lane() -> None:
    buffer, _ = buffer_of("." * 13, capacity=10)
    for boundary in ("within", "cross"):
        batch = buffer.sample_sequences(1, 10, boundary=boundary)
        assert batch.indices.tolist() == [list(range(3, 13))]


def test_sample_sequences_with_burn_in_as_long_as_the_lane_takes_what_is_there() -> None:
    buffer, model = buffer_of("." * 13, capacity=10)
    batch = buffer.sample_sequences(10, 3, 10)
    assert batch.states.shape == (10, 13, 3)
    assert_sequences(batch, model, 3, 10)


def test_sample_sequences_from_one_lane_among_empty_ones() -> None:
    recording = record(1000, 50)
    for _ in range(9):
        recording.push(31, "open")
    (buffer,) = recording.buffers
    for boundary, count in zip(BOUNDARIES, (9, 7, 7), strict=True):
        batch = buffer.sample_sequences(count, 3, boundary=boundary)
        starts = assert_sequences(batch, recording.model, 3, boundary=boundary)
        assert {lane for lane, _ in starts} == {31}


# How often: every start is equally likely


def mixed_lanes(seed: int) -> tuple[ReplayBuffer, Model]:
    """Short and long episodes in lanes of unequal length, wrapped, open, and one empty."""
    texts = ["ddddd" + "." * 9 + "d" + "..d", "t", "", "..." * 12, ".d" * 6 + "....."]
    buffer = ReplayBuffer(100, num_envs=5, seed=seed)
    model: Model = LanesModel(100, 5)
    for lane, text in enumerate(texts):
        for step in pattern(text, 100 * lane):
            buffer.push(step, lane=lane)
            model.push(step, lane)
    return buffer, model


def first_trained(batch: BatchExperience) -> list[int]:
    """The index of the first trained step of each sequence."""
    position = batch.mask.flatten(1).argmax(1, keepdim=True)
    return [int(index) for index in batch.indices.gather(1, position).flatten().tolist()]


@pytest.mark.parametrize("burn_in", [0, 3])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_sample_sequence_each_start_is_equally_likely(boundary: Boundary, burn_in: int) -> None:
    buffer, model = mixed_lanes(seed=41)
    cells = len(model.starts(4, boundary))
    assert cells > 20
    drawn = itertools.chain.from_iterable(
        first_trained(buffer.sample_sequences(1, 4, burn_in, boundary=boundary))
        for _ in range(8_000)
    )
    assert_uniform(drawn, cells)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_sample_several_sequences_each_start_is_equally_likely_at_each_place(
    boundary: Boundary,
) -> None:
    buffer, model = mixed_lanes(seed=42)
    cells = len(model.starts(4, boundary))
    count = cells * 3 // 4
    batches = [
        first_trained(buffer.sample_sequences(count, 4, boundary=boundary)) for _ in range(5_000)
    ]
    assert all(len(set(batch)) == count for batch in batches)
    for position in (0, count // 2, count - 1):
        assert_uniform((batch[position] for batch in batches), cells)


def test_sample_two_sequences_each_pair_of_starts_is_equally_likely() -> None:
    buffer, _ = buffer_of("...d.....dd.....")
    pairs = (
        tuple(first_trained(buffer.sample_sequences(2, 3, boundary="within")))
        for _ in range(20_000)
    )
    starts = 2 + 4 + 3
    assert_uniform(pairs, starts * (starts - 1))


def test_sample_rare_starts_among_many_rows_finds_each() -> None:
    # Two episodes of twelve among a thousand of one step: a draw that tries rows would rarely hit.
    text = "d" * 500 + "." * 11 + "d" + "d" * 500 + "." * 11 + "d"
    buffer, _ = buffer_of(text)
    batch = buffer.sample_sequences(4, 11, boundary="within")
    assert sorted(first_trained(batch)) == [500, 501, 1012, 1013]
    drawn = [
        first_trained(buffer.sample_sequences(1, 11, boundary="within"))[0] for _ in range(4000)
    ]
    assert_uniform(drawn, 4)


def test_sample_one_possible_sequence_gives_it() -> None:
    buffer, _ = buffer_of("d" * 30 + "...." + "d" * 30)
    batch = buffer.sample_sequences(1, 5, boundary="within")
    assert batch.indices.tolist() == [[30, 31, 32, 33, 34]]


def test_sample_sequences_with_equal_seeds_draws_equally() -> None:
    left, _ = mixed_lanes(seed=43)
    right, _ = mixed_lanes(seed=43)
    for boundary in BOUNDARIES:
        assert_same_bits(
            left.sample_sequences(9, 4, 2, boundary=boundary),
            right.sample_sequences(9, 4, 2, boundary=boundary),
        )


def test_sample_sequences_again_draws_others() -> None:
    buffer, _ = mixed_lanes(seed=44)
    first, second = (first_trained(buffer.sample_sequences(9, 4)) for _ in range(2))
    assert first != second


@pytest.mark.parametrize("n_step", [2, 5])
def test_sample_sequences_does_not_depend_on_the_horizon(n_step: int) -> None:
    recording = record(40, 2, variants=[{}, {"n_step": n_step}])
    recording.play(Random(5), 60)
    for boundary in BOUNDARIES:
        left, right = (
            buffer.sample_sequences(5, 3, 1, boundary=boundary) for buffer in recording.buffers
        )
        assert_same_bits(left, right)


# As buffers change


def test_sample_sequences_while_rows_come_knows_each_new_start() -> None:
    recording = record(24, 2)
    (buffer,), model = recording.buffers, recording.model
    random = Random(6)
    for _ in range(60):
        recording.push(random.randrange(2))
        # More kinds in alternation than a buffer can count at a time.
        length, boundary = random.choice([1, 2, 3, 5, 9]), random.choice(BOUNDARIES)
        starts = model.starts(length, boundary)
        if starts:
            batch = buffer.sample_sequences(len(starts), length, 1, boundary=boundary)
            assert sorted(assert_sequences(batch, model, length, 1, boundary)) == sorted(starts)


def test_sample_sequences_of_changing_length_counts_starts_anew() -> None:
    buffer, model = buffer_of("....d..d......d.d...")
    for length in (1, 5, 2, 7, 3, 1, 6):
        for boundary in BOUNDARIES:
            starts = model.starts(length, boundary)
            batch = buffer.sample_sequences(len(starts), length, boundary=boundary)
            assert len(assert_sequences(batch, model, length, boundary=boundary)) == len(starts)


def test_extend_by_more_than_fits_leaves_no_start_behind() -> None:
    buffer, model = buffer_of("..d...", capacity=6)
    buffer.extend(stack(pattern("....d....", 6)))
    model.extend(pattern("....d....", 6))
    for boundary in BOUNDARIES:
        starts = model.starts(3, boundary)
        batch = buffer.sample_sequences(len(starts), 3, boundary=boundary)
        assert sorted(assert_sequences(batch, model, 3, boundary=boundary)) == sorted(starts)


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_copy_draws_the_same_sequences(copied: Callable[[Any], Any]) -> None:
    recording = record(44, 4)
    recording.play(Random(7), 57)
    recording.buffers.append(copied(recording.buffers[0]))
    for _ in range(3):
        for boundary in BOUNDARIES:
            left, right = (
                buffer.sample_sequences(5, 2, 2, boundary=boundary) for buffer in recording.buffers
            )
            assert_same_bits(left, right)
            assert_sequences(right, recording.model, 2, 2, boundary)
        recording.play(Random(8), 11)


def test_sample_sequences_leaves_living_batches_alone() -> None:
    buffer, model = buffer_of("...d..t...")
    batches = [buffer.sample_sequences(3, 3, 1) for _ in range(50)]
    for _ in range(50):
        buffer.sample_sequences(3, 3, 1).states.fill_(-1)
    for batch in batches:
        assert_sequences(batch, model, 3, 1)
