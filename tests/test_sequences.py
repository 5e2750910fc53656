"""Sequences: where they may start, what is in them, and what only fills them up."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import stack, unchanged
from reference_time import BOUNDARIES, Boundary, LanesModel
from streams import (
    COPIES,
    Model,
    assert_same_bits,
    assert_sequences,
    buffer_of,
    numbered,
    pattern,
    policy_step,
)

from velora.buffer import BatchExperience, Experience, ReplayBuffer


@dataclass
class TupleExperience(Experience):
    """With the two states of an LSTM."""

    hidden: tuple[torch.Tensor, torch.Tensor]


def policy(i: int, **ends: bool) -> Experience:
    return policy_step(numbered(i, **ends), torch.full((2, 2), float(i + 1)))


def lstm(i: int, **ends: bool) -> Experience:
    hidden = (torch.full((1, 4), float(i + 1)), torch.full((3,), -float(i + 1)))
    return TupleExperience(**vars(numbered(i, **ends)), hidden=hidden)


def numbers(tensor: torch.Tensor) -> list[float]:
    return [float(x) for x in tensor.flatten().tolist()]


def by_start(batch: BatchExperience) -> dict[int, BatchExperience]:
    """Each sequence alone, by the serial of its first trained step, in one lane."""
    found = {}
    for i in range(len(batch)):
        sequence = batch[i]
        found[int(sequence.indices[0][numbers(sequence.mask).index(1.0)])] = sequence
    return found


def all_starts(
    buffer: ReplayBuffer, model: Model, length: int, boundary: Boundary, burn_in: int = 0
) -> dict[int, BatchExperience]:
    """As many sequences as there are, in one lane."""
    count = len(model.starts(length, boundary))
    return by_start(buffer.sample_sequences(count, length, burn_in, boundary=boundary))


# Known answers: rows 0 to 9, ends after 3 (done) and 6 (truncated), 7 to 9 still going on


TEXT = "...d..t..."


def test_sample_padded_sequences_may_start_anywhere() -> None:
    buffer, model = buffer_of(TEXT)
    assert sorted(all_starts(buffer, model, 3, "pad")) == list(range(10))


def test_sample_sequences_within_episodes_start_where_one_fits() -> None:
    buffer, model = buffer_of(TEXT)
    assert sorted(all_starts(buffer, model, 3, "within")) == [0, 1, 4, 7]


def test_sample_sequences_across_episodes_start_where_rows_suffice() -> None:
    buffer, model = buffer_of(TEXT)
    assert sorted(all_starts(buffer, model, 3, "cross")) == list(range(8))


def test_sample_sequences_pads_by_default() -> None:
    buffer, _ = buffer_of(TEXT)
    assert sorted(by_start(buffer.sample_sequences(10, 3))) == list(range(10))


@pytest.mark.parametrize(
    ("start", "indices", "mask"),
    [
        (0, [0, 1, 2], [1, 1, 1]),
        (2, [2, 3, -1], [1, 1, 0]),
        (3, [3, -1, -1], [1, 0, 0]),
        (4, [4, 5, 6], [1, 1, 1]),
        (8, [8, 9, -1], [1, 1, 0]),
        (9, [9, -1, -1], [1, 0, 0]),
    ],
)
def test_sample_padded_sequence_stops_at_ends_and_at_the_head(
    start: int, indices: list[int], mask: list[int]
) -> None:
    buffer, model = buffer_of(TEXT)
    sequence = all_starts(buffer, model, 3, "pad")[start]
    assert sequence.indices.tolist() == [indices]
    assert numbers(sequence.mask) == mask


def test_sample_sequence_across_an_end_goes_on() -> None:
    buffer, model = buffer_of(TEXT)
    sequence = all_starts(buffer, model, 5, "cross")[2]
    assert sequence.indices.tolist() == [[2, 3, 4, 5, 6]]
    assert numbers(sequence.mask) == [1] * 5
    assert numbers(sequence.is_first) == [0, 0, 1, 0, 0]
    assert numbers(sequence.dones) == [0, 1, 0, 0, 0]
    assert numbers(sequence.truncations) == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("boundary", "start", "indices", "mask", "first"),
    [
        ("pad", 0, [0, 1, 2, -1, -1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]),
        ("pad", 1, [0, 1, 2, 3, -1], [0, 1, 1, 1, 0], [1, 0, 0, 0, 0]),
        ("pad", 3, [1, 2, 3, -1, -1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]),
        ("pad", 5, [4, 5, 6, -1, -1], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0]),
        ("within", 4, [4, 5, 6, -1, -1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]),
        ("within", 1, [0, 1, 2, 3, -1], [0, 1, 1, 1, 0], [1, 0, 0, 0, 0]),
        ("cross", 4, [2, 3, 4, 5, 6], [0, 0, 1, 1, 1], [0, 0, 1, 0, 0]),
        ("cross", 5, [3, 4, 5, 6, 7], [0, 0, 1, 1, 1], [0, 1, 0, 0, 1]),
        ("cross", 1, [0, 1, 2, 3, -1], [0, 1, 1, 1, 0], [1, 0, 0, 0, 0]),
    ],
)
def test_sample_sequence_with_burn_in_goes_back_as_far_as_it_may(
    boundary: Boundary, start: int, indices: list[int], mask: list[int], first: list[int]
) -> None:
    buffer, model = buffer_of(TEXT)
    sequence = all_starts(buffer, model, 3, boundary, burn_in=2)[start]
    assert sequence.indices.tolist() == [indices]
    assert numbers(sequence.mask) == mask
    assert numbers(sequence.is_first) == first


def test_sample_sequence_across_episodes_burns_in_through_all_before() -> None:
    buffer, model = buffer_of(".d.t....")
    sequence = all_starts(buffer, model, 2, "cross", burn_in=5)[5]
    assert sequence.indices.tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    assert numbers(sequence.mask) == [0, 0, 0, 0, 0, 1, 1]
    assert numbers(sequence.is_first) == [1, 0, 1, 0, 1, 0, 0]
    alone = all_starts(buffer, model, 2, "within", burn_in=5)[5]
    assert alone.indices.tolist() == [[4, 5, 6, -1, -1, -1, -1]]


def test_sample_sequence_starts_are_those_without_burn_in() -> None:
    buffer, model = buffer_of(TEXT)
    for boundary in BOUNDARIES:
        short, long = (all_starts(buffer, model, 2, boundary, burn_in) for burn_in in (0, 4))
        assert sorted(short) == sorted(long)


def test_sample_sequence_is_zero_where_nothing_is() -> None:
    buffer, model = buffer_of(TEXT)
    sequence = all_starts(buffer, model, 4, "pad", burn_in=1)[9]
    for part in (sequence.states, sequence.actions, sequence.rewards, sequence.next_states):
        assert part[0, :2].abs().sum() > 0
        assert part[0, 2:].abs().sum() == 0
    for part in (sequence.dones, sequence.truncations, sequence.discounts, sequence.is_first):
        assert part[0, 2:].abs().sum() == 0


@pytest.mark.parametrize("n_step", [1, 3])
def test_sample_sequence_discounts_are_of_one_step(n_step: int) -> None:
    buffer, model = buffer_of(TEXT, n_step=n_step, gamma=0.5)
    sequence = all_starts(buffer, model, 5, "cross")[2]
    assert numbers(sequence.discounts) == [0.5, 0.0, 0.5, 0.5, 0.5]
    assert numbers(sequence.rewards) == [numbered(i).reward for i in range(2, 7)]


def test_sample_sequences_of_a_row_that_ends_at_once_are_one_row() -> None:
    buffer, model = buffer_of("ddd")
    for start, sequence in all_starts(buffer, model, 2, "pad", burn_in=2).items():
        assert sequence.indices.tolist() == [[start, -1, -1, -1]]
        assert numbers(sequence.is_first) == [1, 0, 0, 0]


def test_sample_sequences_of_length_one_are_single_steps() -> None:
    buffer, model = buffer_of(TEXT)
    for boundary in BOUNDARIES:
        sequences = all_starts(buffer, model, 1, boundary)
        assert sorted(sequences) == list(range(10))
        assert all(numbers(sequence.mask) == [1] for sequence in sequences.values())


# First steps


def test_sample_oldest_row_in_mid_episode_is_no_first_step() -> None:
    buffer, model = buffer_of("....d..", capacity=5)
    first = {s: numbers(x.is_first)[0] for s, x in all_starts(buffer, model, 1, "pad").items()}
    assert first == {2: 0, 3: 0, 4: 0, 5: 1, 6: 0}


@pytest.mark.parametrize("end", ["d", "t", "b"])
def test_sample_oldest_row_after_an_evicted_end_is_a_first_step(end: str) -> None:
    buffer, model = buffer_of(f".{end}...", capacity=3)
    first = {s: numbers(x.is_first)[0] for s, x in all_starts(buffer, model, 1, "pad").items()}
    assert first == {2: 1, 3: 0, 4: 0}


@pytest.mark.parametrize(("text", "is_first"), [("..d...", 1), ("......", 0), ("...d..", 0)])
def test_extend_by_more_than_fits_knows_the_end_before_what_stays(text: str, is_first: int) -> None:
    buffer = ReplayBuffer(3)
    buffer.extend(stack(pattern(text)))
    assert numbers(by_start(buffer.sample_sequences(3, 1))[3].is_first) == [is_first]


@pytest.mark.parametrize(("end", "is_first"), [("d", 1), ("t", 1), (".", 0)])
def test_extend_goes_on_in_the_episode_of_the_push_before(end: str, is_first: int) -> None:
    buffer, _ = buffer_of("." + end, capacity=9)
    buffer.extend(stack(pattern("..", 2)))
    sequences = by_start(buffer.sample_sequences(4, 1))
    assert [numbers(sequences[i].is_first)[0] for i in range(4)] == [1, 0, is_first, 0]


def test_push_to_each_lane_begins_an_episode_of_its_own() -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    buffer.extend(stack(pattern("d........")))
    batch = buffer.sample_sequences(9, 1)
    firsts = {int(batch.actions[i]): batch.is_first[i].item() for i in range(9)}
    assert firsts == {0: 1, 1: 1, 2: 1, 3: 1, 4: 0, 5: 0, 6: 0, 7: 0, 8: 0}


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
@pytest.mark.parametrize(("text", "is_first"), [("..d...", 1), ("......", 0)])
def test_copy_keeps_whether_the_oldest_row_is_a_first_step(
    text: str, is_first: int, copied: Callable[[Any], Any]
) -> None:
    buffer, _ = buffer_of(text, capacity=3)
    sequences = by_start(copied(buffer).sample_sequences(3, 1))
    assert numbers(sequences[3].is_first) == [is_first]


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
@pytest.mark.parametrize(("text", "is_first"), [("..d", 1), ("...", 0)])
def test_push_to_a_copy_goes_on_in_mid_episode(
    text: str, is_first: int, copied: Callable[[Any], Any]
) -> None:
    buffer, _ = buffer_of(text, capacity=3)
    again = copied(buffer)
    again.push(numbered(3))
    assert numbers(by_start(again.sample_sequences(3, 1))[3].is_first) == [is_first]


# Shapes


def test_sample_sequences_have_a_time_axis_after_the_batch() -> None:
    buffer = ReplayBuffer(30, seed=1)
    for i in range(30):
        image = torch.full((3, 4, 5), i, dtype=torch.uint8)
        buffer.push(Experience(image, torch.zeros(2), 0.0, image, False))
    batch = buffer.sample_sequences(6, 5, 2)
    assert batch.states.shape == batch.next_states.shape == (6, 7, 3, 4, 5)
    assert batch.states.dtype == torch.uint8
    assert batch.actions.shape == (6, 7, 2)
    assert batch.mask.shape == batch.is_first.shape == batch.rewards.shape == (6, 7, 1)
    assert batch.indices.shape == (6, 7)
    assert batch.weights is None
    assert len(batch) == 6


def test_sample_sequences_of_numbers_have_one_feature() -> None:
    buffer = ReplayBuffer(30)
    for i in range(30):
        buffer.push(Experience(i, i, i, i, False))
    batch = buffer.sample_sequences(6, 5)
    assert batch.states.shape == batch.actions.shape == (6, 5, 1)
    assert batch.states.dtype == torch.int64


def test_sample_sequences_tensors_are_contiguous_and_apart() -> None:
    buffer, _ = buffer_of(TEXT)
    batch = buffer.sample_sequences(5, 3, 1)
    parts = [part for part in vars(batch).values() if isinstance(part, torch.Tensor)]
    assert all(part.is_contiguous() for part in parts)
    spans = sorted((x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x in parts)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_write_into_sequences_leaves_buffer_and_padding_alone() -> None:
    buffer, model = buffer_of(TEXT)
    for _ in range(3):
        batch = buffer.sample_sequences(10, 4, 2)
        assert_sequences(batch, model, 4, 2)
        for part in vars(batch).values():
            if isinstance(part, torch.Tensor):
                part.fill_(7)
        del batch, part


def test_index_batch_of_sequences_gives_some_of_them() -> None:
    buffer, model = buffer_of(TEXT)
    batch = buffer.sample_sequences(8, 3)
    starts = assert_sequences(batch, model, 3)
    assert assert_sequences(batch[2:5], model, 3) == starts[2:5]


def test_sample_flat_batches_has_no_first_steps() -> None:
    buffer, _ = buffer_of(TEXT)
    assert buffer.sample(3).is_first is None
    assert buffer.sample(3).mask is None


# Recurrent states


def recurrent(make: Callable[..., Experience]) -> ReplayBuffer:
    buffer = ReplayBuffer(10, seed=1)
    for i, letter in enumerate(TEXT):
        buffer.push(make(i, done=letter == "d", truncated=letter == "t"))
    return buffer


@pytest.mark.parametrize("burn_in", [0, 2])
def test_sample_sequences_gives_the_hidden_state_of_time_zero(burn_in: int) -> None:
    batch = recurrent(policy).sample_sequences(10, 3, burn_in)
    first = batch.indices[:, 0].float()
    assert batch.extras["hidden"].shape == (10, 2, 2)
    assert torch.equal(batch.extras["hidden"], (first + 1).reshape(10, 1, 1).expand(10, 2, 2))
    assert batch.extras["log_prob"].shape == (10, 3 + burn_in, 1)


@pytest.mark.parametrize("burn_in", [0, 2])
def test_sample_sequences_gives_a_tuple_of_hidden_states_of_time_zero(burn_in: int) -> None:
    batch = recurrent(lstm).sample_sequences(10, 3, burn_in)
    first = batch.indices[:, 0].float().reshape(10, 1) + 1
    long, short = batch.extras["hidden"]
    assert torch.equal(long, first.expand(10, 4))
    assert torch.equal(short, -first.expand(10, 3))


@pytest.mark.parametrize("first_only", [(), ("log_prob",), ("log_prob", "hidden"), ("other",)])
def test_sample_sequences_gives_only_named_extras_of_time_zero(first_only: tuple[str, ...]) -> None:
    batch = recurrent(policy).sample_sequences(10, 3, 1, first_only=first_only)
    hidden, log_prob = batch.extras["hidden"], batch.extras["log_prob"]
    assert hidden.shape == ((10, 2, 2) if "hidden" in first_only else (10, 4, 2, 2))
    assert log_prob.shape == ((10, 1) if "log_prob" in first_only else (10, 4, 1))
    assert torch.equal(
        (hidden if "hidden" in first_only else hidden[:, 0])[:, 0, 0],
        batch.indices[:, 0].float() + 1,
    )


def test_sample_sequences_accepts_a_list_of_names() -> None:
    batch = recurrent(policy).sample_sequences(4, 3, first_only=["log_prob"])
    assert batch.extras["log_prob"].shape == (4, 1)


def test_sample_sequences_with_and_without_time_of_extras_draws_equally() -> None:
    left, right = recurrent(policy), recurrent(policy)
    first = left.sample_sequences(5, 3, 1)
    whole = right.sample_sequences(5, 3, 1, first_only=())
    assert torch.equal(first.indices, whole.indices)
    assert torch.equal(first.extras["hidden"], whole.extras["hidden"][:, 0])


# Rejected arguments


@pytest.mark.parametrize(
    ("boundary", "there"), [("pad", 10), ("within", 4), ("cross", 8)], ids=BOUNDARIES
)
def test_sample_more_sequences_than_starts_changes_nothing(boundary: Boundary, there: int) -> None:
    buffer, _ = buffer_of(TEXT)
    buffer.sample_sequences(there, 3, boundary=boundary)
    with unchanged(buffer), pytest.raises(ValueError, match=rf"batch_size: .*{there}.*{there + 1}"):
        buffer.sample_sequences(there + 1, 3, boundary=boundary)


def test_sample_sequences_where_none_fits_changes_nothing() -> None:
    buffer, _ = buffer_of("ddddd")
    with unchanged(buffer), pytest.raises(ValueError, match=r"batch_size: .*0.*1"):
        buffer.sample_sequences(1, 2, boundary="within")


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_sample_sequences_from_a_new_buffer_is_refused(boundary: Boundary) -> None:
    buffer = ReplayBuffer(5)
    with pytest.raises(ValueError, match=r"batch_size: .*0.*2"):
        buffer.sample_sequences(2, 2, boundary=boundary)


@pytest.mark.parametrize("batch_size", [0, -1, -(2**70)])
@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_sample_no_sequences_is_refused(started: bool, batch_size: int) -> None:
    buffer = buffer_of(TEXT)[0] if started else ReplayBuffer(10)
    with unchanged(buffer), pytest.raises(ValueError, match=rf"batch_size: .*{batch_size}"):
        buffer.sample_sequences(batch_size, 2)


@pytest.mark.parametrize("length", [0, -1, 11, 2**40, 2**70])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_sample_sequences_of_impossible_length_changes_nothing(
    boundary: Boundary, length: int
) -> None:
    buffer, _ = buffer_of(TEXT)
    with unchanged(buffer), pytest.raises(ValueError, match=rf"length: .*{length}"):
        buffer.sample_sequences(1, length, boundary=boundary)


def test_sample_sequences_longer_than_a_lane_names_what_a_lane_holds() -> None:
    buffer = ReplayBuffer(30, num_envs=3)
    buffer.extend(stack(pattern("." * 30)))
    with unchanged(buffer), pytest.raises(ValueError, match=r"length: .*10.*11"):
        buffer.sample_sequences(1, 11)


@pytest.mark.parametrize("burn_in", [-1, 11, -(2**70), 2**70])
def test_sample_sequences_with_impossible_burn_in_changes_nothing(burn_in: int) -> None:
    buffer, _ = buffer_of(TEXT)
    with unchanged(buffer), pytest.raises(ValueError, match=rf"burn_in: .*{burn_in}"):
        buffer.sample_sequences(1, 2, burn_in)


@pytest.mark.parametrize("boundary", ["", "Pad", "padded", "none"])
@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_sample_sequences_with_unknown_boundary_names_the_known(
    started: bool, boundary: Any
) -> None:
    buffer = buffer_of(TEXT)[0] if started else ReplayBuffer(10)
    with (
        unchanged(buffer),
        pytest.raises(ValueError, match=rf"boundary: .*pad.*within.*cross.*{boundary}"),
    ):
        buffer.sample_sequences(1, 2, boundary=boundary)


@pytest.mark.parametrize("value", [1.0, "1", None, True], ids=repr)
@pytest.mark.parametrize("name", ["batch_size", "length", "burn_in"])
def test_sample_sequences_with_numbers_that_are_no_ints_changes_nothing(
    name: str, value: Any
) -> None:
    buffer, _ = buffer_of(TEXT)
    options = {"batch_size": 1, "length": 2, "burn_in": 0} | {name: value}
    with unchanged(buffer), pytest.raises(TypeError, match=name):
        buffer.sample_sequences(**options)


@pytest.mark.parametrize("boundary", [None, 1, b"pad"], ids=repr)
def test_sample_sequences_with_boundary_that_is_no_text_is_refused(boundary: Any) -> None:
    buffer, _ = buffer_of(TEXT)
    with unchanged(buffer), pytest.raises((TypeError, ValueError), match="boundary"):
        buffer.sample_sequences(1, 2, boundary=boundary)


@pytest.mark.parametrize("first_only", ["hidden", 3, None, (3,)], ids=repr)
def test_sample_sequences_with_names_that_are_none_is_a_type_error(first_only: Any) -> None:
    # A string is a sequence of letters, which is never meant.
    buffer = recurrent(policy)
    with unchanged(buffer), pytest.raises(TypeError, match="first_only"):
        buffer.sample_sequences(1, 2, first_only=first_only)


def test_sample_sequences_that_fit_no_machine_changes_nothing() -> None:
    count = 2**20
    buffer = ReplayBuffer(count, seed=1)
    column = torch.zeros(count, 1)
    buffer.extend(BatchExperience(column, column, column, column, column))
    other = COPIES["copy"](buffer)
    with pytest.raises(MemoryError, match="bytes"):
        buffer.sample_sequences(count, count, count)
    assert_same_bits(buffer.sample(3), other.sample(3))


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_extend_with_sequences_changes_nothing(started: bool) -> None:
    sequences = buffer_of(TEXT)[0].sample_sequences(4, 3)
    buffer = buffer_of(TEXT)[0] if started else ReplayBuffer(10)
    with unchanged(buffer), pytest.raises(ValueError, match=r"batch\.indices: .*mask=None"):
        buffer.extend(sequences)


def test_sample_sequences_after_errors_continues_the_sequence_of_draws() -> None:
    left, _ = buffer_of(TEXT)
    right, _ = buffer_of(TEXT)
    for options in ({"length": 11}, {"batch_size": 11}, {"burn_in": -1}, {"boundary": "x"}):
        with pytest.raises(ValueError, match="expected"):
            left.sample_sequences(**({"batch_size": 1, "length": 2} | options))
    assert_same_bits(left.sample_sequences(4, 2), right.sample_sequences(4, 2))


def test_sample_sequences_of_numpy_ints_counts_as_int() -> None:
    buffer, _ = buffer_of(TEXT)
    batch = buffer.sample_sequences(np.int64(2), np.uint8(3), torch.tensor(1))  # type: ignore[arg-type]
    assert batch.states.shape == (2, 4, 3)


# The oracle's own answers


def test_ask_the_oracle_for_a_window_gives_what_was_worked_out_by_hand() -> None:
    model: Model = LanesModel(10, 1)
    model.extend(pattern(TEXT))
    (lane,) = model.lanes
    assert lane.window(5, 3, 2, "pad") == range(4, 7)
    assert lane.window(5, 3, 2, "cross") == range(3, 8)
    assert lane.window(8, 3, 9, "within") == range(7, 10)
    assert [serial for _, serial in model.starts(3, "within")] == [0, 1, 4, 7]
    assert [s for s in range(10) if lane.is_first(s)] == [0, 4, 7]


def test_hold_a_wrong_sequence_against_the_oracle_is_told_apart() -> None:
    buffer, model = buffer_of(TEXT)
    batch = buffer.sample_sequences(10, 3)
    for name in ("states", "mask", "is_first", "rewards", "discounts"):
        wrong = getattr(batch, name).clone()
        wrong[4] = 1 - wrong[4]
        with pytest.raises((AssertionError, ValueError)):
            assert_sequences(replace(batch, **{name: wrong}), model, 3)
