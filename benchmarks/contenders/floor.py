"""The floor: a compiled loop that moves the bytes of a batch and does nothing else."""

from __future__ import annotations

import ctypes
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.compiler import NoCompiler, compile_library
from benchmarks.contenders.base import Contender, Operation, Unavailable
from benchmarks.workloads import Array, Contents

SOURCE = Path(__file__).parent.parent / "floor.cpp"
CACHE_LINE = 64
NUM_PLACES = 1 << 20


class Job(ctypes.Structure):
    """The struct of the same name in floor.cpp."""

    _fields_: ClassVar = [
        ("rows", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("num_places", ctypes.c_size_t),
        ("cursor", ctypes.c_size_t),
        ("count", ctypes.c_size_t),
        ("states", ctypes.c_void_p),
        ("actions", ctypes.c_void_p),
        ("rewards", ctypes.c_void_p),
        ("next_states", ctypes.c_void_p),
        ("dones", ctypes.c_void_p),
    ]


class Floor(Contender):
    """Copies rows from places drawn beforehand into outputs that are used again and again."""

    name = "floor"

    def setup(self, contents: Contents) -> None:
        """Lays the contents out as rows on whole cache lines."""
        rows = contents.rows
        try:
            self._library = compile_library(
                SOURCE, STATE_BYTES=rows.state_nbytes, ACTION_BYTES=rows.action_nbytes
            )
        except NoCompiler as error:
            raise Unavailable(str(error)) from error
        self._library.pitch.restype = ctypes.c_size_t
        self._library.gather.restype = None
        self._rows = _aligned(rows.capacity, self._library.pitch())
        start = 0
        # In the order of the row: the flag stands before the next state.
        for column in (
            contents.states,
            contents.actions,
            contents.rewards,
            contents.dones,
            contents.next_states,
        ):
            data = column.reshape(rows.capacity, -1).view(np.uint8)
            self._rows[:, start : start + data.shape[1]] = data
            start += data.shape[1]
        rng = np.random.default_rng(0)
        self._places = rng.integers(rows.capacity, size=NUM_PLACES, dtype=np.uint32)
        self._layout = rows

    def sample(self, batch_size: int) -> Operation:
        """The gather, and the call through ctypes: a third of a microsecond."""
        state, action, number = self._layout.state_nbytes, self._layout.action_nbytes, 4
        self._outputs = [_aligned(batch_size, n) for n in (state, action, number, state, number)]
        self._job = Job(
            self._rows.ctypes.data,
            self._places.ctypes.data,
            NUM_PLACES,
            0,
            batch_size,
            *(output.ctypes.data for output in self._outputs),
        )
        return partial(self._library.gather, ctypes.pointer(self._job))


def _aligned(rows: int, row_nbytes: int) -> Array:
    """Uninitialised bytes `(rows, row_nbytes)` that start on a cache line."""
    memory = np.empty(rows * row_nbytes + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + rows * row_nbytes].reshape(rows, row_nbytes)


def create() -> Contender:
    """The contender of this file."""
    return Floor()
