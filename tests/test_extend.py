"""Many experiences at once, all or none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    AnyBuffer,
    PolicyExperience,
    assert_rows,
    assert_same_future,
    filled,
    stack,
    stamped,
    stamps_of,
    unchanged,
)

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer

KINDS = [ReplayBuffer, RolloutBuffer]


def batch_of(stamps: range | list[int]) -> BatchExperience:
    return stack([stamped(i) for i in stamps])


def actions(buffer: AnyBuffer) -> list[int]:
    return [int(experience.action) for experience in buffer]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_extend_equals_pushes_one_by_one(kind: type[AnyBuffer], before: int) -> None:
    options: dict[str, Any] = {"seed": 3} if kind is ReplayBuffer else {}
    extended = filled(kind, range(before), 9, **options)
    pushed = filled(kind, range(before + 5), 9, **options)
    extended.extend(batch_of(range(before, before + 5)))
    assert_same_future(extended, pushed)


@pytest.mark.parametrize("size", [1, 4, 5, 6, 9, 10, 11, 23])
@pytest.mark.parametrize("before", [0, 2, 5, 7])
def test_extend_replay_keeps_the_newest(before: int, size: int) -> None:
    buffer = filled(ReplayBuffer, range(before), 5, seed=3)
    buffer.extend(batch_of(range(before, before + size)))
    newest = list(range(before + size))[-5:]
    assert actions(buffer) == newest
    batch = buffer.sample(len(buffer))
    assert sorted(stamps_of(batch)) == newest
    assert batch.indices.tolist() == stamps_of(batch)


@pytest.mark.parametrize("size", [3, 5, 12])
def test_push_after_extend_goes_on_from_there(size: int) -> None:
    buffer = ReplayBuffer(5)
    buffer.extend(batch_of(range(size)))
    for i in range(size, size + 7):
        buffer.push(stamped(i))
        assert actions(buffer) == list(range(i + 1))[-5:]


@pytest.mark.parametrize("kind", KINDS)
def test_extend_with_flags_of_shape_k_or_k_by_one_is_the_same(kind: type[AnyBuffer]) -> None:
    flat = batch_of(range(4))
    assert flat.rewards.shape == flat.dones.shape == (4,)
    columns = replace(
        flat,
        actions=flat.actions.reshape(4, 1),
        rewards=flat.rewards.reshape(4, 1),
        dones=flat.dones.reshape(4, 1),
        truncations=flat.truncations.reshape(4, 1),
    )
    buffer = kind(8)
    buffer.extend(flat)
    buffer.extend(columns)
    assert actions(buffer) == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64], ids=str)
def test_extend_with_flags_of_any_dtype_stores_flags(dtype: torch.dtype) -> None:
    batch = batch_of(range(6))
    buffer = RolloutBuffer(6)
    flags = {"dones": batch.dones.to(dtype), "truncations": batch.truncations.to(dtype)}
    buffer.extend(replace(batch, **flags))
    assert stamps_of(buffer.sample()) == [0, 1, 2, 3, 4, 5]


def test_extend_without_truncations_means_never() -> None:
    buffer = RolloutBuffer(6)
    buffer.extend(replace(batch_of(range(6)), truncations=None))
    assert buffer.sample().truncations.tolist() == [[0.0]] * 6


def test_extend_after_truncated_rows_without_truncations_means_never() -> None:
    buffer = RolloutBuffer(12)
    buffer.extend(batch_of(range(6)))
    buffer.extend(replace(batch_of(range(6)), truncations=None))
    assert buffer.sample().truncations[6:].tolist() == [[0.0]] * 6


def test_extend_with_numpy_arrays_of_any_layout_stores_their_rows() -> None:
    batch = batch_of(range(5))
    states = np.asfortranarray(batch.states.numpy())
    backwards = np.ascontiguousarray(batch.actions.numpy()[::-1])[::-1]
    buffer = RolloutBuffer(10)
    for _ in range(2):
        buffer.extend(
            replace(batch, states=states, actions=backwards, rewards=batch.rewards.double().numpy())
        )
    assert stamps_of(buffer.sample()) == [0, 1, 2, 3, 4] * 2


def test_extend_with_expanded_tensor_stores_equal_rows() -> None:
    batch = replace(batch_of(range(3)), states=torch.arange(4.0).expand(3, 4))
    buffer = RolloutBuffer(3)
    buffer.extend(batch)
    assert buffer.sample().states.tolist() == [[0.0, 1.0, 2.0, 3.0]] * 3


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (2, 3), (3, 4, 5)], ids=str)
def test_extend_first_restores_rows_in_their_shape(shape: tuple[int, ...]) -> None:
    states = torch.rand(3, *shape)
    column = torch.zeros(3)
    buffer = RolloutBuffer(4)
    buffer.extend(BatchExperience(states, column, column, states, column))
    assert buffer[1].state.shape == shape
    assert torch.equal(buffer[1].state, states[1])
    buffer.push(Experience(states[0], 0.0, 0.0, states[2], False))
    assert torch.equal(buffer[3].next_state, states[2])


def test_extend_first_fixes_dtypes_as_push_does() -> None:
    batch = BatchExperience(
        states=np.zeros((2, 3)),
        actions=np.zeros((2,), dtype=np.int32),
        rewards=np.zeros((2,), dtype=np.int64),
        next_states=np.zeros((2, 3)),
        dones=np.zeros((2,), dtype=bool),
    )
    buffer = RolloutBuffer(2)
    buffer.extend(batch)
    got = buffer.sample()
    assert got.states.dtype == got.rewards.dtype == got.dones.dtype == torch.float32
    assert got.actions.dtype == torch.int32


@pytest.mark.parametrize("kind", KINDS)
def test_extend_with_extras_stores_them(kind: type[AnyBuffer]) -> None:
    steps = [PolicyExperience(*stamped(i), i / 4, torch.full((2, 2), float(i))) for i in range(4)]
    first, later = kind(8), kind(8)
    later.push(steps[0])
    first.extend(stack(steps))
    later.extend(stack(steps[1:]))
    for buffer in (first, later):
        batch = buffer.sample(4) if isinstance(buffer, ReplayBuffer) else buffer.sample()
        assert_rows(batch, [steps[i] for i in batch.actions.flatten().tolist()])
    assert later[2] == steps[2]
    assert torch.equal(first[2].hidden, steps[2].hidden)
    first.push(steps[0])
    assert len(first) == 5


def test_extend_with_dict_observations_stores_them() -> None:
    def nested(i: int) -> Experience:
        observation = {
            "b": torch.full((2,), float(i)),
            "a": (torch.tensor(i), torch.ones(1, 3) * i),
        }
        return Experience(observation, i, 0.0, observation, False)

    buffer = RolloutBuffer(6)
    buffer.extend(stack([nested(i) for i in range(3)]))
    buffer.extend(stack([nested(i) for i in range(3, 5)]))
    buffer.push(nested(5))
    assert_rows(buffer.sample(), [nested(i) for i in range(6)])


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": torch.zeros(3, 4)}, r"3.*4|4.*3"),
        ({"actions": torch.zeros(5, dtype=torch.int64)}, r"^actions: expected 4 rows.*\(5,\)"),
        ({"rewards": torch.zeros(3)}, r"^rewards: expected 4 rows.*\(3,\)"),
        ({"rewards": torch.zeros(1)}, r"^rewards: expected 4 rows.*\(1,\)"),
        ({"next_states": torch.zeros(3, 4)}, r"^next_states: expected 4 rows.*\(3, 4\)"),
        ({"dones": torch.zeros(5)}, r"^dones: expected 4 rows.*\(5,\)"),
        ({"dones": torch.zeros(0)}, r"^dones: expected .* rows?, got .*\(0,\)"),
        ({"truncations": torch.zeros(3)}, r"^truncations: expected 4 rows.*\(3,\)"),
        ({"truncations": torch.full((4,), 0.5)}, r"^truncations: .*fraction"),
        ({"dones": torch.tensor([0, 1, 2, 0])}, r"^dones: .*range"),
        ({"dones": torch.zeros(4, 2)}, r"^dones: .*\(1,\).*\(4, 2\)"),
        ({"rewards": torch.full((4,), 1e300, dtype=torch.float64)}, r"^rewards: .*range"),
        ({"next_states": torch.zeros(4, 5)}, r"^next_states: .*\(4,\).*\(4, 5\)"),
        ({"states": None}, "^states: .*None"),
        ({"actions": None}, "^actions: .*None"),
        ({"rewards": None}, "^rewards: .*None"),
        ({"next_states": None}, "^next_states: .*None"),
        ({"dones": None}, "^dones: .*None"),
        ({"rewards": 1.0}, r"^rewards: .*(leading dimension|rows)"),
        ({"states": "x"}, "^states: .*str"),
        ({"rewards": [0.0] * 4}, "^rewards: .*list"),
    ],
)
def test_extend_with_bad_part_changes_nothing(
    started: bool, change: dict[str, Any], message: str
) -> None:
    buffer = filled(ReplayBuffer, range(7 if started else 0), 5, seed=1)
    with unchanged(buffer), pytest.raises(ValueError, match=message):
        buffer.extend(replace(batch_of(range(4)), **change))
    buffer.extend(batch_of(range(4)))
    assert actions(buffer)[-4:] == [0, 1, 2, 3]


@pytest.mark.parametrize("started", [True, False], ids=["started", "new"])
def test_extend_with_no_rows_says_so(started: bool) -> None:
    buffer = filled(ReplayBuffer, range(3 if started else 0), 5, seed=1)
    with unchanged(buffer), pytest.raises(ValueError, match=r"^states: expected at least 1 row.*0"):
        buffer.extend(batch_of(range(4))[:0])


def test_extend_with_unknown_extra_changes_nothing() -> None:
    buffer = filled(ReplayBuffer, range(3), 5, seed=1)
    bad = replace(batch_of(range(4)), extras={"log_prob": torch.zeros(4)})
    with unchanged(buffer), pytest.raises(ValueError, match=r"log_prob: expected no such field"):
        buffer.extend(bad)


def test_extend_without_a_known_extra_changes_nothing() -> None:
    buffer = ReplayBuffer(5)
    buffer.push(PolicyExperience(*stamped(0), 0.5, torch.zeros(2)))
    with unchanged(buffer), pytest.raises(ValueError, match=r"log_prob: expected"):
        buffer.extend(batch_of(range(4)))


@pytest.mark.parametrize("name", ["log prob", "class", "2nd", ""])
def test_extend_with_extra_whose_name_no_field_can_have_is_refused(name: str) -> None:
    buffer = ReplayBuffer(9)
    bad = replace(batch_of(range(4)), extras={name: torch.ones(4)})
    with pytest.raises(ValueError, match="extras: expected names that fields"):
        buffer.extend(bad)
    buffer.extend(batch_of(range(4)))
    assert len(buffer) == 4


@pytest.mark.parametrize("name", ["state", "reward", "done", "truncated"])
def test_extend_with_extra_of_a_documented_name_is_refused(name: str) -> None:
    buffer = ReplayBuffer(5)
    bad = replace(batch_of(range(4)), extras={name: torch.ones(4)})
    with pytest.raises(ValueError, match=name):
        buffer.extend(bad)
    assert len(buffer) == 0


@pytest.mark.parametrize("batch", [None, [], {}, stamped(1), (1, 2, 3, 4, 5), BatchExperience])
def test_extend_with_something_else_is_a_type_error(batch: Any) -> None:
    buffer = filled(ReplayBuffer, range(3), 5, seed=1)
    with unchanged(buffer), pytest.raises(TypeError, match=r"batch: expected a BatchExperience"):
        buffer.extend(batch)


def test_extend_a_late_bad_row_changes_nothing() -> None:
    buffer = filled(ReplayBuffer, range(7), 5, seed=1)
    bad = batch_of(range(4))
    bad.actions = bad.actions.double()
    bad.actions[3] = 0.5
    with unchanged(buffer), pytest.raises(ValueError, match=r"^actions: .*int64.*fraction"):
        buffer.extend(bad)
