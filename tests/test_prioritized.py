"""Prioritized sampling: worked examples with known answers."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers import filled, stamped, stamps_of

from velora.buffer import Prioritized, ReplayBuffer

SHARES = [0.14823, 0.224674, 0.286555, 0.340542]
WEIGHTS = [1.0, 0.846745, 0.768229, 0.716978]


def prioritized(stamps: int = 4, capacity: int = 4, **options: Any) -> ReplayBuffer:
    """A buffer of stamped experiences, drawn by their raw priorities unless told otherwise."""
    sampler = Prioritized(**{"alpha": 1.0, "beta": 1.0, "eps": 0.0} | options)
    return filled(ReplayBuffer, range(stamps), capacity, sampler=sampler, seed=0)


def set_priorities(buffer: ReplayBuffer, *priorities: float) -> None:
    buffer.update_priorities(torch.arange(len(priorities)), torch.tensor(priorities))


def shares(buffer: ReplayBuffer, count: int = 4096) -> dict[int, float]:
    """What part of a stratified batch each experience has."""
    batch = buffer.sample(count)
    assert batch.indices is not None
    indices, counts = batch.indices.unique(return_counts=True)
    return dict(zip(indices.tolist(), (counts / count).tolist(), strict=True))


def weights_by_index(buffer: ReplayBuffer) -> list[float]:
    batch = buffer.sample(4096)
    assert batch.indices is not None
    found = dict(zip(batch.indices.tolist(), batch.weights.flatten().tolist(), strict=True))
    return [found[index] for index in sorted(found)]


def close(values: dict[int, float]) -> Any:
    return pytest.approx(values, abs=1e-3)


# Probabilities and weights


def test_draws_follow_oracle_16_probabilities() -> None:
    buffer = prioritized(alpha=0.6)
    set_priorities(buffer, 1.0, 2.0, 3.0, 4.0)
    assert shares(buffer) == close(dict(enumerate(SHARES)))


def test_weights_follow_oracle_16() -> None:
    buffer = prioritized(alpha=0.6, beta=0.4)
    set_priorities(buffer, 1.0, 2.0, 3.0, 4.0)
    assert weights_by_index(buffer) == pytest.approx(WEIGHTS, rel=1e-5)


def test_weights_without_normalisation_are_those_of_the_paper() -> None:
    buffer = prioritized(alpha=0.6, beta=0.4, normalise="none")
    set_priorities(buffer, 1.0, 2.0, 3.0, 4.0)
    assert weights_by_index(buffer) == pytest.approx(
        [(4 * share) ** -0.4 for share in SHARES], rel=1e-5
    )


def test_weights_by_batch_are_divided_by_the_largest_drawn() -> None:
    buffer = prioritized(normalise="batch")
    set_priorities(buffer, 1e-30, 2.0, 2.0, 4.0)
    assert weights_by_index(buffer) == pytest.approx([1.0, 1.0, 0.5])


def test_weights_by_buffer_ignore_what_is_never_drawn() -> None:
    buffer = prioritized()
    set_priorities(buffer, 0.0, 2.0, 2.0, 4.0)
    assert weights_by_index(buffer) == pytest.approx([1.0, 1.0, 0.5])


def test_weights_count_experiences_that_are_never_drawn() -> None:
    buffer = prioritized(normalise="none")
    set_priorities(buffer, 0.0, 0.0, 1.0, 1.0)
    assert weights_by_index(buffer) == pytest.approx([0.5, 0.5])


def test_eps_is_added_before_the_power() -> None:
    buffer = prioritized(alpha=2.0, eps=1.0)
    set_priorities(buffer, 0.0, 0.0, 1.0, 2.0)
    assert shares(buffer) == close({0: 1 / 15, 1: 1 / 15, 2: 4 / 15, 3: 9 / 15})


def test_draws_with_alpha_0_are_uniform_but_for_zeros() -> None:
    buffer = prioritized(alpha=0.0)
    set_priorities(buffer, 0.0, 1.0, 50.0, 1e30)
    assert shares(buffer) == close({1: 1 / 3, 2: 1 / 3, 3: 1 / 3})


def test_draws_after_another_alpha_use_raw_priorities() -> None:
    buffer = prioritized(alpha=0.0)
    set_priorities(buffer, 1.0, 2.0, 3.0, 4.0)
    buffer.sample(4)
    buffer.sampler.alpha = 0.6  # type: ignore[attr-defined]
    assert shares(buffer) == close(dict(enumerate(SHARES)))


def test_weights_after_another_beta_use_it() -> None:
    buffer = prioritized(alpha=0.6, beta=0.0)
    set_priorities(buffer, 1.0, 2.0, 3.0, 4.0)
    assert weights_by_index(buffer) == [1.0] * 4
    buffer.sampler.beta = 0.4  # type: ignore[attr-defined]
    assert weights_by_index(buffer) == pytest.approx(WEIGHTS, rel=1e-5)


def test_extreme_priorities_draw_finite_weights() -> None:
    buffer = prioritized(alpha=4.0, beta=4.0, normalise="none")
    set_priorities(buffer, 1e-45, 3.4e38, 1.0, 0.0)
    assert buffer.sample(64).weights.isfinite().all()


# Draws


@pytest.mark.parametrize("count", [1, 3, 7, 64])
def test_sample_stratified_draws_kth_from_kth_part(count: int) -> None:
    buffer = prioritized(10, 10)
    set_priorities(buffer, *map(float, range(1, 11)))
    ends = torch.arange(1, 11, dtype=torch.float64).cumsum(0) / 55
    indices = buffer.sample(count).indices
    assert indices is not None
    for k, index in enumerate(indices.tolist()):
        assert ends[index] >= k / count - 1e-12
        assert ends[index] - (index + 1) / 55 <= (k + 1) / count + 1e-12


def test_sample_independent_is_not_ordered() -> None:
    indices = prioritized(100, 100, draws="independent").sample(100).indices
    assert indices is not None
    assert indices.tolist() != indices.sort().values.tolist()


def test_sample_more_than_there_are_repeats_experiences() -> None:
    assert sorted(stamps_of(prioritized(2).sample(4))) == [0, 0, 1, 1]


@pytest.mark.parametrize("draws", ["stratified", "independent"])
def test_sample_with_equal_seeds_is_equal(draws: Any) -> None:
    left, right = prioritized(draws=draws), prioritized(draws=draws)
    for _ in range(5):
        assert torch.equal(left.sample(9).states, right.sample(9).states)


def test_sample_leaves_global_generators_alone() -> None:
    buffer = prioritized()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    buffer.sample(100)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_sample_into_batch_overwrites_weights() -> None:
    buffer = prioritized()
    batch = buffer.sample(8)
    twin = copy.deepcopy(buffer)
    set_priorities(buffer, 1.0, 2.0, 3.0, 4.0)
    set_priorities(twin, 1.0, 2.0, 3.0, 4.0)
    assert buffer.sample(8, out=batch) is batch
    expected = twin.sample(8)
    assert torch.equal(batch.weights, expected.weights)
    assert torch.equal(batch.states, expected.states)


def test_zero_priority_is_never_drawn() -> None:
    buffer = prioritized(3, 3)
    set_priorities(buffer, 0.1, 0.0, 0.1)
    assert 1 not in shares(buffer, 100_000)


def test_sample_after_large_priorities_left_keeps_tiny_one() -> None:
    buffer = prioritized(10_001, 10_001)
    set_priorities(buffer, 1e-15, *[0.3] * 10_000)
    set_priorities(buffer, 1e-15, *[0.0] * 10_000)
    assert shares(buffer) == {0: 1.0}


def test_sample_without_any_weight_is_uniform_and_warns_once() -> None:
    buffer = prioritized()
    set_priorities(buffer, 0.0, 0.0, 0.0, 0.0)
    with pytest.warns(UserWarning, match="all priorities are 0"):
        batch = buffer.sample(400)
    assert set(stamps_of(batch)) == {0, 1, 2, 3}
    assert batch.weights.unique().tolist() == [1.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer.sample(4)


# The priority of a new experience


def test_push_into_empty_buffer_gives_priority_1() -> None:
    buffer = prioritized(1)
    buffer.sample(1)
    buffer.push(stamped(1))
    buffer.update_priorities(torch.tensor([1]), torch.tensor([3.0]))
    assert shares(buffer) == close({0: 0.25, 1: 0.75})


def test_push_gives_largest_priority_to_the_power_once() -> None:
    buffer = prioritized(2, alpha=0.5)
    set_priorities(buffer, 4.0, 16.0)
    buffer.push(stamped(2))
    assert shares(buffer) == close({0: 0.2, 1: 0.4, 2: 0.4})


@pytest.mark.parametrize(("maximum", "share"), [("buffer", 0.5), ("all_time", 8 / 9)])
def test_push_after_lowered_maximum_follows_maximum(maximum: Any, share: float) -> None:
    buffer = prioritized(1, maximum=maximum)
    set_priorities(buffer, 8.0)
    set_priorities(buffer, 1.0)
    buffer.push(stamped(1))
    assert shares(buffer) == close({0: 1 - share, 1: share})


@pytest.mark.parametrize(("maximum", "share"), [("buffer", 0.5), ("all_time", 8 / 9)])
def test_push_that_evicts_largest_follows_maximum(maximum: Any, share: float) -> None:
    buffer = prioritized(2, 2, maximum=maximum)
    set_priorities(buffer, 8.0, 1.0)
    buffer.push(stamped(2))
    assert shares(buffer) == close({1: 1 - share, 2: share})


@pytest.mark.parametrize("save", [copy.deepcopy, lambda buffer: pickle.loads(pickle.dumps(buffer))])
def test_save_with_rows_after_last_draw_settles_nothing(save: Any) -> None:
    buffer = prioritized(2, 2)
    set_priorities(buffer, 8.0, 3.0)
    buffer.push(stamped(2))
    saved = save(buffer)
    for each in (buffer, saved):
        each.push(stamped(3))
        each.update_priorities(torch.tensor([2]), torch.tensor([4.0]))
    assert shares(buffer) == shares(saved) == close({2: 0.8, 3: 0.2})


def test_refused_update_settles_nothing() -> None:
    buffer = prioritized(2, 2)
    set_priorities(buffer, 8.0, 3.0)
    buffer.push(stamped(2))
    with pytest.raises(ValueError, match="priorities"):
        set_priorities(buffer, float("nan"))
    buffer.push(stamped(3))
    buffer.update_priorities(torch.tensor([2]), torch.tensor([4.0]))
    assert shares(buffer) == close({2: 0.8, 3: 0.2})


def test_refused_sample_sequences_settles_nothing() -> None:
    buffer = prioritized(2, 2)
    set_priorities(buffer, 8.0, 3.0)
    buffer.push(stamped(2))
    with pytest.raises(MemoryError):
        buffer.sample_sequences(10**13, 1)
    buffer.push(stamped(3))
    buffer.update_priorities(torch.tensor([2]), torch.tensor([4.0]))
    assert shares(buffer) == close({2: 0.8, 3: 0.2})
