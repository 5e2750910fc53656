"""A prioritized buffer against a list of priorities, through any sequence of calls."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction
from typing import Any

import pytest
import torch
from helpers import save_and_load, stamped
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from reference_priorities import LANE_SHIFT, PriorityModel, Row

from velora.buffer import Prioritized, ReplayBuffer

PRIORITIES = st.sampled_from([0.0, 0.125, 0.5, 1.0, 3.0, 50.0])
EXPONENTS = st.sampled_from([0.0, 0.4, 0.6, 1.0, 2.0])
COPIES = st.sampled_from([copy.deepcopy, save_and_load, lambda x: pickle.loads(pickle.dumps(x))])


def row_of(index: int) -> Row:
    return index >> LANE_SHIFT, index & ((1 << LANE_SHIFT) - 1)


def index_of(row: Row) -> int:
    return row[0] << LANE_SHIFT | row[1]


class PriorityMachine(RuleBasedStateMachine):
    """A saved and loaded buffer takes over now and then; `other` went on without being saved."""

    buffer: ReplayBuffer
    other: ReplayBuffer
    model: PriorityModel

    @initialize(
        capacity=st.integers(1, 9),
        lanes=st.integers(1, 4),
        alpha=EXPONENTS,
        beta=EXPONENTS,
        eps=st.sampled_from([0.0, 1e-6, 0.5]),
        normalise=st.sampled_from(["buffer", "batch", "none"]),
        draws=st.sampled_from(["stratified", "independent"]),
        maximum=st.sampled_from(["buffer", "all_time"]),
        seed=st.integers(0, 2**64 - 1),
    )
    def create(
        self,
        capacity: int,
        lanes: int,
        alpha: float,
        beta: float,
        eps: float,
        normalise: Any,
        draws: Any,
        maximum: Any,
        seed: int,
    ) -> None:
        sampler = Prioritized(alpha, beta, eps, normalise, draws, maximum)
        self.buffer, self.other = (
            ReplayBuffer(capacity * lanes, num_envs=lanes, sampler=sampler, seed=seed)
            for _ in range(2)
        )
        self.model = PriorityModel(capacity, lanes, alpha, beta, eps, normalise, maximum)
        self.is_stratified = draws == "stratified"
        self.push(0, 1)

    @property
    def buffers(self) -> tuple[ReplayBuffer, ReplayBuffer]:
        return self.buffer, self.other

    @rule(lane=st.integers(0, 3), count=st.integers(1, 12))
    def push(self, lane: int, count: int) -> None:
        lane %= self.model.lanes
        for _ in range(count):
            self.model.push(lane)
            for buffer in self.buffers:
                buffer.push(stamped(self.model.ends[lane]), lane=lane)

    @rule(steps=st.integers(1, 12))
    def extend(self, steps: int) -> None:
        count = steps * self.model.lanes
        columns = {
            "states": torch.zeros(count, 4),
            "actions": torch.zeros(count, 1, dtype=torch.int64),
            "rewards": torch.zeros(count, 1),
            "next_states": torch.zeros(count, 4),
            "dones": torch.zeros(count, 1, dtype=torch.bool),
            "truncations": torch.zeros(count, 1, dtype=torch.bool),
        }
        for buffer in self.buffers:
            buffer.extend(**columns)
        for _ in range(steps):
            for lane in range(self.model.lanes):
                self.model.push(lane)

    @rule()
    def clear(self) -> None:
        for buffer in self.buffers:
            buffer._core.clear()
        self.model.clear()

    @rule(data=st.data(), priorities=st.lists(PRIORITIES, min_size=1, max_size=30))
    def update(self, data: st.DataObject, priorities: list[float]) -> None:
        rows = [
            (lane, serial) for lane, end in enumerate(self.model.ends) for serial in range(end + 2)
        ]
        rows.append((self.model.lanes, 0))
        # Newer rows are as likely to be alive as not.
        newest = [row for row in rows if row[0] < self.model.lanes][-2 * self.model.capacity :]
        choice = st.sampled_from(newest) | st.sampled_from(rows)
        drawn = data.draw(st.lists(choice, min_size=len(priorities), max_size=len(priorities)))
        indices = torch.tensor([index_of(row) for row in drawn])
        expected = self.model.update(drawn, priorities)
        for buffer in self.buffers:
            assert buffer.update_priorities(indices, torch.tensor(priorities)).tolist() == expected

    @rule(alpha=EXPONENTS)
    def set_alpha(self, alpha: float) -> None:
        self.model.alpha = alpha
        for buffer in self.buffers:
            buffer.sampler.alpha = alpha  # type: ignore[attr-defined]

    @rule(beta=EXPONENTS)
    def set_beta(self, beta: float) -> None:
        self.model.beta = beta
        for buffer in self.buffers:
            buffer.sampler.beta = beta  # type: ignore[attr-defined]

    @rule(save=COPIES)
    def save(self, save: Any) -> None:
        self.buffer = save(self.buffer)

    @precondition(lambda self: self.model.raw or self.model.new)
    @rule(count=st.integers(1, 24), length=st.integers(0, 3))
    def draw(self, count: int, length: int) -> None:
        self.model.settle()
        indices, weights = self.sample(self.buffer, count, length)
        assert (indices, weights) == self.sample(self.other, count, length)
        rows = [row_of(index) for index in indices]
        assert set(rows) <= self.model.raw.keys()
        assert weights == pytest.approx(self.model.importance(rows), rel=1e-5)
        if not self.model.total():
            return
        assert all(self.model.weight(row) > 0 for row in rows)
        if self.is_stratified:
            for k, row in enumerate(rows):
                self.check_part(k, count, row)

    def check_part(self, k: int, count: int, row: Row) -> None:
        first, end = self.model.part_of(row)
        slack = Fraction(1, 10**9)
        assert first <= Fraction(k + 1, count) + slack
        assert end >= Fraction(k, count) - slack

    def sample(
        self, buffer: ReplayBuffer, count: int, length: int
    ) -> tuple[list[int], list[float]]:
        if length == 0 or length > self.model.capacity:
            batch = buffer.sample(count)
            assert batch.indices is not None
            indices = batch.indices
        else:
            batch = buffer.sample_sequences(count, length)
            assert batch.indices is not None
            indices = batch.indices[:, 0]
        assert batch.weights.shape == (count, 1)
        return indices.tolist(), batch.weights.flatten().tolist()


TestPriorities = pytest.mark.filterwarnings("ignore:all priorities are 0")(PriorityMachine.TestCase)
TestPriorities.settings = settings(max_examples=40, stateful_step_count=30)
