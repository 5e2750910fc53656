"""tianshou's ReplayBuffer. Installed by `make bench`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from tianshou.algorithm.algorithm_base import Algorithm
from tianshou.data import Batch, ReplayBuffer, VectorReplayBuffer

from benchmarks.contenders.base import Contender, Operation
from benchmarks.learner import Batch as Tensors
from benchmarks.rows import (
    GAMMA,
    LAMBDA,
    Array,
    Contents,
    Observations,
    make_rollout,
    map_observations,
)


class Tianshou(Contender):
    """A Batch of NumPy columns, rewards as float64. Draws with replacement; NumPy batches.

    Without `obs_next`, the next state of an episode's last step is its state. With `stack_num`, the
    oldest rows are stacked as if an episode began there.
    """

    name = "tianshou"

    def setup(self, contents: Contents) -> None:
        """Builds a buffer from data, and says that the last row is the newest."""
        self._contents = contents
        self._buffer = _filled(
            ReplayBuffer(contents.rows.capacity), _columns(contents, slice(None))
        )

    def as_tensors(self, batch: Any) -> Tensors:
        rows, _ = batch
        states, next_states = rows.obs, rows.obs_next
        if self._contents.rows.is_dict:
            states, next_states = dict(states), dict(next_states)
        return (
            map_observations(torch.from_numpy, states),
            torch.from_numpy(rows.act),
            torch.from_numpy(rows.rew),
            map_observations(torch.from_numpy, next_states),
            torch.from_numpy(rows.terminated),
        )

    def push(self) -> Operation:
        return partial(self._buffer.add, Batch(**self._step(0)))

    def construct_and_push(self) -> Operation:
        step, add = self._step(0), self._buffer.add

        def run() -> None:
            add(Batch(**step))

        return run

    def extend(self, num_envs: int) -> Operation:
        """`add` of a Batch that is there already to a VectorReplayBuffer."""
        even = self._contents.rows.capacity // num_envs * num_envs
        # Around the same memory.
        buffer = _filled(VectorReplayBuffer(even, num_envs), self._buffer[:even])
        return partial(buffer.add, Batch(**self._step(slice(num_envs))))

    def sample_images(self, batch_size: int) -> Mapping[str, Operation]:
        """Stored whole, and each frame once."""
        stack = self._contents.rows.frame_stack
        fields = ("act", "rew", "terminated", "truncated", "done")
        columns = {field: getattr(self._buffer, field) for field in fields}
        columns["obs"] = np.ascontiguousarray(self._buffer.obs[:, -1])
        frames = ReplayBuffer(
            self._contents.rows.capacity,
            stack_num=stack,
            ignore_obs_next=True,
            save_only_last_obs=True,
        )
        _filled(frames, columns)
        return {
            "": self.sample(batch_size),
            f"stack_num={stack}": partial(frames.sample, batch_size),
        }

    def sample_n_step(self, batch_size: int, n_step: int) -> Operation:
        """`sample` and `compute_nstep_return`, with the next states for a target network.

        It copies the dones of the whole buffer for each batch.
        """
        buffer = self._buffer

        def run() -> tuple[Any, Any]:
            batch, indices = buffer.sample(batch_size)

            def gather(buffer: ReplayBuffer, last: Array) -> torch.Tensor:
                batch.obs_next = torch.from_numpy(buffer[last].obs_next)
                return torch.zeros(len(last))

            batch = Algorithm.compute_nstep_return(batch, buffer, indices, gather, GAMMA, n_step)
            return batch, indices

        return run

    def gae(self, num_steps: int, num_envs: int) -> Operation:
        """`compute_episodic_return`, compiled by Numba, of episodes one after another."""
        rollout = make_rollout(num_steps, num_envs)
        rewards, values, next_values, dones = (
            np.ascontiguousarray(column.T).ravel()
            for column in (rollout.rewards, rollout.values, rollout.next_values, rollout.dones)
        )
        rows = num_steps * num_envs
        columns = {
            "obs": np.zeros(rows),
            "act": np.zeros(rows),
            "rew": rewards.astype(float),
            "terminated": dones > 0,
            "truncated": np.zeros(rows, bool),
            "done": dones > 0,
        }
        buffer = _filled(VectorReplayBuffer(rows, num_envs), columns)
        indices = np.arange(rows)
        batch = buffer[indices]

        def run() -> Array:
            _, advantages = Algorithm.compute_episodic_return(
                batch, buffer, indices, next_values, values, GAMMA, LAMBDA
            )
            result: Array = advantages.reshape(num_envs, num_steps).T
            return result

        return run

    def _step(self, rows: int | slice) -> dict[str, Any]:
        columns = _columns(self._contents, rows)
        columns.pop("done")  # `add` makes it of the other two
        return columns


def _columns(contents: Contents, rows: int | slice) -> dict[str, Any]:
    """Copies of the fields under the names that tianshou reserves for them."""
    terminated, truncated = (
        flags[:, 0][rows] > 0 for flags in (contents.dones, contents.truncations)
    )
    return {
        "obs": _copy(contents.states, rows),
        "act": contents.actions[rows].copy(),
        "rew": contents.rewards[:, 0][rows].astype(float),
        "obs_next": _copy(contents.next_states, rows),
        "terminated": terminated,
        "truncated": truncated,
        "done": terminated | truncated,
    }


def _copy(observations: Observations, rows: int | slice) -> Any:
    return map_observations(lambda array: array[rows].copy(), observations)


def _filled(buffer: ReplayBuffer, columns: Any) -> ReplayBuffer:
    """The same buffer around columns, as if they had been added one row at a time."""
    buffer.set_batch(Batch(columns))
    parts = getattr(buffer, "buffers", [buffer])
    for part in parts:
        part._size = part.maxsize
        part.last_index[0] = part.maxsize - 1
    if isinstance(buffer, VectorReplayBuffer):
        buffer._lengths[:] = [part.maxsize for part in parts]
        buffer.last_index = buffer.subbuffer_edges[1:] - 1
    return buffer
