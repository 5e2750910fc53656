"""The floor: compiled loops that move the bytes and do nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks import threads
from benchmarks.compiler import NoCompiler, compile_library
from benchmarks.contenders.base import Contender, Operation, Unavailable
from benchmarks.contenders.columns import as_batch
from benchmarks.learner import Batch
from benchmarks.rollouts import GAMMA, LAMBDA, make_rollout
from benchmarks.rows import Array, Boundary, Contents, Leaf

SOURCE = Path(__file__).parent.parent / "floor.cpp"
GAE_SOURCE = SOURCE.with_name("floor_gae.cpp")
NUMBER = Leaf((1,), "float32")
CACHE_LINE = 64
NUM_PLACES = 1 << 20


# The structs of the same names in floor.cpp.


class Columns(ctypes.Structure):
    """One array for each field."""

    _fields_: ClassVar = [
        ("states", ctypes.c_void_p),
        ("actions", ctypes.c_void_p),
        ("rewards", ctypes.c_void_p),
        ("next_states", ctypes.c_void_p),
        ("dones", ctypes.c_void_p),
        ("truncations", ctypes.c_void_p),
    ]


class GatherJob(ctypes.Structure):
    """Random rows into outputs."""

    _fields_: ClassVar = [
        ("rows", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("num_places", ctypes.c_size_t),
        ("cursor", ctypes.c_size_t),
        ("count", ctypes.c_size_t),
        ("outputs", Columns),
    ]


class RunsJob(ctypes.Structure):
    """Runs of rows into one packed output or into outputs."""

    _fields_: ClassVar = [
        ("rows", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("num_places", ctypes.c_size_t),
        ("cursor", ctypes.c_size_t),
        ("count", ctypes.c_size_t),
        ("length", ctypes.c_size_t),
        ("packed", ctypes.c_void_p),
        ("outputs", Columns),
    ]


class ScatterJob(ctypes.Structure):
    """Inputs into the next place of each ring."""

    _fields_: ClassVar = [
        ("rows", ctypes.c_void_p),
        ("num_rings", ctypes.c_size_t),
        ("ring_rows", ctypes.c_size_t),
        ("slot", ctypes.c_size_t),
        ("inputs", Columns),
    ]


class Floor(Contender):
    """Copies rows to and from places drawn beforehand, into memory that is used again and again."""

    name = "floor"

    def setup(self, contents: Contents) -> None:
        """Lays the contents out as rows on whole cache lines."""
        rows = contents.rows
        if rows.is_dict:
            raise Unavailable("its rows hold observations of one array")
        self._library = _compiled(
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
        # What the pointers of the jobs point to.
        self._keep: list[object] = []

    def extend(self, num_envs: int) -> Operation:
        """One row for each ring. The rings lie one after another."""
        contents = self._contents
        inputs = [column[:num_envs].copy() for column in contents.columns()[:-1]]
        flags = (contents.dones, contents.truncations)
        inputs += [(column[:num_envs] > 0).view(np.uint8) for column in flags]
        job = ScatterJob(
            self._rows.ctypes.data,
            num_envs,
            contents.rows.capacity // num_envs,
            0,
            Columns(*(column.ctypes.data for column in inputs)),
        )
        self._keep.append(inputs)
        return partial(self._library.scatter, ctypes.pointer(job))

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
        run = partial(self._library.gather_on_threads, job, ctypes.c_size_t(threads.count("all")))
        return {"": run, "one thread": partial(self._library.gather, job)}

    def sample_beside_tenth(self, batch_size: int) -> Mapping[str, Operation]:
        """From places all over the rows, and from the first tenth of them."""
        tenth = self._gather_job(batch_size, max(1, self._contents.rows.capacity // 10))
        return {
            "": self.sample(batch_size),
            "a tenth of the rows": partial(self._library.gather, tenth),
        }

    def _gather_job(self, batch_size: int, end: int | None = None) -> Any:
        """A pointer to it, with places below `end`."""
        places = self._draw(self._contents.rows.capacity if end is None else end)
        job = GatherJob(
            self._rows.ctypes.data,
            places.ctypes.data,
            NUM_PLACES,
            0,
            batch_size,
            self._outputs(batch_size),
        )
        return ctypes.pointer(job)

    def sample_sequences(
        self, batch_size: int, length: int, boundary: Boundary
    ) -> Mapping[str, Operation]:
        """Rows as they lie, by memcpy, and taken apart into fields. Knows no episodes."""
        del boundary
        packed = _aligned(batch_size * length, self._rows.shape[1])
        self._keep.append(packed)
        places = self._draw(self._contents.rows.capacity - length + 1)
        job = RunsJob(
            self._rows.ctypes.data,
            places.ctypes.data,
            NUM_PLACES,
            0,
            batch_size,
            length,
            packed.ctypes.data,
            self._outputs(batch_size * length),
        )
        return {
            "": partial(self._library.copy_runs, ctypes.pointer(job)),
            "into fields": partial(self._library.split_runs, ctypes.pointer(job)),
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
            _compiled(GAE_SOURCE).gae,
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
        places = np.random.default_rng(0).integers(end, size=NUM_PLACES, dtype=np.uint32)
        self._keep.append(places)
        return places

    def _outputs(self, rows: int) -> Columns:
        state, action = self._contents.rows.state.nbytes, self._contents.rows.action.nbytes
        outputs = [_aligned(rows, nbytes) for nbytes in (state, action, 4, state, 4)]
        self._keep.append(outputs)
        self._latest_outputs = outputs
        return Columns(*(output.ctypes.data for output in outputs), None)


def _compiled(source: Path, **macros: int) -> ctypes.CDLL:
    try:
        return compile_library(source, **macros)
    except NoCompiler as error:
        raise Unavailable(str(error)) from error


def _aligned(rows: int, row_nbytes: int) -> Array:
    """Uninitialised bytes `(rows, row_nbytes)` that start on a cache line."""
    memory = np.empty(rows * row_nbytes + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + rows * row_nbytes].reshape(rows, row_nbytes)


def create() -> Contender:
    """The contender of this file."""
    return Floor()
