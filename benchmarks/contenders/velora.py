"""velora itself."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.contenders.base import Contender, Operation
from benchmarks.workloads import Contents
from velora.buffer import BatchExperience, Experience, ReplayBuffer


class Velora(Contender):
    """A ReplayBuffer with its defaults: draws without replacement, eight tensors a batch."""

    name = "velora"

    def setup(self, contents: Contents) -> None:
        """Extends a buffer by all contents at once."""
        columns = [torch.from_numpy(column) for column in contents.columns()]
        states, actions, rewards, next_states, dones = columns
        self._buffer = ReplayBuffer(contents.rows.capacity, seed=0)
        self._buffer.extend(BatchExperience(states, actions, rewards, next_states, dones))
        self._values = (states[0].clone(), actions[0].clone(), 0.5, next_states[0].clone(), False)

    def push(self) -> Operation:
        """`push` of an Experience that is there already."""
        return partial(self._buffer.push, Experience(*self._values))

    def construct_and_push(self) -> Operation:
        """What an environment loop writes: `push(Experience(...))`."""
        state, action, reward, next_state, done = self._values
        buffer_push = self._buffer.push

        def run() -> None:
            buffer_push(Experience(state, action, reward, next_state, done))

        return run

    def sample(self, batch_size: int) -> Operation:
        """`sample` as it is."""
        return partial(self._buffer.sample, batch_size)


def create() -> Contender:
    """The contender of this file."""
    return Velora()
