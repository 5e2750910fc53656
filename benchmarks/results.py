"""What was measured, and how it compares."""

from __future__ import annotations

import operator
import statistics
from dataclasses import dataclass

from benchmarks import threads
from benchmarks.timing import Timing, quartiles
from benchmarks.workloads import Aim, Workload

REFERENCE = "velora"
FLOOR = "floor"


@dataclass(frozen=True)
class Result:
    """One piece of work.

    Attributes:
        workload: What it was.
        clock: What it was timed with.
        timings: What each contender took, by name.
        left_out: Why others are missing, by name. One that has no such operation is in neither.
    """

    workload: Workload
    clock: str
    timings: dict[str, Timing]
    left_out: dict[str, str]

    @property
    def num_threads(self) -> int:
        """How many there were to work with."""
        return threads.count(self.workload.threads)

    def ratio(self, name: str, to: str = REFERENCE) -> tuple[float, float, float] | None:
        """How many times as long as another: first quartile, median, third quartile of all rounds.

        None where one of them was not timed.
        """
        if name not in self.timings or to not in self.timings:
            return None
        ratios = self.timings[name].ratios_to(self.timings[to])
        low, high = quartiles(ratios)
        return low, statistics.median(ratios), high

    def aims(self) -> list[tuple[str, bool | None]]:
        """Each aim in words, and whether it was met; None where nobody can say."""
        return [self._try_aim(aim) for aim in self.workload.aims]

    def as_json(self) -> dict[str, object]:
        """All of it, in what JSON knows."""
        workload = self.workload
        return {
            "work": workload.name,
            "rows": workload.rows.name,
            "row_nbytes": workload.rows.nbytes,
            "capacity": workload.rows.capacity,
            "operation": workload.operation,
            "arguments": workload.arguments,
            "threads": self.num_threads,
            "clock": self.clock,
            "charts": workload.charts,
            "contenders": {name: self._timing_as_json(name) for name in self.timings},
            "left_out": self.left_out,
            "aims": [{"aim": text, "met": met} for text, met in self.aims()],
        }

    def _timing_as_json(self, name: str) -> dict[str, object]:
        timing = self.timings[name]
        ratio, to_floor = self.ratio(name), self.ratio(name, FLOOR)
        return {
            "median_us": timing.median_us,
            "quartiles_us": timing.quartiles_us,
            "min_us": min(timing.blocks_us),
            "max_us": max(timing.blocks_us),
            "calls_per_block": timing.calls_per_block,
            "blocks": len(timing.blocks_us),
            "times_velora": None if ratio is None else ratio[1],
            "times_velora_quartiles": None if ratio is None else (ratio[0], ratio[2]),
            "times_floor": None if to_floor is None else to_floor[1],
        }

    def _try_aim(self, aim: Aim) -> tuple[str, bool | None]:
        if aim.times is not None:
            ratio = self.ratio(aim.contender, aim.times)
            value, unit = None if ratio is None else ratio[1], f"x {aim.times}"
        else:
            timing = self.timings.get(aim.contender)
            value, unit = None if timing is None else timing.median_us, "us"
        limits = [
            (limit, word, fits)
            for limit, word, fits in (
                (aim.at_most, "at most", operator.le),
                (aim.at_least, "at least", operator.ge),
            )
            if limit is not None
        ]
        words = " and ".join(f"{word} {limit:g} {unit}" for limit, word, _ in limits)
        if value is None:
            return f"{aim.contender} {words}", None
        met = all(fits(value, limit) for limit, _, fits in limits)
        return f"{aim.contender} {words}: {value:.2f}", met
