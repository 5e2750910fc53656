"""velora itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.contenders.base import Contender, Operation
from benchmarks.rows import Array, Boundary, Contents
from velora.buffer import Experience, ReplayBuffer


class Velora(Contender):
    """A ReplayBuffer with its defaults: draws without replacement, eight tensors a batch."""

    name = "velora"

    def setup(self, contents: Contents) -> None:
        """Extends a buffer by all contents at once."""
        self._contents = contents
        self._buffer = _filled(contents)
        first = (torch.from_numpy(column[0].copy()) for column in contents.columns())
        state, action, _, next_state, _ = first
        self._values = (state, action, 0.5, next_state, False)

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
        arrays = {
            "states": contents.states[:num_envs].copy(),
            "actions": contents.actions[:num_envs].copy(),
            "rewards": contents.rewards[:num_envs, 0].copy(),
            "next_states": contents.next_states[:num_envs].copy(),
            "dones": contents.dones[:num_envs, 0] > 0,
            "truncations": contents.truncations[:num_envs, 0] > 0,
        }
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return {"": partial(buffer.extend, **tensors), "arrays": partial(buffer.extend, **arrays)}

    def sample(self, batch_size: int) -> Operation:
        """`sample` as it is."""
        return partial(self._buffer.sample, batch_size)

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


def _filled(
    contents: Contents, rows: int | None = None, dones: Array | None = None, **options: Any
) -> ReplayBuffer:
    """A full buffer of the first `rows`."""
    rows = contents.rows.capacity if rows is None else rows
    buffer = ReplayBuffer(rows, seed=0, **options)
    fields = ("states", "actions", "rewards", "next_states", "dones", "truncations")
    columns = {name: getattr(contents, name)[:rows] for name in fields}
    if dones is not None:
        columns |= {"dones": dones, "truncations": np.zeros_like(dones)}
    buffer.extend(**columns)
    return buffer


def _every(steps: int, rows: int) -> Array:
    """Flags `(rows, 1)` that are set each so many steps."""
    return np.asarray(np.arange(1, rows + 1)[:, None] % steps == 0, np.float32)


def create() -> Contender:
    """The contender of this file."""
    return Velora()
