"""velora itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import threads
from benchmarks.contenders.base import Contender, Operation
from benchmarks.learner import Batch
from benchmarks.rollouts import GAMMA, LAMBDA, make_rollout
from benchmarks.rows import Array, Boundary, Contents, map_observations
from velora.buffer import BatchExperience, Experience, ReplayBuffer
from velora.returns import gae


class Velora(Contender):
    """A ReplayBuffer with its defaults: draws without replacement, eight tensors a batch."""

    name = "velora"

    def setup(self, contents: Contents) -> None:
        """Extends a buffer by all contents at once."""
        self._contents = contents
        self._buffer = _filled(contents)
        state, next_state = (
            map_observations(lambda column: torch.from_numpy(column[0].copy()), column)
            for column in (contents.states, contents.next_states)
        )
        action = torch.from_numpy(contents.actions[0].copy())
        self._values = (state, action, 0.5, next_state, False)

    def as_tensors(self, batch: BatchExperience) -> Batch:
        """Its fields."""
        return batch.states, batch.actions, batch.rewards, batch.next_states, batch.dones

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

    def extend(self, num_envs: int) -> Mapping[str, Operation]:
        """`extend` by name, of tensors and of arrays."""
        contents = self._contents
        even = contents.rows.capacity // num_envs * num_envs
        buffer = _filled(contents, even, num_envs=num_envs)
        arrays = _columns(contents, num_envs)
        arrays |= {name: arrays[name][:, 0] > 0 for name in ("dones", "truncations")}
        arrays["rewards"] = arrays["rewards"][:, 0].copy()
        tensors: dict[str, Any] = {
            name: map_observations(torch.from_numpy, column) for name, column in arrays.items()
        }
        return {"": partial(buffer.extend, **tensors), "arrays": partial(buffer.extend, **arrays)}

    def sample(self, batch_size: int) -> Operation:
        """`sample` as it is."""
        return partial(self._buffer.sample, batch_size)

    def sample_on_all_threads(self, batch_size: int) -> Mapping[str, Operation]:
        """`sample` with as many threads as torch, and with one."""
        run = self.sample(batch_size)
        return {"": run, "one thread": threads.on_one(run)}

    def sample_beside_tenth(self, batch_size: int) -> Mapping[str, Operation]:
        """`sample` of this buffer, and of one with a tenth of the rows."""
        tenth = _filled(self._contents, max(1, self._contents.rows.capacity // 10))
        return {
            "": self.sample(batch_size),
            "a tenth of the rows": partial(tenth.sample, batch_size),
        }

    def sample_images(self, batch_size: int) -> Mapping[str, Operation]:
        """Stored by default (each observation once), as frames, and whole."""
        stack = self._contents.rows.frame_stack
        frames = _filled(self._contents, frame_stack=stack)
        whole = _filled(self._contents, compact=False)
        return {
            "": self.sample(batch_size),
            f"frame_stack={stack}": partial(frames.sample, batch_size),
            "compact=False": partial(whole.sample, batch_size),
        }

    def sample_n_step(self, batch_size: int, n_step: int) -> Mapping[str, Operation]:
        """`sample` of a buffer with `n_step`, and of one without."""
        buffer = _filled(self._contents, n_step=n_step)
        return {"": partial(buffer.sample, batch_size), "one step": self.sample(batch_size)}

    def sample_sequences(self, batch_size: int, length: int, boundary: Boundary) -> Operation:
        """`sample_sequences` as it is."""
        return partial(self._buffer.sample_sequences, batch_size, length, boundary=boundary)

    def sample_of_episodes(
        self, batch_size: int, length: int, boundary: Boundary
    ) -> Mapping[str, Operation]:
        """The same rows, with ends at other places."""
        operations = {"": self.sample_sequences(batch_size, length, boundary)}
        for steps in (10_000, 10):
            buffer = _filled(self._contents, dones=_every(steps, self._contents.rows.capacity))
            run = partial(buffer.sample_sequences, batch_size, length, boundary=boundary)
            operations[f"episodes of {steps:,}"] = run
        return operations

    def gae(self, num_steps: int, num_envs: int) -> Operation:
        """`velora.returns.gae`; it returns the returns too."""
        rollout = make_rollout(num_steps, num_envs)
        rewards, values, next_values, dones = (
            torch.from_numpy(array)
            for array in (rollout.rewards, rollout.values, rollout.next_values, rollout.dones)
        )

        def run() -> Tensor:
            advantages, _ = gae(rewards, values, next_values, dones, gamma=GAMMA, lam=LAMBDA)
            return advantages

        return run


def _filled(
    contents: Contents, rows: int | None = None, dones: Array | None = None, **options: Any
) -> ReplayBuffer:
    """A full buffer of the first `rows`."""
    rows = contents.rows.capacity if rows is None else rows
    buffer = ReplayBuffer(rows, seed=0, **options)
    columns = _columns(contents, rows)
    if dones is not None:
        columns |= {"dones": dones, "truncations": np.zeros_like(dones)}
    buffer.extend(**columns)
    return buffer


def _columns(contents: Contents, rows: int) -> dict[str, Any]:
    """The first `rows`, by the names that `extend` takes."""
    names = ("states", "actions", "rewards", "next_states", "dones", "truncations")
    return {
        name: map_observations(lambda column: column[:rows], getattr(contents, name))
        for name in names
    }


def _every(steps: int, rows: int) -> Array:
    """Flags `(rows, 1)` that are set each so many steps."""
    return np.asarray(np.arange(1, rows + 1)[:, None] % steps == 0, np.float32)


def create() -> Contender:
    """The contender of this file."""
    return Velora()
