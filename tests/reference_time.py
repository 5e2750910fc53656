"""Slow, obvious oracles of what depends on time: lanes, n-step sums, sequences.

They import no velora. A lane is the list of all rows ever pushed to it, so nothing is overwritten,
wrapped or moved: a row's serial is its position in the list, and the live rows are a range of
serials.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np


class Transition(Protocol):
    """The attributes of a row that the oracles read."""

    reward: Any
    done: Any
    truncated: Any


Row = TypeVar("Row", bound=Transition)
Id = tuple[int, int]  # lane and serial

Boundary = Literal["pad", "within", "cross"]
BOUNDARIES: tuple[Boundary, ...] = ("pad", "within", "cross")


@dataclass(frozen=True)
class Walk(Generic[Row]):
    """An n-step transition: what was summed on the way from a row to the last row walked."""

    reward: np.float32
    discount: np.float32
    last: Row
    steps: int


class Lane(Generic[Row]):
    """One ring of `capacity` rows in time order.

    Attributes:
        rows: All rows ever pushed; the position of each is its serial.
        cleared: Rows before this serial were taken out.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[Row] = []
        self.cleared = 0

    def alive(self) -> range:
        pushed = len(self.rows)
        return range(max(self.cleared, pushed - self.capacity), pushed)

    def ends(self, serial: int) -> bool:
        return bool(self.rows[serial].done) or bool(self.rows[serial].truncated)

    def continues(self, serial: int) -> bool:
        """Is the step after this row part of the same episode, and is it here?"""
        alive = self.alive()
        return serial in alive and serial + 1 in alive and not self.ends(serial)

    def is_first(self, serial: int) -> bool:
        """Is this row the first step of its episode? What is gone by now still counts."""
        return serial == 0 or self.ends(serial - 1)

    def walk(self, serial: int, n: int, gamma: float) -> Walk[Row]:
        total, power = 0.0, 1.0
        for last in range(serial, serial + n):
            total += power * float(np.float32(self.rows[last].reward))
            power *= gamma
            if not self.continues(last):
                break
        row = self.rows[last]
        discount = np.float32(0.0 if row.done else power)
        return Walk(np.float32(total), discount, row, last - serial + 1)

    def is_start(self, serial: int, length: int, boundary: Boundary) -> bool:
        """May a sequence of `length` trained steps start at this row?"""
        alive = self.alive()
        if boundary == "pad":
            return serial in alive
        if serial not in alive or serial + length - 1 not in alive:
            return False
        between = range(serial, serial + length - 1)
        return boundary == "cross" or not any(self.ends(row) for row in between)

    def window(self, serial: int, length: int, burn_in: int, boundary: Boundary) -> range:
        """The serials of the sequence whose first trained step is `serial`, burn-in included."""
        alive = self.alive()

        def joined(row: int) -> bool:
            """Does a sequence go on from this row to the one after it?"""
            return row in alive and row + 1 in alive and (boundary == "cross" or not self.ends(row))

        begin, end = serial, serial + 1
        while serial - begin < burn_in and joined(begin - 1):
            begin -= 1
        while end - serial < length and joined(end - 1):
            end += 1
        return range(begin, end)


class LanesModel(Generic[Row]):
    """The contents of a buffer of several environments."""

    def __init__(self, capacity: int, num_envs: int) -> None:
        self.lanes = [Lane[Row](capacity // num_envs) for _ in range(num_envs)]

    def push(self, row: Row, lane: int = 0) -> None:
        self.lanes[lane].rows.append(row)

    def extend(self, rows: Iterable[Row], lanes: Iterable[int] | None = None) -> None:
        """Appends rows; without `lanes`, one row to each lane in cyclic order."""
        targets = itertools.cycle(range(len(self.lanes))) if lanes is None else lanes
        for row, lane in zip(rows, targets, strict=False):
            self.push(row, lane)

    def cut(self, lane: int) -> None:
        """Ends the episode of the newest row, which is cut off unless it ended by itself."""
        ring = self.lanes[lane]
        if ring.alive() and not ring.ends(ring.alive()[-1]):
            ring.rows[-1] = dataclasses.replace(ring.rows[-1], truncated=True)  # type: ignore[type-var]

    def copy(self, source: LanesModel[Row], targets: Sequence[int]) -> None:
        """All rows of another model, each lane's into its target as a separate episode."""
        copies = [[ring.rows[serial] for serial in ring.alive()] for ring in source.lanes]
        for rows, target in zip(copies, targets, strict=True):
            if rows:
                self.cut(target)
                self.lanes[target].rows.extend(rows)
                self.cut(target)

    def clear(self) -> None:
        for lane in self.lanes:
            lane.cleared = len(lane.rows)

    def row(self, id_: Id) -> Row:
        lane, serial = id_
        return self.lanes[lane].rows[serial]

    def alive(self) -> list[Id]:
        """In the order of the buffer as a sequence: the oldest of each lane, the next of each..."""
        ranked = [
            (rank, lane, serial)
            for lane, ring in enumerate(self.lanes)
            for rank, serial in enumerate(ring.alive())
        ]
        return [(lane, serial) for _, lane, serial in sorted(ranked)]

    def rows(self) -> list[Row]:
        return [self.row(id_) for id_ in self.alive()]

    def room(self) -> list[int]:
        """How many rows each lane takes before it overwrites."""
        return [lane.capacity - len(lane.alive()) for lane in self.lanes]

    def starts(self, length: int, boundary: Boundary) -> list[Id]:
        return [
            (lane, serial)
            for lane, serial in self.alive()
            if self.lanes[lane].is_start(serial, length, boundary)
        ]


def frame_stacks(frames: Sequence[int], k: int, pad: int | None) -> list[list[int]]:
    """The stack of the newest `k` frames at each time of an episode.

    Before there were k frames, a stack begins with the first frame again, or with `pad`.
    """
    stacks = []
    for t in range(len(frames)):
        there = list(frames[max(0, t - k + 1) : t + 1])
        filler = frames[0] if pad is None else pad
        stacks.append([filler] * (k - len(there)) + there)
    return stacks
