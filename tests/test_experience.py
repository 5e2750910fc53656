"""The dataclasses: what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PolicyExperience, stamped, step
from torch.utils.data import DataLoader, default_collate

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer


def batch_of(count: int) -> BatchExperience:
    column = torch.arange(float(count)).reshape(count, 1)
    return BatchExperience(
        states={"camera": column.expand(count, 3), "pose": (column,)},
        actions=column.long(),
        rewards=column,
        next_states={"camera": column.expand(count, 3), "pose": (column,)},
        dones=torch.zeros(count, 1),
        indices=torch.arange(count),
        extras={"log_prob": column},
    )


def test_iterate_experience_gives_five_values() -> None:
    state, next_state = torch.zeros(2), torch.ones(2)
    values = list(Experience(state, 1.0, 2.0, next_state, True, truncated=True))
    assert values[0] is state
    assert values[1:3] == [1.0, 2.0]
    assert values[3] is next_state
    assert values[4] is True
    assert len(values) == 5


def test_iterate_subclass_gives_the_same_five_values() -> None:
    experience = PolicyExperience(
        torch.zeros(2), 1.0, 2.0, torch.ones(2), False, 0.5, torch.ones(3)
    )
    assert len(list(experience)) == 5


def test_iterate_experience_twice_starts_over() -> None:
    experience = step(action=3.0)
    assert [*experience][1] == [*experience][1] == 3.0


def test_construct_with_sixth_positional_value_is_refused() -> None:
    with pytest.raises(TypeError):
        Experience(torch.zeros(1), 0.0, 0.0, torch.zeros(1), False, True)  # type: ignore[misc]


def test_construct_without_truncated_is_not_truncated() -> None:
    assert Experience(0.0, 0.0, 0.0, 0.0, False).truncated is False


def test_fields_are_the_documented_ones_in_order() -> None:
    assert [item.name for item in fields(Experience)] == [
        "state",
        "action",
        "reward",
        "next_state",
        "done",
        "truncated",
    ]


def test_batch_fields_begin_with_the_documented_ones() -> None:
    assert [item.name for item in fields(BatchExperience)] == [
        "states",
        "actions",
        "rewards",
        "next_states",
        "dones",
        "truncations",
        "indices",
        "weights",
        "discounts",
        "mask",
        "is_first",
        "steps",
        "source",
        "extras",
    ]


def test_compare_experiences_of_equal_tensors_are_equal() -> None:
    assert stamped(3) == stamped(3)


@pytest.mark.parametrize(
    "change",
    [
        {"state": torch.full((4,), 9.0)},
        {"state": torch.full((1, 4), 3.0)},
        {"state": torch.full((5,), 3.0)},
        {"action": 9},
        {"reward": 9.0},
        {"next_state": torch.zeros(4)},
        {"done": False},
        {"truncated": True},
    ],
    ids=lambda change: str(next(iter(change))),
)
def test_compare_experiences_that_differ_in_one_field_are_unequal(change: dict[str, Any]) -> None:
    assert replace(stamped(3), **change) != stamped(3)


@pytest.mark.parametrize("other", [None, "x", b"x"])
@pytest.mark.parametrize("value", [torch.tensor(1.0), np.float32(1.0), np.ones(()), torch.ones(1)])
def test_compare_number_with_something_else_is_unequal(value: Any, other: Any) -> None:
    assert step(action=value) != step(action=other)
    assert step(action=other) != step(action=value)


def test_compare_nested_observations_compares_their_leaves() -> None:
    left = step(state={"a": torch.zeros(2), "b": (torch.ones(1), np.zeros(3))})
    same = step(state={"b": (torch.ones(1), np.zeros(3)), "a": torch.zeros(2)})
    other = step(state={"a": torch.zeros(2), "b": (torch.ones(1), np.ones(3))})
    assert left == same
    assert left != other


def test_compare_dict_with_other_keys_is_unequal() -> None:
    assert step(state={"a": torch.zeros(2)}) != step(state={"b": torch.zeros(2)})


def test_compare_with_another_type_is_unequal() -> None:
    assert step() != 3
    assert step() != PolicyExperience(*step(), 0.0, torch.zeros(1))


def test_compare_subclass_made_by_plain_dataclass_compares_tensors() -> None:
    left = PolicyExperience(*stamped(1), 0.5, torch.ones(3))
    right = PolicyExperience(*stamped(1), 0.5, torch.ones(3))
    assert left == right
    assert left != replace(right, hidden=torch.zeros(3))


def test_hash_experience_is_refused() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(step())


@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
def test_push_subclass_puts_its_fields_into_extras(kind: Any) -> None:
    buffer = kind(3)
    for i in range(3):
        hidden = torch.full((2, 5), float(i))
        buffer.push(PolicyExperience(*stamped(i), log_prob=i / 4, hidden=hidden))
    batch = buffer.sample(3) if kind is ReplayBuffer else buffer.sample()
    rows = batch.actions.float()
    assert torch.equal(batch.extras["log_prob"], rows / 4)
    assert torch.equal(batch.extras["hidden"], rows.reshape(3, 1, 1).expand(3, 2, 5))
    assert list(batch.extras) == ["log_prob", "hidden"]


def test_index_buffer_of_subclass_gives_the_subclass_back() -> None:
    buffer = ReplayBuffer(2)
    pushed = PolicyExperience(*stamped(1), log_prob=0.5, hidden=torch.ones(2, 5))
    buffer.push(pushed)
    assert buffer[0] == PolicyExperience(*stamped(1), 0.5, torch.ones(2, 5))
    assert type(buffer[0].log_prob) is float


@dataclass
class DefaultedExperience(Experience):
    """Subclass fields of every making: a default, a factory, one that no caller gives."""

    weight: float = 2.0
    goal: torch.Tensor = field(default_factory=lambda: torch.arange(2.0))
    length: int = field(init=False, default=7)


def test_push_subclass_with_default_fields_stores_them() -> None:
    buffer = RolloutBuffer(2)
    buffer.push(DefaultedExperience(*stamped(0)))
    other = DefaultedExperience(*stamped(1), goal=torch.ones(2))
    other.length = 9
    buffer.push(other)
    extras = buffer.sample().extras
    assert extras["weight"].tolist() == [[2.0], [2.0]]
    assert extras["goal"].tolist() == [[0.0, 1.0], [1.0, 1.0]]
    assert extras["length"].tolist() == [[7], [9]]


def test_index_buffer_restores_field_outside_init() -> None:
    buffer = RolloutBuffer(1)
    pushed = DefaultedExperience(*stamped(0))
    pushed.length = 9
    buffer.push(pushed)
    assert buffer[0].length == 9


@dataclass(eq=False)
class ForeignStep:
    """Has the documented fields, and is no Experience."""

    state: float
    action: float
    reward: float
    next_state: float
    done: bool


def test_push_dataclass_with_the_same_fields_is_accepted() -> None:
    buffer = RolloutBuffer(1)
    buffer.push(ForeignStep(1.0, 2.0, 3.0, 4.0, True))
    batch = buffer.sample()
    assert batch.truncations.tolist() == [[0.0]]
    assert batch.next_states.tolist() == [[4.0]]
    assert type(buffer[0]) is ForeignStep


@dataclass(frozen=True, eq=False)
class FrozenStep:
    """Cannot be written to, not even by a buffer that builds it."""

    state: float
    action: float
    reward: float
    next_state: float
    done: bool
    step: int = field(init=False, default=3)


def test_index_buffer_of_frozen_dataclass_gives_it_back() -> None:
    buffer = RolloutBuffer(1)
    buffer.push(FrozenStep(1.0, 2.0, 3.0, 4.0, True))
    assert (buffer[0].action, buffer[0].step) == (2.0, 3)


def test_measure_batch_gives_number_of_rows() -> None:
    assert len(batch_of(5)) == 5


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, [0]),
        (-1, [3]),
        (np.int64(2), [2]),
        (torch.tensor(2), [2]),
        (np.array(2), [2]),
        (np.array(-1), [3]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        (slice(4, 9), []),
        ([3, 0, 0], [3, 0, 0]),
        (torch.tensor([2, 1]), [2, 1]),
        (torch.tensor([True, False, False, True]), [0, 3]),
        (np.array([2, 1]), [2, 1]),
    ],
    ids=str,
)
def test_index_batch_gives_a_batch_of_these_rows(index: Any, expected: list[int]) -> None:
    part = batch_of(4)[index]
    assert len(part) == len(expected)
    assert part.actions.tolist() == [[i] for i in expected]
    assert part.states["camera"].tolist() == [[i, i, i] for i in expected]
    assert part.next_states["pose"][0].tolist() == [[i] for i in expected]
    assert part.extras["log_prob"].tolist() == [[i] for i in expected]
    assert part.indices.tolist() == expected


def test_index_batch_leaves_absent_parts_absent() -> None:
    part = batch_of(4)[:2]
    assert part.weights is None
    assert part.mask is None
    assert part.truncations is None


@pytest.mark.parametrize("index", [4, -5, torch.tensor([4]), [9], np.int64(4)], ids=str)
def test_index_batch_out_of_range_raises(index: Any) -> None:
    with pytest.raises(IndexError):
        batch_of(4)[index]


def test_index_batch_out_of_range_names_both_numbers() -> None:
    with pytest.raises(IndexError, match=r"4.*-5"):
        batch_of(4)[-5]


@pytest.mark.parametrize(
    "iterate",
    [list, iter, lambda batch: zip(*batch, strict=True), lambda batch: dict(enumerate(batch))],
    ids=["list", "iter", "zip", "enumerate"],
)
@pytest.mark.parametrize("rows", [1, 5])
def test_iterate_batch_says_what_to_write(iterate: Callable[[Any], Any], rows: int) -> None:
    message = r"batch: .*batch\.states or batch\['states'\], batch\.as_dict\(\)"
    with pytest.raises(TypeError, match=message):
        iterate(batch_of(rows))
    with pytest.raises(TypeError, match=message):
        _, _, _, _, _ = batch_of(rows)
    with pytest.raises(TypeError, match="reversible"):
        reversed(batch_of(rows))


def test_index_batch_by_name_gives_the_part_itself() -> None:
    batch = batch_of(4)
    for name in ("states", "actions", "rewards", "next_states", "dones", "indices"):
        assert batch[name] is getattr(batch, name)
    assert batch["log_prob"] is batch.extras["log_prob"]
    assert batch[:2]["log_prob"].tolist() == [[0], [1]]


@pytest.mark.parametrize("name", ["weights", "truncations", "extras", "obs", "hidden", ""])
def test_index_batch_by_name_of_no_part_says_which_there_are(name: str) -> None:
    message = rf"{name}: expected one of states, actions, .*indices, log_prob, got"
    with pytest.raises(KeyError, match=message):
        batch_of(4)[name]


def test_as_dict_gives_the_parts_that_are_there_as_they_are() -> None:
    batch = batch_of(4)
    parts = batch.as_dict()
    assert list(parts) == [
        *("states", "actions", "rewards", "next_states", "dones", "indices", "log_prob")
    ]
    assert all(parts[name] is batch[name] for name in parts)
    parts.clear()
    batch.as_dict()["states"] = None
    assert batch.extras.keys() == {"log_prob"}
    assert batch.states is not None


def test_as_dict_of_sequences_has_all_that_sampling_adds() -> None:
    buffer = ReplayBuffer(4)
    buffer.push(stamped(1))
    flat = {"states", "actions", "rewards", "next_states", "dones", "truncations"}
    flat |= {"indices", "discounts"}
    assert buffer.sample(1).as_dict().keys() == flat
    assert buffer.sample_sequences(1, 1).as_dict().keys() == flat | {"mask", "is_first"}


def test_as_dict_with_a_field_named_like_a_part_refuses_to_choose() -> None:
    batch = batch_of(2)
    batch.extras["indices"] = torch.zeros(2)
    batch.extras["weights"] = torch.zeros(2)  # a part that is not there
    for ask in (batch.as_dict, lambda: batch["indices"]):
        with pytest.raises(ValueError, match=r"extras\['indices'\]: expected another name"):
            ask()
    batch.extras.pop("indices")
    assert batch["weights"] is batch.extras["weights"]


def test_collate_batches_or_experiences_is_an_error_and_no_mixture() -> None:
    buffer = ReplayBuffer(4)
    for i in range(4):
        buffer.push(stamped(i))
    for items in ([buffer.sample(2)] * 2, [buffer[0], buffer[1]]):
        with pytest.raises(TypeError, match=r"found <class 'velora\.buffer\.experience"):
            default_collate(items)


def test_load_batches_through_a_data_loader_gives_them_whole() -> None:
    batches = [batch_of(3), batch_of(2)]
    loaded = list(DataLoader(batches, batch_size=None))
    assert [batch.indices.tolist() for batch in loaded] == [[0, 1, 2], [0, 1]]
    as_parts = [batch.as_dict() for batch in batches]
    collated = default_collate([as_parts[0]] * 2)
    assert collated["states"]["camera"].shape == (2, 3, 3)


def test_move_batch_moves_every_tensor() -> None:
    moved = batch_of(2).to("meta")
    parts = [moved.states["camera"], moved.states["pose"][0], moved.next_states["camera"]]
    parts += [moved.actions, moved.rewards, moved.dones, moved.indices, moved.extras["log_prob"]]
    assert {part.device.type for part in parts} == {"meta"}
    assert moved.weights is None


def test_move_batch_to_its_own_device_copies_nothing() -> None:
    batch = batch_of(2)
    assert batch.to(torch.device("cpu")).rewards is batch.rewards


def test_construct_batches_share_no_extras() -> None:
    first, second = (BatchExperience(0, 0, 0, 0, 0) for _ in range(2))
    first.extras["x"] = 1
    assert second.extras == {}


def test_print_batch_shows_dtypes_and_shapes_and_no_numbers() -> None:
    batch = BatchExperience(
        {"camera": torch.zeros(2, 3, dtype=torch.uint8)},
        torch.zeros(2, 1, dtype=torch.int64),
        torch.zeros(2, 1),
        None,
        (torch.zeros(2),),
        extras={"log_prob": torch.zeros(2, 1)},
    )
    assert repr(batch) == (
        "BatchExperience(states={'camera': uint8[2, 3]}, actions=int64[2, 1], "
        "rewards=float32[2, 1], dones=(float32[2]), extras={'log_prob': float32[2, 1]})"
    )


def test_index_sequences_by_time_is_a_type_error() -> None:
    # Parts with a step dimension and parts without would be cut in different ones.
    batch = BatchExperience(*(torch.zeros(2, 6, 3) for _ in range(5)))
    with pytest.raises(TypeError, match=r"^index: .*tuple"):
        batch[:, 2:]  # type: ignore[index]
