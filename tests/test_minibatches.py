"""The PPO workflow: advantages over the steps of a rollout, then shuffled minibatches."""

import numpy as np
import pytest
import torch
from reference import gae

from velora.buffer import Experience, RolloutBuffer


def rollout(steps: int, *, capacity: int | None = None) -> RolloutBuffer:
    """Steps that carry their number in every field; the third terminates, the fifth is cut off."""
    buffer = RolloutBuffer(capacity or steps)
    for i in range(steps):
        state = torch.full((3,), float(i))
        buffer.push(Experience(state, i, i + 0.5, state + 1, i == 2, truncated=i == 4))
    return buffer


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_minibatches_of_any_size_visit_every_step_once_per_epoch(batch_size: int) -> None:
    seen = [[] for _ in range(2)]
    batches = list(rollout(7).minibatches(batch_size, epochs=2))
    for i, batch in enumerate(batches):
        seen[i * 2 // len(batches)].extend(batch.actions.flatten().tolist())
    assert [sorted(epoch) for epoch in seen] == [list(range(7))] * 2


def test_minibatches_keep_fields_and_columns_aligned() -> None:
    buffer = rollout(7)
    columns = torch.arange(7.0).reshape(7, 1) * 10
    for batch in buffer.minibatches(2, advantages=columns):
        positions = batch.actions.float()
        torch.testing.assert_close(batch.states, positions.expand(-1, 3))
        torch.testing.assert_close(batch.next_states, batch.states + 1)
        torch.testing.assert_close(batch.rewards, positions + 0.5)
        torch.testing.assert_close(batch.dones, (positions == 2).float())
        torch.testing.assert_close(batch.truncations, (positions == 4).float())
        torch.testing.assert_close(batch.extras["advantages"], positions * 10)


def test_minibatches_keep_the_short_last_one_unless_told_otherwise() -> None:
    assert [len(x) for x in rollout(7).minibatches(3)] == [3, 3, 1]
    assert [len(x) for x in rollout(7).minibatches(3, drop_last=True)] == [3, 3]


def test_minibatches_shuffle_anew_each_epoch_and_repeat_under_a_seed() -> None:
    def orders() -> list[list[int]]:
        torch.manual_seed(3)
        return [x.actions.flatten().tolist() for x in rollout(50).minibatches(50, epochs=2)]

    first, second = orders()
    assert first != second
    assert orders() == [first, second]


def test_minibatches_go_on_after_the_buffer_is_emptied() -> None:
    buffer = rollout(6)
    batches = buffer.minibatches(2)
    total = next(batches).rewards.sum()
    buffer.empty()
    total += sum(x.rewards.sum() for x in batches)
    assert total.item() == sum(i + 0.5 for i in range(6))


def test_minibatches_are_made_of_what_there_was_at_the_call() -> None:
    buffer = rollout(3, capacity=6)
    batches = buffer.minibatches(6, epochs=2)
    buffer.empty()
    for i in range(6):
        buffer.push(Experience(torch.zeros(3), 100 + i, 0.0, torch.zeros(3), False))
    assert [sorted(x.actions.flatten().tolist()) for x in batches] == [[0, 1, 2]] * 2


def test_minibatches_draw_their_order_when_an_epoch_begins() -> None:
    buffer = rollout(50)
    torch.manual_seed(1)
    expected = torch.randperm(50).tolist()
    batches = buffer.minibatches(50)
    torch.manual_seed(1)
    assert next(batches).actions.flatten().tolist() == expected


def test_minibatches_name_their_rows() -> None:
    buffer = rollout(7)
    for batch in buffer.minibatches(3):
        assert batch.indices.tolist() == batch.actions.flatten().tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_compute_returns_of_halves_is_computed_in_float32(dtype: torch.dtype) -> None:
    buffer = RolloutBuffer(200)
    for i in range(200):
        buffer.push(Experience(torch.zeros(1), 0, 100.3 + i / 7, torch.zeros(1), i == 150))
    values, next_values = (torch.randn(200, 1).to(dtype) for _ in range(2))
    expected = buffer.compute_returns(values.float(), next_values.float())
    for result, exact in zip(buffer.compute_returns(values, next_values), expected, strict=True):
        assert result.dtype == dtype
        assert torch.equal(result, exact.to(dtype))


@pytest.mark.parametrize("name", ["values", "next_values"])
@pytest.mark.parametrize(
    ("value", "error", "got"),
    [
        (None, TypeError, "expected a tensor, got NoneType"),
        (np.zeros((7, 1), np.float32), TypeError, "expected a tensor, got ndarray"),
        ([0.0] * 7, TypeError, "expected a tensor, got list"),
        (
            torch.zeros(7, dtype=torch.int64),
            ValueError,
            r"expected .*torch\.float.*got torch\.int64",
        ),
        (torch.zeros(7, dtype=torch.bool), ValueError, r"got torch\.bool"),
        (torch.zeros(7, dtype=torch.complex64), ValueError, r"got torch\.complex64"),
    ],
)
def test_compute_returns_of_other_values_names_them(name, value, error, got) -> None:
    both = {"values": torch.zeros(7, 1), "next_values": torch.zeros(7, 1)} | {name: value}
    with pytest.raises(error, match=rf"^{name}: .*{got}"):
        rollout(7).compute_returns(**both)


def test_compute_returns_of_next_values_of_another_dtype_names_them() -> None:
    with pytest.raises(
        ValueError, match=r"^next_values: expected torch\.bfloat16, got torch\.float32"
    ):
        rollout(7).compute_returns(torch.zeros(7, dtype=torch.bfloat16), torch.zeros(7))


def test_compute_returns_with_both_kinds_of_end_agrees_with_the_reference() -> None:
    buffer = rollout(7)
    values, next_values = torch.randn(7, 1), torch.randn(7, 1)
    advantages, returns = buffer.compute_returns(values, next_values, gamma=0.9, lam=0.8)
    steps = buffer.sample()
    expected, _ = gae(
        *(x.numpy() for x in (steps.rewards, values, next_values, steps.dones, steps.truncations)),
        gamma=0.9,
        lam=0.8,
    )
    torch.testing.assert_close(advantages.numpy(), expected, check_dtype=False)
    torch.testing.assert_close(returns, advantages + values)
    flat, _ = buffer.compute_returns(values[:, 0], next_values[:, 0], gamma=0.9, lam=0.8)
    torch.testing.assert_close(flat, advantages)


def test_compute_returns_of_the_wrong_length_is_an_error_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"next_values: expected shape \(7, 1\) .* got \(6, 1\)"):
        rollout(7).compute_returns(torch.zeros(7, 1), torch.zeros(6, 1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda b: b.minibatches(0), ValueError, "batch_size: expected at least 1, got 0"),
        (lambda b: b.minibatches(2, epochs=0), ValueError, "epochs: expected at least 1, got 0"),
        (lambda b: b.minibatches(2.5), TypeError, "float"),
        (lambda b: b.minibatches(2, gain=torch.zeros(3)), ValueError, "gain: expected 7 .* got 3"),
        (
            lambda b: b.minibatches(2, gain=torch.tensor(1.0)),
            ValueError,
            "gain: expected 7 rows, got a single number",
        ),
        (
            lambda b: b.minibatches(2, gain=[1.0] * 7),
            TypeError,
            "gain: expected a tensor, got list",
        ),
        (lambda b: b.minibatches(2, states=torch.zeros(7)), ValueError, "states: expected a new"),
        (lambda b: b.minibatches(2, mask=torch.zeros(7)), ValueError, "mask: expected a new name"),
    ],
)
def test_minibatches_with_a_bad_argument_say_so_at_once(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(rollout(7))


@pytest.mark.parametrize(
    "call",
    [
        lambda b: b.minibatches(2),
        lambda b: b.compute_returns(torch.zeros(0, 1), torch.zeros(0, 1)),
    ],
)
def test_training_on_an_empty_rollout_is_a_buffer_error(call) -> None:
    with pytest.raises(BufferError, match="push"):
        call(RolloutBuffer(4))
