"""The contents of memories, and the rollouts of on-policy methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.learner import Batch

Array = npt.NDArray[Any]
# A batch of observations: an array, or one for each key of dict observations.
Observations = Array | dict[str, Array]
Boundary = Literal["within", "pad", "cross"]
T = TypeVar("T")

GAMMA, LAMBDA = 0.99, 0.95
MEAN_EPISODE = 500
TRUNCATED = 0.5  # of the ends of episodes


@dataclass(frozen=True)
class Leaf:
    """One array of an observation.

    Attributes:
        shape: `(F,)` or `(C, H, W)`.
        dtype: By numpy's name, which is also torch's.
        key: Its key in a dict observation; empty where the observation is this array alone.
    """

    shape: tuple[int, ...]
    dtype: str
    key: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of it in one observation."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Rows:
    """Shape and number of the rows of one memory; C is the capacity.

    Attributes:
        name: Name in the report.
        leaves: Arrays of one observation: one without a key, or several with keys.
        action: Shape and dtype of one action.
        capacity: Number of rows, all of them in use.
        frame_stack: Number of frames that an image is a stack of, along its first dimension. The
            next image of an episode drops the oldest frame and adds one.
    """

    name: str
    leaves: tuple[Leaf, ...]
    action: Leaf
    capacity: int
    frame_stack: int = 1

    @property
    def is_dict(self) -> bool:
        """Whether observations are dicts."""
        return bool(self.leaves[0].key)

    @property
    def state(self) -> Leaf:
        """Shape and dtype of observations; `TypeError` if they are dicts."""
        if self.is_dict:
            raise TypeError("dict observations are more than one array")
        return self.leaves[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the values of one row, its two flags as bytes."""
        states = sum(leaf.nbytes for leaf in self.leaves)
        return 2 * states + self.action.nbytes + np.dtype("float32").itemsize + 2

    def make_contents(self, seed: int = 0) -> Contents:
        """Random rows, the same for every contender."""
        rng = np.random.default_rng(seed)
        ends = rng.random((self.capacity, 1)) < 1 / MEAN_EPISODE
        truncations = ends & (rng.random((self.capacity, 1)) < TRUNCATED)
        states, next_states = self._make_states(rng, ends)
        return Contents(
            rows=self,
            states=states,
            actions=random_array(rng, (self.capacity, *self.action.shape), self.action.dtype),
            rewards=random_array(rng, (self.capacity, 1), "float32"),
            next_states=next_states,
            dones=(ends & ~truncations).astype(np.float32),
            truncations=truncations.astype(np.float32),
        )

    def _make_states(
        self, rng: np.random.Generator, ends: Array
    ) -> tuple[Observations, Observations]:
        if self.frame_stack > 1:
            return self._make_stacks(rng, ends)
        return self._make_observations(rng), self._make_observations(rng)

    def _make_observations(self, rng: np.random.Generator) -> Observations:
        made = {
            leaf.key: random_array(rng, (self.capacity, *leaf.shape), leaf.dtype)
            for leaf in self.leaves
        }
        return made if self.is_dict else made[""]

    def _make_stacks(self, rng: np.random.Generator, ends: Array) -> tuple[Array, Array]:
        """States and next states, from one new frame a row and one more at each episode's start."""
        shape, dtype = self.state.shape, self.state.dtype
        states = np.empty((self.capacity, *shape), np.dtype(dtype))
        next_states = np.empty_like(states)
        channels = shape[0] // self.frame_stack
        frame_shape = (channels, *shape[1:])
        stops = [*(np.flatnonzero(ends) + 1), self.capacity]
        for start, stop in zip([0, *stops], stops, strict=False):
            steps = stop - start
            frames = random_array(rng, (steps + 1, *frame_shape), dtype)
            frames = np.concatenate([frames[:1]] * (self.frame_stack - 1) + [frames])
            for i in range(self.frame_stack):
                part = slice(i * channels, (i + 1) * channels)
                states[start:stop, part] = frames[i : i + steps]
                next_states[start:stop, part] = frames[i + 1 : i + 1 + steps]
        return states, next_states


