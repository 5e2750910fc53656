"""TorchRL's TensorDictReplayBuffer. Installed by `make bench`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import (
    LazyTensorStorage,
    RandomSampler,
    ReplayBuffer,
    SliceSampler,
    TensorDictReplayBuffer,
)

from benchmarks.contenders.base import Contender, Operation
from benchmarks.learner import Batch
from benchmarks.rows import GAMMA, LAMBDA, Boundary, Contents, Observations, make_rollout

SAMPLERS: dict[str, dict[str, Any]] = {
    "end key": {"end_key": ("next", "done")},
    "trajectory ids": {"traj_key": "episode"},
}
ROWS_AT_ONCE = 100_000


class TorchRL(Contender):
    """LazyTensorStorage of TensorDicts in TorchRL's own format. Draws with replacement.

    Dones of n steps are those of the first step: a batch does not say that a later one terminated.
    """

    name = "torchrl"

    def setup(self, contents: Contents) -> None:
        """Extends a storage by all contents at once; each sampler gets a buffer around it."""
        logging.getLogger("torchrl").setLevel(logging.WARNING)
        self._is_dict = contents.rows.is_dict
        self._storage = LazyTensorStorage(contents.rows.capacity, device=self.device)
        self._data = _as_tensordict(contents).to(self.device)
        self._buffer = TensorDictReplayBuffer(storage=self._storage, sampler=RandomSampler())
        self._buffer.extend(self._data)

    def as_tensors(self, batch: Any) -> Batch:
        states, next_states = batch["observation"], batch["next", "observation"]
        if self._is_dict:
            states, next_states = dict(states.items()), dict(next_states.items())
        return (
            states,
            batch["action"],
            batch["next", "reward"],
            next_states,
            batch["next", "terminated"],
        )

    def push(self) -> Operation:
        return partial(self._buffer.add, self._data[0].clone())

    def extend(self, num_envs: int) -> Mapping[str, Operation]:
        """`extend` by a TensorDict that is there already, into one ring or a ring each."""
        steps = len(self._data) // num_envs
        rings = ReplayBuffer(
            storage=LazyTensorStorage(steps * num_envs, ndim=2, device=self.device)
        )
        rings.extend(self._data[: steps * num_envs].view(num_envs, steps))
        step = self._data[:num_envs].clone()
        return {
            "": partial(self._buffer.extend, step),
            "ndim=2": partial(rings.extend, step.view(num_envs, 1)),
        }

    def sample_n_step(self, batch_size: int, n_step: int) -> Operation:
        """`sample` of a buffer that has looked ahead before it stored a step."""
        from torchrl.envs import MultiStepTransform  # needs gymnasium

        buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(len(self._data)),
            sampler=RandomSampler(),
            transform=MultiStepTransform(n_steps=n_step, gamma=GAMMA),
        )
        for rows in self._data.split(ROWS_AT_ONCE):
            buffer.extend(rows)
        return partial(buffer.sample, batch_size)

    def sample_sequences(
        self, batch_size: int, length: int, boundary: Boundary
    ) -> Mapping[str, Operation]:
        """`sample` with a SliceSampler: `(B * L, ...)`.

        Episodes are found again for each batch, or, with cache_values, once after each write.
        Sequences that end early are not padded, as its documentation advises.
        """
        operations = {}
        for cached in (False, True):
            for name, keys in SAMPLERS.items():
                sampler = SliceSampler(
                    slice_len=length,
                    strict_length=boundary == "within",
                    cache_values=cached,
                    **keys,
                )
                buffer = TensorDictReplayBuffer(
                    storage=self._storage, sampler=sampler, batch_size=batch_size * length
                )
                operations[f"{name}, cached" if cached else name] = buffer.sample
        return operations

    def gae(self, num_steps: int, num_envs: int) -> Mapping[str, Operation]:
        """In one convolution, and in a loop over the steps; both compute value targets as well."""
        from torchrl.objectives.value import functional

        rollout = make_rollout(num_steps, num_envs)
        values, next_values, rewards, dones = (
            torch.from_numpy(np.ascontiguousarray(column.T)[..., None])
            for column in (rollout.values, rollout.next_values, rollout.rewards, rollout.dones)
        )
        ended = dones > 0
        arguments = (GAMMA, LAMBDA, values, next_values, rewards, ended, ended)

        def advantages(function: Any) -> torch.Tensor:
            result: torch.Tensor = function(*arguments)[0][..., 0].T
            return result

        return {
            "": partial(advantages, functional.vec_generalized_advantage_estimate),
            "loop": partial(advantages, functional.generalized_advantage_estimate),
        }


def _as_tensordict(contents: Contents) -> TensorDict:
    size = [contents.rows.capacity]
    terminated, truncated = (
        torch.from_numpy(flags > 0) for flags in (contents.dones, contents.truncations)
    )
    done = terminated | truncated
    episode = np.cumsum(done.numpy()) - done.numpy()[:, 0]  # an end belongs to the old episode
    return TensorDict(
        {
            "observation": _as_tensors(contents.states),
            "action": torch.from_numpy(contents.actions),
            "episode": torch.from_numpy(episode),
            "next": TensorDict(
                {
                    "observation": _as_tensors(contents.next_states),
                    "reward": torch.from_numpy(contents.rewards),
                    "done": done,
                    "terminated": terminated,
                    "truncated": truncated,
                },
                size,
            ),
        },
        size,
    )


def _as_tensors(observations: Observations) -> torch.Tensor | TensorDict:
    if not isinstance(observations, dict):
        return torch.from_numpy(observations)
    tensors = {key: torch.from_numpy(array) for key, array in observations.items()}
    return TensorDict(tensors, [len(array) for array in observations.values()][:1])
