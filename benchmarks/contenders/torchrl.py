"""TorchRL's TensorDictReplayBuffer. In the environment that `make bench-peers` makes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, RandomSampler, SliceSampler, TensorDictReplayBuffer

from benchmarks.contenders.base import Contender, Operation
from benchmarks.rows import Boundary, Contents

SAMPLERS: dict[str, dict[str, Any]] = {
    "end key": {"end_key": ("next", "done")},
    "trajectory ids": {"traj_key": "episode"},
}


class TorchRL(Contender):
    """LazyTensorStorage of TensorDicts in TorchRL's own format. Draws with replacement."""

    name = "torchrl"

    def setup(self, contents: Contents) -> None:
        """Extends a storage by all contents at once; each sampler gets a buffer around it."""
        logging.getLogger("torchrl").setLevel(logging.WARNING)
        self._storage = LazyTensorStorage(contents.rows.capacity)
        self._data = _as_tensordict(contents)
        self._buffer = TensorDictReplayBuffer(storage=self._storage, sampler=RandomSampler())
        self._buffer.extend(self._data)

    def push(self) -> Operation:
        """`add` of a TensorDict that is there already."""
        return partial(self._buffer.add, self._data[0].clone())

    def extend(self, num_envs: int) -> Operation:
        """`extend` by a TensorDict that is there already, into one ring for all environments."""
        return partial(self._buffer.extend, self._data[:num_envs].clone())

    def sample(self, batch_size: int) -> Operation:
        """`sample` with a RandomSampler."""
        return partial(self._buffer.sample, batch_size)

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


def _as_tensordict(contents: Contents) -> TensorDict:
    size = [contents.rows.capacity]
    terminated, truncated = (
        torch.from_numpy(flags > 0) for flags in (contents.dones, contents.truncations)
    )
    done = terminated | truncated
    episode = np.cumsum(done.numpy()) - done.numpy()[:, 0]  # an end belongs to the old episode
    return TensorDict(
        {
            "observation": torch.from_numpy(contents.states),
            "action": torch.from_numpy(contents.actions),
            "episode": torch.from_numpy(episode),
            "next": TensorDict(
                {
                    "observation": torch.from_numpy(contents.next_states),
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


def create() -> Contender:
    """The contender of this file."""
    return TorchRL()
