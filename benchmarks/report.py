"""Results as Markdown tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import machine
from benchmarks.clocks import Plan, quartiles
from benchmarks.results import FLOOR, REFERENCE, Result

EVERYTHING = "everything"
VERDICTS = {True: "met", False: "MISSED", None: "-"}
TEXT = ("work", "contender")


def missing(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    """Contenders that are left out, of which work, and why; those with the same reason together."""
    works: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for name, reason in result.reasons.items():
            works.setdefault((name, reason), []).append(result.workload.name)
    return [
        (name, EVERYTHING if len(of) == len(results) else "; ".join(of), reason)
        for (name, reason), of in works.items()
    ]


def as_document(results: Sequence[Result], plan: Plan, device: torch.device) -> dict[str, Any]:
    """All figures, the machine that they were measured on, and the contenders left out."""
    return {
        **machine.describe(),
        "device": _describe_device(device),
        "settings": asdict(plan),
        "left_out": [
            {"contender": name, "work": works, "reason": reason}
            for name, works, reason in missing(results)
        ],
        "results": [result.as_json() for result in results],
    }


def as_markdown(results: Sequence[Result], device: torch.device, means_nothing: bool) -> str:
    """Aims first, then all figures, then the contenders left out.

    The figures mean nothing, and meet no aim, where code for a GPU is tried on a CPU.
    """
    described = machine.describe()
    versions = described["versions"]
    aims = [
        (
            result.workload.name,
            aim,
            "not measured" if value is None else _number(value),
            VERDICTS[None if means_nothing else met],
        )
        for result in results
        for aim, value, met in result.aims()
    ]
    head = f"velora {versions['velora']}, torch {versions['torch']}, {described['date']}."
    lines = [
        f"# On {machine.name_of(device)}",
        "",
        f"{head} Without a GPU the figures mean nothing." if means_nothing else head,
        "",
        *([table(("work", "aim", "measured", "verdict"), aims, left=2)] if aims else []),
        _figures(results),
        *(f"- {who} is left out of {works}: {why}" for who, works, why in missing(results)),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table that reads well as it is, with so many columns of text on the left."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    rule = ["-" * n if i < left else "-" * (n - 1) + ":" for i, n in enumerate(widths)]
    lines = [
        [cell.ljust(n) if i < left else cell.rjust(n) for i, (cell, n) in enumerate(pairs)]
        for pairs in (list(zip(line, widths, strict=True)) for line in (headings, rule, *rows))
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _figures(results: Sequence[Result]) -> str:
    """One row for each contender; columns that are empty everywhere are left out."""
    rows = [_row(result, name) for result in results for name in result.contenders]
    headings = [*TEXT, "rows", "threads"]
    for row in rows:
        headings += [heading for heading in row if heading not in headings]
    headings = [h for h in headings if h in TEXT or any(row.get(h) for row in rows)]
    return table(headings, [[row.get(h, "") for h in headings] for row in rows], left=len(TEXT))


def _row(result: Result, name: str) -> dict[str, str]:
    workload = result.workload
    row = {
        "work": workload.name,
        "contender": name,
        "rows": f"{workload.rows.capacity:,}",
        "threads": str(machine.count_threads(workload.threads)),
    }
    for clock in workload.clocks:
        timing = result.timing(name, clock)
        if timing is not None:
            row[f"{clock} us"] = _number(timing.median_us)
            row[f"{clock} quartiles"] = "-".join(map(_number, quartiles(timing.blocks_us)))
    for other in (REFERENCE, FLOOR):
        if ratio := result.ratio(name, other):
            row[f"x {other}"] = _number(ratio[1])
            row[f"x {other} quartiles"] = f"{_number(ratio[0])}-{_number(ratio[2])}"
    if counts := result.counts.get(name):
        row |= {
            "launches": _number(counts.kernels),
            "copies": _number(counts.copies),
            "waits": _number(counts.waits),
        }
    rate, share = result.rate(name), result.share(name)
    row["GB/s"] = "" if rate is None else _number(rate)
    row["of ceiling"] = "" if share is None else f"{share:.0%}"
    return row


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _describe_device(device: torch.device) -> dict[str, object]:
    threads = torch.get_num_threads()
    if device.type != "cuda":
        return {"name": "no GPU", "threads": threads}
    found = torch.cuda.get_device_properties(device)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "processors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "cuda": torch.version.cuda,
        "threads": threads,
    }
