"""What came of the episodes that were collected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from velora.gym.vector_step import Transitions, as_numpy


@dataclass(frozen=True)
class CollectStatistics:
    """What came of collecting.

    Attributes:
        steps: How often `env.step` was called.
        transitions: How many rows were stored.
        episode_returns: The sum of rewards of each episode that ended, in the order of their ends;
            with what earlier calls collected of it, without episodes that were only cut off.
        episode_lengths: The steps of each of them.
    """

    steps: int
    transitions: int
    episode_returns: tuple[float, ...]
    episode_lengths: tuple[int, ...]

    @property
    def episodes(self) -> int:
        """How many episodes ended."""
        return len(self.episode_returns)


class Scores:
    """Sums up the episodes under way in N environments."""

    def __init__(self, num_envs: int) -> None:
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._steps = 0
        self._transitions = 0
        self._ended: list[tuple[float, int]] = []

    def count_step(self) -> None:
        """Counts a call of `env.step`."""
        self._steps += 1

    def count_stored(self, transitions: int) -> None:
        """Counts what has gone into the buffer."""
        self._transitions += transitions

    def add(self, rows: Transitions) -> None:
        """Counts steps of episodes."""
        self._returns[rows.lanes] += as_numpy(rows.batch.rewards).reshape(-1)
        self._lengths[rows.lanes] += 1
        if not rows.ended.any():
            return
        over = rows.lanes[rows.ended]
        self._ended += zip(self._returns[over].tolist(), self._lengths[over].tolist(), strict=True)
        self._returns[over] = 0.0
        self._lengths[over] = 0

    def start_over(self) -> None:
        """Forgets the episodes under way."""
        self._returns[:] = 0.0
        self._lengths[:] = 0

    def take(self) -> CollectStatistics:
        """What has been counted since the last time."""
        returns, lengths = zip(*self._ended, strict=True) if self._ended else ((), ())
        statistics = CollectStatistics(self._steps, self._transitions, returns, lengths)
        self._steps, self._transitions, self._ended = 0, 0, []
        return statistics