@dataclass(frozen=True)
class Contents:
    """One array for each field, `(C, ...)`. Contenders copy from it and never write to it."""

    rows: Rows
    states: Observations
    actions: Array
    rewards: Array
    next_states: Observations
    dones: Array
    truncations: Array

    def columns(self) -> tuple[Array, ...]:
        """All arrays in the order of an experience, those of a dict too, without `truncations`."""
        states, next_states = arrays_of(self.states), arrays_of(self.next_states)
        return (*states, self.actions, self.rewards, *next_states, self.dones)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(column.nbytes for column in (*self.columns(), self.truncations))

    def find(self, batch: Batch) -> Array:
        """The numbers of the rows in a batch, `(B,)`; `AssertionError` if one is none of these."""
        states, actions, rewards, next_states, dones = batch
        order, keys = self._keys
        wanted = _keys_of(_leaves(states)[0])
        found: Array = order[np.searchsorted(keys, wanted).clip(max=len(keys) - 1)]
        for columns, expected in (
            (_leaves(states), arrays_of(self.states)),
            (_leaves(next_states), arrays_of(self.next_states)),
        ):
            for column, contents in zip(columns, expected, strict=True):
                assert column.dtype == contents.dtype
                np.testing.assert_array_equal(column, contents[found])
        np.testing.assert_array_equal(actions.cpu(), self.actions[found])
        for flat, contents in ((rewards, self.rewards), (dones, self.dones)):
            assert tuple(flat.shape) in {(len(found),), (len(found), 1)}
            np.testing.assert_array_equal(flat.cpu().numpy().reshape(-1), contents[found, 0])
        return found

    @cached_property
    def _keys(self) -> tuple[Array, Array]:
        """Returns the row numbers in sorted order, and the sorted keys that identify the rows."""
        keys = _keys_of(arrays_of(self.states)[0])
        order = np.argsort(keys)
        return order, keys[order]


def _keys_of(states: Array) -> Array:
    """The last eight bytes of each state: random numbers, which two rows hardly share."""
    tails = np.ascontiguousarray(states.reshape(len(states), -1).view(np.uint8)[:, -8:])
    keys: Array = tails.view(np.uint64)[:, 0]
    return keys


def _leaves(observations: Any) -> tuple[Array, ...]:
    """Arrays of the tensors of a batch, in the order of its dict."""
    tensors = observations.values() if isinstance(observations, dict) else (observations,)
    return tuple(np.ascontiguousarray(tensor.cpu().numpy()) for tensor in tensors)


def arrays_of(observations: Observations) -> tuple[Array, ...]:
    """The array, or those of the dict in its order."""
    return tuple(observations.values()) if isinstance(observations, dict) else (observations,)


def map_observations(
    function: Callable[[Array], T], observations: Observations
) -> T | dict[str, T]:
    """Applies a function to the array, or to each array of the dict."""
    if isinstance(observations, dict):
        return {key: function(array) for key, array in observations.items()}
    return function(observations)


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Random numbers of a dtype, by numpy's name."""
    if dtype == "float32":
        return rng.standard_normal(shape, dtype=np.float32)
    return rng.integers(0, 128, shape, dtype=np.dtype(dtype).type)


@dataclass(frozen=True)
class Rollout:
    """T steps of N environments, time first, float32. Contenders never write to it.

    Attributes:
        rewards: `(T, N)`.
        values: Of the states, `(T, N)`.
        last_values: Of the states after the last step, `(N,)`.
        dones: 1 where an episode terminated, `(T, N)`. None is cut short before the last step: not
            all libraries know the difference.
    """

    rewards: Array
    values: Array
    last_values: Array
    dones: Array

    @property
    def next_values(self) -> Array:
        """Values of the next states, `(T, N)`."""
        return np.concatenate([self.values[1:], self.last_values[None]])

    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """Rewards, values, next values and dones, `(T, N)`."""
        return self.rewards, self.values, self.next_values, self.dones


def make_rollout(num_steps: int, num_envs: int, seed: int = 0) -> Rollout:
    """A random rollout, the same for every contender."""
    rng = np.random.default_rng(seed)
    shape = (num_steps, num_envs)
    return Rollout(
        rewards=random_array(rng, shape, "float32"),
        values=random_array(rng, shape, "float32"),
        last_values=random_array(rng, shape[1:], "float32"),
        dones=(rng.random(shape) < 1 / MEAN_EPISODE).astype(np.float32),
    )
