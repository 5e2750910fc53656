"""The floor: compiled loops that move the bytes and do nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine
from benchmarks.compiler import compile_library
from benchmarks.contenders.base import Contender, Operation, Unavailable
from benchmarks.contenders.columns import as_batch
from benchmarks.learner import Batch
from benchmarks.rows import GAMMA, LAMBDA, Array, Boundary, Contents, Leaf, make_rollout

SOURCE = Path(__file__).parent.parent / "floor.cpp"
GAE_SOURCE = SOURCE.with_name("floor_gae.cpp")
NUMBER = Leaf((1,), "float32")
CACHE_LINE = 64
NUM_POSITIONS = 1 << 20


class Floor(Contender):
    """Copies rows from and to positions drawn beforehand, into memory that is reused."""

    name = "floor"

    def setup(self, contents: Contents) -> None:
        """Lays the contents out as rows on whole cache lines."""
        rows = contents.rows
        if rows.is_dict:
            raise Unavailable("its rows hold observations of one array")
        self._library = compile_library(
            SOURCE, STATE_BYTES=rows.state.nbytes, ACTION_BYTES=rows.action.nbytes
        )
        self._library.pitch.restype = ctypes.c_size_t
        self._rows = _aligned(rows.capacity, self._library.pitch())
        start = 0
        states, actions, rewards, next_states, dones = contents.columns()
        # In the order of the row: the flag stands before the next state.
        for column in (states, actions, rewards, dones, next_states):
            data = column.reshape(rows.capacity, -1).view(np.uint8)
            self._rows[:, start : start + data.shape[1]] = data
            start += data.shape[1]
        self._contents = contents
        # Memory that jobs point to.
        self._keep: list[object] = []

    def extend(self, num_envs: int) -> Operation:
        """One row for each ring. The rings lie one after another."""
        contents = self._contents
        inputs = [column[:num_envs].copy() for column in contents.columns()[:-1]]
        flags = (contents.dones, contents.truncations)
        inputs += [(column[:num_envs] > 0).view(np.uint8) for column in flags]
        self._keep.append(inputs)
        job = _job(self._rows, num_envs, contents.rows.capacity // num_envs, 0, *inputs)
        return partial(self._library.scatter, job)

    def as_tensors(self, batch: object) -> Batch:
        """The outputs: each batch overwrites the one before."""
        del batch
        rows = self._contents.rows
        leaves = (rows.state, rows.action, NUMBER, rows.state, NUMBER)
        return as_batch(
            rows,
            (
                torch.from_numpy(output.view(leaf.dtype).reshape(-1, *leaf.shape))
                for output, leaf in zip(self._latest_outputs, leaves, strict=True)
            ),
        )

    def sample(self, batch_size: int) -> Operation:
        """The gather, and the call through ctypes: a third of a microsecond."""
        return partial(self._library.gather, self._gather_job(batch_size))

    def sample_on_all_threads(self, batch_size: int) -> Mapping[str, Operation]:
        """The gather in equal parts, on threads that are started for it, and on one."""
        job = self._gather_job(batch_size)
        run = partial(
            self._library.gather_on_threads, job, ctypes.c_size_t(machine.count_threads("all"))
        )
        return {"": run, "one thread": partial(self._library.gather, job)}

    def sample_beside_tenth(self, batch_size: int) -> Mapping[str, Operation]:
        """From positions all over the rows, and from the first tenth of them."""
        tenth = self._gather_job(batch_size, max(1, self._contents.rows.capacity // 10))
        return {
            "": self.sample(batch_size),
            "a tenth of the rows": partial(self._library.gather, tenth),
        }

    def _gather_job(self, batch_size: int, end: int | None = None) -> Any:
        """A gather from positions below `end`."""
        positions = self._draw(self._contents.rows.capacity if end is None else end)
        outputs = self._outputs(batch_size)
        return _job(self._rows, positions, NUM_POSITIONS, 0, batch_size, *outputs)

    def sample_sequences(
        self, batch_size: int, length: int, boundary: Boundary
    ) -> Mapping[str, Operation]:
        """Rows as they lie, by memcpy, and taken apart into fields. Knows no episodes."""
        del boundary
        packed = _aligned(batch_size * length, self._rows.shape[1])
        self._keep.append(packed)
        positions = self._draw(self._contents.rows.capacity - length + 1)
        outputs = self._outputs(batch_size * length)
        job = _job(*(self._rows, positions, NUM_POSITIONS, 0, batch_size, length, packed), *outputs)
        return {
            "": partial(self._library.copy_runs, job),
            "into fields": partial(self._library.split_runs, job),
        }

    def sample_of_episodes(
        self, batch_size: int, length: int, boundary: Boundary
    ) -> Mapping[str, Operation]:
        """The same: it knows no episodes."""
        return self.sample_sequences(batch_size, length, boundary)

    def gae(self, num_steps: int, num_envs: int) -> Operation:
        """The textbook's loop, compiled: time outside, environments inside."""
        rollout = make_rollout(num_steps, num_envs)
        inputs = (rollout.rewards, rollout.values, rollout.next_values, rollout.dones)
        advantages = np.empty_like(rollout.rewards)
        compute = partial(
            compile_library(GAE_SOURCE).gae,
            *(ctypes.c_void_p(array.ctypes.data) for array in (*inputs, advantages)),
            ctypes.c_size_t(num_steps),
            ctypes.c_size_t(num_envs),
            ctypes.c_float(GAMMA),
            ctypes.c_float(LAMBDA),
        )
        self._keep.append(inputs)

        def run() -> Array:
            compute()
            return advantages

        return run

    def _draw(self, end: int) -> Array:
        positions = np.random.default_rng(0).integers(end, size=NUM_POSITIONS, dtype=np.uint32)
        self._keep.append(positions)
        return positions

    def _outputs(self, rows: int) -> list[Array]:
        state, action = self._contents.rows.state.nbytes, self._contents.rows.action.nbytes
        outputs = [_aligned(rows, nbytes) for nbytes in (state, action, 4, state, 4)]
        self._keep.append(outputs)
        self._latest_outputs = outputs
        return outputs


def _job(*words: Array | int) -> ctypes.Array[ctypes.c_uint64]:
    """A struct of floor.cpp: pointers and sizes, which have eight bytes each."""
    numbers = (word if isinstance(word, int) else word.ctypes.data for word in words)
    return (ctypes.c_uint64 * (len(words) + 1))(*numbers)  # the last pointer may be left out


def _aligned(rows: int, row_nbytes: int) -> Array:
    """Uninitialised bytes `(rows, row_nbytes)` that start on a cache line."""
    memory = np.empty(rows * row_nbytes + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + rows * row_nbytes].reshape(rows, row_nbytes)
