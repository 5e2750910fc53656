"""Draws with replacement: each experience is the first candidate of its element."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import reference
import torch
from cuda_helpers import assert_same
from helpers import filled, unchanged
from streams import Model, assert_rows_of, assert_same_bits, assert_uniform, pack, record, unequal

from velora.buffer import Prioritized, ReplayBuffer


def expected_indices(model: Model, seed: int, draw: int, count: int) -> list[int]:
    rows = [pack((n, serial)) for n, lane in enumerate(model.lanes) for serial in lane.alive()]
    return [rows[reference.candidate(seed, draw, i, 0, len(rows))] for i in range(count)]


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("n_step", [1, 3])
def test_sample_with_replacement_draws_the_first_candidates(num_envs: int, n_step: int) -> None:
    recording, random, draw = record(24, num_envs, seed=8, n_step=n_step), Random(2), 0
    (buffer,) = recording.buffers
    for _ in range(10):
        recording.play(random, 4)
        for count in (1, 2, 17, 90):  # the last: more than there are
            batch = buffer.sample(count, replace=True)
            assert batch.indices.tolist() == expected_indices(recording.model, 8, draw, count)
            assert_rows_of(batch, recording.model, n_step=n_step)
            draw += 1


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", ["cpu", "cuda", "pinned"])
def test_sample_with_replacement_on_a_device_draws_the_rows_of_the_cpu(storage: str) -> None:
    variants = [{"device": "cpu"}, {"device": "cuda", "storage": storage}]
    recording, random = record(24, 3, seed=9, n_step=2, variants=variants), Random(3)
    cpu, cuda = recording.buffers
    for _ in range(6):
        recording.play(random, 6)
        for count in (1, 16, 100, 2000):
            assert_same(cpu.sample(count, replace=True), cuda.sample(count, replace=True))
        assert_same(cpu.sample(3), cuda.sample(3))


def test_sample_with_replacement_from_one_row_repeats_it() -> None:
    buffer = filled(ReplayBuffer, [7], 100)
    assert buffer.sample(5, replace=True).actions.flatten().tolist() == [7] * 5


def test_sample_with_replacement_each_pair_is_equally_likely() -> None:
    buffer, _ = unequal(seed=4)
    pairs = (tuple(buffer.sample(2, replace=True).indices.tolist()) for _ in range(60_000))
    assert_uniform(pairs, 24 * 24)


def test_sample_with_replacement_into_out_writes_its_tensors_again() -> None:
    buffer, other = (filled(ReplayBuffer, range(6), 6, seed=5) for _ in range(2))
    batch = buffer.sample(9, replace=True)
    assert buffer.sample(9, replace=True, out=batch) is batch
    other.sample(9, replace=True)
    assert_same_bits(batch, other.sample(9, replace=True))


def test_sample_without_replacement_is_the_plain_one() -> None:
    plain, told = (filled(ReplayBuffer, range(9), 9, seed=6) for _ in range(2))
    for replace in (False, None):
        assert_same_bits(plain.sample(4), told.sample(4, replace=replace))
    with pytest.raises(ValueError, match=r"^batch_size: expected at most 9, .*, got 10"):
        told.sample(10, replace=False)


def test_sample_prioritized_with_replacement_is_the_plain_one() -> None:
    buffers = (filled(ReplayBuffer, range(9), 9, seed=6, sampler=Prioritized()) for _ in range(2))
    plain, told = buffers
    assert_same_bits(plain.sample(20), told.sample(20, replace=True))


def test_sample_prioritized_without_replacement_is_refused() -> None:
    buffer = filled(ReplayBuffer, range(9), 9, sampler=Prioritized())
    with pytest.raises(ValueError, match=r"^replace: expected None or True .*, got False"):
        buffer.sample(4, replace=False)


@pytest.mark.parametrize("replace", [1, 0, "yes", torch.tensor(True)], ids=repr)
def test_sample_with_what_is_no_bool_is_a_type_error(replace: Any) -> None:
    buffer = filled(ReplayBuffer, range(9), 9, seed=1)
    with (
        unchanged(buffer),
        pytest.raises(TypeError, match=r"^replace: expected True, False or None, got"),
    ):
        buffer.sample(4, replace=replace)


def test_sample_with_replacement_from_an_empty_buffer_is_refused() -> None:
    buffer = ReplayBuffer(9, seed=1)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^batch_size: expected at most 0, .*, got 4"):
            buffer.sample(4, replace=True)
        buffer = filled(ReplayBuffer, range(4), 9)
        buffer.clear()


def test_sample_with_replacement_of_too_many_is_refused_and_draws_nothing() -> None:
    buffer = filled(ReplayBuffer, range(9), 9, seed=1)
    with (
        unchanged(buffer),
        pytest.raises(ValueError, match=rf"^batch_size: expected at most {2**28}, got"),
    ):
        buffer.sample(2**28 + 1, replace=True)
