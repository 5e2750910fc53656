"""`sample(out=batch)` writes what a new batch would hold into tensors that are there already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import PolicyExperience, filled, stamps_of
from torch import Tensor

from velora.buffer import BatchExperience, Experience, ReplayBuffer, tree


def twins(**options: Any) -> tuple[ReplayBuffer, ReplayBuffer]:
    """Two buffers that draw alike."""
    first, second = (filled(ReplayBuffer, range(50), 50, seed=3, **options) for _ in range(2))
    return first, second


def leaves(batch: BatchExperience) -> list[Tensor]:
    parts: list[Tensor] = tree.leaves(vars(batch))
    return parts


def addresses(batch: BatchExperience) -> list[int]:
    return [part.data_ptr() for part in leaves(batch)]


def assert_equal(batch: BatchExperience, expected: BatchExperience) -> None:
    assert vars(batch).keys() == vars(expected).keys()
    for part, wanted in zip(leaves(batch), leaves(expected), strict=True):
        assert part.dtype == wanted.dtype
        assert torch.equal(part, wanted)


@pytest.mark.parametrize("options", [{}, {"n_step": 3}, {"compact": True}])
@pytest.mark.parametrize("batch_size", [1, 2, 16, 17, 50])
def test_sample_out_holds_what_a_new_batch_would(batch_size: int, options: dict[str, Any]) -> None:
    new, again = twins(**options)
    out = again.sample(batch_size)
    new.sample(batch_size)
    before = addresses(out)
    for _ in range(3):
        assert again.sample(batch_size, out=out) is out
        assert_equal(out, new.sample(batch_size))
        assert addresses(out) == before


def test_sample_out_of_nests_and_extra_fields_holds_what_a_new_batch_would() -> None:
    class Pose(NamedTuple):
        position: Tensor
        angle: Tensor

    def push_all(buffer: ReplayBuffer) -> None:
        for i in range(20):
            state = {
                "image": torch.full((2, 3), i, dtype=torch.uint8),
                "pose": Pose(torch.full((3,), float(i)), torch.tensor(i)),
            }
            hidden = torch.full((4,), float(i))
            buffer.push(PolicyExperience(state, i, float(i), state, False, float(i), hidden))

    new, again = ReplayBuffer(20, seed=1), ReplayBuffer(20, seed=1)
    push_all(new)
    push_all(again)
    out = again.sample(7)
    new.sample(7)
    assert again.sample(7, out=out) is out
    assert_equal(out, new.sample(7))
    assert isinstance(out.states["pose"], Pose)
    assert out.extras.keys() == {"log_prob", "hidden"}


def test_sample_out_large_enough_for_threads_holds_what_a_new_batch_would() -> None:
    rows = 5000
    columns = {
        "states": np.arange(rows * 40, dtype=np.float32).reshape(rows, 40),
        "actions": np.arange(rows),
        "rewards": np.arange(rows, dtype=np.float32),
        "next_states": np.arange(rows * 40, dtype=np.float32).reshape(rows, 40) + 1,
        "dones": np.arange(rows) % 7 == 0,
    }
    new, again = ReplayBuffer(rows, seed=1), ReplayBuffer(rows, seed=1)
    new.extend(**columns)
    again.extend(**columns)
    out = again.sample(4000)
    new.sample(4000)
    again.sample(4000, out=out)
    assert_equal(out, new.sample(4000))


def test_sample_out_of_clones_writes_the_clones() -> None:
    new, again = twins()
    batch = again.sample(8)
    new.sample(8)
    out = batch[:]  # views
    again.sample(8, out=dataclasses.replace(out, states=out.states.clone()))
    assert_equal(dataclasses.replace(batch, states=batch.states), out)
    assert len(stamps_of(new.sample(8))) == 8


def strided(part: Tensor) -> Tensor:
    return torch.zeros(*part.shape, 2, dtype=part.dtype)[..., 0]


class Subclass(torch.Tensor):
    pass


WRONG: dict[str, Callable[[Tensor], Any]] = {
    "dtype": lambda part: part.double(),
    "fewer rows": lambda part: part[:-1],
    "more dimensions": lambda part: part[..., None],
    "fewer dimensions": lambda part: part[0],
    "strides": strided,
    "negative": lambda part: torch.zeros(part.shape, dtype=torch.complex64).conj().imag,
    "meta": lambda part: part.to("meta"),
    "sparse": lambda part: part.to_sparse(),
    "subclass": lambda part: part.as_subclass(Subclass),
    "array": lambda part: part.numpy(),
    "none": lambda part: None,
}


@pytest.mark.parametrize("name", ["states", "actions", "rewards", "dones", "indices", "discounts"])
@pytest.mark.parametrize("kind", WRONG)
def test_sample_out_that_does_not_fit_names_the_part_and_changes_nothing(
    kind: str, name: str
) -> None:
    new, again = twins()
    out = again.sample(8)
    new.sample(8)
    wrong = dataclasses.replace(out, **{name: WRONG[kind](getattr(out, name))})
    before = [part.clone() for part in leaves(out)]
    with pytest.raises(ValueError, match=rf"^out\.{name}: expected a contiguous .* got "):
        again.sample(8, out=wrong)
    for part, old in zip(leaves(out), before, strict=True):
        assert torch.equal(part, old)
    assert_equal(again.sample(8), new.sample(8))  # no draw was taken


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        ((), TypeError, "out: expected a BatchExperience, got tuple"),
        (Experience(0.0, 0, 0.0, 0.0, False), TypeError, "out: expected a BatchExperience"),
        (
            BatchExperience(*[{"a": torch.zeros(8, 4)}] * 5),
            ValueError,
            r"out\.states: expected a contiguous float32 tensor of shape \(8, 4\).* got dict",
        ),
    ],
)
def test_sample_out_of_another_form_says_what_is_expected(
    out: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        filled(ReplayBuffer, range(50), 50).sample(8, out=out)


def test_sample_out_of_another_nest_names_the_part() -> None:
    buffer = ReplayBuffer(4)
    state = {"a": torch.zeros(2), "b": (torch.zeros(3), 1.0)}
    buffer.push(Experience(state, 0, 0.0, state, False))
    out = buffer.sample(1)
    cases: list[tuple[Any, str]] = [
        (torch.zeros(1, 2), r"out\.states: expected a dict of 2, got float32 of shape \(1, 2\)"),
        ({"a": out.states["a"]}, r"out\.states: expected a dict of 2, got dict"),
        ({"a": 0, "c": 0}, r"out\.states\['b'\]: expected a tensor, got none"),
        (out.states | {"b": (0,)}, r"out\.states\['b'\]: expected a tuple of 2, got tuple"),
        (out.states | {"b": (0, 0)}, r"out\.states\['b'\]\[0\]: expected a contiguous float32"),
    ]
    for states, text in cases:
        with pytest.raises(ValueError, match=text):
            buffer.sample(1, out=dataclasses.replace(out, states=states))


def test_sample_out_of_a_named_tuple_that_lies_about_its_length_is_refused() -> None:
    class Pair(NamedTuple):
        first: Tensor
        second: Tensor

        def __len__(self) -> int:
            return 2

    buffer = ReplayBuffer(4)
    state = Pair(torch.zeros(2), torch.zeros(3))
    buffer.push(Experience(state, 0, 0.0, state, False))
    out = buffer.sample(1)
    empty = tuple.__new__(Pair, ())
    with pytest.raises(ValueError, match=r"out\.states: expected a Pair of 2, got Pair"):
        buffer.sample(1, out=dataclasses.replace(out, states=empty))


@pytest.mark.parametrize("first_row", [0, 7])
def test_sample_out_of_tensors_that_share_memory_is_refused(first_row: int) -> None:
    buffer = filled(ReplayBuffer, range(50), 50)
    out = buffer.sample(8)
    both = torch.zeros(20, *out.states.shape[1:])
    wrong = dataclasses.replace(out, states=both[:8], next_states=both[first_row : first_row + 8])
    with pytest.raises(ValueError, match=r"out\.next_states: .* shares memory with states"):
        buffer.sample(8, out=wrong)
    assert not both.any()
    apart = dataclasses.replace(out, states=both[:8], next_states=both[8:16])
    assert_equal(buffer.sample(8, out=apart), apart)
