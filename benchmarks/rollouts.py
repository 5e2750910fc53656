"""Rollouts: the rewards and values that on-policy methods work on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.rows import MEAN_EPISODE, Array, random_array

GAMMA = 0.99
LAMBDA = 0.95


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
