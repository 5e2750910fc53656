"""velora itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.contenders.base import Contender, Operation, require_cuda
from benchmarks.learner import Batch
from benchmarks.rows import GAMMA, LAMBDA, Array, Boundary, Contents, make_rollout, map_observations
from velora.buffer import BatchExperience, Experience, ReplayBuffer
from velora.returns import gae

PREFETCH = 2


class Velora(Contender):
    """A ReplayBuffer with its defaults: draws without replacement, eight tensors a batch."""

    name = "velora"

    def setup(self, contents: Contents) -> None:
        self._contents = contents
        self._loader: Any = None
        self._buffer = self._filled()
        state, next_state = (
            map_observations(lambda column: torch.from_numpy(column[0].copy()), column)
            for column in (contents.states, contents.next_states)
        )
        action = torch.from_numpy(contents.actions[0].copy())
        self._values = (state, action, 0.5, next_state, False)

    def as_tensors(self, batch: BatchExperience) -> Batch:
        return batch.states, batch.actions, batch.rewards, batch.next_states, batch.dones

    def push(self) -> Operation:
        return partial(self._buffer.push, Experience(*self._values))

    def construct_and_push(self) -> Operation:
        """Pushes as an environment loop does: `push(Experience(...))`."""
        state, action, reward, next_state, done = self._values
        buffer_push = self._buffer.push

        def run() -> None:
            buffer_push(Experience(state, action, reward, next_state, done))

        return run

    def extend(self, num_envs: int) -> Mapping[str, Operation]:
        """`extend` by name, of tensors and of arrays."""
        contents = self._contents
        even = contents.rows.capacity // num_envs * num_envs
        buffer = self._filled(even, num_envs=num_envs)
        arrays = _columns(contents, num_envs)
        arrays |= {name: arrays[name][:, 0] > 0 for name in ("dones", "truncations")}
        arrays["rewards"] = arrays["rewards"][:, 0].copy()
        tensors: dict[str, Any] = {
            name: map_observations(lambda array: torch.from_numpy(array).to(self.device), column)
            for name, column in arrays.items()
        }
        ways = {"": tensors} if self.device.type == "cuda" else {"": tensors, "arrays": arrays}
        return {way: partial(buffer.extend, **step) for way, step in ways.items()}

    def sample_on_all_threads(self, batch_size: int) -> Mapping[str, Operation]:
        run = self.sample(batch_size)
        return {"": run, "one thread": machine.on_one_thread(run)}

    def sample_beside_tenth(self, batch_size: int) -> Mapping[str, Operation]:
        tenth = self._filled(max(1, self._contents.rows.capacity // 10))
        return {
            "": self.sample(batch_size),
            "a tenth of the rows": partial(tenth.sample, batch_size),
        }

    def sample_images(self, batch_size: int) -> Mapping[str, Operation]:
        """Stored by default (each observation once), as frames, and whole."""
        stack = self._contents.rows.frame_stack
        frames = self._filled(frame_stack=stack)
        whole = self._filled(compact=False)
        return {
            "": self.sample(batch_size),
            f"frame_stack={stack}": partial(frames.sample, batch_size),
            "compact=False": partial(whole.sample, batch_size),
        }

    def sample_on_device(self, batch_size: int) -> Mapping[str, Operation]:
        """`sample`, and `sample` into the same batch each time."""
        into = partial(self._buffer.sample, batch_size, out=self._buffer.sample(batch_size))
        return {"": self.sample(batch_size), "out=": into}

    def sample_pinned(self, batch_size: int) -> Mapping[str, Operation]:
        require_cuda(self.device)
        pinned = self._filled(storage="pinned")
        return {
            "": partial(pinned.sample, batch_size),
            "rows on the device": self.sample(batch_size),
        }

    def sample_from_host(self, batch_size: int) -> Mapping[str, Operation]:
        """The next batch of a loader, and `sample`, of rows in host memory."""
        options: dict[str, Any] = {"storage": "cpu"} if self.device.type == "cuda" else {}
        buffer = self._filled(**options)
        self._loader = buffer.loader(batch_size, prefetch=PREFETCH)
        return {"": partial(next, iter(self._loader)), "sample": partial(buffer.sample, batch_size)}

    def close(self) -> None:
        if self._loader is not None:
            self._loader.close()
            self._loader = None

    def sample_n_step(self, batch_size: int, n_step: int) -> Mapping[str, Operation]:
        buffer = self._filled(n_step=n_step)
        return {"": partial(buffer.sample, batch_size), "one step": self.sample(batch_size)}

    def sample_sequences(self, batch_size: int, length: int, boundary: Boundary) -> Operation:
        return partial(self._buffer.sample_sequences, batch_size, length, boundary=boundary)

    def sample_of_episodes(
        self, batch_size: int, length: int, boundary: Boundary
    ) -> Mapping[str, Operation]:
        """The same rows with ends at other positions."""
        operations = {"": self.sample_sequences(batch_size, length, boundary)}
        for steps in (10_000, 10):
            buffer = self._filled(dones=_every(steps, self._contents.rows.capacity))
            run = partial(buffer.sample_sequences, batch_size, length, boundary=boundary)
            operations[f"episodes of {steps:,}"] = run
        return operations

    def _filled(
        self, rows: int | None = None, dones: Array | None = None, **options: Any
    ) -> ReplayBuffer:
        """A full buffer of the first `rows`."""
        rows = self._contents.rows.capacity if rows is None else rows
        buffer = ReplayBuffer(rows, self.device, seed=0, **options)
        columns = _columns(self._contents, rows)
        if dones is not None:
            columns |= {"dones": dones, "truncations": np.zeros_like(dones)}
        buffer.extend(**columns)
        return buffer

    def gae(self, num_steps: int, num_envs: int) -> Operation:
        """`velora.returns.gae`; it returns the returns too."""
        rollout = make_rollout(num_steps, num_envs)
        return _gae(rollout.arrays(), self.device)

    def gae_beside_cpu(self, num_steps: int, num_envs: int) -> Mapping[str, Operation]:
        arrays = make_rollout(num_steps, num_envs).arrays()
        return {"": _gae(arrays, self.device), "CPU": _gae(arrays, torch.device("cpu"))}


def _gae(arrays: tuple[Array, ...], device: torch.device) -> Operation:
    rewards, values, next_values, dones = (torch.from_numpy(a).to(device) for a in arrays)
    if device.type == "cuda":
        dones = dones > 0  # flags of one byte: less to read

    def run() -> Tensor:
        advantages, _ = gae(rewards, values, next_values, dones, gamma=GAMMA, lam=LAMBDA)
        return advantages

    return run


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
