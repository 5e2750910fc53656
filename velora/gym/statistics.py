"""Statistics of collected episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from velora.gym.nests import as_numpy
from velora.gym.vector_step import Transitions


@dataclass(frozen=True)
class CollectStatistics:
    """Statistics of a call of `collect`.

    Attributes:
        steps: Number of `env.step` calls, without those that raised or whose rows were rejected.
        transitions: Number of rows stored.
        episode_returns: Sum of rewards of each episode that ended, in the order of their ends. It
            includes rewards from earlier calls, but not episodes that the collector cut off.
        episode_lengths: Number of steps of each of these episodes.
    """

    steps: int
    transitions: int
    episode_returns: tuple[float, ...]
    episode_lengths: tuple[int, ...]

    @property
    def episodes(self) -> int:
        """Number of episodes that ended."""
        return len(self.episode_returns)


class Scores(NamedTuple):
    """Running sums of N unfinished episodes, and the episodes that ended since the last report.

    Immutable: a step creates a new instance and counts exactly once, when that replaces the old.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    steps: int = 0
    transitions: int = 0
    # Linked list of ended episodes, newest first: (earlier, [(return, length)])
    ended: tuple[Any, list[tuple[float, int]]] | None = None

    @classmethod
    def of(cls, num_envs: int) -> Scores:
        """Returns zeros."""
        return cls(np.zeros(num_envs), np.zeros(num_envs, np.int64))

    def after_step(self, rows: Transitions, stored: int) -> Scores:
        """Adds one call of `env.step`, of which `stored` rows are stored."""
        returns, lengths, ended = self.returns.copy(), self.lengths.copy(), self.ended
        returns[rows.lanes] += as_numpy(rows.batch.rewards).reshape(-1)
        lengths[rows.lanes] += 1
        if rows.ended.any():
            over = rows.lanes[rows.ended]
            ended = (ended, list(zip(returns[over].tolist(), lengths[over].tolist(), strict=True)))
            returns[over] = 0.0
            lengths[over] = 0
        return Scores(returns, lengths, self.steps + 1, self.transitions + stored, ended)

    def started_over(self) -> Scores:
        """Drops the unfinished episodes."""
        none = Scores.of(len(self.returns))
        return self._replace(returns=none.returns, lengths=none.lengths)

    def reported(self) -> Scores:
        """Keeps only the unfinished episodes."""
        return Scores(self.returns, self.lengths)

    def statistics(self) -> CollectStatistics:
        """Returns the statistics since the last report."""
        episodes: list[tuple[float, int]] = []
        steps = self.ended
        while steps is not None:
            steps, last = steps
            episodes += reversed(last)
        episodes.reverse()
        returns, lengths = zip(*episodes, strict=True) if episodes else ((), ())
        return CollectStatistics(self.steps, self.transitions, returns, lengths)
