"""Several environments in one buffer: a lane for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import AnyBuffer, Meddler, assert_rows, assert_same_future, stack, stamped, unchanged
from reference_time import LanesModel
from streams import (
    Environment,
    Model,
    Plain,
    actions,
    assert_flat,
    assert_same_bits,
    ids_of,
    mixed_frame,
    numbered,
    pattern,
    policy_step,
    record,
    steps,
    unequal,
)

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

KINDS = [ReplayBuffer, RolloutBuffer]


def lanes_of(buffer: ReplayBuffer) -> dict[int, list[int]]:
    """Returns the contents of each lane, oldest first, read from the indices of all rows."""
    found: dict[int, list[tuple[int, int]]] = {}
    batch = buffer.sample(len(buffer))
    for (lane, serial), action in zip(ids_of(batch), batch.actions.flatten().tolist(), strict=True):
        found.setdefault(lane, []).append((serial, int(action)))
    return {lane: [action for _, action in sorted(found[lane])] for lane in sorted(found)}


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
    with unchanged(buffer), pytest.raises(ValueError, match=r"^actions: .*fraction"):
        buffer.extend(bad, lanes=lanes)


def test_extend_whose_lanes_free_the_rows_changes_nothing() -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    buffer.extend(stack(steps(*range(15))))
    batch = stack(steps(20, 21))
    states = batch.states
    meddler = Meddler(lambda: states.untyped_storage().resize_(0), torch.tensor([2, 0]))
    with unchanged(buffer), pytest.raises(ValueError, match=r"^states: "):
        buffer.extend(batch, lanes=meddler)


def test_extend_whose_lanes_extend_stores_both_whole() -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    buffer.extend(stack(steps(0, 1, 2)))
    inner, outer = stack(steps(3, 4, 5)), stack(steps(6, 7))
    buffer.extend(outer, lanes=Meddler(lambda: buffer.extend(inner), torch.tensor([2, 0])))
    assert lanes_of(buffer) == {0: [0, 3, 7], 1: [1, 4], 2: [2, 5, 6]}


def test_extend_rollout_whose_lanes_fill_it_stores_only_the_inner() -> None:
    buffer = RolloutBuffer(6, num_envs=3)
    buffer.extend(stack(steps(0, 1, 2)))
    inner, outer = stack(steps(3, 4, 5)), stack(steps(6, 7))
    with pytest.raises(BufferError, match=r"empty\(\)"):
        buffer.extend(outer, lanes=Meddler(lambda: buffer.extend(inner), torch.tensor([2, 0])))
    assert actions(buffer) == [0, 1, 2, 3, 4, 5]


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


@pytest.mark.parametrize("index", [24, -25, 2**40])
def test_index_out_of_range_of_all_lanes_raises(index: int) -> None:
    buffer, _ = unequal()
    with pytest.raises(IndexError, match=rf"24.*{index}"):
        buffer[index]


def test_search_lanes_finds_what_is_there() -> None:
    buffer, model = unequal()
    rows = model.rows()
    assert [buffer.index(numbered(int(row.action))) for row in rows] == list(range(24))
    assert numbered(0) not in buffer


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


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("terminations", "dones"),
        ("truncation", "truncations"),
        ("lane", "lanes"),
        ("obs", "states"),
    ],
)
def test_extend_with_a_mistaken_name_says_which_was_meant(name: str, meant: str) -> None:
    batch = stack([stamped(0), stamped(1)])
    names = ("states", "actions", "rewards", "next_states", "dones")
    parts = {part: getattr(batch, part) for part in names}
    buffer = ReplayBuffer(4)
    with pytest.raises(ValueError, match=f"^{name}: expected {meant}"):
        buffer.extend(**parts, **{name: torch.zeros(2)})
    assert len(buffer) == 0


def test_extend_first_by_time_and_environment_says_that_rows_are_flat() -> None:
    buffer = ReplayBuffer(12, num_envs=3)
    with pytest.raises(ValueError, match=r"^rewards: expected \(rows,\).*shape \(2, 3\)"):
        buffer.extend(
            states=torch.zeros(2, 3, 4),
            actions=torch.zeros(2, 3),
            rewards=torch.zeros(2, 3),
            next_states=torch.zeros(2, 3, 4),
            dones=torch.zeros(2, 3),
        )
