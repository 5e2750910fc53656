"""Drawing batches: which rows, how often, and what becomes of the tensors."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import pickle
import random
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
import reference
import torch
from helpers import filled, stamped, stamps_of, unchanged
from hypothesis import given
from hypothesis import strategies as st
from streams import assert_uniform
from torch import Tensor

from velora.buffer import BatchExperience, ReplayBuffer


def replay(size: int, seed: int = 0, capacity: int | None = None) -> ReplayBuffer:
    buffer = filled(ReplayBuffer, range(size), capacity or size, seed=seed)
    assert isinstance(buffer, ReplayBuffer)
    return buffer


def draw(buffer: ReplayBuffer, count: int) -> list[int]:
    return [int(index) for index in buffer.sample(count).indices.tolist()]


def tensors_of(batch: BatchExperience) -> list[Tensor]:
    parts = vars(batch).values()
    return [part for part in parts if isinstance(part, Tensor)]


# Which rows: the rule, in plain Python


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_compute_philox_in_the_oracle_gives_the_published_vectors(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert reference.philox4x32(counter, key) == expected


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
def test_sample_with_seed_draws_what_the_rule_says(seed: int) -> None:
    buffer = replay(50, seed=seed)
    for number in range(5):
        assert draw(buffer, 20) == reference.draw_distinct(seed, number, 20, 50)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 100])
def test_sample_everything_draws_what_the_rule_says(size: int) -> None:
    buffer = replay(size, seed=7)
    for number in range(3):
        assert draw(buffer, size) == reference.draw_distinct(7, number, size, size)


@given(
    seed=st.integers(0, 2**64 - 1),
    capacity=st.integers(1, 12),
    counts=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=6),
)
def test_sample_between_pushes_over_wraps_draws_what_the_rule_says(
    seed: int, capacity: int, counts: list[tuple[int, int]]
) -> None:
    buffer = ReplayBuffer(capacity, seed=seed)
    model = reference.BufferModel[int](capacity, overwrite=True, seed=seed)
    pushed = itertools.count()
    for pushes, batch_size in counts:
        for i in itertools.islice(pushed, pushes):
            buffer.push(stamped(i))
            model.extend([i])
        batch = buffer.sample(min(batch_size, len(buffer)))
        expected = model.sample(min(batch_size, len(buffer)))
        assert batch.indices.tolist() == expected
        assert stamps_of(batch) == [model.row(serial) for serial in expected]


def test_sample_after_a_failed_draw_continues_the_sequence() -> None:
    buffer = replay(10)
    for bad in (0, -1, 11, 2**70):
        with unchanged(buffer), pytest.raises(ValueError, match="batch_size"):
            buffer.sample(bad)
    assert draw(buffer, 4) == reference.draw_distinct(0, 0, 4, 10)


def test_sample_indices_name_rows_by_serial() -> None:
    buffer = replay(25, capacity=10)
    batch = buffer.sample(10)
    assert batch.indices.dtype == torch.int64
    assert sorted(batch.indices.tolist()) == list(range(15, 25))
    assert stamps_of(batch) == batch.indices.tolist()


def test_index_buffer_takes_no_draw() -> None:
    buffer, other = replay(10), replay(10)
    assert buffer[3].action == 3
    assert draw(buffer, 5) == draw(other, 5)


# Seeds


def test_construct_after_manual_seed_repeats_the_draws() -> None:
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        buffers = [filled(ReplayBuffer, range(100), 100) for _ in range(2)]
        runs.append([draw(buffer, 50) for buffer in buffers])
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]


def test_sample_equal_seeds_draw_equally_and_others_do_not() -> None:
    drawn = {seed: [draw(replay(100, seed), 30) for _ in range(2)] for seed in (1, 2, 2**32 + 1)}
    assert all(first == second for first, second in drawn.values())
    assert drawn[1][0] != drawn[2][0] != drawn[2**32 + 1][0] != drawn[1][0]


def test_sample_leaves_the_global_generators_alone() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    buffer = replay(100, seed=3)
    buffer.sample(50)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_construct_without_seed_touches_only_torchs_generator() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    ReplayBuffer(3)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]  # noqa: NPY002


# How often: everything that can be drawn is equally likely


def test_judge_biased_draws_exceed_the_bound() -> None:
    generator = random.Random(0)
    biased = [min(generator.randrange(41), 39) // 4 for _ in range(60_000)]
    with pytest.raises(AssertionError):
        assert_uniform(biased, 10)


@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize("count", [1, 2, 3, 9, 10])
def test_sample_each_row_is_equally_likely_at_each_place(size: int, count: int) -> None:
    if count > size:
        count = size
    buffer = replay(size, seed=11)
    batches = [draw(buffer, count) for _ in range(20_000)]
    for position in range(count):
        assert_uniform((batch[position] for batch in batches), size)


@pytest.mark.parametrize(
    ("size", "count", "cells"),
    [(2, 2, 2), (3, 2, 6), (3, 3, 6), (10, 2, 90), (10, 3, 720), (5, 5, 120)],
)
def test_sample_each_order_is_equally_likely(size: int, count: int, cells: int) -> None:
    buffer = replay(size, seed=12)
    assert_uniform((tuple(draw(buffer, count)) for _ in range(60_000)), cells)


@pytest.mark.parametrize(
    ("size", "count", "cells"), [(3, 2, 3), (10, 2, 45), (10, 3, 120), (10, 5, 252), (10, 8, 45)]
)
def test_sample_each_set_is_equally_likely(size: int, count: int, cells: int) -> None:
    buffer = replay(size, seed=13)
    assert_uniform((frozenset(draw(buffer, count)) for _ in range(60_000)), cells)


@pytest.mark.parametrize("distance", [1, 2, 7])
def test_sample_draws_do_not_depend_on_earlier_ones(distance: int) -> None:
    buffer = replay(10, seed=14)
    drawn = [draw(buffer, 1)[0] for _ in range(60_000)]
    assert_uniform(zip(drawn, drawn[distance:], strict=False), 100)


def test_sample_first_draws_of_neighbouring_seeds_are_independent() -> None:
    drawn = [draw(replay(5, seed=seed), 1)[0] for seed in range(4000)]
    assert_uniform(drawn, 5)
    assert_uniform(itertools.pairwise(drawn), 25)


def test_sample_from_a_wrapped_ring_each_slot_is_equally_likely() -> None:
    buffer = replay(17, seed=15, capacity=10)
    assert_uniform((draw(buffer, 1)[0] for _ in range(60_000)), 10)


def test_sample_large_batches_cover_a_large_buffer_evenly() -> None:
    buffer = ReplayBuffer(100_000, seed=16)
    column = torch.zeros(100_000, 1)
    buffer.extend(BatchExperience(column, column, column, column, column))
    counts: Counter[int] = Counter()
    for _ in range(100):
        indices = buffer.sample(4096).indices
        assert len(indices.unique()) == 4096
        counts.update((indices // 100).tolist())
    assert_uniform(counts.elements(), 1000)


# Ownership of the tensors


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 99, 100])
def test_sample_rows_are_distinct_and_whole(count: int) -> None:
    stamps = stamps_of(replay(130, capacity=100).sample(count))
    assert len(set(stamps)) == len(stamps) == count
    assert set(stamps) <= set(range(30, 130))


def test_sample_parts_of_uniform_batches_are_the_documented_ones() -> None:
    batch = replay(5).sample(3)
    assert batch.weights is None
    assert batch.mask is None
    assert batch.extras == {}
    assert batch.discounts.dtype == torch.float32


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99, 1.0])
def test_sample_discounts_are_gamma_where_not_done(gamma: float) -> None:
    buffer = filled(ReplayBuffer, range(30), 30, gamma=gamma)
    batch = buffer.sample(30)
    assert torch.equal(batch.discounts, torch.tensor(gamma) * (1 - batch.dones))
    assert batch.truncations.sum() > 0


def test_sample_tensors_are_contiguous_on_the_cpu() -> None:
    for tensor in tensors_of(replay(10).sample(7)):
        assert tensor.is_contiguous()
        assert tensor.device.type == "cpu"
        assert not tensor.requires_grad


@pytest.mark.parametrize("count", [1, 3, 100])
def test_sample_tensors_of_one_batch_do_not_overlap(count: int) -> None:
    spans = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size())
        for tensor in tensors_of(replay(100).sample(count))
    )
    assert len(spans) == 8
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_sample_tensors_can_be_written_each_for_itself() -> None:
    batch = replay(10).sample(5)
    for tensor in tensors_of(batch):
        others = [other.clone() for other in tensors_of(batch) if other is not tensor]
        tensor.fill_(1)
        rest = [other for other in tensors_of(batch) if other is not tensor]
        assert all(map(torch.equal, others, rest))


def test_write_into_batch_leaves_the_buffer_alone() -> None:
    buffer = replay(10)
    with unchanged(buffer):
        batch = copy.copy(buffer).sample(10)
        for tensor in tensors_of(batch):
            tensor.fill_(77)
        taken = buffer[0]
        taken.state.fill_(77)


def test_push_after_sample_leaves_the_batch_alone() -> None:
    buffer = replay(10)
    batch = buffer.sample(10)
    stamps = stamps_of(batch)
    for i in range(10, 40):
        buffer.push(stamped(i))
    assert stamps_of(batch) == stamps


def test_sample_again_leaves_living_batches_alone() -> None:
    buffer = replay(100)
    batches = [buffer.sample(20) for _ in range(200)]
    stamps = [batch.indices.tolist() for batch in batches]
    assert [stamps_of(batch) for batch in batches] == stamps
    pointers = {tensor.data_ptr() for batch in batches for tensor in tensors_of(batch)}
    assert len(pointers) == 200 * len(tensors_of(batches[0]))


def test_sample_while_one_tensor_of_an_old_batch_lives_leaves_it_alone() -> None:
    buffer = replay(100)
    kept = buffer.sample(50).states
    values = kept.clone()
    for _ in range(50):
        buffer.sample(50).states.fill_(-1)
    assert torch.equal(kept, values)


def test_view_of_a_released_batch_keeps_its_memory() -> None:
    buffer = replay(100)
    batch = buffer.sample(50)
    view, values = batch.states[3:5, 1:], batch.states[3:5, 1:].clone()
    del batch
    for _ in range(50):
        buffer.sample(50).states.fill_(-1)
    assert torch.equal(view, values)


def test_delete_buffer_leaves_the_batch_alone() -> None:
    buffer = replay(100)
    batch = buffer.sample(50)
    del buffer
    gc.collect()
    assert len(set(stamps_of(batch))) == 50


def test_release_batch_in_another_thread_is_safe() -> None:
    buffer = replay(100)
    found: list[int] = []

    def use(batches: list[BatchExperience]) -> None:
        while batches:
            found.append(len(set(stamps_of(batches.pop()))))

    batches = [buffer.sample(50) for _ in range(100)]
    thread = threading.Thread(target=use, args=(batches,))
    thread.start()
    for _ in range(100):
        assert len(set(stamps_of(buffer.sample(50)))) == 50
    thread.join()
    assert found == [50] * 100


def test_pickle_batch_gives_equal_tensors() -> None:
    batch = replay(10).sample(5)
    again = pickle.loads(pickle.dumps(batch))
    assert all(map(torch.equal, tensors_of(batch), tensors_of(again)))
    assert stamps_of(again) == stamps_of(batch)


def test_deepcopy_batch_gives_equal_tensors_elsewhere() -> None:
    batch = replay(10).sample(5)
    again = copy.deepcopy(batch)
    stamps = stamps_of(batch)
    batch.states.fill_(-1)
    assert stamps_of(again) == stamps


def test_save_batch_tensors_loads_equal_tensors() -> None:
    batch = replay(10).sample(5)
    file = io.BytesIO()
    torch.save({"states": batch.states, "indices": batch.indices}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded["states"], batch.states)
    assert torch.equal(loaded["indices"], batch.indices)


def test_train_on_batch_gives_gradients() -> None:
    batch = replay(10).sample(5)
    layer = torch.nn.Linear(4, 1)
    (layer(batch.states) - batch.rewards).square().mean().backward()
    assert layer.weight.grad is not None
    expected = 2 * (layer(batch.states) - batch.rewards).T @ batch.states / 5
    torch.testing.assert_close(layer.weight.grad, expected.detach())


def test_require_grad_of_batch_tensor_gives_gradients() -> None:
    states = replay(10).sample(5).states.requires_grad_()
    states.square().sum().backward()
    assert states.grad is not None
    assert torch.equal(states.grad, 2 * states.detach())


def test_compile_function_of_batch_tensors_computes_the_same() -> None:
    def target(rewards: Tensor, discounts: Tensor, values: Tensor) -> Tensor:
        return rewards + discounts * values

    batch = replay(10).sample(5)
    compiled = torch.compile(target, backend="eager", fullgraph=True)
    values = torch.ones(5, 1)
    assert torch.equal(
        compiled(batch.rewards, batch.discounts, values),
        target(batch.rewards, batch.discounts, values),
    )


def test_convert_batch_tensor_to_numpy_shares_memory() -> None:
    states = replay(10).sample(5).states
    states.numpy()[:] = 3.0
    assert (states == 3.0).all()


@pytest.mark.parametrize("count", [np.int64(3), torch.tensor(3), np.uint8(3)], ids=str)
def test_sample_number_from_a_library_counts_as_int(count: int) -> None:
    assert len(replay(5).sample(count)) == 3


def test_sample_on_cpu_device_gives_cpu_tensors() -> None:
    buffer = filled(ReplayBuffer, range(3), 3, device=torch.device("cpu"))
    assert buffer.sample(2).states.device == torch.device("cpu")


@pytest.mark.parametrize("arguments", [(), (2, None), (2, 3, 4)])
def test_sample_with_other_arguments_is_a_type_error(arguments: Any) -> None:
    buffer = filled(ReplayBuffer, range(4), 5, seed=1)
    twin = filled(ReplayBuffer, range(4), 5, seed=1)
    with pytest.raises(
        TypeError, match=r"^sample: expected \(batch_size, \*, out=None, replace=None\)"
    ):
        buffer.sample(*arguments)
    with pytest.raises(TypeError, match=r"^sample: expected"):
        buffer.sample(2, count=2)  # type: ignore[call-arg]
    assert stamps_of(buffer.sample(4)) == stamps_of(twin.sample(4))  # no draw was taken


def test_sample_is_the_same_by_name_and_from_a_subclass() -> None:
    class Counting(ReplayBuffer):
        calls = 0

        def sample(self, batch_size: int, *, out: BatchExperience | None = None) -> BatchExperience:
            self.calls += 1
            return super().sample(batch_size, out=out)

    buffer = filled(ReplayBuffer, range(4), 5, seed=1)
    counting = filled(Counting, range(4), 5, seed=1)
    for _ in range(3):
        assert stamps_of(buffer.sample(batch_size=3)) == stamps_of(counting.sample(3))
    assert counting.calls == 3


def test_sample_that_an_object_was_given_stays() -> None:
    buffer = ReplayBuffer(4, seed=1)
    original, calls = buffer.sample, []

    def spy(batch_size: int, *, out: BatchExperience | None = None) -> BatchExperience:
        calls.append(batch_size)
        return original(batch_size, out=out)

    buffer.sample = spy  # type: ignore[method-assign]
    buffer.push(stamped(0))
    buffer.push(stamped(1))
    assert len(buffer.sample(2).rewards) == 2
    assert calls == [2]
