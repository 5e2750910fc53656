"""The on-policy memory: fill, sample in time order, empty."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_rows, filled, stack, stamped, stamps_of, unchanged

from velora.buffer import RolloutBuffer


def rollout(count: int, capacity: int) -> RolloutBuffer:
    buffer = filled(RolloutBuffer, range(count), capacity)
    assert isinstance(buffer, RolloutBuffer)
    return buffer


@pytest.mark.parametrize(("count", "capacity"), [(1, 1), (3, 10), (10, 10)])
def test_sample_gives_everything_in_time_order(count: int, capacity: int) -> None:
    batch = rollout(count, capacity).sample()
    assert stamps_of(batch) == list(range(count))
    assert_rows(batch, [stamped(i) for i in range(count)])


def test_sample_gives_no_parts_of_random_draws() -> None:
    batch = rollout(3, 3).sample()
    assert batch.discounts is None
    assert batch.weights is None
    assert batch.mask is None


def test_sample_names_each_row_by_its_serial_for_good() -> None:
    buffer = rollout(3, 3)
    assert buffer.sample().indices.tolist() == [0, 1, 2]
    assert buffer.sample().indices.dtype == torch.int64
    buffer.empty()
    buffer.push(stamped(7))
    assert buffer.sample().indices.tolist() == [3]


def test_sample_again_gives_the_same_in_other_memory() -> None:
    buffer = rollout(3, 3)
    first, second = buffer.sample(), buffer.sample()
    first.states.fill_(-1)
    assert stamps_of(second) == [0, 1, 2]


def test_sample_leaves_the_buffer_as_it_was() -> None:
    buffer = rollout(3, 3)
    with unchanged(buffer):
        buffer.sample()


def test_push_when_full_raises_and_says_what_to_do() -> None:
    buffer = rollout(3, 3)
    with unchanged(buffer), pytest.raises(BufferError, match=r"3 of 3.*sample\(\).*empty\(\)"):
        buffer.push(stamped(3))


def test_extend_with_more_than_room_raises_and_stores_nothing() -> None:
    buffer = rollout(3, 5)
    with unchanged(buffer), pytest.raises(BufferError, match=r"3 of 5.*3 more.*empty\(\)"):
        buffer.extend(stack([stamped(i) for i in range(3)]))
    buffer.extend(stack([stamped(i) for i in (3, 4)]))
    assert stamps_of(buffer.sample()) == [0, 1, 2, 3, 4]


def test_extend_a_new_buffer_with_more_than_room_raises_and_fixes_no_schema() -> None:
    buffer = RolloutBuffer(2)
    with pytest.raises(BufferError, match="empty"):
        buffer.extend(stack([stamped(i) for i in range(3)]))
    buffer.push(stamped(0, features=9))
    assert buffer.sample().states.shape == (1, 9)


def test_sample_when_new_raises_and_says_what_to_do() -> None:
    with pytest.raises(BufferError, match=r"empty.*push\(\)"):
        RolloutBuffer(3).sample()


def test_sample_when_emptied_raises_and_says_what_to_do() -> None:
    buffer = rollout(3, 3)
    buffer.empty()
    with pytest.raises(BufferError, match=r"empty.*push\(\)"):
        buffer.sample()


def test_empty_takes_everything_out() -> None:
    buffer = rollout(3, 3)
    buffer.empty()
    assert len(buffer) == 0
    assert list(buffer) == []
    assert stamped(1) not in buffer


def test_empty_a_new_buffer_does_nothing() -> None:
    buffer = RolloutBuffer(3)
    buffer.empty()
    assert len(buffer) == 0
    buffer.push(stamped(1))
    assert len(buffer) == 1


@pytest.mark.parametrize("counts", [[3, 3, 3], [1, 3, 2, 3], [2, 2, 2, 2], [3, 1, 1, 3]], ids=str)
def test_empty_makes_the_buffer_usable_again(counts: list[int]) -> None:
    buffer = RolloutBuffer(3)
    stamp = 0
    for count in counts:
        expected = list(range(stamp, stamp + count))
        for i in expected:
            buffer.push(stamped(i))
        assert stamps_of(buffer.sample()) == expected
        assert [experience.action for experience in buffer] == expected
        buffer.empty()
        stamp += count


def test_empty_leaves_sampled_batches_alone() -> None:
    buffer = rollout(3, 3)
    batch = buffer.sample()
    buffer.empty()
    for i in range(10, 13):
        buffer.push(stamped(i))
    assert stamps_of(batch) == [0, 1, 2]


def test_push_after_empty_is_held_to_the_same_schema() -> None:
    buffer = rollout(3, 3)
    buffer.empty()
    with pytest.raises(ValueError, match=r"state.*\(4,\).*\(5,\)"):
        buffer.push(stamped(0, features=5))
    assert len(buffer) == 0


def test_sample_whole_rollout_is_contiguous() -> None:
    buffer = rollout(7, 10)
    assert buffer.sample().states.is_contiguous()
    assert buffer.sample().states.shape == torch.Size([7, 4])


def test_sample_takes_no_batch_size() -> None:
    with pytest.raises(TypeError):
        rollout(3, 3).sample(2)  # type: ignore[call-arg]
