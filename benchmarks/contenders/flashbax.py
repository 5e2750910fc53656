"""flashbax's buffers, on JAX. Installed by `make bench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flashbax
import jax
import jax.numpy as jnp
import torch
from flashbax.buffers.trajectory_buffer import TrajectoryBufferState

from benchmarks import machine
from benchmarks.contenders.base import Contender, Operation, Unavailable
from benchmarks.learner import Batch, Tensors
from benchmarks.rows import Array, Boundary, Contents, map_observations


class Flashbax(Contender):
    """An item buffer of whole transitions, compiled. Draws with replacement; batches of JAX arrays.

    It is made for compiled training loops, where a call costs nothing. Here each is a call from
    Python, as torch needs its batches. A flat buffer's next state of an episode's last step is
    the first state of the next episode. JAX stores int64 as int32.
    """

    name = "flashbax"

    def setup(self, contents: Contents) -> None:
        """Puts all contents into the state of a buffer: the values of `add` are copied twice."""
        jax.config.update("jax_platforms", "cpu")
        self._contents = contents
        self._state = _state(_columns(contents, slice(None)), 1)

    def as_tensors(self, batch: Any) -> Batch:
        """Views of the arrays, by DLPack; those of a dict come sorted by key."""
        view = torch.utils.dlpack.from_dlpack

        def views(observations: Any) -> Tensors:
            if not self._contents.rows.is_dict:
                return view(observations)
            return {leaf.key: view(observations[leaf.key]) for leaf in self._contents.rows.leaves}

        return (
            views(batch["states"]),
            view(batch["actions"]),
            view(batch["rewards"]),
            views(batch["next_states"]),
            view(batch["dones"]),
        )

    def push(self) -> Operation:
        """`add` with the state donated."""
        buffer = self._buffer(sample_batch_size=1)
        add = jax.jit(buffer.add, donate_argnums=0)
        step = jax.device_put(_columns(self._contents, 0))

        def run() -> None:
            self._state = jax.block_until_ready(add(self._state, step))

        return run

    def extend(self, num_envs: int) -> Operation:
        """`add` with the state donated, of a trajectory buffer with a ring for each environment."""
        buffer = self._trajectories(1, 1, num_envs)
        add = jax.jit(buffer.add, donate_argnums=0)
        columns = _columns(self._contents, slice(None)) | {
            "truncated": self._contents.truncations > 0
        }
        state = _state(columns, num_envs)
        steps = jax.device_put(jax.tree.map(lambda column: column[:num_envs, None], columns))

        def run() -> None:
            nonlocal state
            state = jax.block_until_ready(add(state, steps))

        return run

    def sample(self, batch_size: int) -> Operation:
        buffer = self._buffer(sample_batch_size=batch_size)
        return _drawing(buffer.sample, lambda: self._state)

    def sample_on_all_threads(self, batch_size: int) -> Operation:
        if machine.count_threads("all") > 1:
            raise Unavailable("JAX does not change its number of threads once it runs")
        return self.sample(batch_size)

    def sample_images(self, batch_size: int) -> Mapping[str, Operation]:
        """Stored whole, and each observation once."""
        buffer = flashbax.make_flat_buffer(
            max_length=self._contents.rows.capacity, min_length=1, sample_batch_size=batch_size
        )
        columns = dict(self._state.experience)
        columns.pop("next_states")
        state = TrajectoryBufferState(
            experience=columns, current_index=self._state.current_index, is_full=self._state.is_full
        )
        return {"": self.sample(batch_size), "flat buffer": _drawing(buffer.sample, lambda: state)}

    def sample_sequences(self, batch_size: int, length: int, boundary: Boundary) -> Operation:
        if boundary != "cross":
            raise Unavailable("its sequences cross the ends of episodes")
        buffer = self._trajectories(batch_size, length, 1)
        return _drawing(buffer.sample, lambda: self._state)

    def sample_of_episodes(self, batch_size: int, length: int, boundary: Boundary) -> Operation:
        """The same: it knows no episodes."""
        return self.sample_sequences(batch_size, length, boundary)

    def _buffer(self, sample_batch_size: int) -> Any:
        return flashbax.make_item_buffer(
            max_length=self._contents.rows.capacity,
            min_length=1,
            sample_batch_size=sample_batch_size,
        )

    def _trajectories(self, batch_size: int, length: int, num_envs: int) -> Any:
        return flashbax.make_trajectory_buffer(
            add_batch_size=num_envs,
            sample_batch_size=batch_size,
            sample_sequence_length=length,
            period=1,
            min_length_time_axis=length,
            max_length_time_axis=self._contents.rows.capacity // num_envs,
        )


def _columns(contents: Contents, rows: int | slice) -> dict[str, Any]:
    """The fields, with numbers as `()` where others have `(1,)`."""
    return {
        "states": map_observations(lambda array: array[rows], contents.states),
        "actions": contents.actions[rows],
        "rewards": contents.rewards[:, 0][rows],
        "next_states": map_observations(lambda array: array[rows], contents.next_states),
        "dones": contents.dones[:, 0][rows] > 0,
    }


def _state(columns: dict[str, Any], num_envs: int) -> Any:
    """A full state, `(E, C // E, ...)`."""

    def ring(column: Array) -> jax.Array:
        steps = len(column) // num_envs
        # A copy: it is given away when something is added.
        return jnp.array(column[: steps * num_envs].reshape(num_envs, steps, *column.shape[1:]))

    return TrajectoryBufferState(
        experience=jax.tree.map(ring, columns), current_index=jnp.array(0), is_full=jnp.array(True)
    )


def _drawing(sample: Callable[[Any, Any], Any], state: Callable[[], Any]) -> Operation:
    """A compiled `sample` that splits its key on the way."""

    def draw(state: Any, key: Any) -> tuple[Any, Any]:
        key, subkey = jax.random.split(key)
        return sample(state, subkey).experience, key

    compiled = jax.jit(draw)
    key = jax.random.key(0)

    def run() -> Any:
        nonlocal key
        batch, key = compiled(state(), key)
        return jax.block_until_ready(batch)

    return run
