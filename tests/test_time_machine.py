"""Replay buffers of several lanes against lists of rows, through any sequence of calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from helpers import stack
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from reference_time import BOUNDARIES, Boundary
from streams import (
    COPIES,
    Environment,
    Plain,
    Recording,
    assert_flat,
    assert_same_bits,
    assert_sequences,
    bits,
    image_frame,
    mixed_frame,
    odd_frame,
    record,
)

from velora.buffer import BatchExperience, ReplayBuffer

ENDS = st.sampled_from(["open", "open", "open", "done", "truncated", "both"])

FRAMES: list[Callable[[Random], Any]] = [image_frame, mixed_frame, odd_frame]


class TimeMachine(RuleBasedStateMachine):
    """The same calls go to two buffers that differ in how they store; a model says what is there.

    The model keeps each experience as it was pushed. Draws are held to it by asking for all there
    is, and small ones by their indices.
    """

    recording: Recording
    n_step: int
    gamma: float
    capacity: int  # of a lane

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[BatchExperience, Any]] = []

    @initialize(
        capacity=st.integers(1, 9),
        num_envs=st.integers(1, 4),
        spare=st.integers(0, 3),
        n_step=st.integers(1, 4),
        gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
        frame=st.sampled_from(FRAMES),
        k=st.integers(1, 4),
        pad=st.sampled_from(["repeat", "zero"]),
        breaks=st.sampled_from([0.0, 0.2, 0.8]),
        seed=st.integers(0, 2**32),
    )
    def create(
        self,
        capacity: int,
        num_envs: int,
        spare: int,
        n_step: int,
        gamma: float,
        frame: Callable[[Random], Any],
        k: int,
        pad: str,
        breaks: float,
        seed: int,
    ) -> None:
        self.capacity, self.n_step, self.gamma = capacity, n_step, gamma
        compact = {"compact": True} if k == 1 else {"frame_stack": k}
        self.recording = record(
            capacity * num_envs + min(spare, num_envs - 1),
            num_envs,
            seed=seed,
            make=lambda random: Environment(random, frame, k, pad=pad, breaks=breaks),
            variants=[{"compact": False}, compact],
            n_step=n_step,
            gamma=gamma,
        )

    @property
    def buffers(self) -> list[ReplayBuffer]:
        return self.recording.buffers

    @property
    def num_envs(self) -> int:
        return len(self.recording.environments)

    @property
    def size(self) -> int:
        return len(self.recording.model.alive())

    # Writing

    @rule(data=st.data(), ends=st.lists(ENDS, min_size=1, max_size=6))
    def push(self, data: st.DataObject, ends: list[str]) -> None:
        lane = data.draw(st.integers(0, self.num_envs - 1))
        for end in ends:
            self.recording.push(lane, end)

    @rule(data=st.data(), rows=st.integers(1, 12))
    def extend(self, data: st.DataObject, rows: int) -> None:
        count = rows * self.num_envs
        self.recording.extend(rows, data.draw(st.lists(ENDS, min_size=count, max_size=count)))

    @rule(data=st.data(), count=st.integers(1, 15))
    def extend_lanes(self, data: st.DataObject, count: int) -> None:
        lane = st.integers(0, self.num_envs - 1)
        lanes = data.draw(st.lists(lane, min_size=count, max_size=count))
        ends = data.draw(st.lists(ENDS, min_size=count, max_size=count))
        self.recording.extend_lanes(lanes, ends)

    @rule(
        data=st.data(),
        capacity=st.integers(1, 9),
        num_envs=st.integers(1, 3),
        rows=st.integers(1, 30),
        compact=st.booleans(),
    )
    def extend_with_a_buffer(
        self, data: st.DataObject, capacity: int, num_envs: int, rows: int, compact: bool
    ) -> None:
        lane = st.integers(0, self.num_envs - 1)
        lanes = data.draw(st.lists(lane, min_size=num_envs, max_size=num_envs))
        like = self.recording.environments[0]
        source = record(
            capacity * num_envs,
            num_envs,
            make=lambda random: Environment(random, like.frame, like.k),
            variants=[{"compact": compact}],
            n_step=3,
        )
        source.play(Random(rows), rows)
        for buffer in self.buffers:
            buffer.extend(source.buffers[0], lanes=lanes)
        self.recording.model.copy(source.model, lanes)

    @rule(data=st.data())
    def extend_with_itself(self, data: st.DataObject) -> None:
        lanes = data.draw(st.permutations(range(self.num_envs)))
        for buffer in self.buffers:
            buffer.extend(buffer, lanes=lanes)
        self.recording.model.copy(self.recording.model, lanes)

    # Reading

    @precondition(lambda self: self.size > 0)
    @rule(data=st.data())
    def sample(self, data: st.DataObject) -> None:
        count = data.draw(st.one_of(st.just(self.size), st.integers(1, self.size)))
        self.keep([buffer.sample(count) for buffer in self.buffers])
        batch = self.batches[-1][0]
        ids = assert_flat(batch, self.recording.model, n_step=self.n_step, gamma=self.gamma)
        assert len(ids) == count

    @rule(
        data=st.data(),
        boundary=st.sampled_from(BOUNDARIES),
        everything=st.booleans(),
    )
    def sample_sequences(self, data: st.DataObject, boundary: Boundary, everything: bool) -> None:
        burn_in = data.draw(st.integers(0, min(4, self.capacity)))
        length = data.draw(st.integers(1, self.capacity))
        starts = self.recording.model.starts(length, boundary)
        for buffer in self.buffers:
            with pytest.raises(ValueError, match="batch_size"):
                buffer.sample_sequences(len(starts) + 1, length, burn_in, boundary=boundary)
        if starts:
            count = len(starts) if everything else data.draw(st.integers(1, len(starts)))
            self.keep(
                [
                    buffer.sample_sequences(count, length, burn_in, boundary=boundary)
                    for buffer in self.buffers
                ]
            )
            batch, model = self.batches[-1][0], self.recording.model
            found = assert_sequences(batch, model, length, burn_in, boundary, gamma=self.gamma)
            assert len(found) == count

    @rule()
    def iterate(self) -> None:
        plain, compact = map(list, self.buffers)
        for got, expected in zip(plain, self.recording.model.rows(), strict=True):
            assert_same_bits(got.state, expected.state)
            assert_same_bits(got.next_state, expected.next_state)
            assert (got.action, got.done, got.truncated) == (
                expected.action,
                expected.done,
                expected.truncated,
            )
        for got, expected in zip(compact, plain, strict=True):
            assert_same_bits(got, expected)

    @rule(position=st.integers(-40, 40))
    def index(self, position: int) -> None:
        rows = self.recording.model.rows()
        for buffer in self.buffers:
            if -len(rows) <= position < len(rows):
                assert_same_bits(buffer[position].next_state, rows[position].next_state)
            else:
                with pytest.raises(IndexError):
                    buffer[position]

    @rule(way=st.sampled_from(list(COPIES)), which=st.sampled_from([[0], [1], [0, 1]]))
    def replace_by_copy(self, way: str, which: list[int]) -> None:
        for i in which:
            old = self.buffers[i]
            self.buffers[i] = COPIES[way](old)
            if len(old) > 0:
                old.push(old[0], lane=self.num_envs - 1)
                old.sample(1)

    # Calls that change nothing

    @rule(lane=st.sampled_from([-1, 4, 2**40]))
    def push_to_no_lane(self, lane: int) -> None:
        step = self.strange_step()
        for buffer in self.buffers:
            with pytest.raises(ValueError, match="lane"):
                buffer.push(step, lane=lane)
            if self.num_envs > 1:
                with pytest.raises(ValueError, match="lane"):
                    buffer.push(step)

    @precondition(lambda self: self.num_envs > 1)
    @rule(rows=st.integers(1, 12))
    def extend_by_rows_that_do_not_go_round(self, rows: int) -> None:
        rows += rows % self.num_envs == 0
        batch = stack([self.strange_step()] * rows)
        for buffer in self.buffers:
            with pytest.raises(ValueError, match=str(rows)):
                buffer.extend(batch)

    @rule(lanes=st.sampled_from([[], [0], [0, 0, 0], [0, 4], [-1, 0]]))
    def extend_to_lanes_that_do_not_fit(self, lanes: list[int]) -> None:
        batch = stack([self.strange_step()] * 2)
        for buffer in self.buffers:
            with pytest.raises(ValueError, match="lanes"):
                buffer.extend(batch, lanes=lanes)

    @precondition(lambda self: self.size > 0)
    @rule(
        change=st.sampled_from(
            [{"state": "text"}, {"next_state": torch.zeros(7, 7)}, {"reward": 1e300}, {"done": 0.5}]
        )
    )
    def push_a_bad_value(self, change: dict[str, Any]) -> None:
        bad = replace(self.strange_step(), **change)
        for buffer in self.buffers:
            with pytest.raises(ValueError, match=next(iter(change))):
                buffer.push(bad, lane=0)

    @precondition(lambda self: self.size > 0)
    @rule(count=st.integers(1, 20))
    def extend_with_a_late_bad_row(self, count: int) -> None:
        batch = stack([self.strange_step()] * count)
        batch.dones = torch.tensor([0.0] * (count - 1) + [0.5])
        for buffer in self.buffers:
            with pytest.raises(ValueError, match="done"):
                buffer.extend(batch, lanes=[i % self.num_envs for i in range(count)])

    @rule(excess=st.integers(1, 5))
    def sample_more_than_there_is(self, excess: int) -> None:
        for buffer in self.buffers:
            with pytest.raises(ValueError, match="batch_size"):
                buffer.sample(self.size + excess)

    @rule()
    def sample_sequences_that_cannot_be(self) -> None:
        for buffer in self.buffers:
            with pytest.raises(ValueError, match="length"):
                buffer.sample_sequences(1, self.capacity + 1)
            with pytest.raises(ValueError, match="boundary"):
                buffer.sample_sequences(1, 1, boundary="none")  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="burn_in"):
                buffer.sample_sequences(1, 1, -1)

    @precondition(lambda self: len(self.batches) > 0)
    @rule(data=st.data())
    def release_batch(self, data: st.DataObject) -> None:
        self.batches.pop(data.draw(st.integers(0, len(self.batches) - 1)))

    @invariant()
    def length_agrees(self) -> None:
        if hasattr(self, "recording"):
            assert [len(buffer) for buffer in self.buffers] == [self.size] * 2

    def teardown(self) -> None:
        if hasattr(self, "recording"):
            self.iterate()
        for batch, before in self.batches:
            assert bits(batch) == before

    def strange_step(self) -> Any:
        """A step that fits, of another environment."""
        like = self.recording.environments[0]
        return Environment(Random(1), like.frame, like.k).step(0)

    def keep(self, batches: list[BatchExperience]) -> None:
        """One batch, which all buffers must have given, to look at again in the end."""
        first, *others = batches
        for other in others:
            assert_same_bits(other, first)
        self.batches.append((first, bits(first)))


TestTimeMachine = TimeMachine.TestCase
TestTimeMachine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("part", ["rewards", "states", "next_states", "discounts", "dones"])
def test_hold_a_wrong_batch_against_the_model_is_told_apart(part: str) -> None:
    recording = record(12, 2, make=Plain, n_step=3)
    recording.play(Random(0), 30)
    batch = recording.buffers[0].sample(12)
    assert_flat(batch, recording.model, n_step=3)
    wrong = getattr(batch, part).clone()
    wrong[5] += 0.25
    with pytest.raises(AssertionError):
        assert_flat(replace(batch, **{part: wrong}), recording.model, n_step=3)


def test_hold_a_batch_of_another_horizon_against_the_model_is_told_apart() -> None:
    recording = record(12, 2, make=Plain, n_step=2)
    recording.play(Random(0), 30)
    with pytest.raises(AssertionError):
        assert_flat(recording.buffers[0].sample(12), recording.model, n_step=3)
