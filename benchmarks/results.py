"""Results of a workload, and how they compare."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from benchmarks.clocks import Key, Timing, quartiles
from benchmarks.contenders import Unavailable
from benchmarks.machine import count_threads
from benchmarks.trace import Counts
from benchmarks.workloads import Aim, Workload

REFERENCE = "velora"
FLOOR = "floor"


@dataclass(frozen=True)
class Result:
    """Results of one workload.

    Attributes:
        workload: The workload.
        timings: By contender and clock.
        left_out: Why contenders are missing. One without such an operation is in neither.
        counts: Launches and waits by contender; empty without a GPU.
        nbytes: Bytes that a call moves, by contender; empty where rates are not the point.
    """

    workload: Workload
    timings: Mapping[Key, Timing]
    left_out: Mapping[str, Exception]
    counts: Mapping[str, Counts] = field(default_factory=dict)
    nbytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def contenders(self) -> list[str]:
        """Those that were timed."""
        return list(dict.fromkeys(name for name, _ in self.timings))

    @property
    def reasons(self) -> dict[str, str]:
        """Why contenders are missing, in a line each."""
        return {name: _reason(error) for name, error in self.left_out.items()}

    @property
    def has_fault(self) -> bool:
        """Whether velora was wrong or failed; that something is not available is no fault."""
        return any(
            name.startswith(REFERENCE) and not isinstance(error, Unavailable)
            for name, error in self.left_out.items()
        )

    def timing(self, name: str, clock: str = "") -> Timing | None:
        """By a clock, or by the last one of the workload."""
        return self.timings.get((name, clock or self.workload.clocks[-1]))

    def ratio(
        self, name: str, to: str = REFERENCE, clock: str = ""
    ) -> tuple[float, float, float] | None:
        """How many times as long as another: first quartile, median, third quartile of all rounds.

        None where one of them was not timed.
        """
        mine, other = self.timing(name, clock), self.timing(to, clock)
        if mine is None or other is None:
            return None
        ratios = mine.ratios_to(other)
        low, high = quartiles(ratios)
        return low, statistics.median(ratios), high

    def rate(self, name: str) -> float | None:
        """Gigabytes a second."""
        timing = self.timing(name)
        return (
            self.nbytes[name] / timing.median_us / 1e3 if timing and name in self.nbytes else None
        )

    def share(self, name: str) -> float | None:
        """The rate in units of the ceiling's, the median over the rounds."""
        ceiling = self.workload.ceiling
        ratio = self.ratio(ceiling, to=name)
        return ratio and ratio[1] * self.nbytes[name] / self.nbytes[ceiling]

    def aims(self) -> list[tuple[str, float | None, bool | None]]:
        """Each aim in words, the figure, and whether it is met; None where there is no figure."""
        return [self._try_aim(aim) for aim in self.workload.aims]

    def as_json(self) -> dict[str, object]:
        """Everything as JSON types."""
        workload = self.workload
        return {
            "work": workload.name,
            "rows": workload.rows.name,
            "row_nbytes": workload.rows.nbytes,
            "capacity": workload.rows.capacity,
            "operation": workload.operation,
            "arguments": workload.arguments,
            "threads": count_threads(workload.threads),
            "clock": workload.clocks[-1],
            "charts": workload.charts,
            "ceiling": workload.ceiling,
            "contenders": {name: self._contender_as_json(name) for name in self.contenders},
            "left_out": self.reasons,
            "aims": [{"aim": aim, "value": value, "met": met} for aim, value, met in self.aims()],
        }

    def _contender_as_json(self, name: str) -> dict[str, object]:
        clocks = {
            clock: _as_json(timing) for (of, clock), timing in self.timings.items() if of == name
        }
        ratio, to_floor = self.ratio(name), self.ratio(name, FLOOR)
        counts = self.counts.get(name)
        return {
            **clocks[self.workload.clocks[-1]],
            "times_velora": ratio and ratio[1],
            "times_velora_quartiles": ratio and (ratio[0], ratio[2]),
            "times_floor": to_floor and to_floor[1],
            "clocks": clocks,
            "counts": counts and asdict(counts),
            "nbytes": self.nbytes.get(name),
            "gigabytes_per_second": self.rate(name),
            "share_of_ceiling": self.share(name),
        }

    def _try_aim(self, aim: Aim) -> tuple[str, float | None, bool | None]:
        value, unit = self._figure(aim)
        words, met = [], True
        if aim.at_most is not None:
            words.append(f"at most {aim.at_most:g}")
            met &= value is not None and value <= aim.at_most
        if aim.at_least is not None:
            words.append(f"at least {aim.at_least:g}")
            met &= value is not None and value >= aim.at_least
        text = f"{aim.contender} {' and '.join(words)} {unit}"
        return text, value, None if value is None else met

    def _figure(self, aim: Aim) -> tuple[float | None, str]:
        """The value that an aim is about, and its unit."""
        if aim.figure == "share":
            return self.share(aim.contender), f"of {self.workload.ceiling}"
        if aim.figure == "kernels":
            counts = self.counts.get(aim.contender)
            return counts.kernels if counts else None, "launches"
        clock = f" {aim.figure}" if aim.figure else ""
        if aim.times is not None:
            ratio = self.ratio(aim.contender, aim.times, aim.figure)
            return ratio and ratio[1], f"x {aim.times}{clock}"
        timing = self.timing(aim.contender, aim.figure)
        return timing.median_us if timing else None, f"us{clock}"


def _as_json(timing: Timing) -> dict[str, object]:
    return {
        "median_us": timing.median_us,
        "quartiles_us": quartiles(timing.blocks_us),
        "min_us": min(timing.blocks_us),
        "max_us": max(timing.blocks_us),
        "calls_per_block": timing.calls_per_block,
        "blocks": len(timing.blocks_us),
    }


def _reason(error: Exception) -> str:
    """`Unavailable` speaks for itself; of another error the type tells what happened."""
    text = " ".join(str(error).split())
    return text if isinstance(error, Unavailable) else f"{type(error).__name__}: {text}"
