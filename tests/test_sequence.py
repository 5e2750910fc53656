"""Both buffers are sequences of experiences, oldest first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers import AnyBuffer, PolicyExperience, filled, stack, stamped, step

from velora.buffer import Experience, ReplayBuffer, RolloutBuffer

KINDS = [ReplayBuffer, RolloutBuffer]


@pytest.fixture(params=["replay", "wrapped replay", "rollout", "reused rollout"])
def buffer(request: pytest.FixtureRequest) -> AnyBuffer:
    """Holds the experiences 3 to 7."""
    made: AnyBuffer
    if request.param == "replay":
        made = filled(ReplayBuffer, range(3, 8), 9)
    elif request.param == "wrapped replay":
        made = filled(ReplayBuffer, range(8), 5)
    elif request.param == "rollout":
        made = filled(RolloutBuffer, range(3, 8), 5)
    else:
        rollout = filled(RolloutBuffer, range(3), 5)
        rollout.empty()
        for i in range(3, 8):
            rollout.push(stamped(i))
        made = rollout
    return made


def actions(experiences: Any) -> list[int]:
    return [experience.action for experience in experiences]


@pytest.mark.parametrize("kind", KINDS)
def test_create_buffer_makes_an_empty_sequence(kind: type[AnyBuffer]) -> None:
    empty = kind(3)
    assert isinstance(empty, Sequence)
    assert len(empty) == 0
    assert list(empty) == []
    assert empty[:] == []
    assert step() not in empty


def test_index_by_place_counts_from_the_oldest(buffer: AnyBuffer) -> None:
    assert [buffer[i] for i in range(5)] == [stamped(i) for i in range(3, 8)]


def test_index_by_negative_place_counts_from_the_newest(buffer: AnyBuffer) -> None:
    assert actions(buffer[-i] for i in range(1, 6)) == [7, 6, 5, 4, 3]


@pytest.mark.parametrize("index", [np.int64(2), np.uint8(2), torch.tensor(2)], ids=repr)
def test_index_by_number_from_a_library_counts_as_int(buffer: AnyBuffer, index: int) -> None:
    assert buffer[index].action == 5


@pytest.mark.parametrize("index", [5, -6, 2**63, -(2**63) - 1, 2**70])
def test_index_out_of_range_names_index_and_length(buffer: AnyBuffer, index: int) -> None:
    with pytest.raises(IndexError, match=rf"5 experiences.*{index}"):
        buffer[index]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [0, -1])
def test_index_empty_buffer_raises(kind: type[AnyBuffer], index: int) -> None:
    with pytest.raises(IndexError):
        kind(3)[index]


@pytest.mark.parametrize("index", ["0", 1.0, None, (0, 1)])
def test_index_by_something_else_raises(buffer: AnyBuffer, index: Any) -> None:
    with pytest.raises(TypeError):
        buffer[index]


@pytest.mark.parametrize(
    "part",
    [
        slice(None),
        slice(1, 3),
        slice(-2, None),
        slice(None, None, -1),
        slice(4, 0, -2),
        slice(3, 3),
        slice(2, 99),
        slice(-99, 2),
    ],
    ids=str,
)
def test_slice_gives_what_a_list_gives(buffer: AnyBuffer, part: slice) -> None:
    got = buffer[part]
    assert isinstance(got, list)
    assert actions(got) == list(range(3, 8))[part]


def test_iterate_goes_from_oldest_to_newest(buffer: AnyBuffer) -> None:
    assert list(buffer) == [stamped(i) for i in range(3, 8)]


def test_reverse_goes_from_newest_to_oldest(buffer: AnyBuffer) -> None:
    assert actions(reversed(buffer)) == [7, 6, 5, 4, 3]


def test_search_finds_what_is_there_and_only_that(buffer: AnyBuffer) -> None:
    assert stamped(5) in buffer
    assert stamped(2) not in buffer
    assert 5 not in buffer
    assert buffer.index(stamped(6)) == 3
    assert buffer.count(stamped(6)) == 1
    with pytest.raises(ValueError):  # noqa: PT011  # Sequence.index says nothing
        buffer.index(stamped(2))


def test_random_sample_and_zip_unpack_into_columns(buffer: AnyBuffer) -> None:
    batch: list[Experience] = random.Random(0).sample(buffer, 3)
    states, drawn, rewards, next_states, dones = zip(*batch, strict=True)
    assert len(set(drawn)) == 3
    assert torch.stack(states).shape == torch.stack(next_states).shape == (3, 4)
    assert [float(action) for action in drawn] == list(rewards)
    assert list(dones) == [action % 3 == 0 for action in drawn]


def test_random_choice_gives_an_experience(buffer: AnyBuffer) -> None:
    assert random.Random(0).choice(buffer) in buffer


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (1, 1), (2, 3), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_index_gives_tensors_in_the_shape_in_which_they_were_pushed(
    kind: type[AnyBuffer], shape: tuple[int, ...]
) -> None:
    buffer = kind(2)
    pushed = step(state=torch.rand(shape), action=torch.ones(shape, dtype=torch.int16))
    buffer.push(pushed)
    assert buffer[0].state.shape == shape
    assert buffer[0].action.dtype == torch.int16
    assert buffer[0] == pushed


@pytest.mark.parametrize("action", [3, 2.5, True], ids=repr)
def test_index_gives_numbers_in_the_type_in_which_they_were_pushed(action: Any) -> None:
    buffer = ReplayBuffer(1)
    buffer.push(step(action=action, reward=1.5, done=True, truncated=True))
    got = buffer[0]
    assert (got.action, got.reward, got.done, got.truncated) == (action, 1.5, True, True)
    assert type(got.action) is type(action)
    assert type(got.reward) is float
    assert type(got.done) is type(got.truncated) is bool


def test_index_gives_fresh_tensors(buffer: AnyBuffer) -> None:
    first, second = buffer[0], buffer[0]
    first.state.fill_(-1)
    assert second == buffer[0] == stamped(3)


@pytest.mark.parametrize("kind", KINDS)
def test_search_buffer_extended_with_extras_finds_its_own_rows(kind: type[AnyBuffer]) -> None:
    buffer = kind(3)
    buffer.extend(stack([PolicyExperience(*stamped(i), 0.5, torch.ones(2)) for i in range(3)]))
    assert buffer[1] == buffer[1]
    assert buffer[2] in buffer
    assert buffer.index(buffer[2]) == 2


def test_push_experience_taken_from_a_buffer_stores_it_again(buffer: AnyBuffer) -> None:
    other = ReplayBuffer(5)
    for experience in buffer:
        other.push(experience)
    assert list(other) == list(buffer)


@pytest.mark.parametrize("kind", KINDS)
def test_test_truth_of_buffer_is_whether_it_holds_something(kind: type[AnyBuffer]) -> None:
    buffer = kind(1)
    assert not buffer
    buffer.push(stamped(0))
    assert buffer
