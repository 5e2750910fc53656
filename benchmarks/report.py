"""Results as a table for people and as JSON for machines."""

from __future__ import annotations

import json
import operator
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.timing import Plan, Timing, quartiles
from benchmarks.workloads import Aim, Workload

REFERENCE = "velora"


@dataclass(frozen=True)
class Result:
    """One workload, and what each contender took for it."""

    workload: Workload
    timings: dict[str, Timing]

    def ratio(self, name: str, to: str = REFERENCE) -> tuple[float, float, float] | None:
        """How many times as long as another: first quartile, median, third quartile of all rounds.

        None where one of them was not timed.
        """
        if name not in self.timings or to not in self.timings:
            return None
        ratios = self.timings[name].ratios_to(self.timings[to])
        low, high = quartiles(ratios)
        return low, statistics.median(ratios), high

    def aims(self) -> list[tuple[str, bool]]:
        """Each aim in words, and whether it was met."""
        found = [self._try_aim(aim) for aim in self.workload.aims]
        return [outcome for outcome in found if outcome is not None]

    def _try_aim(self, aim: Aim) -> tuple[str, bool] | None:
        if aim.times is not None:
            ratio = self.ratio(aim.contender, aim.times)
            value, unit = None if ratio is None else ratio[1], f"x {aim.times}"
        else:
            timing = self.timings.get(aim.contender)
            value, unit = None if timing is None else timing.median_us, "us"
        if value is None:
            return None
        words, met = [], True
        for limit, word, fits in (
            (aim.at_most, "at most", operator.le),
            (aim.at_least, "at least", operator.ge),
        ):
            if limit is not None:
                words.append(f"{word} {limit:g} {unit}")
                met = met and fits(value, limit)
        return f"{aim.contender} {' and '.join(words)}: {value:.2f}", met


def print_table(results: list[Result], plan: Plan, console: Console) -> None:
    """Prints medians with their spread, ratios, and how the aims fared."""
    table = Table(title=f"Microseconds a call, one thread, {plan.clock} clock")
    for heading in ("work", "rows", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("median", "quartiles", "min", "max", f"x {REFERENCE}", "quartiles"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        labels = [result.workload.name, f"{result.workload.rows.capacity:,}"]
        for name, timing in result.timings.items():
            table.add_row(*labels, name, *_figures(timing, result.ratio(name)))
            labels = ["", ""]
        table.add_section()
    console.print(table)
    for result in results:
        for text, met in result.aims():
            mark = "[green]met[/]" if met else "[red]missed[/]"
            console.print(f"{result.workload.name}: {text}, {mark}")


def write_json(results: list[Result], left_out: dict[str, str], plan: Plan, path: Path) -> None:
    """Writes everything that was measured, with what it was measured on and what was missing."""
    document = {
        "date": machine.now(),
        "machine": machine.describe_machine(),
        "versions": machine.describe_versions(),
        "settings": {"threads": 1, **asdict(plan)},
        "left_out": left_out,
        "results": [_as_json(result) for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _figures(timing: Timing, ratio: tuple[float, float, float] | None) -> list[str]:
    low, high = timing.quartiles_us
    figures = [
        _us(timing.median_us),
        f"{_us(low)}-{_us(high)}",
        _us(min(timing.blocks_us)),
        _us(max(timing.blocks_us)),
    ]
    if ratio is None:
        return [*figures, "", ""]
    return [*figures, f"{ratio[1]:.2f}", f"{ratio[0]:.2f}-{ratio[2]:.2f}"]


def _us(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _as_json(result: Result) -> dict[str, object]:
    contenders: dict[str, object] = {}
    for name, timing in result.timings.items():
        ratio = result.ratio(name)
        contenders[name] = {
            "median_us": timing.median_us,
            "quartiles_us": timing.quartiles_us,
            "min_us": min(timing.blocks_us),
            "max_us": max(timing.blocks_us),
            "calls_per_block": timing.calls_per_block,
            "times_velora": None if ratio is None else ratio[1],
            "times_velora_quartiles": None if ratio is None else (ratio[0], ratio[2]),
        }
    workload = result.workload
    return {
        "work": workload.name,
        "rows": workload.rows.name,
        "capacity": workload.rows.capacity,
        "arguments": workload.arguments,
        "contenders": contenders,
        "aims": [{"aim": text, "met": met} for text, met in result.aims()],
    }
