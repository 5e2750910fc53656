"""`update`: fields that are written back into rows that are still there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from velora.buffer import Experience, Prioritized, ReplayBuffer

EVERYWHERE = [("cpu", "cpu"), ("cuda", "cuda"), ("cuda", "pinned"), ("cuda", "cpu")]


@dataclasses.dataclass
class Recurrent(Experience):
    hidden: Any = None
    label: int = 0


def step(i: int, *, width: int = 3) -> Recurrent:
    state = torch.full((2,), float(i))
    return Recurrent(
        state=state,
        action=i,
        reward=float(i),
        next_state=state + 1,
        done=False,
        hidden={"h": torch.full((width,), float(i)), "c": torch.full((1,), -float(i))},
        label=i,
    )


def filled(count: int, capacity: int = 8, **options: Any) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, seed=1, **options)
    for i in range(count):
        buffer.push(step(i))
    return buffer


def serials(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize(("device", "storage"), EVERYWHERE)
def test_update_of_live_rows_is_what_is_read_then(device: str, storage: Any) -> None:
    buffer = filled(12, device=device, storage=storage)
    hidden = {"h": torch.arange(6.0).reshape(2, 3), "c": torch.tensor([[7.0], [8.0]])}
    mask = buffer.update(serials(5, 10), hidden=hidden, label=torch.tensor([50, 100]))
    assert mask.tolist() == [True, True]
    assert buffer[1].hidden["h"].tolist() == [0, 1, 2]
    assert buffer[6].hidden["c"].item() == 8
    assert [row.label for row in buffer] == [4, 50, 6, 7, 8, 9, 100, 11]
    assert [row.reward for row in buffer] == [float(i) for i in range(4, 12)]


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize(("device", "storage"), EVERYWHERE)
def test_update_of_rows_that_are_gone_skips_them(device: str, storage: Any) -> None:
    buffer = filled(12, device=device, storage=storage)
    rows = serials(3, 4, -1, 12, 11, 1 << 47)
    mask = buffer.update(rows, rewards=torch.arange(100.0, 106.0))
    assert mask.tolist() == [False, True, False, False, True, False]
    assert [row.reward for row in buffer] == [101, 5, 6, 7, 8, 9, 10, 104]


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize(("device", "storage"), EVERYWHERE)
def test_update_of_a_row_twice_keeps_the_last(device: str, storage: Any) -> None:
    buffer = filled(4, device=device, storage=storage)
    buffer.update(serials(2, 1, 2, 2), label=torch.tensor([5, 6, 7, 8]))
    assert [row.label for row in buffer] == [0, 6, 8, 3]


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize(("device", "storage"), EVERYWHERE)
def test_update_between_pushes_reaches_rows_that_wait(device: str, storage: Any) -> None:
    buffer = filled(0, device=device, storage=storage)
    for i in range(40):
        buffer.push(step(i))
        buffer.update(serials(i), label=torch.tensor([1000 + i]))
    assert [row.label for row in buffer] == [1000 + i for i in range(32, 40)]


@pytest.mark.cuda(emulated=True)
@pytest.mark.parametrize(("device", "storage"), EVERYWHERE)
def test_update_of_more_than_a_write_buffer_holds_writes_all(device: str, storage: Any) -> None:
    width, rows = 2000, 700
    buffer = ReplayBuffer(rows, device=device, storage=storage, seed=1)
    for i in range(rows):
        buffer.push(step(i, width=width))
    new = torch.rand(rows, width)
    buffer.update(torch.arange(rows), hidden={"h": new, "c": torch.zeros(rows, 1)})
    batch = buffer.sample(rows)
    assert torch.equal(batch.extras["hidden"]["h"].cpu(), new[batch.indices.cpu()])


def test_update_of_sequences_skips_padding() -> None:
    buffer = filled(3)
    batch = buffer.sample_sequences(2, length=4)
    values = batch.indices[..., None] * 10 + 7
    mask = buffer.update(batch, label=values, rewards=torch.zeros(2, 4))
    assert torch.equal(mask, batch.indices >= 0)
    seen = {int(i) for i in batch.indices.flatten() if i >= 0}
    assert [row.label for row in buffer] == [i * 10 + 7 if i in seen else i for i in range(3)]


def test_update_of_lanes_finds_the_row_of_each() -> None:
    buffer = ReplayBuffer(9, num_envs=3, seed=1)
    for i in range(7):
        buffer.push(step(i), lane=i % 2)
    batch = buffer.sample(6)
    buffer.update(batch, label=batch.extras["label"] + 100)
    again = buffer.sample(6)
    assert torch.equal(again.extras["label"].float(), again.rewards + 100)


@pytest.mark.parametrize("options", [{"compact": True}, {"n_step": 3}])
def test_update_with_other_storage_and_sums_is_seen_by_draws(options: dict[str, Any]) -> None:
    buffer = filled(8, gamma=1.0, **options)
    buffer.update(torch.arange(8), rewards=torch.ones(8))
    batch = buffer.sample(8)
    steps = torch.minimum(8 - batch.indices, torch.tensor(options.get("n_step", 1)))
    assert torch.equal(batch.rewards.squeeze(1), steps.float())
    assert torch.equal(batch.states[:, 0], batch.indices.float())
    assert torch.equal(batch.next_states[:, 0], (batch.indices + steps).float())


@pytest.mark.parametrize(
    ("indices", "fields", "message"),
    [
        ((0, 1), {"label": torch.zeros(3)}, "label: expected 2 rows"),
        ((0, 1, 2), {}, "indices: expected one for each of 2 rows"),
        ((0, 1), {"label": torch.zeros(2, 2)}, "label: expected rows of shape"),
        ((0, 1), {"label": torch.tensor([0.5, 1])}, "label: expected a value that int64 holds"),
        ((0, 1), {"states": torch.zeros(2, 2)}, "states: expected one of rewards, hidden, label"),
        ((0, 1), {"hidden": torch.zeros(2, 3)}, "hidden: expected a dict"),
        ((0, 1), {"hidden": {"h": torch.zeros(2, 3)}}, "hidden"),
        ((0.0, 1.0), {"label": torch.zeros(2)}, "indices: expected ints"),
    ],
)
def test_update_with_what_does_not_fit_changes_nothing(
    indices: tuple[Any, ...], fields: dict[str, Any], message: str
) -> None:
    buffer = filled(3)
    with pytest.raises(ValueError, match=message):
        buffer.update(torch.tensor(indices), rewards=torch.ones(2), **fields)
    assert [(row.label, row.reward) for row in buffer] == [(0, 0), (1, 1), (2, 2)]


def test_update_without_fields_says_what_is_missing() -> None:
    with pytest.raises(TypeError, match="update: expected values of rewards or hidden or label"):
        filled(1).update(serials(0))


def test_update_before_the_first_push_is_refused() -> None:
    with pytest.raises(ValueError, match="indices: expected those of a batch"):
        ReplayBuffer(8).update(serials(0), rewards=torch.zeros(1))


def test_update_through_a_hundred_laps_never_meets_another_row() -> None:
    buffer = ReplayBuffer(64, num_envs=4, sampler=Prioritized(), seed=3)
    generator = torch.Generator().manual_seed(5)
    sent = written = 0
    kept: list[tuple[Tensor, Tensor]] = []
    for i in range(1600):
        for lane in range(4):
            buffer.push(step(4 * i + lane), lane=lane)
        batch = buffer.sample(8)
        kept.append((batch.indices, batch.rewards))
        late = int(torch.randint(len(kept), (), generator=generator))
        indices, stamps = kept.pop(late) if i % 3 else kept[late]
        mask = buffer.update(indices, label=stamps.long() + 10**6)
        sent += 8
        written += int(mask.sum())
        del kept[:-40]
    assert 0 < written < sent
    for row in buffer:
        assert row.label in (row.reward, row.reward + 10**6)
