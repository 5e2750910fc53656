"""What came of the episodes that were collected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from velora.gym.nests import as_numpy
from velora.gym.vector_step import Transitions


@dataclass(frozen=True)
class CollectStatistics:
    """What came of collecting.

    Attributes:
        steps: How many calls of `env.step` there were, without those that raised or gave rows that
            the buffer refused.
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


class Scores(NamedTuple):
    """Sums of the episodes under way in N environments, and those that ended since the last report.

    Never changed: a step makes others of them, so that it counts when these replace the old ones,
    and once.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    steps: int = 0
    transitions: int = 0
    # The episodes that one step ended, after those that ended before: (earlier, [(return, length)])
    ended: tuple[Any, list[tuple[float, int]]] | None = None

    @classmethod
    def of(cls, num_envs: int) -> Scores:
        """Nothing yet."""
        return cls(np.zeros(num_envs), np.zeros(num_envs, np.int64))

    def after_step(self, rows: Transitions, stored: int) -> Scores:
        """With one more call of `env.step`: the steps of episodes, and how many rows to store."""
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
        """Without the episodes under way."""
        none = Scores.of(len(self.returns))
        return self._replace(returns=none.returns, lengths=none.lengths)

    def reported(self) -> Scores:
        """With the episodes under way alone."""
        return Scores(self.returns, self.lengths)

    def statistics(self) -> CollectStatistics:
        """What was counted since the last report."""
        episodes: list[tuple[float, int]] = []
        steps = self.ended
        while steps is not None:
            steps, last = steps
            episodes += reversed(last)
        episodes.reverse()
        returns, lengths = zip(*episodes, strict=True) if episodes else ((), ())
        return CollectStatistics(self.steps, self.transitions, returns, lengths)
