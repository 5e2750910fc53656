"""Results as Markdown for people and as JSON for machines."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import machine
from benchmarks.cuda.clocks import Plan
from benchmarks.cuda.results import Result, Verdict
from benchmarks.cuda.work import Setting
from benchmarks.markdown import table

_AIMS = ("work", "aim", "verdict", "measured")
_FIGURES = (
    "work",
    "contender",
    "host us",
    "device us",
    "wall us",
    "launches",
    "copies",
    "waits",
    "GB/s",
    "of ceiling",
)
_VERDICTS = {True: "met", False: "MISSED", None: "-"}


def device_name(setting: Setting) -> str:
    """Of the GPU, or of the processor where there is none."""
    return torch.cuda.get_device_name(setting.device) if setting.on_cuda else machine.name()


def slug(setting: Setting) -> str:
    """The same for the name of a folder."""
    if not setting.on_cuda:
        return machine.slug()
    return re.sub(r"[^a-z0-9.]+", "-", device_name(setting).lower()).strip("-")


def as_document(results: Sequence[Result], setting: Setting, plan: Plan) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    return {
        "date": machine.now(),
        "device": _describe_device(setting),
        "machine": machine.describe_machine(),
        "versions": machine.describe_versions(),
        "sizes": asdict(setting.sizes),
        "settings": asdict(plan),
        "results": [result.as_json() for result in results],
    }


def as_markdown(results: Sequence[Result], setting: Setting) -> str:
    """Aims first, then all figures, then who is missing."""
    versions = machine.describe_versions()
    aims = [
        (verdict.work, verdict.aim, _mark(verdict, setting), verdict.measured)
        for result in results
        for verdict in result.verdicts()
    ]
    figures = [row for result in results for row in _rows(result)]
    missing = [
        f"- {name} is left out of {result.work.name}: {why.reason}"
        for result in results
        for name, why in result.left_out.items()
    ]
    head = (
        f"velora {versions['velora']}, torch {torch.__version__}, {machine.now()}. Medians of "
        "turns taken in one run; `benchmarks/README.md` says what the clocks mean."
    )
    lines = [
        f"# On {device_name(setting)}",
        "",
        head if setting.on_cuda else f"{head} Without a GPU the figures mean nothing.",
        "",
        table(_AIMS, aims, left=3),
        table(_FIGURES, figures, left=2),
        *missing,
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


def _mark(verdict: Verdict, setting: Setting) -> str:
    """Without a GPU an aim means nothing."""
    return _VERDICTS[verdict.met if setting.on_cuda else None]


def _rows(result: Result) -> list[list[str]]:
    rows = []
    for name in result.contenders:
        counts, share = result.counts.get(name), result.share(name)
        rate = result.gigabytes_per_second(name)
        rows.append(
            [
                result.work.name,
                name,
                *(_number(result.us(name, clock)) for clock in ("host", "device", "wall")),
                *(
                    _number(None if counts is None else getattr(counts, figure))
                    for figure in ("kernels", "copies", "waits")
                ),
                _number(rate),
                "" if share is None else f"{share:.0%}",
            ]
        )
    return rows


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _describe_device(setting: Setting) -> dict[str, object]:
    if not setting.on_cuda:
        return {"name": "no GPU", "threads": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(setting.device)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "processors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
