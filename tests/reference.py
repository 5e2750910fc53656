"""Slow, obvious oracles in numpy and plain Python that the tests hold velora against.

They import no velora, use no vectorisation where a loop says it better, and compute in float64.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Row = TypeVar("Row")


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    dones: ArrayLike,
    truncations: ArrayLike,
    gamma: float,
    lam: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Generalised advantages and returns of shape (T, N), straight from the definition.

    ``A_t`` is the sum of the discounted deltas from t to the end of t's episode, or to the last
    step there is, each sum taken anew: no recursion that could share a mistake with the library's.
    """
    r, v, next_v = (np.asarray(a, dtype=np.float64) for a in (rewards, values, next_values))
    done, truncated = (np.asarray(a) != 0 for a in (dones, truncations))
    steps, envs = r.shape
    advantages = np.zeros((steps, envs))
    for env in range(envs):
        for start in range(steps):
            for t in range(start, steps):
                bootstrap = 0.0 if done[t, env] else gamma * next_v[t, env]
                delta = r[t, env] + bootstrap - v[t, env]
                advantages[start, env] += (gamma * lam) ** (t - start) * delta
                if done[t, env] or truncated[t, env]:
                    break
    return advantages, advantages + v


def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 of Salmon, Moraes, Dror and Shaw (SC 2011), as the paper's figure has it."""
    mask = 2**32 - 1
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


def candidate(seed: int, draw: int, element: int, attempt: int, bound: int) -> int:
    """The candidate of element `element` of draw number `draw` at its `attempt`-th try.

    Two neighbouring elements share one counter: the even one has its first two words.
    """
    mask = 2**32 - 1
    words = philox4x32((element // 2, attempt, draw & mask, draw >> 32), (seed & mask, seed >> 32))
    low, high = words[2:] if element % 2 else words[:2]
    return ((high << 32 | low) * bound) >> 64


def draw_distinct(seed: int, draw: int, count: int, bound: int) -> list[int]:
    """`count` distinct positions in [0, bound).

    Of more than three quarters of them, all draw from a wider range, and their ranks are it.
    """
    if count <= bound - bound // 4:
        return first_free(seed, draw, count, bound)
    size = 16
    while size < 2 * count:
        size *= 2
    wide = first_free(seed, draw, bound, size)
    ranks = {value: rank for rank, value in enumerate(sorted(wide))}
    return [ranks[value] for value in wide[:count]]


def first_free(seed: int, draw: int, count: int, bound: int) -> list[int]:
    """`count` distinct values in [0, bound): each element takes its first free candidate."""
    taken: list[int] = []
    for element in range(count):
        attempts = (candidate(seed, draw, element, n, bound) for n in itertools.count())
        taken.append(next(position for position in attempts if position not in taken))
    return taken


class BufferModel(Generic[Row]):
    """A model of both buffers, with a deque for memory.

    Attributes:
        rows: Live rows, oldest first.
        pushed: How many rows there ever were; the newest has serial `pushed - 1`.
        draws: How many batches were drawn.
    """

    def __init__(self, capacity: int, *, overwrite: bool, seed: int = 0) -> None:
        self.capacity = capacity
        self.overwrite = overwrite
        self.seed = seed
        self.rows: deque[Row] = deque()
        self.pushed = 0
        self.draws = 0

    def fits(self, count: int) -> bool:
        return self.overwrite or len(self.rows) + count <= self.capacity

    def extend(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if len(self.rows) == self.capacity:
                assert self.overwrite
                self.rows.popleft()
            self.rows.append(row)
            self.pushed += 1

    def sample(self, count: int) -> list[int]:
        """The serials of the next batch."""
        oldest = self.pushed - len(self.rows)
        positions = draw_distinct(self.seed, self.draws, count, len(self.rows))
        self.draws += 1
        return [oldest + position for position in positions]

    def row(self, serial: int) -> Row:
        return self.rows[serial - self.pushed + len(self.rows)]

    def empty(self) -> None:
        self.rows.clear()


def chi_square(observed: Iterable[int], cells: int) -> float:
    """Pearson's statistic against equal frequencies; `observed` may leave out empty cells."""
    counts = list(observed)
    expected = sum(counts) / cells
    missing = (cells - len(counts)) * expected
    return sum((count - expected) ** 2 for count in counts) / expected + missing


def chi_square_quantile(degrees: int, z: float) -> float:
    """Where chi-square has the tail of a normal's `z` (Wilson and Hilferty, 1931)."""
    spread = 2 / (9 * degrees)
    return float(degrees * (1 - spread + z * spread**0.5) ** 3)
