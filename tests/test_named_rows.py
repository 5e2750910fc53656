"""Rows by the indices of earlier batches: those that are still there, and padding otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from cuda_helpers import there
from helpers import filled, map_nest, policy_stamped, stamped, unchanged
from streams import (
    Environment,
    Model,
    Plain,
    Recording,
    assert_rows_of,
    assert_same_bits,
    image_frame,
    pack,
    parts_of,
    record,
    unequal,
)

from velora.buffer import BatchExperience, Prioritized, ReplayBuffer, RolloutBuffer


def images(random: Random) -> Environment:
    return Environment(random, image_frame, breaks=0.2)


def stacks(random: Random) -> Environment:
    return Environment(random, image_frame, 4, breaks=0.2)


CASES: dict[str, dict[str, Any]] = {
    "one lane": {"capacity": 12},
    "three lanes": {"capacity": 30, "num_envs": 3},
    "three steps": {"capacity": 30, "num_envs": 3, "n_step": 3},
    "stored once": {"capacity": 24, "num_envs": 2, "n_step": 2, "compact": True, "make": images},
    "stacks": {"capacity": 24, "num_envs": 2, "n_step": 3, "frame_stack": 4, "make": stacks},
}


def recorded(case: str, variants: Sequence[dict[str, Any]]) -> Recording:
    return record(**{"seed": 3, "make": Plain} | CASES[case], variants=variants)


def any_indices(model: Model, random: Random, count: int) -> list[int]:
    """Of rows that are alive, that were, that may come, and of none."""
    lane_numbers = range(len(model.lanes))
    known = [
        pack((lane, serial))
        for lane in lane_numbers
        for serial in range(len(model.lanes[lane].rows) + 2)
    ]
    return random.choices([*known, -1, -7, pack((len(model.lanes), 0)), 2**63 - 1], k=count)


def assert_gathered(
    found: tuple[BatchExperience, torch.Tensor], indices: Sequence[int], model: Model, n_step: int
) -> None:
    batch, mask = found
    batch, mask = batch.to("cpu"), mask.cpu()
    alive = {pack(id_) for id_ in model.alive()}
    assert mask.dtype == torch.bool
    assert mask.tolist() == [index in alive for index in indices]
    assert batch.indices.tolist() == [index if index in alive else -1 for index in indices]
    assert batch.weights is None
    if mask.any():
        assert_rows_of(batch[mask], model, n_step=n_step)
    for name, part in parts_of(batch[~mask]):
        if isinstance(part, torch.Tensor):
            assert (part == (-1 if "indices" in name else 0)).all(), name


@pytest.mark.parametrize("case", CASES)
def test_gather_any_indices_gives_the_rows_that_are_there_and_padding(case: str) -> None:
    recording, random = recorded(case, [{}]), Random(4)
    (buffer,) = recording.buffers
    for _ in range(12):
        recording.play(random, 5)
        indices = any_indices(recording.model, random, 40)
        assert_gathered(
            buffer.gather(torch.tensor(indices)), indices, recording.model, buffer.n_step
        )


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize("storage", ["cpu", "cuda", "pinned"])
@pytest.mark.parametrize("case", CASES)
def test_gather_on_a_device_gives_the_rows_that_are_there_and_padding(
    case: str, storage: str
) -> None:
    recording, random = recorded(case, [{"device": "cuda", "storage": storage}]), Random(5)
    (buffer,) = recording.buffers
    for _ in range(8):
        recording.play(random, 5)
        indices = torch.tensor(any_indices(recording.model, random, 40))
        for given in (indices, there(indices)):
            found = buffer.gather(given)
            assert found[0].states.device.type == found[1].device.type
            assert_gathered(found, indices.tolist(), recording.model, buffer.n_step)


@pytest.mark.parametrize("n_step", [1, 3])
def test_gather_indices_of_a_sample_gives_that_batch(n_step: int) -> None:
    buffer = filled(ReplayBuffer, range(40), 30, n_step=n_step)
    batch = buffer.sample(20)
    again, mask = buffer.gather(batch.indices)
    assert mask.all()
    assert_same_bits(again, batch)


def test_gather_indices_of_sequences_gives_rows_by_time() -> None:
    buffer, _ = unequal(seed=1)
    sequences = buffer.sample_sequences(6, 4)
    batch, mask = buffer.gather(sequences.indices)
    assert len(batch) == 6
    assert mask.shape == (6, 4)
    assert torch.equal(mask, sequences.mask.squeeze(-1) != 0)
    for name in ("states", "actions", "rewards", "next_states", "dones", "truncations"):
        assert torch.equal(getattr(batch, name), getattr(sequences, name)), name
    assert torch.equal(batch.indices, sequences.indices)


@pytest.mark.cuda(emulated=True)
def test_gather_two_dimensions_on_a_device_gives_them() -> None:
    buffer = filled(ReplayBuffer, range(12), 10, device="cuda")
    batch, mask = buffer.gather(there(torch.tensor([[1, 2, 3], [11, 12, 2]])))
    assert batch.states.shape == (2, 3, 4)
    assert mask.tolist() == [[False, True, True], [True, False, True]]
    assert batch.actions.squeeze(-1).tolist() == [[0, 2, 3], [11, 0, 2]]


def test_gather_extras_and_nests_are_those_of_the_rows() -> None:
    buffer = ReplayBuffer(8)
    for i in range(10):
        buffer.push(policy_stamped(i))
    batch, mask = buffer.gather([9, 1, 5])
    assert mask.tolist() == [True, False, True]
    assert batch.extras["log_prob"].tolist() == [[9 / 4], [0.0], [5 / 4]]
    assert map_nest(lambda leaf: leaf.sum().item(), batch.extras["hidden"]) == 2 * (9 + 5)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda x: torch.tensor(x).int()])
def test_gather_takes_ints_of_any_kind(kind: Any) -> None:
    buffer = filled(ReplayBuffer, range(5), 5)
    batch, mask = buffer.gather(kind([3, 0, 3]))
    assert mask.all()
    assert batch.actions.flatten().tolist() == [3, 0, 3]


@pytest.mark.parametrize("empty", [[], torch.empty(0, dtype=torch.int64)])
def test_gather_no_indices_gives_no_rows(empty: Any) -> None:
    batch, mask = filled(ReplayBuffer, range(5), 5).gather(empty)
    assert (len(batch), mask.shape, batch.states.shape) == (0, (0,), (0, 4))


def test_gather_from_a_rollout_gives_its_rows() -> None:
    buffer = filled(RolloutBuffer, range(6), 10)
    batch, mask = buffer.gather([5, 6, 0])
    assert mask.tolist() == [True, False, True]
    assert batch.actions.flatten().tolist() == [5, 0, 0]
    assert batch.discounts is None
    buffer.empty()
    assert not buffer.gather([5, 0])[1].any()


def test_gather_after_clear_finds_no_row_of_before() -> None:
    buffer = filled(ReplayBuffer, range(5), 5)
    buffer.clear()
    batch, mask = buffer.gather(range(5))
    assert not mask.any()
    assert batch.indices.tolist() == [-1] * 5
    buffer.push(stamped(5))
    assert buffer.gather(range(6))[1].tolist() == [False] * 5 + [True]


def test_gather_draws_nothing() -> None:
    buffer = filled(ReplayBuffer, range(20), 20, seed=1)
    with unchanged(buffer):
        buffer.gather([1, 2])


def test_gather_from_a_prioritized_buffer_has_no_weights() -> None:
    buffer = filled(ReplayBuffer, range(5), 5, sampler=Prioritized())
    assert buffer.gather([1])[0].weights is None


def test_gather_many_rows_in_parts_gives_all() -> None:
    buffer = filled(ReplayBuffer, range(3000), 2000)
    indices = torch.randint(0, 3500, (30_000,))
    batch, mask = buffer.gather(indices)
    assert torch.equal(mask, (indices >= 1000) & (indices < 3000))
    assert torch.equal(batch.actions.squeeze(1), torch.where(mask, indices, 0))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.zeros(2), r"indices: expected ints, got float32"),
        (torch.tensor([True]), r"indices: expected ints, got bool"),
        (torch.tensor(1), r"indices: expected ints \(B,\) or \(B, L\), got"),
        (
            torch.zeros(1, 1, 1, dtype=torch.int64),
            r"indices: expected ints \(B,\) or \(B, L\), got",
        ),
        (np.array([2**63], np.uint64), r"indices: expected int64, got one beyond 63 bits"),
        (["a"], r"indices: expected"),
        (None, r"indices: expected"),
    ],
    ids=str,
)
def test_gather_other_indices_is_a_value_error(indices: Any, message: str) -> None:
    buffer = filled(ReplayBuffer, range(3), 5)
    with pytest.raises(ValueError, match="^" + message):
        buffer.gather(indices)


@pytest.mark.parametrize("kind", [ReplayBuffer, RolloutBuffer])
def test_gather_before_the_first_push_is_a_value_error(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"^indices: expected those of a batch, got some before"):
        kind(5).gather([0])
