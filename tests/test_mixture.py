"""Batches from several buffers in fixed shares."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from helpers import step

from velora.buffer import Mixture, Prioritized, ReplayBuffer


def filled(value: float, count: int = 10, **options: Any) -> ReplayBuffer:
    buffer = ReplayBuffer(20, seed=1, **options)
    for i in range(count):
        buffer.push(step(state=torch.full((3,), value), action=i, reward=value))
    return buffer


@pytest.mark.parametrize(
    ("shares", "batch_size", "counts"),
    [
        ((0.5, 0.5), 7, (4, 3)),
        ((0.5, 0.5), 8, (4, 4)),
        ((0.7, 0.2, 0.1), 10, (7, 2, 1)),
        ((0.7, 0.2, 0.1), 4, (3, 1, 0)),
        ((0.25, 0.25, 0.5), 1, (0, 0, 1)),
        ((1 / 3, 1 / 3, 1 / 3), 5, (2, 2, 1)),
        ((0.1, 0.9), 30, (3, 27)),
    ],
)
def test_sample_of_a_mixture_has_exact_shares(
    shares: tuple[float, ...], batch_size: int, counts: tuple[int, ...]
) -> None:
    buffers = [filled(float(i), 20) for i in range(len(shares))]
    mixture = Mixture(dict(zip(buffers, shares, strict=True)))
    assert mixture.counts(batch_size) == counts
    if max(counts) > 20:
        return
    batch = mixture.sample(batch_size)
    assert torch.bincount(batch.source, minlength=len(shares)).tolist() == list(counts)
    assert torch.equal(batch.rewards[:, 0], batch.source.float())
    assert torch.equal(batch.states[:, 0], batch.source.float())


def test_sample_of_a_mixture_draws_what_its_buffers_draw() -> None:
    buffers = filled(0.0), filled(1.0, n_step=2)
    twins = pickle.loads(pickle.dumps(buffers))
    batch = Mixture({buffers[0]: 0.5, buffers[1]: 0.5}).sample(8)
    for i, twin in enumerate(twins):
        alone = twin.sample(4)
        part = batch[batch.source == i]
        for name, values in alone.as_dict().items():
            assert torch.equal(part[name], values), name


def test_sample_of_prioritized_and_uniform_buffers_has_weights() -> None:
    plain, weighted = filled(0.0), filled(1.0, sampler=Prioritized())
    weighted.update_priorities(torch.arange(10), torch.arange(1.0, 11.0))
    mixture = Mixture({plain: 0.5, weighted: 0.5})
    batch = mixture.sample(16)
    assert torch.equal(batch.weights[batch.source == 0], torch.ones(8, 1))
    assert batch.weights[batch.source == 1].min() < 1
    mask = mixture.update_priorities(batch, torch.full((16, 1), 5.0))
    assert torch.equal(mask, batch.source == 1)


def test_update_of_a_mixture_reaches_the_buffer_of_each_row() -> None:
    buffers = filled(0.0), filled(1.0)
    mixture = Mixture({buffers[0]: 0.5, buffers[1]: 0.5})
    batch = mixture.sample(10)
    mask = mixture.update(batch, rewards=batch.rewards + 10 + batch.source[:, None])
    assert mask.all()
    for i, buffer in enumerate(buffers):
        written = {int(row) for row in batch.indices[batch.source == i]}
        assert [x.reward for x in buffer] == [i + 10 + i if k in written else i for k in range(10)]


def test_sample_of_too_few_experiences_draws_nothing() -> None:
    plenty, few = filled(0.0), filled(1.0, 2)
    before = pickle.dumps(plenty)
    with pytest.raises(ValueError, match=r"batch_size: expected a batch that takes at most 2 .* 1"):
        Mixture({plenty: 0.5, few: 0.5}).sample(6)
    assert pickle.dumps(plenty) == before


def test_sample_of_other_fields_names_the_field() -> None:
    other = ReplayBuffer(4, seed=1)
    other.push(step(state=torch.zeros(4), next_state=torch.zeros(4)))
    with pytest.raises(ValueError, match=r"state: expected float32 of shape \(3,\) in buffer 1"):
        Mixture({filled(0.0): 0.5, other: 0.5}).sample(2)


@pytest.mark.parametrize(
    ("shares", "error", "message"),
    [
        ((0.5, 0.6), ValueError, "shares: expected numbers with the sum 1"),
        ((0.0, 1.0), ValueError, "shares: expected numbers above 0"),
        ((float("nan"), 1.0), ValueError, "shares: expected numbers above 0"),
        ((True, 1.0), TypeError, "shares: expected a number, got bool"),
    ],
)
def test_mixture_of_wrong_shares_is_refused(
    shares: tuple[Any, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Mixture({filled(0.0): shares[0], filled(1.0): shares[1]})


def test_mixture_of_what_is_no_buffer_is_refused() -> None:
    with pytest.raises(TypeError, match="shares: expected a ReplayBuffer, got str"):
        Mixture({"online": 1.0})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="shares: expected buffers and their shares"):
        Mixture({})


def test_update_with_a_batch_of_one_buffer_is_refused() -> None:
    buffer = filled(0.0)
    mixture = Mixture({buffer: 1.0})
    with pytest.raises(ValueError, match="batch: expected one of this mixture"):
        mixture.update(buffer.sample(2), rewards=torch.zeros(2))


@pytest.mark.parametrize("priorities", [torch.tensor([1.0, -1.0]), torch.tensor([1.0, torch.nan])])
def test_update_with_a_bad_priority_changes_no_buffer(priorities: torch.Tensor) -> None:
    first, second = filled(0.0, sampler=Prioritized()), filled(1.0, sampler=Prioritized())
    mixture = Mixture({first: 0.5, second: 0.5})
    batch = mixture.sample(2)
    before = pickle.dumps((first, second))
    with pytest.raises(ValueError, match="priorities: expected finite numbers"):
        mixture.update_priorities(batch, priorities)
    assert pickle.dumps((first, second)) == before


def test_loader_of_a_mixture_gives_its_batches() -> None:
    mixture = Mixture({filled(0.0): 0.5, filled(1.0): 0.5})
    with mixture.loader(6) as loader:
        assert next(loader).source.tolist() == [0, 0, 0, 1, 1, 1]
