"""Prioritized sampling the slow and obvious way: lists and exact fractions, without velora."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

Row = tuple[int, int]  # lane and serial
LANE_SHIFT = 47


@dataclass
class PriorityModel:
    """Raw priorities of the rows that are alive.

    New rows have none until `settle`, which each accepted draw and update begins with.
    """

    capacity: int  # of a lane
    lanes: int
    alpha: float
    beta: float
    eps: float
    normalise: str = "buffer"
    maximum: str = "buffer"
    ends: list[int] = field(default_factory=list)
    raw: dict[Row, float] = field(default_factory=dict)
    new: list[Row] = field(default_factory=list)
    largest_ever: float | None = None

    def __post_init__(self) -> None:
        self.ends = [0] * self.lanes

    def push(self, lane: int) -> None:
        serial = self.ends[lane]
        self.ends[lane] += 1
        gone = (lane, serial - self.capacity)
        self.raw.pop(gone, None)
        self.new = [row for row in self.new if row != gone] + [(lane, serial)]

    def clear(self) -> None:
        self.raw, self.new = {}, []

    def settle(self) -> None:
        if not self.new:
            return
        known = list(self.raw.values())
        largest = max(known, default=None) if self.maximum == "buffer" else self.largest_ever
        largest = 1.0 if largest is None else largest
        self.raw |= dict.fromkeys(self.new, largest)
        self.new = []
        self._remember(largest)

    def update(self, rows: list[Row], priorities: list[float]) -> list[bool]:
        """Returns which rows were alive."""
        self.settle()
        alive = [row in self.raw for row in rows]
        given = {row: p for row, p in zip(rows, priorities, strict=True) if row in self.raw}
        self.raw |= given
        for priority in given.values():
            self._remember(priority)
        return alive

    def _remember(self, priority: float) -> None:
        self.largest_ever = max(priority, self.largest_ever or 0.0)

    def weight(self, row: Row) -> Fraction:
        base = self.raw[row] + self.eps
        return Fraction(base**self.alpha) if base > 0 else Fraction(0)

    def total(self) -> Fraction:
        return sum((self.weight(row) for row in self.raw), Fraction(0))

    def probability(self, row: Row) -> Fraction:
        total = self.total()
        return self.weight(row) / total if total else Fraction(1, len(self.raw))

    def importance(self, drawn: list[Row]) -> list[float]:
        """The importance weights of a batch."""
        if not self.total():
            return [1.0] * len(drawn)
        plain = {row: float(len(self.raw) * self.probability(row)) ** -self.beta for row in drawn}
        if self.normalise == "none":
            largest = 1.0
        elif self.normalise == "batch":
            largest = max(plain.values())
        else:
            least = min(p for row in self.raw if (p := self.probability(row)) > 0)
            largest = float(len(self.raw) * least) ** -self.beta
        return [plain[row] / largest for row in drawn]

    def part_of(self, row: Row) -> tuple[Fraction, Fraction]:
        """The share of the total before and after a row, by lane and place in its ring."""
        order = sorted(self.raw, key=lambda known: (known[0], known[1] % self.capacity))
        before = Fraction(0)
        for known in order:
            if known == row:
                return before, before + self.probability(row)
            before += self.probability(known)
        raise KeyError(row)
