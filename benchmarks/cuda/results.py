"""What was measured of a piece of work, and whether it is what it should be."""

from __future__ import annotations

import operator
import statistics
from dataclasses import asdict, dataclass

from benchmarks.cuda.trace import Counts
from benchmarks.cuda.work import Aim, Clock, Work
from benchmarks.timing import Timing

_UNITS = {"host": "us host", "device": "us device", "wall": "us wall", "kernels": "launches"}


@dataclass(frozen=True)
class LeftOut:
    """Why a contender is missing, and whether that is a fault or only how this machine is."""

    reason: str
    is_fault: bool


@dataclass(frozen=True)
class Verdict:
    """An aim, what came out, and whether that is enough; None where nobody can say."""

    work: str
    aim: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Result:
    """One piece of work.

    Attributes:
        work: What it was.
        timings: By contender and clock.
        counts: What a call gives the device to do, by contender; empty without a GPU.
        nbytes: What a call moves, by contender.
        left_out: Why others are missing, by name.
    """

    work: Work
    timings: dict[tuple[str, Clock], Timing]
    counts: dict[str, Counts]
    nbytes: dict[str, int]
    left_out: dict[str, LeftOut]

    @property
    def contenders(self) -> list[str]:
        """Those that were timed."""
        return list(dict.fromkeys(name for name, _ in self.timings))

    def us(self, name: str, clock: Clock) -> float | None:
        """The median of a contender by a clock."""
        timing = self.timings.get((name, clock))
        return None if timing is None else timing.median_us

    def gigabytes_per_second(self, name: str) -> float | None:
        """The rate of a contender's bytes."""
        us = self.us(name, self.work.clocks[-1])
        return None if us is None or not self.nbytes[name] else self.nbytes[name] / us / 1e3

    def share(self, name: str) -> float | None:
        """The rate of its bytes in units of the ceiling's, the median over the rounds."""
        clock, ceiling = self.work.clocks[-1], self.work.ceiling or ""
        mine, top = self.timings.get((name, clock)), self.timings.get((ceiling, clock))
        if mine is None or top is None or not self.nbytes[name]:
            return None
        ratio = statistics.median(top.ratios_to(mine))
        return ratio * self.nbytes[name] / self.nbytes[ceiling]

    def verdicts(self) -> list[Verdict]:
        """Of all aims."""
        return [self._try_aim(aim) for aim in self.work.aims]

    def as_json(self) -> dict[str, object]:
        """All of it, in what JSON knows."""
        return {
            "work": self.work.name,
            "ceiling": self.work.ceiling,
            "contenders": {name: self._contender_as_json(name) for name in self.contenders},
            "left_out": {name: asdict(why) for name, why in self.left_out.items()},
            "aims": [asdict(verdict) for verdict in self.verdicts()],
        }

    def _contender_as_json(self, name: str) -> dict[str, object]:
        counts = self.counts.get(name)
        return {
            "clocks": {
                clock: {
                    "median_us": timing.median_us,
                    "quartiles_us": timing.quartiles_us,
                    "min_us": min(timing.blocks_us),
                    "max_us": max(timing.blocks_us),
                    "calls_per_block": timing.calls_per_block,
                    "blocks": len(timing.blocks_us),
                }
                for (of, clock), timing in self.timings.items()
                if of == name
            },
            "counts": None if counts is None else asdict(counts),
            "nbytes": self.nbytes[name],
            "gigabytes_per_second": self.gigabytes_per_second(name),
            "share_of_ceiling": self.share(name),
        }

    def _try_aim(self, aim: Aim) -> Verdict:
        value, unit = self._figure(aim)
        limits = [
            (limit, word, fits)
            for limit, word, fits in (
                (aim.at_most, "at most", operator.le),
                (aim.at_least, "at least", operator.ge),
            )
            if limit is not None
        ]
        words = " and ".join(f"{word} {limit:g} {unit}" for limit, word, _ in limits)
        met = None if value is None else all(fits(value, limit) for limit, _, fits in limits)
        measured = "not measured" if value is None else f"{value:.3g}"
        return Verdict(self.work.name, f"{aim.contender}: {words}", measured, met)

    def _figure(self, aim: Aim) -> tuple[float | None, str]:
        """The value that an aim is about, and its unit."""
        if aim.figure == "share":
            return self.share(aim.contender), f"of {self.work.ceiling}"
        if aim.figure == "kernels":
            counts = self.counts.get(aim.contender)
            return None if counts is None else counts.kernels, _UNITS["kernels"]
        if aim.times is None:
            return self.us(aim.contender, aim.figure), _UNITS[aim.figure]
        mine = self.timings.get((aim.contender, aim.figure))
        other = self.timings.get((aim.times, aim.figure))
        unit = f"x {aim.times}, {aim.figure}"
        if mine is None or other is None:
            return None, unit
        return statistics.median(mine.ratios_to(other)), unit
