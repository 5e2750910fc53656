"""cpprb's ReplayBuffer. Installed by `make bench`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from cpprb import ReplayBuffer

from benchmarks.contenders.base import Contender, Operation
from benchmarks.learner import Batch
from benchmarks.rows import GAMMA, Array, Contents, Observations


class Cpprb(Contender):
    """A ReplayBuffer, with one ring for all environments. Draws with replacement; NumPy batches.

    With Nstep, n steps of which the last terminates are not done, and the last n - 1 steps of a
    truncated episode have next states of ones.
    """

    name = "cpprb"

    def setup(self, contents: Contents) -> None:
        self._contents = contents
        self._columns = _columns(contents)
        self._buffer = _make(contents.rows.capacity, self._columns)
        self._buffer.add(**self._columns)

    def as_tensors(self, batch: Any) -> Batch:
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        if not self._contents.rows.is_dict:
            states, next_states = tensors["obs"], tensors["next_obs"]
            return states, tensors["act"], tensors["rew"], next_states, tensors["done"]
        keys = [leaf.key for leaf in self._contents.rows.leaves]
        return (
            {key: tensors[key] for key in keys},
            tensors["act"],
            tensors["rew"],
            {key: tensors[f"next_{key}"] for key in keys},
            tensors["done"],
        )

    def push(self) -> Operation:
        return partial(self._buffer.add, **_copy(self._columns, 0))

    def extend(self, num_envs: int) -> Operation:
        """`add` of a step of each environment, with one field more, for truncations."""
        columns = self._columns | {"truncated": self._contents.truncations}
        buffer = _make(self._contents.rows.capacity, columns)
        buffer.add(**columns)
        return partial(buffer.add, **_copy(columns, slice(num_envs)))

    def sample_images(self, batch_size: int) -> Mapping[str, Operation]:
        """Stored whole, each observation once, and each frame once.

        For frames the stack is the last dimension: that is where it looks for them.
        """
        whole = self._columns
        last = {
            name: np.moveaxis(column, 1, -1) if name in ("obs", "next_obs") else column
            for name, column in whole.items()
        }
        once = self._filled_by_episodes(whole, next_of="obs")
        frames = self._filled_by_episodes(last, next_of="obs", stack_compress="obs")
        return {
            "": self.sample(batch_size),
            "next_of": partial(once.sample, batch_size),
            "stack_compress": partial(frames.sample, batch_size),
        }

    def sample_n_step(self, batch_size: int, n_step: int) -> Operation:
        """`sample` of a buffer that has looked ahead before it stored a step."""
        options = {"size": n_step, "gamma": GAMMA, "rew": "rew", "next": "next_obs"}
        buffer = self._filled_by_episodes(self._columns, Nstep=options)
        return partial(buffer.sample, batch_size)

    def _filled_by_episodes(self, columns: dict[str, Array], **options: Any) -> ReplayBuffer:
        """A full buffer that has been told where episodes end."""
        contents = self._contents
        stored = {
            name: column
            for name, column in columns.items()
            if "next_of" not in options or name != "next_obs"
        }
        buffer = _make(contents.rows.capacity, stored, **options)
        ends = (np.flatnonzero(contents.dones + contents.truncations) + 1).tolist()
        start = 0
        for stop in ends:
            buffer.add(**{name: column[start:stop] for name, column in columns.items()})
            buffer.on_episode_end()
            start = stop
        if start < contents.rows.capacity:
            buffer.add(**{name: column[start:] for name, column in columns.items()})
        return buffer


def _columns(contents: Contents) -> dict[str, Array]:
    """The fields under the names that cpprb goes by: a key and "next_" before it."""
    return {
        **_named("obs", contents.states),
        "act": contents.actions,
        "rew": contents.rewards,
        **{f"next_{key}": array for key, array in _named("obs", contents.next_states).items()},
        "done": contents.dones,
    }


def _named(name: str, observations: Observations) -> dict[str, Array]:
    return observations if isinstance(observations, dict) else {name: observations}


def _make(capacity: int, columns: dict[str, Array], **options: Any) -> ReplayBuffer:
    fields = {
        name: {"shape": column.shape[1:], "dtype": column.dtype} for name, column in columns.items()
    }
    return ReplayBuffer(capacity, fields, **options)


def _copy(columns: dict[str, Array], rows: int | slice) -> dict[str, Array]:
    return {name: column[rows].copy() for name, column in columns.items()}
