"""Several environments in one buffer: a lane for each, and what is drawn from all of them."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from helpers import AnyBuffer, assert_rows, assert_same_future, stack, unchanged
from reference_time import LanesModel
from streams import (
    COPIES,
    Environment,
    Model,
    Plain,
    assert_flat,
    assert_same_bits,
    assert_uniform,
    episode,
    ids_of,
    mixed_frame,
    numbered,
    pack,
    pattern,
    policy_step,
    record,
)

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

KINDS = [ReplayBuffer, RolloutBuffer]


def steps(*stamps: int) -> list[Experience]:
    return [numbered(i) for i in stamps]


def actions(buffer: AnyBuffer) -> list[int]:
    return [int(experience.action) for experience in buffer]


def lanes_of(buffer: ReplayBuffer) -> dict[int, list[int]]:
    """What each lane holds, oldest first, read from the indices of all rows."""
    found: dict[int, list[tuple[int, int]]] = {}
    batch = buffer.sample(len(buffer))
    for (lane, serial), action in zip(ids_of(batch), batch.actions.flatten().tolist(), strict=True):
        found.setdefault(lane, []).append((serial, int(action)))
    return {lane: [action for _, action in sorted(found[lane])] for lane in sorted(found)}


def unequal(seed: int = 0) -> tuple[ReplayBuffer, Model]:
    """Five lanes of ten: full and wrapped, of three rows, empty, of one, full."""
    buffer = ReplayBuffer(50, num_envs=5, seed=seed)
    model: Model = LanesModel(50, 5)
    stamps = itertools.count()
    for lane, count in enumerate([23, 3, 0, 1, 10]):
        for i in itertools.islice(stamps, count):
            buffer.push(numbered(i), lane=lane)
            model.push(numbered(i), lane)
    return buffer, model


# How many lanes, and how long


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("capacity", "num_envs", "fits"),
    [
        (10, 1, 10),
        (10, 2, 10),
        (10, 3, 9),
        (10, 6, 6),
        (10, 10, 10),
        (1, 1, 1),
        (65_537, 256, 65_536),
    ],
)
def test_construct_with_several_environments_rounds_capacity_down(
    kind: type[AnyBuffer], capacity: int, num_envs: int, fits: int
) -> None:
    buffer = kind(capacity, num_envs=num_envs)
    assert buffer.capacity == fits
    assert buffer.num_envs == num_envs
    assert len(buffer) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_construct_without_number_of_environments_has_one(kind: type[AnyBuffer]) -> None:
    assert kind(10).num_envs == 1


@pytest.mark.parametrize("kind", KINDS)
def test_construct_with_fewer_rows_than_environments_is_refused(kind: type[AnyBuffer]) -> None:
    with pytest.raises(ValueError, match=r"capacity: .*4.*3"):
        kind(3, num_envs=4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_envs", [0, -1, 65_537, 2**70])
def test_construct_with_impossible_number_of_environments_is_refused(
    kind: type[AnyBuffer], num_envs: int
) -> None:
    with pytest.raises(ValueError, match=rf"num_envs: .*{num_envs}"):
        kind(2**20, num_envs=num_envs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_envs", [True, 1.0, "2", None])
def test_construct_with_environments_that_are_no_int_is_a_type_error(
    kind: type[AnyBuffer], num_envs: Any
) -> None:
    with pytest.raises(TypeError, match="num_envs"):
        kind(8, num_envs=num_envs)


@pytest.mark.parametrize("num_envs", [np.int64(2), torch.tensor(2)], ids=["numpy", "torch"])
def test_construct_with_environments_of_a_library_counts_as_int(num_envs: Any) -> None:
    assert ReplayBuffer(8, num_envs=num_envs).num_envs == 2


def test_fill_lanes_holds_capacity_and_no_more() -> None:
    buffer = ReplayBuffer(11, num_envs=3)
    for count in range(1, 8):
        buffer.extend(stack(steps(*range(3 * count, 3 * count + 3))))
        assert len(buffer) == min(3 * count, 9)


# push(lane=)


@pytest.mark.parametrize("kind", KINDS)
def test_push_to_lanes_stores_each_in_its_own(kind: type[AnyBuffer]) -> None:
    buffer = kind(6, num_envs=2)
    for i, lane in enumerate([1, 1, 0, 1, 0]):
        buffer.push(numbered(i), lane=lane)
    # Oldest of each lane first: lane 0 has 2, 4 and lane 1 has 0, 1, 3.
    assert actions(buffer) == [2, 0, 4, 1, 3]


def test_push_to_full_lane_evicts_its_oldest_and_no_other() -> None:
    buffer = ReplayBuffer(6, num_envs=2)
    buffer.push(numbered(0), lane=1)
    for i in range(1, 8):
        buffer.push(numbered(i), lane=0)
    assert lanes_of(buffer) == {0: [5, 6, 7], 1: [0]}


@pytest.mark.parametrize("lane", [0, 1], ids=["zero", "one"])
def test_push_into_lanes_of_one_row_keeps_the_newest_of_each(lane: int) -> None:
    buffer = ReplayBuffer(3, num_envs=2)
    for i in range(5):
        buffer.push(numbered(i), lane=lane)
    buffer.push(numbered(5), lane=1 - lane)
    assert lanes_of(buffer) == {lane: [4], 1 - lane: [5]}


@pytest.mark.parametrize("lane", [np.int64(1), np.uint8(1), torch.tensor(1)], ids=repr)
def test_push_to_lane_of_a_library_counts_as_int(lane: Any) -> None:
    buffer = ReplayBuffer(4, num_envs=2)
    buffer.push(numbered(3), lane=lane)
    buffer.push(numbered(4), lane=lane)
    assert lanes_of(buffer) == {1: [3, 4]}


@pytest.mark.parametrize("lane", [0, None])
def test_push_with_one_environment_may_name_the_lane(lane: int | None) -> None:
    buffer = ReplayBuffer(4)
    buffer.push(numbered(3), lane=lane)
    buffer.push(numbered(4), lane=lane)
    assert actions(buffer) == [3, 4]


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize("kind", KINDS)
def test_push_without_lane_to_several_changes_nothing(kind: type[AnyBuffer], started: bool) -> None:
    buffer = kind(6, num_envs=2)
    if started:
        buffer.push(numbered(0), lane=1)
    with unchanged(buffer), pytest.raises(ValueError, match="lane"):
        buffer.push(numbered(1))
    with unchanged(buffer), pytest.raises(ValueError, match="lane"):
        buffer.push(numbered(1), lane=None)


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("lane", [-1, 2, 65_536, 2**32, 2**64, -(2**70)])
def test_push_to_lane_that_is_none_changes_nothing(started: bool, num_envs: int, lane: int) -> None:
    buffer = ReplayBuffer(6, num_envs=num_envs)
    if started:
        buffer.push(numbered(0), lane=0)
    with unchanged(buffer), pytest.raises(ValueError, match=rf"lane: .*{lane}"):
        buffer.push(numbered(1), lane=lane)
    buffer.push(numbered(2), lane=0)
    assert len(buffer) == 1 + started


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize("lane", ["0", 1.0, True, (0,)], ids=repr)
def test_push_to_lane_that_is_no_int_changes_nothing(started: bool, lane: Any) -> None:
    buffer = ReplayBuffer(6, num_envs=2)
    if started:
        buffer.push(numbered(0), lane=0)
    with unchanged(buffer), pytest.raises(TypeError, match="lane"):
        buffer.push(numbered(1), lane=lane)


@pytest.mark.parametrize("lane", [0, 1])
def test_push_bad_value_to_lane_changes_nothing(lane: int) -> None:
    buffer = ReplayBuffer(6, num_envs=2)
    for i in range(8):
        buffer.push(numbered(i), lane=i % 2)
    with unchanged(buffer), pytest.raises(ValueError, match="state"):
        buffer.push(replace(numbered(9), next_state=torch.zeros(4)), lane=lane)
    assert lanes_of(buffer) == {0: [2, 4, 6], 1: [3, 5, 7]}


def test_push_of_a_bad_first_value_fixes_no_schema() -> None:
    buffer = ReplayBuffer(6, num_envs=2)
    with pytest.raises(ValueError, match="lane"):
        buffer.push(numbered(1), lane=5)
    buffer.push(Experience(torch.zeros(9), 0.5, 0.0, torch.zeros(9), False), lane=1)
    assert buffer.sample(1).states.shape == (1, 9)


# extend


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_extend_with_rows_for_each_environment_is_time_major(kind: type[AnyBuffer], k: int) -> None:
    pushed, extended = kind(12, num_envs=3), kind(12, num_envs=3)
    if kind is ReplayBuffer:
        pushed, extended = (ReplayBuffer(12, num_envs=3, seed=4) for _ in range(2))
    for i in range(3 * k):
        pushed.push(numbered(i), lane=i % 3)
    extended.extend(stack(steps(*range(3 * k))))
    assert actions(extended) == list(range(3 * k))
    assert_same_future(extended, pushed)


@pytest.mark.parametrize("rows", [3, 4, 5, 9, 10, 23])
@pytest.mark.parametrize("before", [0, 1, 4, 7])
def test_extend_by_more_than_fits_keeps_the_newest_of_each_lane(before: int, rows: int) -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    for i in range(before):
        buffer.push(numbered(1000 + i), lane=1)
    buffer.extend(stack(steps(*range(3 * rows))))
    expected = {lane: list(range(lane, 3 * rows, 3))[-4:] for lane in range(3)}
    expected[1] = [*range(1000, 1000 + before), *range(1, 3 * rows, 3)][-4:]
    assert lanes_of(buffer) == expected
    for i, lane in enumerate([0, 1, 2, 0]):
        buffer.push(numbered(2000 + i), lane=lane)
        expected[lane] = [*expected[lane], 2000 + i][-4:]
        assert lanes_of(buffer) == expected


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 301])
def test_extend_by_rows_that_do_not_go_round_changes_nothing(started: bool, rows: int) -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    if started:
        buffer.extend(stack(steps(*range(15))))
    with unchanged(buffer), pytest.raises(ValueError, match=rf"3.*{rows}|{rows}.*3"):
        buffer.extend(stack(steps(*range(rows))))


LANE_LISTS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "range": lambda lanes: range(lanes[0], lanes[-1] + 1) if lanes == [0, 1, 2] else lanes,
    "int64": np.array,
    "int32": lambda lanes: np.array(lanes, dtype=np.int32),
    "uint8": lambda lanes: np.array(lanes, dtype=np.uint8),
    "torch": torch.tensor,
    "strided": lambda lanes: np.repeat(np.array(lanes), 2)[::2],
}


@pytest.mark.parametrize("form", LANE_LISTS.values(), ids=list(LANE_LISTS))
@pytest.mark.parametrize(
    "lanes", [[0, 1, 2], [2, 2, 0, 2], [1], [1] * 9, [2, 1, 0, 0, 0, 1]], ids=str
)
def test_extend_with_lanes_sends_each_row_to_its_own(
    lanes: list[int], form: Callable[[list[int]], Any]
) -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    buffer.extend(stack(steps(*range(len(lanes)))), lanes=form(lanes))
    expected: dict[int, list[int]] = {}
    for i, lane in enumerate(lanes):
        expected[lane] = [*expected.get(lane, []), i][-4:]
    assert lanes_of(buffer) == dict(sorted(expected.items()))


def test_extend_with_lanes_after_wrap_goes_on_in_each_lane() -> None:
    recording = record(20, 4)
    for lanes in ([0] * 7, [1, 3, 1], [3] * 12, [0, 1, 2, 3], [2] * 4 + [1] * 6, [0, 3, 0, 3] * 6):
        recording.extend_lanes(lanes)
        (buffer,) = recording.buffers
        assert_flat(buffer.sample(len(buffer)), recording.model)
        assert_rows(stack(list(buffer)), recording.model.rows())


def test_extend_with_lanes_of_one_environment_stores_in_order() -> None:
    buffer = ReplayBuffer(5)
    buffer.extend(stack(steps(0, 1, 2)), lanes=[0, 0, 0])
    assert actions(buffer) == [0, 1, 2]


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize(
    "lanes",
    [
        [0, 1],
        [0, 1, 2, 0],
        [],
        [0, 1, 3],
        [0, -1, 1],
        [0, 2**40, 1],
        np.array([0, 1, 2**32]),
        np.array([0, 1, 2**63], dtype=np.uint64),
        [0, 1, 2**70],
        np.array([[0, 1, 2]]),
        np.array(1),
    ],
    ids=repr,
)
def test_extend_with_lanes_that_do_not_fit_changes_nothing(started: bool, lanes: Any) -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    if started:
        buffer.extend(stack(steps(*range(15))))
    with unchanged(buffer), pytest.raises(ValueError, match="lanes"):
        buffer.extend(stack(steps(0, 1, 2)), lanes=lanes)


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize(
    "lanes",
    ["012", 1, [0.0, 1.0, 2.0], [0, "1", 2], np.zeros(3), np.zeros(3, dtype=bool), {0, 1, 2}],
    ids=repr,
)
def test_extend_with_lanes_that_are_no_ints_changes_nothing(started: bool, lanes: Any) -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    if started:
        buffer.extend(stack(steps(*range(15))))
    with unchanged(buffer), pytest.raises((TypeError, ValueError), match="lanes"):
        buffer.extend(stack(steps(0, 1, 2)), lanes=lanes)


@pytest.mark.parametrize("lanes", [None, [0, 0, 1, 2, 1, 2]], ids=["all", "some"])
def test_extend_a_late_bad_row_changes_no_lane(lanes: list[int] | None) -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    buffer.extend(stack(steps(*range(15))))
    bad = stack(steps(*range(6)))
    bad.actions = bad.actions.double()
    bad.actions[5] = 0.5
    with unchanged(buffer), pytest.raises(ValueError, match=r"action: .*fraction"):
        buffer.extend(bad, lanes=lanes)


# extend by keyword


def columns(batch: BatchExperience) -> dict[str, Any]:
    names = ("states", "actions", "rewards", "next_states", "dones", "truncations")
    return {name: getattr(batch, name) for name in names} | batch.extras


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize("kind", KINDS)
def test_extend_by_keywords_equals_extend_by_batch(kind: type[AnyBuffer], started: bool) -> None:
    made = [policy_step(numbered(i), torch.full((2,), float(i))) for i in range(6)]
    left, right = kind(12, num_envs=3), kind(12, num_envs=3)
    for buffer in (left, right) if started else ():
        buffer.extend(stack(made[:3]))
    left.extend(stack(made))
    right.extend(**columns(stack(made)))
    for got, expected in zip(left, right, strict=True):
        assert_same_bits(got, expected)


def test_extend_by_keywords_with_lanes_sends_each_row_to_its_own() -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    buffer.extend(lanes=[2, 0, 2], **columns(stack(steps(5, 6, 7))))
    assert lanes_of(buffer) == {0: [6], 2: [5, 7]}


def test_extend_by_keywords_without_truncations_means_never() -> None:
    buffer = ReplayBuffer(4, num_envs=2)
    parts = columns(stack(pattern("tt")))
    del parts["truncations"]
    buffer.extend(**parts)
    assert buffer.sample(2).truncations.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("name", ["states", "actions", "rewards", "next_states", "dones"])
@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_extend_by_keywords_without_a_part_changes_nothing(started: bool, name: str) -> None:
    buffer = ReplayBuffer(8, num_envs=2)
    if started:
        buffer.extend(stack(steps(0, 1)))
    parts = columns(stack(steps(2, 3)))
    del parts[name]
    with unchanged(buffer), pytest.raises((TypeError, ValueError), match=name.removesuffix("s")):
        buffer.extend(**parts)


def test_extend_by_unknown_keyword_changes_nothing() -> None:
    buffer = ReplayBuffer(8, num_envs=2)
    buffer.extend(stack(steps(0, 1)))
    with unchanged(buffer), pytest.raises((TypeError, ValueError), match="log_prob"):
        buffer.extend(**columns(stack(steps(2, 3))), log_prob=torch.zeros(2))


def test_extend_by_batch_and_keywords_at_once_changes_nothing() -> None:
    buffer = ReplayBuffer(8, num_envs=2)
    buffer.extend(stack(steps(0, 1)))
    batch = stack(steps(2, 3))
    with unchanged(buffer), pytest.raises((TypeError, ValueError)):
        buffer.extend(batch, states=batch.states)


def test_extend_by_nothing_changes_nothing() -> None:
    buffer = ReplayBuffer(8, num_envs=2)
    buffer.extend(stack(steps(0, 1)))
    with unchanged(buffer), pytest.raises((TypeError, ValueError)):
        buffer.extend()


# A sequence of experiences


def test_index_unequal_lanes_goes_by_rank_then_lane() -> None:
    buffer, model = unequal()
    expected = [row.action for row in model.rows()]
    assert expected[:5] == [13, 23, 26, 27, 14]  # the oldest of lanes 0, 1, 3, 4, the next of 0
    assert actions(buffer) == expected
    assert [buffer[i].action for i in range(-len(buffer), 0)] == expected
    assert [x.action for x in buffer[3:20:4]] == expected[3:20:4]
    assert [x.action for x in reversed(buffer)] == expected[::-1]


def test_index_evenly_filled_lanes_is_time_major() -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    buffer.extend(stack(steps(*range(18))))
    assert actions(buffer) == list(range(6, 18))


@pytest.mark.parametrize("place", [24, -25, 2**40])
def test_index_out_of_range_of_all_lanes_raises(place: int) -> None:
    buffer, _ = unequal()
    with pytest.raises(IndexError, match=rf"24.*{place}"):
        buffer[place]


def test_search_lanes_finds_what_is_there() -> None:
    buffer, model = unequal()
    rows = model.rows()
    assert [buffer.index(numbered(int(row.action))) for row in rows] == list(range(24))
    assert numbered(0) not in buffer


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
    for place in {0, count // 2, count - 1}:
        assert_uniform((batch[place] for batch in batches), 24)


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
        places = reference.draw_distinct(28, number, 6, 10)
        assert buffer.sample(6).indices.tolist() == [7 + place for place in places]


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


# Nested observations


@pytest.mark.parametrize("way", ["push", "extend", "lanes"])
def test_store_nested_observations_in_lanes_keeps_them(way: str) -> None:
    recording = record(12, 3, make=lambda random: Environment(random, mixed_frame))
    for _ in range(9):
        if way == "push":
            recording.push(recording.count % 3)
        elif way == "extend":
            recording.extend(2)
        else:
            recording.extend_lanes([2, 0, 2, 2])
        (buffer,) = recording.buffers
        assert_flat(buffer.sample(len(buffer)), recording.model)
        for got, expected in zip(buffer, recording.model.rows(), strict=True):
            assert_same_bits(got.next_state, expected.next_state)


# Rollouts


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
    assert batch.indices is None


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


# The model itself


def test_ask_the_model_for_evicted_rows_it_has_them_no_more() -> None:
    model: Model = LanesModel(10, 1)
    model.extend(steps(*range(12)))
    assert [row.action for row in model.rows()] == list(range(2, 12))
    assert [serial % 10 for _, serial in model.alive()][-2:] == [0, 1]


def test_play_a_recording_uses_every_lane_and_call() -> None:
    class Spy(ReplayBuffer):
        def push(self, experience: Any, lane: int | None = None) -> None:
            calls["push"] += 1
            super().push(experience, lane=lane)

        def extend(self, *args: Any, **options: Any) -> None:
            calls["lanes" if "lanes" in options else "extend"] += 1
            super().extend(*args, **options)

    calls: Counter[str] = Counter()
    recording = record(22, 4)
    recording.buffers = [Spy(22, num_envs=4)]
    recording.play(Plain(recording.environments[0].random).random, 60)
    assert min(calls.values()) > 2
    assert len(calls) == 3
    assert recording.model.room() == [0] * 4
