"""Both buffers against a deque, through any sequence of calls."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from helpers import AnyBuffer, PolicyExperience, assert_rows, leaves, stack, stamped, step
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from velora.buffer import BatchExperience, Experience, ReplayBuffer, RolloutBuffer


def scalar(i: int) -> Experience:
    return Experience(float(i), i, i / 2, i + 1.0, i % 3 == 0, truncated=i % 4 == 0)


def image(i: int) -> Experience:
    frame = torch.full((2, 3, 3), i % 256, dtype=torch.uint8)
    return Experience(frame, i, float(i), frame + 1, i % 3 == 0)


def one_row(i: int) -> Experience:
    action = torch.tensor([[i / 2, -i / 2]], dtype=torch.float16)
    return Experience(torch.full((1, 5), float(i)), action, i, torch.zeros(1, 5), False)


def dictionary(i: int) -> Experience:
    state = {"pose": torch.full((3,), float(i)), "time": torch.tensor(i)}
    return Experience(state, i % 2 == 0, float(i), {**state, "time": torch.tensor(i + 1)}, True)


def pair(i: int) -> Experience:
    state = (torch.tensor([i, i], dtype=torch.int32), (torch.tensor(i % 2 == 0),))
    action = (torch.tensor(i), torch.full((2,), i / 4).bfloat16())
    return Experience(state, action, float(i), state, False, truncated=i % 2 == 0)


def extended(i: int) -> Experience:
    return PolicyExperience(*stamped(i), i / 4, torch.full((2, 2), float(i)))


FORMS = [stamped, scalar, image, one_row, dictionary, pair, extended]


class BufferMachine(RuleBasedStateMachine):
    """Operations of both buffers. The model keeps the experiences as they were pushed."""

    buffer: AnyBuffer
    model: reference.BufferModel[Experience]
    make: Callable[[int], Experience]

    def __init__(self) -> None:
        super().__init__()
        self.stamps = itertools.count()
        self.batches: list[tuple[BatchExperience, list[Experience]]] = []

    def fresh(self, count: int) -> list[Experience]:
        return [self.make(i) for i in itertools.islice(self.stamps, count)]

    def refuses(self, kind: type[Exception], call: Callable[[], Any]) -> None:
        with pytest.raises(kind):
            call()

    @rule()
    def push(self) -> None:
        (experience,) = self.fresh(1)
        if self.model.fits(1):
            self.buffer.push(experience)
            self.model.extend([experience])
        else:
            self.refuses(BufferError, lambda: self.buffer.push(experience))

    @rule(count=st.integers(1, 20))
    def push_many(self, count: int) -> None:
        for _ in range(count):
            self.push()

    @rule(count=st.integers(1, 25))
    def extend(self, count: int) -> None:
        experiences = self.fresh(count)
        if self.model.fits(count):
            self.buffer.extend(stack(experiences))
            self.model.extend(experiences)
        else:
            self.refuses(BufferError, lambda: self.buffer.extend(stack(experiences)))

    @rule(position=st.integers(-30, 30))
    def index(self, position: int) -> None:
        rows = list(self.model.rows)
        if -len(rows) <= position < len(rows):
            self.assert_equal(self.buffer[position], rows[position])
        else:
            self.refuses(IndexError, lambda: self.buffer[position])

    @rule(part=st.slices(25))
    def slice(self, part: slice) -> None:
        expected = list(self.model.rows)[part]
        got = self.buffer[part]
        assert len(got) == len(expected)
        for pair_of in zip(got, expected, strict=True):
            self.assert_equal(*pair_of)

    @rule()
    def iterate_both_ways(self) -> None:
        forwards, backwards = list(self.buffer), list(reversed(self.buffer))
        for i, expected in enumerate(self.model.rows):
            self.assert_equal(forwards[i], expected)
            self.assert_equal(backwards[-1 - i], expected)

    @precondition(lambda self: len(self.model.rows) > 0)
    @rule(data=st.data())
    def search(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.buffer) - 1))
        taken = self.buffer[position]
        assert taken in self.buffer
        assert self.buffer.index(taken) == position

    @rule(way=st.sampled_from(["pickle", "deepcopy", "copy"]))
    def replace_by_copy(self, way: str) -> None:
        copies: dict[str, Callable[[AnyBuffer], AnyBuffer]] = {
            "pickle": lambda buffer: pickle.loads(pickle.dumps(buffer)),  # type: ignore[no-any-return]
            "deepcopy": copy.deepcopy,
            "copy": copy.copy,
        }
        old, self.buffer = self.buffer, copies[way](self.buffer)
        if len(old) > 0 and isinstance(old, ReplayBuffer):
            old.push(self.fresh(1)[0])
            old.sample(1)

    @precondition(lambda self: len(self.model.rows) > 0)
    @rule(
        change=st.sampled_from(
            [
                {"state": "text"},
                {"action": None},
                {"reward": float("1e300")},
                {"next_state": torch.zeros(7, 7, 7)},
                {"done": 0.5},
                {"truncated": np.array([0, 0])},
            ]
        )
    )
    def push_bad_value(self, change: dict[str, Any]) -> None:
        bad = replace(self.make(0), **change)
        self.refuses(ValueError, lambda: self.buffer.push(bad))

    @precondition(lambda self: len(self.model.rows) > 0)
    @rule(name=st.sampled_from(["actions", "rewards", "dones"]))
    def extend_bad_part(self, name: str) -> None:
        batch = stack([self.make(0), self.make(1)])
        self.refuses(ValueError, lambda: self.buffer.extend(replace(batch, **{name: None})))

    @rule(thing=st.sampled_from([None, 3, "x", (1, 2, 3, 4, 5)]))
    def push_something_else(self, thing: Any) -> None:
        self.refuses(TypeError, lambda: self.buffer.push(thing))
        self.refuses(TypeError, lambda: self.buffer.extend(thing))

    @precondition(lambda self: len(self.batches) > 0)
    @rule(data=st.data())
    def release_batch(self, data: st.DataObject) -> None:
        self.batches.pop(data.draw(st.integers(0, len(self.batches) - 1)))

    @invariant()
    def length_agrees(self) -> None:
        if hasattr(self, "model"):
            assert len(self.buffer) == len(self.model.rows)

    def keep(self, batch: BatchExperience, rows: list[Experience]) -> None:
        assert_rows(batch, rows)
        self.batches.append((batch, rows))

    def teardown(self) -> None:
        for batch, rows in self.batches:
            assert_rows(batch, rows)

    def assert_equal(self, got: Experience, expected: Experience) -> None:
        for name, value in vars(expected).items():
            assert leaves(getattr(got, name)) == leaves(value), name


class ReplayMachine(BufferMachine):
    """Adds the draws, which the model predicts."""

    @initialize(
        make=st.sampled_from(FORMS),
        capacity=st.integers(1, 12),
        seed=st.integers(0, 2**64 - 1),
    )
    def create(self, make: Callable[[int], Experience], capacity: int, seed: int) -> None:
        self.make = make
        self.buffer = ReplayBuffer(capacity, seed=seed, gamma=0.5)
        self.model = reference.BufferModel(capacity, overwrite=True, seed=seed)

    @precondition(lambda self: len(self.model.rows) > 0)
    @rule(data=st.data())
    def sample(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.model.rows)))
        assert isinstance(self.buffer, ReplayBuffer)
        batch = self.buffer.sample(count)
        serials = self.model.sample(count)
        assert batch.indices.tolist() == serials
        assert len(set(serials)) == count
        assert torch.equal(batch.discounts, 0.5 * (1 - batch.dones))
        self.keep(batch, [self.model.row(serial) for serial in serials])

    @rule(excess=st.integers(1, 5))
    def sample_more_than_there_is(self, excess: int) -> None:
        assert isinstance(self.buffer, ReplayBuffer)
        size = len(self.model.rows) + excess
        with pytest.raises(ValueError, match=str(size)):
            self.buffer.sample(size)


class RolloutMachine(BufferMachine):
    """Adds time order and `empty`."""

    @initialize(make=st.sampled_from(FORMS), capacity=st.integers(1, 30))
    def create(self, make: Callable[[int], Experience], capacity: int) -> None:
        self.make = make
        self.buffer = RolloutBuffer(capacity)
        self.model = reference.BufferModel(capacity, overwrite=False)

    @rule()
    def sample(self) -> None:
        assert isinstance(self.buffer, RolloutBuffer)
        if self.model.rows:
            self.keep(self.buffer.sample(), list(self.model.rows))
        else:
            self.refuses(BufferError, self.buffer.sample)

    @rule()
    def empty(self) -> None:
        assert isinstance(self.buffer, RolloutBuffer)
        self.buffer.empty()
        self.model.empty()


TestReplayMachine = ReplayMachine.TestCase
TestReplayMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestRolloutMachine = RolloutMachine.TestCase
TestRolloutMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize("make", FORMS, ids=lambda make: str(make.__name__))
def test_compare_neighbouring_steps_of_each_form_are_told_apart(
    make: Callable[[int], Experience],
) -> None:
    buffer = RolloutBuffer(1)
    buffer.push(make(1))
    assert_rows(buffer.sample(), [make(1)])
    with pytest.raises(AssertionError):
        assert_rows(buffer.sample(), [make(2)])
    with pytest.raises(AssertionError):
        assert_rows(buffer.sample(), [replace(make(1), done=not make(1).done)])


def test_compare_with_a_model_of_another_seed_is_told_apart() -> None:
    buffer = ReplayBuffer(12, seed=1)
    model = reference.BufferModel[int](12, overwrite=True, seed=2)
    for i in range(12):
        buffer.push(step(action=i))
        model.extend([i])
    assert buffer.sample(12).indices.tolist() != model.sample(12)
