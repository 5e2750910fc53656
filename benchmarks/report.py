"""Results as a table for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.results import FLOOR, REFERENCE, Result
from benchmarks.timing import Plan

EVERYTHING = "everything"


def print_table(results: Sequence[Result], console: Console) -> None:
    """Prints medians with their spread, ratios, who is missing, and how the aims fared."""
    absent = missing(results)
    everywhere = {name for name, works, _ in absent if works == EVERYTHING}
    clocks = " and ".join(dict.fromkeys(result.clock for result in results))
    table = Table(title=f"Microseconds a call, {clocks} clock, on {machine.name()}")
    for heading in ("work", "rows", "threads", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("median", "quartiles", f"x {REFERENCE}", "quartiles", f"x {FLOOR}"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        workload = result.workload
        labels = [workload.name, f"{workload.rows.capacity:,}", str(result.num_threads)]
        for name in result.timings:
            table.add_row(*labels, name, *_figures(result, name))
            labels = [""] * len(labels)
        for name in sorted(result.left_out.keys() - everywhere):
            table.add_row(*labels, name, "left out")
            labels = [""] * len(labels)
        table.add_section()
    console.print(table)
    for name, works, reason in absent:
        console.print(f"{name} is left out of {works}: {reason}", style="yellow")
    _print_aims(results, console)


def missing(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    """Who is left out, of what, and why; what has the same reason is one line."""
    works: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for name, reason in result.left_out.items():
            works.setdefault((name, reason), []).append(result.workload.name)
    return [
        (name, EVERYTHING if len(of) == len(results) else "; ".join(of), reason)
        for (name, reason), of in works.items()
    ]


def as_document(results: Sequence[Result], plan: Plan) -> dict[str, Any]:
    """Everything that was measured, with what it was measured on and what was missing."""
    return {
        "date": machine.now(),
        "machine": machine.describe_machine(),
        "versions": machine.describe_versions(),
        "settings": asdict(plan),
        "left_out": [
            {"contender": name, "work": works, "reason": reason}
            for name, works, reason in missing(results)
        ],
        "results": [result.as_json() for result in results],
    }


def _print_aims(results: Sequence[Result], console: Console) -> None:
    unknown = 0
    for result in results:
        for text, met in result.aims():
            if met is None:
                unknown += 1
                continue
            mark = "[green]met[/]" if met else "[red]missed[/]"
            console.print(f"{result.workload.name}: {text}, {mark}")
    if unknown:
        console.print(f"{unknown} more aims are about contenders that were not timed", style="dim")


def _figures(result: Result, name: str) -> list[str]:
    timing = result.timings[name]
    low, high = timing.quartiles_us
    figures = [_us(timing.median_us), f"{_us(low)}-{_us(high)}"]
    ratio, to_floor = result.ratio(name), result.ratio(name, FLOOR)
    figures += ["", ""] if ratio is None else [f"{ratio[1]:.2f}", f"{ratio[0]:.2f}-{ratio[2]:.2f}"]
    return [*figures, "" if to_floor is None else f"{to_floor[1]:.2f}"]


def _us(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
